"""Makes 7-bit content of 8-bit content, and short lines of long ones (RFC 2045, RFC 6152 3). Text in, text out.

Only what must change is changed: the parts that need it become quoted-printable, whatever is in them. Two passes: the
first finds these parts, the second writes. Lines end with LF.
"""

from __future__ import annotations

import binascii
import codecs
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

LINE_LIMIT = 998
"""Octets of a line, without its end (RFC 5321 4.5.3.1.6, RFC 5322 2.1.1)."""

HEADER_LIMIT = 256 * 1024
"""A part's header beyond so many octets is taken for its body."""

NESTING_LIMIT = 100

_BOUNDARY = re.compile(rb';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))', re.IGNORECASE | re.DOTALL)
_QUOTED_8BIT = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_WORDS_8BIT = re.compile(
    rb"[^\s<>,;:\"()]*[\x80-\xff][^\s<>,;:\"()]*(?:[ \t]+[^\s<>,;:\"()]*[\x80-\xff][^\s<>,;:\"()]*)*"
)
_IDENTITY = (b"", b"7bit", b"8bit", b"binary")


class SignedContent(Exception):
    """What must change is covered by a signature (RFC 1847), or has an encoding that is not known: it may not."""


@dataclass(slots=True)
class _Part:
    """One entity: a leaf, a multipart or an enclosed message."""

    kind: bytes
    encoding: bytes
    boundary: bytes | None
    signed: bool
    top: bool
    fields: list[bytes] = field(default_factory=list)
    """The header, a field each with its line ends; the empty line is the last one, if there is one."""
    eightbit: bool = False
    long: bool = False
    utf8: bool = True
    encode: bool = False
    """Its lines must become quoted-printable."""

    @property
    def is_leaf(self) -> bool:
        return self.boundary is None and self.kind != b"message/rfc822"


def convert(lines: Callable[[], Iterable[bytes]], *, eightbit: bool) -> Iterator[bytes]:
    """The same message without lines that are too long, and without 8-bit octets unless `eightbit` allows them.

    `lines` gives the message from its beginning, each time it is called. Raises SignedContent before the first line.
    """
    parts: list[_Part] = []
    for part, line in _walk(lines()):
        if line is None:
            parts.append(part)
            continue
        _look_at(part, line)
    for part in parts:
        hard = part.long or (part.eightbit and not eightbit)
        if hard and (
            part.signed or (part.is_leaf and part.encoding not in (*_IDENTITY, b"quoted-printable", b"base64"))
        ):
            raise SignedContent
        part.encode = hard and part.is_leaf and part.encoding in _IDENTITY
    return _write(parts, lines(), eightbit=eightbit)


def to_7bit(message: bytes) -> bytes:
    """A whole message without 8-bit octets and long lines. Raises SignedContent."""
    return b"".join(convert(lambda: message.splitlines(keepends=True), eightbit=False))


def has_long_line(data: bytes) -> bool:
    """Whether a line is longer than LINE_LIMIT."""
    start, end = 0, len(data)
    while end - start > LINE_LIMIT:
        found = data.rfind(b"\n", start, start + LINE_LIMIT + 1)
        if found < 0:
            return True
        start = found + 1
    return False


# -- reading


def _walk(lines: Iterable[bytes]) -> Iterator[tuple[_Part, bytes | None]]:
    """Each part when its header is whole (with None), then its lines; those between parts belong to the multipart."""
    open_: list[_Part] = []
    header: list[bytes] | None = []
    size = 0
    top, signed = True, False
    part: _Part | None = None
    for line in lines:
        if header is not None:
            header.append(line)
            size += len(line)
            delimiter = line.startswith(b"--") and any(_delimits(line, p) for p in open_)
            if not delimiter and line.strip(b"\r\n") and size < HEADER_LIMIT:
                continue
            if delimiter:
                header.pop()
            part = _part(header, top=top, signed=signed)
            top, header = False, None
            yield part, None
            if part.boundary is not None and len(open_) < NESTING_LIMIT:
                open_.append(part)
            elif part.kind == b"message/rfc822" and not delimiter:
                header, size, signed = [], 0, part.signed
            if not delimiter:
                continue
        assert part is not None
        if line.startswith(b"--"):
            for depth in range(len(open_) - 1, -1, -1):
                if end := _delimits(line, open_[depth]):
                    part = open_[depth]
                    del open_[depth + (end == 1) :]
                    if end == 1:
                        header, size, signed = [], 0, part.signed
                    break
        yield part, line
    if header or part is None:
        yield _part(header or [], top=top, signed=signed), None


def _delimits(line: bytes, part: _Part) -> int:
    """1: the delimiter before a part of this multipart, 2: the one at its end (RFC 2046 5.1.1), 0: none."""
    assert part.boundary is not None
    rest = line[2:].rstrip()
    if rest == part.boundary:
        return 1
    return 2 if rest == part.boundary + b"--" else 0


def _part(header: list[bytes], *, top: bool, signed: bool) -> _Part:
    fields: list[bytes] = []
    for line in header:
        if fields and line[:1] in (b" ", b"\t"):
            fields[-1] += line
        else:
            fields.append(line)
    content_type = _value(fields, b"content-type")
    kind = content_type.partition(b";")[0].strip().lower()
    boundary = None
    if kind.startswith(b"multipart/") and (match := _BOUNDARY.search(content_type)):
        boundary = (re.sub(rb"\\(.)", rb"\1", match[1]) if match[1] is not None else match[2]).rstrip() or None
    encoding = _value(fields, b"content-transfer-encoding").partition(b"(")[0].strip().lower()
    if kind == b"message/rfc822" and encoding not in _IDENTITY:
        kind = b"message/encoded"  # against RFC 2046 5.2.1: a leaf like any other
    return _Part(kind or b"text/plain", encoding, boundary, signed or kind == b"multipart/signed", top, fields)


def _value(fields: Iterable[bytes], name: bytes) -> bytes:
    for text in fields:
        key, colon, value = text.partition(b":")
        if colon and key.strip().lower() == name:
            return b" ".join(value.split())
    return b""


def _look_at(part: _Part, line: bytes) -> None:
    if len(line) > LINE_LIMIT and len(line.rstrip(b"\r\n")) > LINE_LIMIT:
        part.long = True
    if not line.isascii():
        part.eightbit = True
        if part.utf8:
            try:
                codecs.utf_8_decode(line, "strict", True)
            except UnicodeDecodeError:
                part.utf8 = False


# -- writing


def _write(parts: list[_Part], lines: Iterable[bytes], *, eightbit: bool) -> Iterator[bytes]:
    found = iter(parts)
    part = next(found, None)
    for walked, line in _walk(lines):
        if line is None:
            # The same parts in the same order: with what the first pass has found out.
            current, part = part, next(found, None)
            assert current is not None
            walked.encode, walked.eightbit, walked.utf8 = current.encode, current.eightbit, current.utf8
            yield from _header(walked, eightbit=eightbit)
        elif walked.encode:
            yield binascii.b2a_qp(line.removesuffix(b"\n"), istext=True) + line[len(line.removesuffix(b"\n")) :]
        elif walked.is_leaf and walked.encoding == b"quoted-printable":
            yield line if line.isascii() or eightbit else _escaped(line)
        elif line.isascii() or eightbit:
            yield line
        else:
            # Preambles, which nobody reads, and octets that no base64 has.
            yield bytes(octet if octet < 128 else 63 for octet in line)


def _escaped(line: bytes) -> bytes:
    """A line of quoted-printable with octets that it may not have."""
    return b"".join(bytes([octet]) if octet < 128 else b"=%02X" % octet for octet in line)


def _header(part: _Part, *, eightbit: bool) -> Iterator[bytes]:
    blank = part.fields[-1:] if part.fields and not part.fields[-1].strip(b"\r\n") else []
    fields = part.fields[: len(part.fields) - len(blank)]
    encoding: bytes | None = None
    if part.encode:
        encoding = b"quoted-printable"
    elif not part.is_leaf and part.encoding in (b"8bit", b"binary") and not eightbit:
        encoding = b"7bit"
    for text in fields:
        if encoding is not None and text.lower().startswith(b"content-transfer-encoding"):
            continue
        if not eightbit and not text.isascii():
            yield _folded(_encoded(text))
        else:
            yield _folded(text) if len(text) > LINE_LIMIT else text
    if encoding is not None:
        names = {text.partition(b":")[0].strip().lower() for text in fields}
        if part.top and b"mime-version" not in names:
            yield b"MIME-Version: 1.0\n"
        if b"content-type" not in names and part.encode:
            charset = b"us-ascii" if not part.eightbit else b"utf-8" if part.utf8 else b"unknown-8bit"
            yield b"Content-Type: text/plain; charset=" + charset + b"\n"
        yield b"Content-Transfer-Encoding: " + encoding + b"\n"
    yield from blank or ([b"\n"] if encoding is not None and part.encode else [])


def _encoded(text: bytes) -> bytes:
    """A header field with its 8-bit words as encoded words (RFC 2047)."""
    name, colon, value = text.partition(b":")
    if not colon or not name.isascii():
        return bytes(octet if octet < 128 else 63 for octet in text)
    if not name.lower().startswith(b"content-"):
        # A reader decodes nothing between quotes: those of a display name go.
        value = _QUOTED_8BIT.sub(lambda m: m[0] if m[0].isascii() else _word(re.sub(rb"\\(.)", rb"\1", m[1])), value)
    return name + colon + _WORDS_8BIT.sub(lambda m: _word(m[0]), value)


def _word(text: bytes) -> bytes:
    try:
        decoded = text.decode()
        charset = b"utf-8"
        pieces = [decoded[n : n + 10].encode() for n in range(0, len(decoded), 10)]
    except UnicodeDecodeError:
        charset = b"unknown-8bit"
        pieces = [text[n : n + 30] for n in range(0, len(text), 30)]
    return b"\n ".join(b"=?" + charset + b"?B?" + b64encode(piece) + b"?=" for piece in pieces)


def _folded(text: bytes) -> bytes:
    """A header field in lines that are short enough, as far as it has blanks to fold at (RFC 5322 2.2.3)."""
    done = []
    for line in text.splitlines(keepends=True):
        rest = line
        while len(rest.rstrip(b"\r\n")) > LINE_LIMIT:
            cut = max(rest.rfind(b" ", 1, LINE_LIMIT), rest.rfind(b"\t", 1, LINE_LIMIT))
            if cut <= 0 or not rest[:cut].strip():
                break
            done.append(rest[:cut] + b"\n")
            rest = rest[cut:]
        done.append(rest)
    return b"".join(done)
