"""What IMAP and MH readers (mutt, nmh) tell each other of a folder: flags in the states, sequences in `.mh_sequences`.

`.sequences.known` holds the sequences as both sides last agreed on them: what differs from it in `.mh_sequences` was
changed by an MH reader and goes into the states; what differs in a state otherwise was changed over IMAP and goes into
`.mh_sequences`. Without that file everything that either side has set counts. The states are the authority: they are
durable, and a file that can't be used, or is locked for long, stops nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from smtpmail.spool.files import forget_pages, replace_file
from smtpmail.spool.folder import Folder
from smtpmail.spool.lock import MailboxBusy, alone
from smtpmail.spool.reader.index import Index, read_flags
from smtpmail.spool.reader.sequences import (
    BY_FLAG,
    Changes,
    change_sequences,
    changes_between,
    line_of,
    members,
    ranges_of,
)
from smtpmail.spool.reader.states import SEEN, Flags
from smtpmail.spool.sequences import SEQUENCES, dot_locked

KNOWN = ".sequences.known"

LIMIT = 1024 * 1024
"""Octets: a longer file is none that a reader made, and is left alone."""

LISTED_SECONDS = 0.1
"""Whoever writes the sequences has listed the folder before, but not longer: what came later it may not know."""

LOST_SECONDS = 2.5
"""After so many seconds deliveries have put back what a reader has left out because it did not know of it."""

MOST_LOOKED_AT = 1000
"""Messages that came since the last agreement and are looked at one by one."""

_UNSEEN = BY_FLAG[SEEN][0]


@dataclass(slots=True)
class Differences:
    """What one side has changed and the other does not know."""

    states: dict[int, tuple[Flags, Flags]] = field(default_factory=dict)
    """By number: the flags that an MH reader has set, and those that it has taken away."""
    sequences: dict[bytes, tuple[set[int], set[int]]] = field(default_factory=dict)
    """By sequence: the numbers that it lacks, and those that it has too many."""
    undecided: bool = False
    """Whether it is too early to tell of some messages."""

    def __bool__(self) -> bool:
        return bool(self.states or self.sequences)


class MhReaders:
    """Compares the states of a folder with its sequences, whenever these have changed: once for all who read it."""

    def __init__(self) -> None:
        self._looked_at: tuple[int, ...] | None = None
        self.undecided = False
        """Whether to look again soon, even if nothing changes."""

    def differences(self, folder: Folder, index: Index, *, locked: bool = False) -> Differences:
        """What differs; empty when nothing has changed since the last look. `locked`: the folder's lock is held."""
        state = _state_of(folder)
        # A message that nmh moves here has neither a state nor a word in the sequences.
        looked_at = (*state, index.last)
        if looked_at == self._looked_at and not self.undecided and not locked:
            return Differences()
        try:
            if locked:
                found = _compare(folder, index)
            else:
                with alone(folder, time.monotonic() + 1.0):
                    found = _compare(folder, index)
        except (MailboxBusy, BlockingIOError):
            self.undecided = True
            return Differences()
        except OSError:
            found = Differences()  # unreadable: the states count alone
        self.undecided = found.undecided
        # What was written just now may be written again within the same tick of the clock.
        self._looked_at = looked_at if not state or time.time_ns() - state[-1] > 20_000_000 else None
        return found

    def tell(self, folder: Folder, states: Mapping[int, tuple[Flags, Flags]]) -> None:
        """Tells MH readers what changed: for each number the flags before and after. With the folder's lock held.

        When they are busy, the next look tells them.
        """
        if not note_changes(folder, changes_between(states)):
            self.undecided = True


def _compare(folder: Folder, index: Index) -> Differences:
    """Raises OSError, BlockingIOError when a reader is at work on the file."""
    known = _read(folder, KNOWN)
    text, changed_at = _read_sequences(folder)
    found = Differences()
    if text is None and known is None:
        return found
    numbers = index.numbers
    for flag, (name, is_set) in BY_FLAG.items():
        before = members(known or b"", name, numbers)
        if name == _UNSEEN:
            before.update(numbers[bisect_right(numbers, _last_known(known)) :])
        if text is not None:
            now = members(text, name, numbers)
        elif name == _UNSEEN:
            now = set()  # nmh removes the file when nothing is left in it
        else:
            continue
        ours = {n for n, flags in zip(numbers, index.flags, strict=True) if (flag in flags) is is_set}
        by_reader = before ^ now
        told = by_reader & (ours ^ now)
        for number in told - _maybe_lost(folder, found, name, told & before, changed_at):
            added, removed = found.states.get(number, (frozenset(), frozenset()))
            if (number in now) is is_set:
                added |= {flag}
            else:
                removed |= {flag}
            found.states[number] = (added, removed)
        if text is None:
            continue
        # The index may be older than the files: nobody is told what was so before.
        differ = {n for n in (ours ^ now) - by_reader if folder.exists(str(n))}
        has = {n for n in differ if (flag in read_flags(folder, n)) is is_set}
        if changed := has ^ (differ & now):
            found.sequences[name] = (changed & has, changed - has)
    return found


def _maybe_lost(folder: Folder, found: Differences, name: bytes, gone: set[int], changed_at: float) -> set[int]:
    """New mail that has left `unseen`: read, or unknown to the reader that wrote the file and put back soon."""
    if name != _UNSEEN or time.time() - changed_at >= LOST_SECONDS:
        return set()
    lost = set()
    for number in gone:
        with contextlib.suppress(OSError):
            arrived = os.stat(str(number), dir_fd=folder.fd, follow_symlinks=False).st_ctime
            if changed_at - arrived < LISTED_SECONDS:
                lost.add(number)
    found.undecided |= bool(lost)
    return lost


def _read_sequences(folder: Folder) -> tuple[bytes | None, float]:
    """The text, None when there is no file, and when it was written."""
    try:
        fd = folder.open_file(SEQUENCES, os.O_RDONLY)
    except FileNotFoundError:
        return None, os.fstat(folder.fd).st_mtime
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if dot_locked(folder):
            raise BlockingIOError
        status = os.fstat(fd)
        if status.st_size > LIMIT:
            raise OSError("too long")
        forget_pages(fd)
        return os.pread(fd, LIMIT, 0), status.st_mtime
    finally:
        os.close(fd)


def _state_of(folder: Folder) -> tuple[int, ...]:
    """What tells one content of the file from another; empty when there is none."""
    try:
        status = os.stat(SEQUENCES, dir_fd=folder.fd, follow_symlinks=False)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def note_changes(folder: Folder, changes: Changes) -> bool:
    """Changes the sequences, and what both sides know of them. With the lock held; False when a reader holds theirs."""
    if changes:
        with contextlib.suppress(OSError):
            if not folder.exists(SEQUENCES) and not folder.exists(KNOWN):
                # The first word that MH readers hear of the folder: what it leaves out, they would take for read.
                changes = changes_between({n: (_UNMARKED, flags) for n, flags in _all_states(folder)})
            text = _rewrite(folder, changes)
            if text is None:
                return False
            if not _agree(folder, changes, text):
                # What one side says must not be on disk without what the other was told of it.
                os.fsync(folder.fd)
    return True


_UNMARKED: Flags = frozenset({SEEN})
"""The flags of a message that no sequence names."""


def _all_states(folder: Folder) -> Iterator[tuple[int, Flags]]:
    """The numbers of all messages with their flags. Raises OSError."""
    for name in os.listdir(folder.fd):
        if name.isascii() and name.isdigit() and name[0] != "0" and len(name) <= 10:
            yield int(name), read_flags(folder, int(name))


def _rewrite(folder: Folder, changes: Changes) -> bytes | None:
    """Changes the sequences; returns them, None when somebody else is at work on them. Raises OSError."""
    fd = folder.open_file(SEQUENCES, os.O_RDWR | os.O_CREAT)
    try:
        # The lock that nmh, mailbox.MH and deliveries take; who holds it for long keeps their own view.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(fd).st_size
        if size > LIMIT or dot_locked(folder) or not folder.is_same(SEQUENCES, fd):
            return None
        forget_pages(fd)
        old = os.pread(fd, size, 0)
        new = change_sequences(old, changes)
        if new == old:
            # What was agreed on must not be on disk before what it was agreed on.
            os.fsync(fd)
        else:
            replace_file(folder, SEQUENCES, new)
        return new
    finally:
        os.close(fd)


def _agree(folder: Folder, changes: Changes, text: bytes) -> bool:
    """Notes that both sides know these changes, with the sequences as they are now; whether that was news, which makes
    them durable. Raises OSError.
    """
    known = _read(folder, KNOWN)
    last = _last_known(known)
    highest = max((number for added, removed in changes.values() for number in (*added, *removed)), default=0)
    lines = [line for line in (known or b"").split(b"\n") if line and not line.startswith(b"last:")]
    if highest > last:
        # What came since is unseen until a reader says something else, or was put here as seen.
        lines.append(line_of(_UNSEEN, [(last + 1, highest)]))
        changes = {**changes, **_seen_from_the_start(folder, range(last + 1, highest + 1), text, changes)}
    lines.append(b"last: %d" % max(last, highest))
    new = change_sequences(b"\n".join(lines), {_UNSEEN: (set(), set()), **changes})
    if new != known:
        replace_file(folder, KNOWN, new)
    return new != known


def _seen_from_the_start(folder: Folder, numbers: range, text: bytes, changes: Changes) -> Changes:
    """What both sides agree on of messages that nobody has noted before: that neither has them as new."""
    if len(numbers) > MOST_LOOKED_AT:
        return {}
    added, removed = changes.get(_UNSEEN, (set(), set()))
    unseen = members(text, _UNSEEN, numbers)
    seen = {n for n in numbers if n not in unseen and SEEN in read_flags(folder, n)}
    return {_UNSEEN: (added, removed | seen)}


def _last_known(known: bytes | None) -> int:
    """The number up to which both sides agree."""
    ranges = ranges_of(known or b"", b"last")
    return ranges[-1][1] if ranges else 0


def _read(folder: Folder, name: str) -> bytes | None:
    try:
        fd = folder.open_file(name, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(fd, 2 * LIMIT)
    finally:
        os.close(fd)
