"""What the sessions of this process know of a folder together: one index, however many clients read it."""

from __future__ import annotations

import threading

from smtpmail.spool.folder import OfFolders
from smtpmail.spool.reader.index import Index
from smtpmail.spool.reader.mh_readers import MhReaders


class Known:
    """Of one folder, as long as somebody has it open. `lock` is held during a look, so that one does it for all."""

    __slots__ = ("__weakref__", "index", "lock", "readers", "saved", "touched", "validity")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers = MhReaders()
        self.validity = 0
        """UIDVALIDITY that the index belongs to."""
        self.index: Index | None = None
        self.saved: Index | None = None
        """The index that the cache file holds."""
        self.touched = False
        """Whether the index has learned something since."""

    def forget(self, validity: int) -> None:
        """Begins anew, for another UIDVALIDITY."""
        self.validity = validity
        self.index = self.saved = None
        self.touched = False
        self.readers = MhReaders()


known = OfFolders(Known)
"""Of all folders that are open."""
