"""`.lock` of a mailbox: what lockf() locks while a message is put in place; it holds the last number that was given."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import threading
import time
from collections.abc import Iterator

from smtpmail.spool.commit import Busy
from smtpmail.spool.files import forget_pages, write_through
from smtpmail.spool.folder import Folder, OfFolders

LOCK = ".lock"

MAX_NUMBER = 2**32 - 1
"""What IMAP can name (RFC 9051 2.3.1.1)."""

SHORT_LIST = 1000
"""So many names are looked at while others wait."""

STOP_PATIENCE = 1.0
"""Seconds that locks are still waited for when the process is asked to end."""

_NUMBER = re.compile(rb"[0-9]{1,20}\n?\Z")
_end = math.inf


class MailboxBusy(Busy):
    """A mailbox can't be written to now: another program holds its lock, or there is much to look through in it."""


class _Mutex:
    """Keeps the threads of this process apart in one folder."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


_mutexes = OfFolders(_Mutex)


@contextlib.contextmanager
def alone(folder: Folder, give_up: float) -> Iterator[None]:
    """POSIX locks keep processes apart, not threads, and a process drops its lock of a file when any of its descriptors
    of it is closed: so whoever opens a file of a folder that is locked so, for whatever reason, does it in here.

    Raises MailboxBusy.
    """
    mutex = _mutexes.get(folder)
    if not mutex.lock.acquire(timeout=max(0.0, give_up - time.monotonic())):
        raise MailboxBusy(errno.EAGAIN, "the mailbox is in use by another thread", folder.path)
    try:
        yield
    finally:
        mutex.lock.release()


def stop_waiting() -> None:
    """The process is about to end: nobody in it waits for the locks of other programs any more, but for a moment."""
    global _end  # noqa: PLW0603
    _end = time.monotonic() + STOP_PATIENCE


def is_over(give_up: float) -> bool:
    """Whether a lock is not waited for any more that may be waited for until `give_up` (monotonic time)."""
    return time.monotonic() > min(give_up, _end)


@contextlib.contextmanager
def locked(folder: Folder, give_up: float, *, create: bool = True) -> Iterator[int]:
    """Keeps other threads and programs away from a mailbox; gives a descriptor of the lock file.

    `create` says whether the file is made when it is missing.

    Raises MailboxBusy when the lock can't be had by `give_up` (monotonic time), OSError.
    """
    with alone(folder, give_up):
        lock = _lock(folder, give_up, create=create)
        try:
            yield lock
        finally:
            os.close(lock)


def _lock(folder: Folder, give_up: float, *, create: bool) -> int:
    """A descriptor of the lock file with the lock on it.

    A folder can't be opened for writing, so that lockf() on it fails: a file in it is locked.
    """
    pause = 0.0002
    lock = -1
    try:
        while True:
            if lock < 0:
                with contextlib.suppress(BlockingIOError):  # its owner holds a lease
                    lock = folder.open_file(LOCK, os.O_RDWR | (os.O_CREAT if create else 0))
            if lock >= 0 and _try(lock):
                # Somebody may have removed the file between open and lock.
                if folder.is_same(LOCK, lock):
                    return lock
                os.close(lock)
                lock = -1
            if is_over(give_up):
                raise MailboxBusy(errno.EAGAIN, "the mailbox is locked by another program", folder.path)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
    except BaseException:
        if lock >= 0:
            os.close(lock)
        raise


def _try(lock: int) -> bool:
    """Locks an open file, unless another program has it locked. Raises OSError."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def noted_number(lock: int) -> int | None:
    """The last number given, None when the lock file does not tell."""
    forget_pages(lock)
    text = os.pread(lock, 32, 0)
    return number if _NUMBER.match(text) and (number := int(text)) <= MAX_NUMBER else None


def number_without_lock(folder: Folder, give_up: float) -> int:
    """The last number given, as far as the lock file tells by `give_up`, else 0."""
    try:
        with alone(folder, give_up):
            lock = folder.open_file(LOCK, os.O_RDONLY)
            try:
                return noted_number(lock) or 0
            finally:
                os.close(lock)
    except OSError:
        return 0


def highest_number(folder: Folder, *, apart: bool) -> int:
    """The largest number among the names of messages and states.

    Raises MailboxBusy when there are too many to be looked through while others wait (not `apart`).
    """
    highest = 0
    with os.scandir(folder.fd) as entries:
        for count, entry in enumerate(entries):
            if count >= SHORT_LIST and not apart:
                raise MailboxBusy(errno.EAGAIN, "the names of the mailbox must be looked through", folder.path)
            name = entry.name.removesuffix(".status")
            if name.isascii() and name.isdigit() and len(name) <= 10 and int(name) <= MAX_NUMBER:
                highest = max(highest, int(name))
    return highest


def note_number(lock: int, number: int) -> None:
    """Writes down the last number given. Raises OSError."""
    # Always the same length and one block: a crash cannot tear it.
    os.pwrite(lock, b"%020d\n" % number, 0)


def unlock(lock: int) -> None:
    """Gives the lock back before the descriptor is closed: others need not wait for the disk."""
    fcntl.lockf(lock, fcntl.LOCK_UN)


def sync_number(lock: int, device: int, *, new: bool) -> None:
    """Sees to it that the noted number is durable with the names that are synced next; `new`: on its own, at once.

    So it is not given again even if its message is removed and the power fails: the names alone would not tell any
    more. `device`: where it lies. Raises OSError.
    """
    if new:
        os.fsync(lock)
    else:
        write_through(lock, device)
