"""The lock of a folder, and the last number given in it, which the lock file holds (docs/formats.md)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from smtpmail.spool.folder import Folder
from smtpmail.spool.lock import highest_number, locked, note_number, noted_number, number_without_lock, sync_number


class FolderLock:
    """The lock of an open folder, which deliveries take, too."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def held(self, patience: float) -> Iterator[Numbers]:
        """Holds the lock. Raises MailboxBusy when it can't be had for so many seconds, OSError."""
        with locked(self._folder, time.monotonic() + patience) as fd:
            yield Numbers(self._folder, fd)

    def last_number(self) -> int:
        """The last number given, as far as the lock file tells, else 0; without the lock."""
        return number_without_lock(self._folder, time.monotonic() + 1.0)


class Numbers:
    """The numbers of a folder while its lock is held."""

    def __init__(self, folder: Folder, fd: int) -> None:
        self._folder = folder
        self._fd = fd

    def last(self) -> int:
        """The last number given: as noted, or the highest among the names."""
        noted = noted_number(self._fd)
        return highest_number(self._folder, apart=True) if noted is None else noted

    def note(self, number: int, *, durable: bool = False) -> None:
        """Notes the last number given; `durable` when no name is left to tell it after a power cut."""
        note_number(self._fd, number)
        sync_number(self._fd, self._folder.device, new=durable)
