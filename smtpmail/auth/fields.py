"""The header of a message, cut into its fields, and a message that comes in pieces, cut into header and body.

Line ends are LF here, as in everything that is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

MAX_HEADER = 256 * 1024
"""Octets of a header that are kept. Of a longer one only the From fields are looked for in the rest."""

_MAX_AUTHOR_FIELD = 8 * 1024
_FIELD = re.compile(rb"[^\n]+\n?(?:[ \t][^\n]*\n?)*")
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_FROM = re.compile(rb"from[ \t]*:", re.IGNORECASE)
_RESULTS = re.compile(rb"authentication-results[ \t]*:", re.IGNORECASE)


class Field(NamedTuple):
    """One header field."""

    name: bytes
    """In lower case; empty for a line that is no field."""
    raw: bytes
    """All its lines with their line ends."""

    @property
    def value(self) -> bytes:
        """What stands behind the colon, folded as it is."""
        return self.raw.partition(b":")[2]


def split_header(header: bytes) -> list[Field]:
    """The fields of a header, in their order."""
    fields = []
    for match in _FIELD.finditer(header):
        raw = match[0]
        name = _NAME.match(raw)
        fields.append(Field(name[1].lower() if name else b"", raw if raw.endswith(b"\n") else raw + b"\n"))
    return fields


def unfolded(value: bytes) -> str:
    """A field's value on one line, as text; octets that are no UTF-8 become U+FFFD."""
    return b" ".join(value.split()).decode("utf-8", "replace")


class MessageSplitter:
    """Takes a message in pieces of any size; gives the header when it is whole, then the body as it comes.

    Content that begins with no header field has no header: all of it is body, as it is stored.
    """

    def __init__(self, begin_body: Callable[[bytes], Callable[[bytes], object]]) -> None:
        """`begin_body` is called once with the whole header and returns what takes the pieces of the body."""
        self._begin_body = begin_body
        self._body: Callable[[bytes], object] | None = None
        self._head = bytearray()
        self._rest: _AuthorSearch | None = None
        self.overlong = False
        """Whether the header was longer than MAX_HEADER; no body is given then."""

    @property
    def hides_results(self) -> bool:
        """Whether there is an Authentication-Results field behind MAX_HEADER, where nobody takes it out."""
        return self._rest is not None and self._rest.has_results

    def write(self, data: bytes) -> None:
        """Takes the next piece."""
        if self._body is not None:
            self._body(data)
        elif self._rest is not None:
            self._rest.write(data)
        else:
            self._take_head(data)

    def close(self) -> None:
        """The message is whole."""
        if self._rest is not None:
            self._begin_body(bytes(self._head) + self._rest.close())
        elif self._body is None:
            self._start(len(self._head), len(self._head))

    def _take_head(self, data: bytes) -> None:
        searched = max(len(self._head) - 1, 0)
        self._head += data
        if self._head.startswith(b"\n"):
            self._start(0, 1)
            return
        end = self._head.find(b"\n\n", searched)
        if len(self._head) > MAX_HEADER if end < 0 else end >= MAX_HEADER:
            self.overlong = True
            whole = self._head.rfind(b"\n", 0, MAX_HEADER) + 1
            self._rest = _AuthorSearch()
            self._rest.write(bytes(self._head[whole:]))
            del self._head[whole:]
        elif end >= 0:
            self._start(end + 1, end + 2)

    def _start(self, header_end: int, body_start: int) -> None:
        header, body = bytes(self._head[:header_end]), bytes(self._head[body_start:])
        if header and not _NAME.match(header):
            header, body = b"", bytes(self._head)
        self._head.clear()
        self._body = self._begin_body(header)
        self._body(body)


class _AuthorSearch:
    """Looks for From fields in what is too long to be kept."""

    def __init__(self) -> None:
        self._found = bytearray()
        self._line = b""
        self._in_author = False
        self._over = False
        self.has_results = False

    def write(self, data: bytes) -> None:
        if self._over:
            return
        lines = (self._line + data).split(b"\n")
        # The start of a long line tells what it is.
        self._line = lines.pop()[:_MAX_AUTHOR_FIELD]
        for line in lines:
            if not line:
                self._over = True
                return
            self._take(line)

    def _take(self, line: bytes) -> None:
        if line[:1] not in (b" ", b"\t"):
            self._in_author = _FROM.match(line) is not None
            self.has_results = self.has_results or _RESULTS.match(line) is not None
        if self._in_author and len(self._found) < _MAX_AUTHOR_FIELD:
            self._found += line[:_MAX_AUTHOR_FIELD] + b"\n"

    def close(self) -> bytes:
        """The fields found."""
        if not self._over and self._line:
            self._take(self._line)
        return bytes(self._found)
