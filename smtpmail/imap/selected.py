"""The selected mailbox as its client knows it, and what the client is told when the folder has changed meanwhile.

Message numbers are positions in a list that client and server keep alike: they change only by what is sent here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator

from smtpmail.imap.content import MessageFile, opened
from smtpmail.imap.responses import Refused, bad, listed, no
from smtpmail.imap.sequences import SequenceSet, format_set
from smtpmail.imap.session import Enabled
from smtpmail.spool.reader.index import UNKNOWN, Index
from smtpmail.spool.reader.mailfolder import Changed, MailFolder
from smtpmail.spool.reader.states import RECENT, SYSTEM, Flags

SYSTEM_FLAGS = tuple(flag for flag in sorted(SYSTEM.values()) if flag != RECENT)


class Selected:
    """A mailbox that is selected; the folder is closed with it."""

    def __init__(self, name: str, folder: MailFolder, enabled: Enabled, *, read_only: bool) -> None:
        self.name = name
        self.folder = folder
        self.read_only = read_only
        self._enabled = enabled
        index = folder.refresh()
        self.recent: set[int] = set()
        if not read_only:
            self.recent.update(folder.claim_recent(index))
        index = folder.settle()
        self.index = index
        self.numbers = array("Q", index.numbers)
        """UIDs, by message number less one."""
        self._flags = list(index.flags)
        self._modseqs = array("Q", index.modseqs)
        self.keywords: set[bytes] = set()
        self._note_keywords(self._flags)
        self.saved: list[int] = []
        """UIDs that the last search with SAVE has found."""

    def close(self) -> None:
        """Nothing more is asked."""
        self.folder.close()

    # -- what the client knows

    def __len__(self) -> int:
        return len(self.numbers)

    def flags(self, position: int) -> Flags:
        r"""The flags of a message as the client sees them, \Recent included."""
        flags = self._flags[position]
        if self._enabled.rev2:
            return flags - {RECENT}
        if self.numbers[position] in self.recent:
            return flags | {RECENT}
        return flags if self.read_only else flags - {RECENT}

    def modseq(self, position: int) -> int:
        """Its mod-sequence."""
        return self._modseqs[position]

    def count_recent(self) -> int:
        """How many messages are recent to this session."""
        if self.read_only:
            return sum(RECENT in flags for flags in self._flags)
        return sum(number in self.recent for number in self.numbers) if self.recent else 0

    def first_unseen(self) -> int | None:
        r"""The number of the first message that is not \Seen."""
        return next((n for n, flags in enumerate(self._flags, 1) if b"\\Seen" not in flags), None)

    def flags_line(self) -> bytes:
        """The untagged FLAGS response."""
        return b"* FLAGS " + listed([*SYSTEM_FLAGS, *sorted(self.keywords)]) + b"\r\n"

    def place(self, position: int) -> int | None:
        """Where a message stands in the index of the folder; None when it was removed."""
        return self.index.position(self.numbers[position])

    def wire_octets(self, position: int, message: MessageFile | None = None) -> int:
        """The size of a message on the wire: with CRLF. Raises OSError, FileNotFoundError when it was removed."""
        place = self.place(position)
        if place is None:
            raise FileNotFoundError
        index = self.index
        counted = index.lines[place] != UNKNOWN
        if message is not None:
            # Its owner may have written over it in place.
            if not counted or (message.octets, message.date) != (index.octets[place], index.dates[place]):
                self._measure(place, message)
        elif not counted:
            with opened(*self.folder.open_message(self.numbers[position])) as found:
                self._measure(place, found)
        return index.octets[place] + index.lines[place]

    def _measure(self, place: int, message: MessageFile) -> None:
        index = self.index
        index.octets[place], index.dates[place] = message.octets, message.date
        index.lines[place] = message.lines()
        self.folder.learned()

    # -- sets of numbers

    def positions(self, numbers: SequenceSet, *, uid: bool) -> list[int]:
        """The messages that a set names, as positions. Raises Refused for a message number that is not there."""
        if numbers.saved:
            return [place for number in self.saved if (place := self._position_of(number)) is not None]
        if uid:
            return numbers.among(self.numbers)
        positions = numbers.positions(len(self.numbers))
        if positions is None:
            if not self.numbers and numbers.has_last:
                return []
            raise Refused(bad("There is no such message number"))
        return positions

    def _position_of(self, number: int) -> int | None:
        place = bisect_left(self.numbers, number)
        return place if place < len(self.numbers) and self.numbers[place] == number else None

    # -- what has changed

    def took_up(self, changed: Changed, *, uid: bool, silent: bool, expected: Flags | None = None) -> bytes:
        """A state that this session has changed: what the client is told of it."""
        position = self._position_of(changed.number)
        if position is None:
            return b""
        told = b""
        if not self.keywords.issuperset(f for f in changed.flags if not f.startswith(b"\\")):
            self._note_keywords([changed.flags])
            told = self.flags_line()
        unexpected = expected is not None and changed.flags - {RECENT} != expected - {RECENT}
        same = changed.flags == self._flags[position] and changed.modseq == self._modseqs[position]
        self._flags[position] = changed.flags
        self._modseqs[position] = changed.modseq
        if not silent or unexpected:
            return told + self.fetch_flags(position, uid=uid)
        if self._enabled.condstore and not same:
            return told + self._fetch(position, [b"MODSEQ (%d)" % changed.modseq], uid=uid)
        return told

    def fetch_flags(self, position: int, *, uid: bool) -> bytes:
        """An untagged FETCH with the flags."""
        items = [b"FLAGS " + listed(sorted(self.flags(position)))]
        if self._enabled.condstore:
            items.append(b"MODSEQ (%d)" % self._modseqs[position])
        return self._fetch(position, items, uid=uid)

    def _fetch(self, position: int, items: list[bytes], *, uid: bool) -> bytes:
        if uid or self._enabled.qresync or self._enabled.rev2:
            items.insert(0, b"UID %d" % self.numbers[position])
        return b"* %d FETCH %s\r\n" % (position + 1, listed(items))

    def sync(self, *, may_expunge: bool, uid: bool = False) -> Iterator[bytes]:
        """Looks at the folder again and tells what has changed. Raises Gone, OSError.

        Removed messages keep their numbers until the client may be told.
        """
        index = self.folder.refresh()
        if index is self.index and not (may_expunge and len(index.numbers) < len(self.numbers)):
            return
        self.index = index
        if index.numbers[: len(self.numbers)] == self.numbers:
            # By far the most frequent: nothing is gone.
            yield from self._sync_flags(uid)
            yield from self._sync_new()
            return
        present = set(index.numbers)
        gone = [place for place, number in enumerate(self.numbers) if number not in present]
        if gone and may_expunge:
            yield self._expunge(gone)
        yield from self._sync_flags(uid)
        yield from self._sync_new()

    def _expunge(self, gone: list[int]) -> bytes:
        numbers = [self.numbers[place] for place in gone]
        # From the end, so that no number has changed before it is told.
        for place in reversed(gone):
            del self.numbers[place], self._flags[place], self._modseqs[place]
        self.recent.difference_update(numbers)
        if self._enabled.qresync:
            return b"* VANISHED " + format_set(numbers) + b"\r\n"
        return b"".join(b"* %d EXPUNGE\r\n" % (place + 1) for place in reversed(gone))

    def _sync_flags(self, uid: bool) -> Iterator[bytes]:
        index = self.index
        if index.numbers[: len(self.numbers)] == self.numbers:
            if index.modseqs[: len(self.numbers)] == self._modseqs:
                return
            pairs = zip(range(len(self.numbers)), range(len(self.numbers)), strict=True)
        else:
            pairs = (
                (position, place)
                for position, number in enumerate(self.numbers)
                if (place := index.position(number)) is not None
            )  # type: ignore[assignment]
        changed = []
        for position, place in pairs:
            if self._modseqs[position] != index.modseqs[place]:
                if self._flags[position] - {RECENT} != index.flags[place] - {RECENT}:
                    changed.append(position)
                self._modseqs[position] = index.modseqs[place]
                self._flags[position] = index.flags[place]
        if self._note_keywords([self._flags[position] for position in changed]):
            yield self.flags_line()
        for position in changed:
            yield self.fetch_flags(position, uid=uid)

    def _sync_new(self) -> Iterator[bytes]:
        index = self.index
        start = bisect_left(index.numbers, self.numbers[-1] + 1) if self.numbers else 0
        if start == len(index.numbers):
            return
        new = [n for n, flags in zip(index.numbers[start:], index.flags[start:], strict=True) if RECENT in flags]
        if new and not self.read_only:
            self.recent.update(self.folder.claim_recent(index, above=index.numbers[start] - 1))
            self.index = index = self.folder.refresh()
            start = bisect_left(index.numbers, self.numbers[-1] + 1) if self.numbers else 0
        self.numbers.extend(index.numbers[start:])
        self._flags += index.flags[start:]
        self._modseqs.extend(index.modseqs[start:])
        if self._note_keywords(index.flags[start:]):
            yield self.flags_line()
        yield b"* %d EXISTS\r\n" % len(self.numbers)
        if not self._enabled.rev2:
            yield b"* %d RECENT\r\n" % self.count_recent()

    def _note_keywords(self, flags: list[Flags]) -> bool:
        """Takes note of keywords; returns whether one is new."""
        before = len(self.keywords)
        for some in set(flags):
            self.keywords.update(flag for flag in some if not flag.startswith(b"\\"))
        return len(self.keywords) > before


def require_writable(selected: Selected) -> None:
    """Raises Refused for a mailbox that was opened with EXAMINE."""
    if selected.read_only:
        raise Refused(no("The mailbox is open for reading only", b"READ-ONLY"))


def highest_modseq(index: Index) -> int:
    """HIGHESTMODSEQ of a folder that has settled: no later change is as old."""
    return index.newest()
