"""The lock of a folder, and the last number given in it, which the lock file holds (docs/formats.md)."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import weakref
from collections.abc import Iterator

from smtpmail.spool.folder import Folder
from smtpmail.spool.lock import LOCK, MailboxBusy, highest_number, locked, note_number, noted_number, sync_number


class _Mutex:
    """A lock between threads: POSIX locks keep processes apart only."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


_mutexes: weakref.WeakValueDictionary[tuple[int, int], _Mutex] = weakref.WeakValueDictionary()
_mutexes_lock = threading.Lock()


class FolderLock:
    """The lock of an open folder. `mutex` is that of the deliveries into it, if this process makes some."""

    def __init__(self, folder: Folder, mutex: threading.Lock | None = None) -> None:
        self._folder = folder
        status = os.fstat(folder.fd)
        key = (status.st_dev, status.st_ino)
        with _mutexes_lock:
            self._shared = _mutexes.get(key)
            if self._shared is None:
                self._shared = _mutexes[key] = _Mutex()
                if mutex is not None:
                    self._shared.lock = mutex
        self._mutex = self._shared.lock

    @contextlib.contextmanager
    def held(self, patience: float) -> Iterator[Numbers]:
        """Holds the lock. Raises MailboxBusy when it can't be had for so many seconds, OSError."""
        give_up = time.monotonic() + patience
        if not self._mutex.acquire(timeout=patience):
            raise MailboxBusy(errno.EAGAIN, "the folder is in use by another thread", self._folder.path)
        try:
            with locked(self._folder, give_up) as fd:
                yield Numbers(self._folder, fd)
        finally:
            self._mutex.release()

    def last_number(self) -> int:
        """The last number given, as far as the lock file tells, else 0; without the lock."""
        # Not beside a thread that holds the lock: to close a descriptor of the file would drop it.
        if not self._mutex.acquire(timeout=1.0):
            return 0
        try:
            fd = self._folder.open_file(LOCK, os.O_RDONLY)
        except OSError:
            return 0
        else:
            try:
                return noted_number(fd) or 0
            finally:
                os.close(fd)
        finally:
            self._mutex.release()


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
        sync_number(self._fd, new=durable)
