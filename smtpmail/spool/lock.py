"""`.lock` of a mailbox: what lockf() locks while a message is put in place; it holds the last number that was given."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator

from smtpmail.spool.commit import Busy
from smtpmail.spool.files import write_through
from smtpmail.spool.folder import Folder

LOCK = ".lock"

MAX_NUMBER = 2**32 - 1
"""What IMAP can name (RFC 9051 2.3.1.1)."""

SHORT_LIST = 1000
"""So many names are looked at while others wait."""

_NUMBER = re.compile(rb"[0-9]{1,20}\n?\Z")


class MailboxBusy(Busy):
    """A mailbox can't be written to now: another program holds its lock, or there is much to look through in it."""


@contextlib.contextmanager
def locked(folder: Folder, give_up: float, *, create: bool = True) -> Iterator[int]:
    """Holds the lock of a mailbox; gives a descriptor of the lock file.

    Only one thread of the process may be here for a mailbox: POSIX drops a process's lock when any of its descriptors
    of the file is closed. `create` says whether the file is made when it is missing.

    Raises MailboxBusy when the lock can't be had by `give_up` (monotonic time), OSError.
    """
    pause = 0.0002
    while (lock := _try_lock(folder, create)) is None:
        if time.monotonic() > give_up:
            raise MailboxBusy(errno.EAGAIN, "the mailbox is locked by another program", folder.path)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    try:
        yield lock
    finally:
        os.close(lock)


def _try_lock(folder: Folder, create: bool) -> int | None:
    """A descriptor of the lock file with the lock on it, None when another program has it.

    A folder can't be opened for writing, so that lockf() on it fails: a file in it is locked.
    """
    try:
        lock = folder.open_file(LOCK, os.O_RDWR | (os.O_CREAT if create else 0))
    except BlockingIOError:
        return None  # its owner holds a lease
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Somebody may have removed the file between open and lock.
        if folder.is_same(LOCK, lock):
            return lock
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            os.close(lock)
            raise
    os.close(lock)
    return None


def noted_number(lock: int) -> int | None:
    """The last number given, None when the lock file does not tell."""
    text = os.pread(lock, 32, 0)
    return number if _NUMBER.match(text) and (number := int(text)) <= MAX_NUMBER else None


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


def sync_number(lock: int, *, new: bool) -> None:
    """Sees to it that the noted number is durable with the names that are synced next; `new`: on its own, at once.

    So it is not given again even if its message is removed and the power fails: the names alone would not tell any
    more. Raises OSError.
    """
    if new:
        os.fsync(lock)
    else:
        write_through(lock)
