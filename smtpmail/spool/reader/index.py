"""What is in a folder: numbers, states, sizes, dates; looked up as cheaply as can be, without a lock.

A change of any kind (a delivery, a state renamed over the old one, a removal) changes the mtime of the folder. So a
folder whose mtime is the same holds the same; in one that has changed, each state is looked at (stat), and those that
are new are read.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from smtpmail.spool.files import is_local
from smtpmail.spool.folder import SAFELY, Folder, is_plain
from smtpmail.spool.reader.recency import not_recent, read_mark
from smtpmail.spool.reader.states import MAX_OCTETS, RECENT, Flags, parse

MAX_UID = 2**32 - 1

MAX_MESSAGE = 256 * 1024 * 1024
"""Octets: a larger file is no message. Its owner may make one out of nothing, and it would be read whole."""

MAX_TIME = 2**63 - 1
"""Nanoseconds since 1970, in the year 2262: neither an index nor a mod-sequence holds more."""

SETTLED_NS = 20_000_000
"""Nanoseconds after which a change can't hide behind the mtime of an earlier one: clocks of file systems tick, each 10
ms at the longest."""

SHARED_SETTLED_NS = 5_000_000_000
"""The same where hosts share the file system: their clocks may be so far apart, and attributes be kept for a while."""

NO_STATE: Flags = frozenset({RECENT})
"""A message without a state was put there by a program that knows none."""

UNKNOWN = 2**64 - 1

AT_ONCE = 64
"""States that are opened together."""


@dataclass(slots=True)
class Index:
    """The messages of a folder at one moment, ascending by number; all lists are parallel."""

    stamp: int
    """The folder's mtime, ns."""
    settled: bool
    """Whether the same mtime means the same content."""
    last: int
    """The last number that was given."""
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    inodes: array[int] = field(default_factory=lambda: array("Q"))
    """Of the messages: another one under a known number tells that numbers were given anew."""
    octets: array[int] = field(default_factory=lambda: array("Q"))
    """Of the files."""
    dates: array[int] = field(default_factory=lambda: array("Q"))
    """mtime of the messages, ns."""
    modseqs: array[int] = field(default_factory=lambda: array("Q"))
    """ctime of the states, ns."""
    lines: array[int] = field(default_factory=lambda: array("Q"))
    """LFs in the messages, UNKNOWN until they are counted."""
    flags: list[Flags] = field(default_factory=list)

    def position(self, number: int) -> int | None:
        """Where a message stands, None if there is no such message."""
        place = bisect_left(self.numbers, number)
        return place if place < len(self.numbers) and self.numbers[place] == number else None

    def newest(self) -> int:
        """The largest ctime of a state, and the folder's mtime: no change is younger."""
        return max(self.stamp, max(self.modseqs, default=1))


class Renumbered(Exception):
    """A known number is another message now, or one that was gone is back: a new UIDVALIDITY is due."""


def scan(folder: Folder, known: Index | None, last_number: Callable[[], int]) -> Index:
    """The folder as it is now; what `known` says already is not looked up again. Raises OSError, Renumbered.

    `last_number` reads the last number given: all up to it were in place before the look at the names began, so that
    none of them can be missed; a gap above it is looked at twice.
    """
    stamp = mtime(os.fstat(folder.fd))
    if known is not None and known.settled and known.stamp == stamp:
        return known
    settled = is_settled(stamp, time.time_ns(), local=is_local(folder.fd))
    last = last_number()
    messages = _messages(folder)
    numbers = sorted(messages)
    _fill_gaps(folder, messages, numbers, last)
    index = Index(stamp, settled, max(last, numbers[-1] if numbers else 0))
    rows: list[_Row] = []
    numbers = sorted(messages)
    for start in range(0, len(numbers), AT_ONCE):
        rows += _look_up(folder, {n: messages[n] for n in numbers[start : start + AT_ONCE]}, known)
    if rows:
        *columns, index.flags = map(list, zip(*rows, strict=True))
        index.numbers, index.inodes, index.octets, index.dates, index.modseqs, index.lines = (
            array("Q", column) for column in columns
        )
        # Read after the states: a mark that is set meanwhile changes the folder, which will be looked at again.
        old = bisect_right(index.numbers, read_mark(folder))
        index.flags[:old] = not_recent(index.flags[:old])
    return index


def open_message(folder: Folder, number: int) -> tuple[int, os.stat_result]:
    """A descriptor of a message, and what it is like; its owner may change it at any time, so who reads goes by that.

    Raises OSError, FileNotFoundError when it was removed, made too large for a message, or something else, a link say,
    was put in its place.
    """
    try:
        fd = folder.open_file(str(number), os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_MESSAGE:
            raise FileNotFoundError(errno.ENOENT, error.strerror, error.filename) from None
        raise
    status = os.fstat(fd)
    if status.st_size > MAX_MESSAGE:
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "too large for a message", os.path.join(folder.path, str(number)))
    return fd, status


_NO_MESSAGE = frozenset({errno.EINVAL, errno.ELOOP, errno.ENXIO})
"""What `open_file` and open(2) say of links, FIFOs and the like."""


def mtime(status: os.stat_result) -> int:
    """When a file was changed, ns; the nearest that can be kept, for its owner may set any time."""
    return min(max(status.st_mtime_ns, 0), MAX_TIME)


def is_settled(stamp: int, now: int, *, local: bool) -> bool:
    """Whether a folder's mtime is so old that no change can hide behind it; clocks of other hosts may be ahead."""
    return not 0 <= now - stamp < SETTLED_NS if local else abs(now - stamp) >= SHARED_SETTLED_NS


def _messages(folder: Folder) -> dict[int, int]:
    """Numbers and inodes of what may be messages."""
    found = {}
    with os.scandir(folder.fd) as entries:
        for entry in entries:
            name = entry.name
            if name[0] in "123456789" and name.isdigit() and name.isascii() and entry.is_file(follow_symlinks=False):
                number = int(name)
                if number <= MAX_UID:
                    found[number] = entry.inode()
    return found


def _fill_gaps(folder: Folder, messages: dict[int, int], numbers: list[int], last: int) -> None:
    """A name made while the folder was read may be missing, though a later one is there."""
    above = numbers[bisect_left(numbers, last + 1) :]
    if not above or above[-1] - last > 10_000:
        return
    for number in range(last + 1, above[-1]):
        if number not in messages:
            try:
                status = os.stat(str(number), dir_fd=folder.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                messages[number] = status.st_ino


_Row = tuple[int, int, int, int, int, int, Flags]
"""Number, inode, octets, date, mod-sequence, lines and flags of a message."""


def _look_up(folder: Folder, messages: dict[int, int], known: Index | None) -> Iterator[_Row]:
    """What there is to know of some messages; nothing of those that are none. Raises OSError, Renumbered."""
    found: list[tuple[int, int, int, int, int]] = []
    states: dict[int, tuple[int, Flags]] = {}
    new: list[int] = []
    for number, inode in messages.items():
        place = known.position(number) if known is not None else None
        if known is not None and (place is None or known.inodes[place] != inode):
            place = _same_message(folder, known, place, number)
        if known is not None and place is not None:
            modseq = _modseq(folder, number)
            if known.modseqs[place] == modseq:
                states[number] = modseq, known.flags[place]
            else:
                new.append(number)
            found.append((number, inode, known.octets[place], known.dates[place], known.lines[place]))
            continue
        try:
            status = os.stat(str(number), dir_fd=folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if _is_message(status):
            new.append(number)
            found.append((number, inode, status.st_size, mtime(status), UNKNOWN))
    states.update(zip(new, _read_states(folder, new), strict=True))
    for number, inode, octets, date, lines in found:
        modseq, flags = states[number]
        yield number, inode, octets, date, modseq, lines, flags


def _is_message(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_MESSAGE


def _modseq(folder: Folder, number: int) -> int:
    try:
        return max(os.stat(f"{number}.status", dir_fd=folder.fd, follow_symlinks=False).st_ctime_ns, 1)
    except FileNotFoundError:
        return 1


def _read_states(folder: Folder, numbers: Sequence[int]) -> list[tuple[int, Flags]]:
    """Mod-sequence and flags of each; the flags are those of a new message when its state can't be read.

    The disk is asked for all of them before the first is read: one after the other takes four times as long. Raises
    OSError when this process has no descriptor left, say.
    """
    opened = []
    try:
        for number in numbers:
            state = _open_state(folder, number)
            opened.append(state)
            if state is not None and len(numbers) > 1:
                os.posix_fadvise(state[0], 0, 0, os.POSIX_FADV_WILLNEED)
        return [
            (_modseq(folder, number), NO_STATE)
            if state is None
            else (max(state[1].st_ctime_ns, 1), parse(os.read(state[0], MAX_OCTETS)))
            for number, state in zip(numbers, opened, strict=True)
        ]
    finally:
        for state in opened:
            if state is not None:
                os.close(state[0])


def _open_state(folder: Folder, number: int) -> tuple[int, os.stat_result] | None:
    """A descriptor of a state, and what it is like; None when there is none that can be read. Raises OSError."""
    try:
        fd = os.open(f"{number}.status", os.O_RDONLY | SAFELY, dir_fd=folder.fd)
    except OSError as error:
        if error.errno in _NOT_ITS_FAULT:
            raise
        return None
    status = os.fstat(fd)
    if is_plain(status):
        return fd, status
    os.close(fd)
    return None


_NOT_ITS_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say nothing of a file: taken for it, they would make messages that were read new ones."""


def _same_message(folder: Folder, known: Index, place: int | None, number: int) -> int | None:
    """The place of a message that lies in another file than before, if it is the same: a restored one.

    None for a new one, and for what is no message. Raises Renumbered when the number stands for another message, or
    stands again for one.
    """
    if place is None and number > known.last:
        return None
    try:
        status = os.stat(str(number), dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not _is_message(status):
        return None
    if place is None or (status.st_size, mtime(status)) != (known.octets[place], known.dates[place]):
        raise Renumbered
    return place


def read_flags(folder: Folder, number: int) -> Flags:
    """The flags of a message as they are now; those of a new one when its state can't be read."""
    return _read_states(folder, [number])[0][1]
