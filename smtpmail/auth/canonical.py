"""The form in which DKIM hashes header fields and bodies (RFC 6376 3.4). Stored text (LF) in, octets with CRLF out."""

from __future__ import annotations

import hashlib

from smtpmail.auth.fields import Field

_PIECE = 4096


def relaxed_field(field: Field) -> bytes:
    """RFC 6376 3.4.2; with its CRLF."""
    value = field.value
    if b"\x0b" in value or b"\x0c" in value:  # split() takes them for blanks, RFC 5234 does not
        value = _reduced(value.replace(b"\n", b"")).strip(b" ")
    else:
        value = b" ".join(value.split())
    return b"%b:%b\r\n" % (field.name, value)


def simple_field(field: Field) -> bytes:
    """RFC 6376 3.4.1; with its CRLF."""
    return field.raw.replace(b"\n", b"\r\n")


def _reduced(text: bytes) -> bytes:
    """With one blank for each sequence of blanks. Many times faster than a regular expression."""
    text = text.replace(b"\t", b" ")
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text


class BodyHash:
    """SHA-256 over a body that comes in pieces of any size (RFC 6376 3.4.3, 3.4.4, 3.7).

    Nothing is held back but a count of line ends: of the empty lines at the end all but one don't count.
    """

    __slots__ = ("_blank", "_hash", "_left", "_line_ends", "_relaxed", "size")

    def __init__(self, *, relaxed: bool, limit: int | None = None) -> None:
        """`limit`: octets that count, of the canonical body (`l=`); None for all."""
        self._relaxed = relaxed
        self._hash = hashlib.sha256()
        self._left = limit
        self._line_ends = 0
        self._blank = False
        self.size = 0
        """Octets of the canonical body so far, those behind the limit too."""

    def update(self, data: bytes) -> None:
        """Takes the next piece."""
        text = data.rstrip(b" \t\n" if self._relaxed else b"\n")
        tail = data[len(text) :]
        if text:
            self._flush()
            if self._relaxed:
                if self._blank:
                    text = b" " + text
                    self._blank = False
                # Most text is in that form already: looking is much cheaper than replacing.
                if b"\t" in text or b"  " in text or b" \n" in text:
                    text = _reduced(text).replace(b" \n", b"\n")
            self._add(text.replace(b"\n", b"\r\n"))
        if tail:
            self._line_ends += tail.count(b"\n")
            if self._relaxed:
                self._blank = not tail.endswith(b"\n")

    def _flush(self) -> None:
        """The line ends that turned out to stand in the middle."""
        while self._line_ends:
            count = min(self._line_ends, _PIECE)
            self._add(b"\r\n" * count)
            self._line_ends -= count

    def _add(self, octets: bytes) -> None:
        self.size += len(octets)
        if self._left is not None:
            octets = octets[: self._left]
            self._left -= len(octets)
        self._hash.update(octets)

    def digest(self) -> bytes:
        """The hash of the whole body; nothing may follow."""
        if self.size or not self._relaxed:
            self._line_ends = 0
            self._add(b"\r\n")
        return self._hash.digest()
