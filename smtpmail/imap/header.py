"""The header of a message in its octets: fields, parameters, addresses, for ENVELOPE and BODYSTRUCTURE.

Nothing is refused: what is not as RFC 5322 has it is read as well as can be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_ADDRESSES = 10_000
"""Addresses of one field that are read."""

MAX_VALUE = 256 * 1024
"""Octets of one field that are read."""

MAX_TYPE = 8 * 1024
"""Octets of a Content-Type and the like that are read: what is longer would be costly to take apart."""

# No two neighbours in these expressions can match the same octets: a hostile header costs no more than its length.
_FIELD = re.compile(rb"^([^\s:\x00-\x1f][^:\n]*):([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|\Z)", re.MULTILINE)
_COMMON = frozenset({
    b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"date", b"subject", b"in-reply-to", b"message-id",
    b"references", b"content-type", b"content-transfer-encoding", b"content-disposition", b"content-id",
    b"content-description", b"content-language", b"content-location", b"content-md5",
})  # fmt: skip
# All that ENVELOPE, BODYSTRUCTURE, SORT and THREAD need: the many other fields are passed over.
_COMMON_FIELD = re.compile(
    rb"\n(" + b"|".join(sorted(_COMMON)) + rb")[^\S\n]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE
)
_ATOM = rb'[^\s"\[<>@,;:()]+'
# An address in one of the forms that nearly all have, up to the comma behind it.
_PLAIN_ADDRESS = re.compile(
    rb'\s*(?:(?:(?:"([^"\\]*)"|(' + _ATOM + rb"(?: " + _ATOM + rb")*))\s*)?"  # 1, 2: a name
    rb"<(" + _ATOM + rb")@(" + _ATOM + rb")>"
    rb"|(" + _ATOM + rb")@(" + _ATOM + rb"))\s*(?:,|\Z)"
)
_ROUTE = re.compile(rb'\s*(@[^<>:"]*):')
_TOKEN = re.compile(
    rb'"((?:[^"\\]|\\.)*)(?:"|\Z)'  # 1: a quoted string
    rb"|(\[(?:[^\]\\]|\\.)*(?:\]|\Z))"  # 2: a domain literal
    rb"|([<>@,;:])"  # 3: a special
    rb"|(\()"  # 4: a comment begins
    rb"|(" + _ATOM + rb")"  # 5: an atom, dots included
    rb"|[\s)]+",
    re.DOTALL,
)
_PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)(?:"|\Z)|([^;\s]*))', re.DOTALL)
_TYPE = re.compile(rb"\s*([^\s/;()\"]+)\s*/\s*([^\s/;()\"]+)")


class Address(NamedTuple):
    """One of an envelope. A group is an address without host before its members, and one without anything after."""

    name: bytes | None
    route: bytes | None
    mailbox: bytes | None
    host: bytes | None


class Header:
    """The fields of a header, by name."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._common: dict[bytes, list[bytes]] = {}
        for name, value in _COMMON_FIELD.findall(b"\n" + data):
            self._common.setdefault(name.lower(), []).append(value)

    def _values(self, name: bytes) -> Sequence[bytes]:
        if name in _COMMON:
            return self._common.get(name, ())
        return [m[2] for m in _FIELD.finditer(self._data) if m[1].rstrip().lower() == name]

    def all(self, name: bytes) -> list[bytes]:
        """The values of all fields of that name (lower case), unfolded."""
        return [unfold(value) for value in self._values(name)]

    def get(self, name: bytes) -> bytes | None:
        """The first of them, None if there is none."""
        values = self._values(name)
        return unfold(values[0]) if values else None

    def addresses(self, name: bytes) -> list[Address]:
        """The addresses of all fields of that name."""
        found: list[Address] = []
        for value in self.all(name):
            found += parse_addresses(value)
        return found


def unfold(value: bytes) -> bytes:
    """A value on one line."""
    value = value[:MAX_VALUE]
    if b"\n" in value:
        value = b" ".join(line.strip(b" \t\r") for line in value.split(b"\n"))
    return value.strip(b" \t\r")


def select_fields(header: bytes, names: Iterable[bytes], *, others: bool) -> bytes:
    """The fields of these names (or the others), as they stand, and the empty line (HEADER.FIELDS)."""
    wanted = {name.lower() for name in names}
    chosen = [m[0] for m in _FIELD.finditer(header) if (m[1].rstrip().lower() in wanted) is not others]
    return b"".join(field if field.endswith(b"\n") else field + b"\n" for field in chosen) + b"\n"


def parse_type(value: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]] | None:
    """Type, subtype and parameters of a Content-Type; None when it makes no sense."""
    value = value[:MAX_TYPE]
    match = _TYPE.match(value)
    if match is None:
        return None
    return match[1], match[2], _parameters(value[match.end() :])


def parse_disposition(value: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]] | None:
    """A word and its parameters, as of Content-Disposition."""
    value = value[:MAX_TYPE]
    match = re.match(rb'\s*([^\s;()"]+)', value)
    return (match[1], _parameters(value[match.end() :])) if match else None


def _parameters(text: bytes) -> list[tuple[bytes, bytes]]:
    text = _without_comments(text) if b"(" in text else text
    found = []
    for match in _PARAMETER.finditer(text):
        name, quoted, token = match.groups()
        found.append((name, token if quoted is None else _unquote(quoted)))
    return found


def _without_comments(text: bytes) -> bytes:
    pieces, position = [], 0
    for match in re.finditer(rb'"(?:[^"\\]|\\.)*"|\(', text):
        if match.start() < position or match[0] != b"(":
            continue
        end, _ = _comment(text, match.end())
        pieces.append(text[position : match.start()])
        position = end
    return b" ".join([*pieces, text[position:]])


def _unquote(text: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", text, flags=re.DOTALL) if b"\\" in text else text


def _comment(text: bytes, start: int) -> tuple[int, bytes]:
    """Where a comment that began before `start` ends, and what stands in it."""
    depth = 1
    for match in re.compile(rb"\\.|[()]", re.DOTALL).finditer(text, start):
        if match[0] == b"(":
            depth += 1
        elif match[0] == b")":
            depth -= 1
            if not depth:
                return match.end(), _unquote(text[start : match.start()])
    return len(text), _unquote(text[start:])


class _AddressReader:
    """Collects the words of one address after another."""

    def __init__(self) -> None:
        self.found: list[Address] = []
        self._in_group = False
        self._start()

    def _start(self) -> None:
        self._words: list[bytes] = []
        self._comment: bytes | None = None
        self._name: bytes | None = None
        self._angle = False
        self._at: int | None = None
        self._route: bytes | None = None

    def word(self, word: bytes) -> None:
        """An atom, or a quoted string without its quotes."""
        self._words.append(word)

    def comment(self, text: bytes) -> None:
        """What stood in parentheses: in old messages, the name."""
        self._comment = unfold(text) or None

    def route(self, route: bytes) -> None:
        """`@one,@two`, behind which the address follows."""
        self._route = route

    def special(self, character: bytes) -> None:
        """One of the characters between words."""
        match character:
            case b"<" if not self._angle:
                self._name = b" ".join(self._words) or None
                self._words, self._angle, self._at = [], True, None
            case b"@" if self._at is None:
                self._at = len(self._words)
            case b":" if not self._angle and not self._in_group and self._at is None:
                self.found.append(Address(None, None, b" ".join(self._words), None))
                self._in_group = True
                self._start()
            case b",":
                self._end()
            case b";":
                self._end()
                self._end_group()

    def _end(self) -> None:
        words, at = self._words, self._at
        if words or self._name:
            local = b" ".join(words) if at is None else b"".join(words[:at])
            host = b"" if at is None else b"".join(words[at:])
            self.found.append(Address(self._name or self._comment, self._route, local, host))
        self._start()

    def _end_group(self) -> None:
        if self._in_group:
            self.found.append(Address(None, None, None, None))
            self._in_group = False

    def finish(self) -> list[Address]:
        """The field is over."""
        self._end()
        self._end_group()
        return self.found


def parse_addresses(value: bytes) -> list[Address]:
    """The addresses of a field (RFC 5322 3.4), obsolete forms and comments included."""
    plain = _plain_addresses(value)
    return _any_addresses(value) if plain is None else plain


def _plain_addresses(value: bytes) -> list[Address] | None:
    """The addresses of a field, if all are of the forms `local@host`, `name <local@host>`: four times as fast."""
    found: list[Address] = []
    position = 0
    while position < len(value) and len(found) < MAX_ADDRESSES:
        match = _PLAIN_ADDRESS.match(value, position)
        if match is None:
            return None
        quoted, words, local, host, bare_local, bare_host = match.groups()
        found.append(Address(quoted or words, None, local or bare_local, host or bare_host))
        position = match.end()
    return found


def _any_addresses(value: bytes) -> list[Address]:
    reader = _AddressReader()
    position = 0
    while position < len(value) and len(reader.found) < MAX_ADDRESSES:
        match = _TOKEN.match(value, position)
        if match is None:
            position += 1
            continue
        position = match.end()
        quoted, literal, special, comment, atom = match.groups()
        if quoted is not None:
            reader.word(_unquote(quoted))
        elif special is not None:
            reader.special(special)
            if special == b"<" and (route := _ROUTE.match(value, position)):
                reader.route(route[1].strip())
                position = route.end()
        elif comment is not None:
            position, text = _comment(value, position)
            reader.comment(text)
        elif literal is not None or atom is not None:
            reader.word(literal or atom or b"")
    return reader.finish()
