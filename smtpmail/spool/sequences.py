"""New mail is new to MH readers, too: its numbers in the sequence `unseen` of `.mh_sequences` (mh-sequence(5)).

The file is changed in place under its own lock, which nmh and Python's mailbox.MH take as well: so neither side loses
what the other writes. But nmh lists the folder before it takes the lock, mutt takes none, and both leave out what they
have not seen: a message that came in between. So the file is looked at again after the messages are there, and with
the next ones. Only its end is written as long as `unseen` is the last line.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from smtpmail.spool.files import forget_pages
from smtpmail.spool.folder import Folder
from smtpmail.spool.lock import MailboxBusy, is_over

SEQUENCES = ".mh_sequences"

LIMIT = 256 * 1024
"""Octets: in a longer file, which no reader writes, new mail is not noted."""

RECENTLY = 2.0
"""Seconds after which a number that is missing was taken out by a reader, not lost."""

AT_MOST = 1000
"""Numbers of new messages that are remembered for it."""

DOT_LOCK_SECONDS = 60.0
"""A lock file that is older was left by a reader that crashed."""

_UNSEEN = re.compile(rb"^unseen[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*", re.MULTILINE)
_NUMBER = re.compile(rb"(?<![0-9])[0-9]{1,10}(?![0-9])")
_LAST_RANGE = re.compile(rb"(?<![^ \t:])([1-9][0-9]{0,9})(?:-([1-9][0-9]{0,9}))?\Z")


def with_unseen(text: bytes, numbers: Sequence[int]) -> tuple[int, bytes]:
    """The file with `numbers` (ascending) added to `unseen`: from which octet on it changes, and what is there then.

    It never becomes shorter; no other sequence is touched.
    """
    found = None
    for found in _UNSEEN.finditer(text):  # noqa: B007
        pass
    if found is None:
        start, line, rest = len(text), b"unseen:", b""
        if text and not text.endswith(b"\n"):
            line = b"\n" + line
    else:
        start, line, rest = found.start(), found[0], text[found.end() + 1 :]
        if rest and not rest.endswith(b"\n"):
            rest += b"\n"
    last = _LAST_RANGE.search(line)
    end = int(last[2] or last[1]) if last else -1
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    kept = len(line)
    if last and ranges[0][0] == end + 1 and int(last[1]) <= end:
        # The last range becomes longer.
        kept, ranges[0][0] = last.start(), int(last[1])
    added = b" ".join(b"%d" % a if a == b else b"%d-%d" % (a, b) for a, b in ranges) + b"\n"
    if kept == len(line) and not line.endswith((b" ", b"\t")):
        added = b" " + added
    if rest:
        return start, rest + line[:kept] + added
    return (start + kept, added) if found is not None else (start, line + added)


@dataclass(frozen=True, slots=True)
class Noted:
    """What was written last."""

    recent: Sequence[tuple[int, float]]
    """The numbers that a reader may still lose, with the monotonic time when they were written; AT_MOST of them."""
    state: tuple[int, ...]
    """How the file looked afterwards."""

    def holds(self, folder: Folder) -> bool:
        """Whether nobody has changed the file since."""
        try:
            return _state(os.stat(SEQUENCES, dir_fd=folder.fd, follow_symlinks=False)) == self.state
        except FileNotFoundError:
            return False


def lost(text: bytes, numbers: Sequence[int]) -> list[int]:
    """Those of the numbers that whoever wrote the file did not know: nothing in it is as new."""
    newest = max(map(int, _NUMBER.findall(text)), default=0)
    return [number for number in numbers if number > newest]


def add_unseen(folder: Folder, numbers: Sequence[int], before: Noted | None, give_up: float) -> Noted | None:
    """Adds new messages, and what a reader has lost of those noted `before`; None when the file can't be used.

    `give_up`: monotonic time. Raises MailboxBusy when a reader holds the lock longer, OSError when the file is none
    that a reader could have made.
    """
    pause = 0.0002
    while True:
        try:
            fd = _open(folder)
        except PermissionError as error:
            if error.errno != errno.EACCES:
                raise
            return None
        try:
            if fd is not None and _lock(fd) and not dot_locked(folder) and folder.is_same(SEQUENCES, fd):
                return _write(fd, numbers, before)
        finally:
            if fd is not None:
                os.close(fd)
        if is_over(give_up):
            raise MailboxBusy(errno.EAGAIN, "locked by another program", os.path.join(folder.path, SEQUENCES))
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def dot_locked(folder: Folder) -> bool:
    """mailbox.MH loses its POSIX lock when it truncates the file; but it has this one, too."""
    try:
        status = os.stat(f"{SEQUENCES}.lock", dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return abs(time.time() - status.st_mtime) < DOT_LOCK_SECONDS


def _open(folder: Folder) -> int | None:
    """None while its owner holds a lease. Raises OSError, PermissionError when its owner keeps it to themselves."""
    flags = os.O_RDWR | os.O_CREAT
    try:
        return folder.open_file(SEQUENCES, flags)
    except BlockingIOError:
        return None
    except PermissionError as error:
        # An empty file has nothing to lose; a new one has the rights that the folder gives.
        if error.errno != errno.EACCES or os.stat(SEQUENCES, dir_fd=folder.fd, follow_symlinks=False).st_size:
            raise
        os.unlink(SEQUENCES, dir_fd=folder.fd)
        return folder.open_file(SEQUENCES, flags)


def _lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _write(fd: int, numbers: Sequence[int], before: Noted | None) -> Noted | None:
    status = os.fstat(fd)
    if status.st_size > LIMIT:
        return None
    forget_pages(fd)
    text = os.pread(fd, LIMIT, 0)
    now = time.monotonic()
    recent = _still_recent(before.recent, now) if before is not None else []
    if before is not None and recent and _state(status) != before.state:
        numbers = lost(text, [number for number, _ in recent]) + list(numbers)
    if numbers:
        offset, data = with_unseen(text, numbers)
        os.pwrite(fd, data, offset)
    if recent and numbers and numbers[0] <= recent[-1][0]:
        again = set(numbers)
        recent = [x for x in recent if x[0] not in again]
    recent += [(number, now) for number in numbers]
    return Noted(recent[-AT_MOST:], _state(os.fstat(fd)))


def _still_recent(recent: Sequence[tuple[int, float]], now: float) -> list[tuple[int, float]]:
    """Those of the last seconds; they stand in the order in which they were written."""
    first = next((place for place, (_, at) in enumerate(recent) if now - at < RECENTLY), len(recent))
    return list(recent[first:])
