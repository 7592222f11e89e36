"""Status files of new messages that are on disk before they are needed."""

from __future__ import annotations

import os
import threading
import time

from smtpmail.spool.files import NewFile, sync_files
from smtpmail.spool.folder import Folder

STATUS_OF_NEW = b"\\Recent\n"

SECONDS = 1.0
"""So often the folder is looked at again, whether what is in stock still fits it."""


class StatusStock:
    """Files for one mailbox that have no name yet. All are alike: so many can be made for the price of one sync."""

    SIZE = 16

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: list[NewFile] = []
        self._made_for: object = None
        self._looked_at = -SECONDS

    def take(self, folder: Folder) -> tuple[NewFile, bool]:
        """A status file, which the caller closes, and whether it is durable. Raises OSError.

        Only a mailbox that gets a message after the other has a stock: one of a thousand recipients does not.
        """
        with self._lock:
            now = time.monotonic()
            in_use = now - self._looked_at < SECONDS
            if not in_use:
                self._look_at(folder)
                self._looked_at = now
            if self._files:
                return self._files.pop(), True
        if not in_use:
            return _new(folder), False
        first, *more = self._make(folder)
        with self._lock:
            self._files += more
        return first, True

    def make(self, folder: Folder) -> NewFile:
        """A single one, not durable. Raises OSError."""
        return _new(folder)

    def _look_at(self, folder: Folder) -> None:
        """Drops the stock when the folder is another one, or gives its files other rights now."""
        status = os.fstat(folder.fd)
        made_for = (status.st_dev, status.st_ino, status.st_mode, status.st_gid, _default_acl(folder))
        if made_for != self._made_for:
            self._clear()
            self._made_for = made_for

    def _make(self, folder: Folder) -> list[NewFile]:
        files: list[NewFile] = []
        try:
            # A file that has a name in the scratch folder must not lie there in stock.
            while len(files) < self.SIZE and not (files and files[0].has_scratch_name):
                files.append(_new(folder))
            for error in sync_files(files):
                if error is not None:
                    raise error
        except BaseException:
            for file in files:
                file.close()
            raise
        return files

    def _clear(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    __del__ = _clear


def _new(folder: Folder) -> NewFile:
    file = NewFile(folder)
    try:
        os.write(file.fd, STATUS_OF_NEW)
    except BaseException:
        file.close()
        raise
    return file


def _default_acl(folder: Folder) -> bytes | None:
    try:
        return os.getxattr(folder.fd, "system.posix_acl_default")
    except OSError:
        return None
