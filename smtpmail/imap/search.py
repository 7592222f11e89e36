"""Whether a message fits a search (RFC 3501 6.4.4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from datetime import date
from email.utils import parsedate
from typing import Protocol

from smtpmail.imap.content import MessageFile
from smtpmail.imap.decode import header_text, part_text
from smtpmail.imap.header import unfold
from smtpmail.imap.mime import Part
from smtpmail.imap.responses import Refused, no
from smtpmail.imap.search_keys import Key
from smtpmail.imap.sequences import SequenceSet

_EPOCH = date(1970, 1, 1).toordinal()

FREE = frozenset({"ALL", "FLAG", "RECENT", "SET", "UID", "MODSEQ", "BEFORE", "ON", "SINCE", "OLDER", "YOUNGER"})
"""Keys that need no look into a message."""


class Candidate(Protocol):
    """A message that may fit."""

    position: int

    @property
    def flags(self) -> frozenset[bytes]:
        r"""Its flags, without \Recent."""

    @property
    def recent(self) -> bool:
        """Whether it is recent to this session."""

    @property
    def modseq(self) -> int:
        """Its mod-sequence."""

    @property
    def date(self) -> float:
        """When it came, Unix time. Raises OSError."""

    def wire_octets(self) -> int:
        """Its size."""

    def file(self) -> MessageFile:
        """Its content. Raises OSError."""


Test = Callable[[Candidate], bool]
Positions = Callable[[SequenceSet], Container[int]]
"""The positions of the messages that a set of numbers names."""


class Searcher:
    """Makes tests of keys. Sets of numbers are message numbers or UIDs."""

    def __init__(self, by_position: Positions, by_uid: Positions) -> None:
        self._by_position = by_position
        self._by_uid = by_uid
        self._now = time.time()

    def test(self, key: Key) -> Test:
        """Whether a message fits `key`. Raises Refused when nobody can tell."""
        match key.name:
            case "AND":
                # What is cheap first: it may spare a look into the message.
                tests = [self.test(k) for k in sorted(key.keys, key=cost)]
                return lambda m: all(test(m) for test in tests)
            case "OR":
                first, second = (self.test(k) for k in sorted(key.keys, key=cost))
                return lambda m: first(m) or second(m)
            case "NOT":
                negated = self.test(key.keys[0])
                return lambda m: not negated(m)
            case "ALL":
                return lambda m: True
            case "SET" | "UID":
                assert key.numbers is not None
                positions = (self._by_uid if key.name == "UID" else self._by_position)(key.numbers)
                return lambda m: m.position in positions
            case "FLAG":
                flag = key.octets.lower()
                return lambda m: any(f.lower() == flag for f in m.flags)
            case "RECENT":
                return lambda m: m.recent
            case "BADCHARSET":
                raise Refused(no("This charset is not known here", b"BADCHARSET (US-ASCII UTF-8)"))
        return self._compared(key)

    def _compared(self, key: Key) -> Test:
        number = key.number
        match key.name:
            case "MODSEQ":
                return lambda m: m.modseq >= number
            case "LARGER":
                return lambda m: m.wire_octets() > number
            case "SMALLER":
                return lambda m: m.wire_octets() < number
            case "OLDER":
                return lambda m: m.date <= self._now - number
            case "YOUNGER":
                return lambda m: m.date >= self._now - number
            case "BEFORE" | "ON" | "SINCE":
                compare = _COMPARE[key.name]
                return lambda m: compare(int(m.date // 86400), number)
            case "SENTBEFORE" | "SENTON" | "SENTSINCE":
                compare = _COMPARE[key.name.removeprefix("SENT")]
                return lambda m: (day := sent_day(m)) is not None and compare(day, number)
        return self._textual(key)

    @staticmethod
    def _textual(key: Key) -> Test:
        needle = key.text.casefold()
        if key.name in ("BODY", "TEXT"):
            with_header = key.name == "TEXT"
            return lambda m: _in_text(m.file(), needle, with_header=with_header)
        field = key.octets.lower() if key.name == "HEADER" else key.name.lower().encode()
        return lambda m: any(needle in header_text(v).casefold() for v in m.file().header().all(field))


def cost(key: Key) -> int:
    """How dear a key is: 0 needs no message, 1 its header or size, 2 all of it."""
    if key.keys:
        return max(map(cost, key.keys))
    return 0 if key.name in FREE else 2 if key.name in ("BODY", "TEXT") else 1


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "BEFORE": lambda day, limit: day < limit,
    "ON": lambda day, limit: day == limit,
    "SINCE": lambda day, limit: day >= limit,
}


def sent_day(message: Candidate) -> int | None:
    """The day in the Date field, whatever its time and zone; as days since 1970."""
    value = message.file().header().get(b"date")
    parsed = parsedate(value.decode("ascii", "replace")) if value else None
    if parsed is None:
        return None
    try:
        return date(*parsed[:3]).toordinal() - _EPOCH
    except ValueError:
        return None


def _in_text(message: MessageFile, needle: str, *, with_header: bool) -> bool:
    if with_header and _in_header(message.head(), needle):
        return True
    return _in_part(message.data(), message.structure(), needle)


def _in_header(header: bytes, needle: str) -> bool:
    return needle in header_text(unfold(header[: 256 * 1024])).casefold()


def _in_part(data: bytes, part: Part, needle: str) -> bool:
    if part.message is not None:
        inner = part.message
        return _in_header(data[inner.start : inner.body], needle) or _in_part(data, inner, needle)
    if part.children:
        return any(
            _in_header(data[child.start : child.body], needle) or _in_part(data, child, needle)
            for child in part.children
        )
    return part.is_text and needle in part_text(data, part).casefold()
