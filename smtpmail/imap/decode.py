"""What a person reads in a message: encoded words, transfer encodings and charsets undone, for SEARCH and BINARY."""

from __future__ import annotations

import base64
import binascii
import quopri
import re

from smtpmail.imap.mime import Part
from smtpmail.imap.structure import transfer_encoding

_WORD = re.compile(rb"=\?([^?*\s]{1,40})(?:\*[^?]*)?\?([BbQq])\?([^?\s]*)\?=(?:\s+(?==\?))?")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")


class UnknownEncoding(Exception):
    """A transfer encoding that is not known here."""


def charset_text(data: bytes, charset: str) -> str:
    """Text of octets in a charset; in one that is unknown or wrong, as far as it can be read."""
    try:
        return data.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):
        return data.decode("utf-8", "replace")


def header_text(value: bytes) -> str:
    """A header's text with its encoded words decoded (RFC 2047)."""
    if b"=?" not in value:
        return value.decode("utf-8", "replace")
    pieces, position = [], 0
    for match in _WORD.finditer(value):
        pieces.append(value[position : match.start()].decode("utf-8", "replace"))
        charset, encoding, text = match.groups()
        if encoding in b"Bb":
            octets = decode_base64(text)
        else:
            octets = quopri.decodestring(text.replace(b"_", b" "), header=False)
        pieces.append(charset_text(octets, charset.decode("ascii", "replace")))
        position = match.end()
    pieces.append(value[position:].decode("utf-8", "replace"))
    return "".join(pieces)


def decode_base64(data: bytes) -> bytes:
    """Octets from base64, whatever stands between its characters."""
    data = _NOT_BASE64.sub(b"", data.partition(b"=")[0])
    data = data[: len(data) - (len(data) % 4 == 1)]
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4))
    except (binascii.Error, ValueError):
        return b""


def decode_part(data: bytes, part: Part) -> bytes:
    """The body of a part without its transfer encoding. Raises UnknownEncoding."""
    body = data[part.body : part.end]
    match transfer_encoding(part.header).lower():
        case b"base64":
            return b"".join(map(decode_base64, re.split(rb"(?<==)(?!=)", body)))
        case b"quoted-printable":
            return quopri.decodestring(body)
        case b"" | b"7bit" | b"8bit" | b"binary":
            return body
    raise UnknownEncoding


def part_text(data: bytes, part: Part) -> str:
    """The text of a text part."""
    charset = next((value for name, value in part.parameters if name.lower() == b"charset"), b"utf-8")
    if charset.lower() == b"us-ascii":
        charset = b"utf-8"
    try:
        return charset_text(decode_part(data, part), charset.decode("ascii", "replace"))
    except UnknownEncoding:
        return charset_text(data[part.body : part.end], "utf-8")
