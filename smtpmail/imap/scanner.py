"""The words that commands are made of (RFC 3501 9, RFC 9051 9), read from one whole command."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from smtpmail.imap.names import NameSyntaxError, decode_name
from smtpmail.imap.sequences import MAX_NUMBER, SAVED, SequenceSet, parse_set

MAX_MODSEQ = 2**63 - 1

_TAG = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\+]+')
_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_ASTRING = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')
_ASTRING_UTF8 = re.compile(rb'[^\x00-\x20\x7f(){%*"\\]+')
_LIST_MAILBOX = re.compile(rb'[^\x00-\x20\x7f-\xff(){"\\]+')
_LIST_MAILBOX_UTF8 = re.compile(rb'[^\x00-\x20\x7f(){"\\]+')
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00]|\\["\\])*)"')
_NUMBER = re.compile(rb"\d{1,20}")
_SEQUENCE = re.compile(rb"[\d:,*]+")
_FLAG = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_DATE = re.compile(rb"(\d{1,2})-([A-Za-z]{3})-(\d{4})")
_DATE_TIME = re.compile(rb"([ \d]\d)-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
"""Those of the protocol, whatever the language of this process."""

_NUMBER_OF_MONTH = {name.upper(): number for number, name in enumerate(MONTHS, 1)}

T = TypeVar("T")


class BadSyntax(Exception):
    """The command is not what the grammar allows; its text goes into the BAD reply."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal that came with a command."""

    data: bytes
    binary: bool = False
    """`~{n}` (RFC 3516, RFC 6855)."""


class Scanner:
    """Reads a command from its start to its end: `texts` are what stands between the `literals`."""

    def __init__(self, texts: Sequence[bytes], literals: Sequence[Literal] = (), *, utf8: bool = False) -> None:
        self._texts = texts
        self._literals = literals
        self._utf8 = utf8
        self._index = 0
        self._text = texts[0]
        self._position = 0

    # -- where we are

    @property
    def at_end(self) -> bool:
        """Whether the command is over; blanks at its end are forgiven."""
        return self._index == len(self._literals) and not self._text[self._position :].strip(b" ")

    @property
    def at_last_literal(self) -> bool:
        """Whether the texts end here, where a literal follows that is not among `literals`."""
        return self._position == len(self._text) and self._index == len(self._literals)

    @property
    def _at_literal(self) -> bool:
        return self._position == len(self._text) and self._index < len(self._literals)

    def peek(self, text: bytes) -> bool:
        """Whether `text` comes next, without case."""
        return self._text[self._position : self._position + len(text)].upper() == text.upper()

    def skip(self, text: bytes) -> bool:
        """Reads `text` if it comes next, without case; returns whether it did."""
        found = self.peek(text)
        if found:
            self._position += len(text)
        return found

    def expect(self, text: bytes) -> None:
        """Reads `text`. Raises BadSyntax when something else comes."""
        if not self.skip(text):
            raise BadSyntax(f"expected {text.decode()!r}")

    def space(self) -> None:
        """The one space between two words."""
        if not self.skip(b" "):
            raise BadSyntax("a space is required between arguments" if self._text else "arguments are missing")

    def end(self) -> None:
        """The end of the command."""
        if not self.at_end:
            raise BadSyntax("unexpected text at the end of the command")

    def rest(self) -> bytes:
        """All that is left of the line."""
        text, self._position = self._text[self._position :], len(self._text)
        return text.strip(b" ")

    def _match(self, expression: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        match = expression.match(self._text, self._position)
        if match is None:
            raise BadSyntax(f"{what} expected")
        self._position = match.end()
        return match

    # -- words

    def tag(self) -> bytes:
        return self._match(_TAG, "tag")[0]

    def atom(self) -> bytes:
        """An atom in capitals: a keyword of the protocol."""
        return self._match(_ATOM, "word")[0].upper()

    def number(self, largest: int = MAX_NUMBER) -> int:
        """A number from 0."""
        value = int(self._match(_NUMBER, "number")[0])
        if value > largest:
            raise BadSyntax("the number is too large")
        return value

    def nz_number(self) -> int:
        """A number from 1."""
        value = self.number()
        if not value:
            raise BadSyntax("0 is not allowed here")
        return value

    def modseq(self) -> int:
        """A mod-sequence, 0 included (RFC 7162)."""
        return self.number(MAX_MODSEQ)

    def string(self) -> bytes:
        """A quoted string or a literal."""
        if self._at_literal:
            literal = self._literals[self._index]
            self._next_text()
            return literal.data
        if self.peek(b'"'):
            quoted = self._match(_QUOTED, "quoted string")[1]
            return re.sub(rb"\\(.)", rb"\1", quoted) if b"\\" in quoted else quoted
        raise BadSyntax("string expected")

    def _next_text(self) -> None:
        self._index += 1
        self._text = self._texts[self._index]
        self._position = 0

    def astring(self) -> bytes:
        """A string or an atom (which may contain `]`)."""
        if self._at_literal or self.peek(b'"'):
            return self.string()
        return self._match(_ASTRING_UTF8 if self._utf8 else _ASTRING, "string")[0]

    def nstring(self) -> bytes | None:
        """A string or NIL."""
        if self._at_literal or self.peek(b'"'):
            return self.string()
        if self.atom() != b"NIL":
            raise BadSyntax("string or NIL expected")
        return None

    def mailbox(self) -> str:
        """The name of a mailbox."""
        return self._name(self.astring())

    def pattern(self) -> str:
        """A name in which `*` and `%` may stand (list-mailbox)."""
        if self._at_literal or self.peek(b'"'):
            text = self.string()
        elif self._position < len(self._text) and self._text[self._position] not in b" ()":
            text = self._match(_LIST_MAILBOX_UTF8 if self._utf8 else _LIST_MAILBOX, "mailbox pattern")[0]
        else:
            raise BadSyntax("mailbox pattern expected")
        return self._name(text, is_pattern=True)

    def _name(self, text: bytes, *, is_pattern: bool = False) -> str:
        try:
            name = decode_name(text, utf8=self._utf8)
        except NameSyntaxError as error:
            raise BadSyntax(f"mailbox name: {error}") from None
        # The delimiter at the end of a pattern counts.
        return f"{name}/" if is_pattern and text.endswith(b"/") else name

    def sequence_set(self) -> SequenceSet:
        """`1,3:5,*`, or `$`."""
        if self.skip(b"$"):
            return SAVED
        try:
            return parse_set(self._match(_SEQUENCE, "sequence set")[0])
        except ValueError as error:
            raise BadSyntax(str(error)) from None

    def at_digit(self) -> bool:
        """Whether a digit comes next."""
        return self._text[self._position : self._position + 1].isdigit()

    def at_sequence_set(self) -> bool:
        """Whether a sequence set comes next."""
        return self.peek(b"$") or _SEQUENCE.match(self._text, self._position) is not None

    def flag(self) -> bytes:
        """A flag or a keyword, as written."""
        return self._match(_FLAG, "flag")[0]

    def flags(self) -> list[bytes]:
        """`(flag flag)`, or without the parentheses, up to the end of the command."""
        if self.peek(b"("):
            return self.listed(self.flag, empty=True)
        flags = [self.flag()]
        while self.skip(b" "):
            flags.append(self.flag())
        return flags

    def listed(self, item: Callable[[], T], *, empty: bool = False) -> list[T]:
        """`(item item)`; `()` only where it may be `empty`."""
        self.expect(b"(")
        items: list[T] = []
        if empty and self.skip(b")"):
            return items
        while True:
            items.append(item())
            if self.skip(b")"):
                return items
            self.space()

    def date(self) -> int:
        """A date, possibly quoted, as days since 1970."""
        quoted = self.skip(b'"')
        day, month, year = self._match(_DATE, "date").groups()
        if quoted:
            self.expect(b'"')
        return _days(int(year), month, int(day))

    def date_time(self) -> int:
        """`"17-Jul-1996 02:44:25 -0700"` as Unix time."""
        self.expect(b'"')
        match = self._match(_DATE_TIME, "date and time")
        self.expect(b'"')
        day, month, year, hour, minute, second, sign, zone_hour, zone_minute = match.groups()
        if int(hour) > 23 or int(minute) > 59 or int(second) > 60 or int(zone_minute) > 59:
            raise BadSyntax("there is no such time")
        zone = int(zone_hour) * 3600 + int(zone_minute) * 60
        local = _days(int(year), month, int(day)) * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second)
        return local + zone if sign == b"-" else local - zone


def _days(year: int, month_name: bytes, day: int) -> int:
    month = _NUMBER_OF_MONTH.get(month_name.upper(), 0)
    if not month or year < 1 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise BadSyntax("there is no such date")
    return calendar.timegm((year, month, day, 0, 0, 0)) // 86400
