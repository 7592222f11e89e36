"""What a message from a program on this host may lack, and gets before it goes on (RFC 6409 8): pure.

Bcc is taken out, bare addresses get the domain of the host, Date, Message-ID and From are added where they are missing.
Everything else stays byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from smtpmail.mail.mailbox_list import complete, find_addresses

HEADER_LIMIT = 1024 * 1024
"""Octets of a header; more is no message that a program means to send."""

_FIELD_LINE = re.compile(rb"([!-9;-~]+)[ \t]*:")
_DROPPED = frozenset({"bcc", "resent-bcc"})
_WITH_ADDRESSES = frozenset(
    f"{resent}{name}" for resent in ("", "resent-") for name in ("from", "sender", "reply-to", "to", "cc", "bcc")
)
_RECIPIENTS = ("to", "cc", "bcc")


@dataclass(frozen=True, slots=True)
class Origin:
    """What is added where it is missing."""

    domain: str
    """Behind bare addresses; empty: they stay bare."""
    sender: str
    """The whole body of From."""
    date: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Field:
    """A header field as it stands in the message, with its line ends (LF)."""

    name: str
    """Lower case."""
    raw: bytes

    @property
    def body(self) -> bytes:
        """What follows the colon, without the last line end."""
        return self.raw.partition(b":")[2].removesuffix(b"\n")


def header_end(data: bytes | bytearray, start: int = 0) -> tuple[int, bool]:
    """Where the header in `data` ends (LF line ends), and whether that is certain or more must come to tell.

    `start` is what an earlier call returned for a part of the same data. The header ends before its empty line, or
    before the first line that is no field.
    """
    position = start
    while True:
        end = data.find(b"\n", position)
        if end < 0:
            return position, False
        line = data[position:end]
        if not line or not (_FIELD_LINE.match(line) or (position and line[:1] in b" \t")):
            return position, True
        position = end + 1


def fields_of(header: bytes) -> Iterator[Field]:
    """The fields of a header."""
    raw: list[bytes] = []
    for line in header.splitlines(keepends=True) if b"\r" not in header else _lines(header):
        if raw and line[:1] in b" \t":
            raw.append(line)
            continue
        if raw:
            yield _field(raw)
        raw = [line]
    if raw:
        yield _field(raw)


def _lines(data: bytes) -> list[bytes]:
    """Lines that end in LF alone."""
    return [line + b"\n" for line in data.removesuffix(b"\n").split(b"\n")]


def _field(lines: list[bytes]) -> Field:
    raw = b"".join(lines)
    return Field(raw.partition(b":")[0].strip().lower().decode("latin-1"), raw)


def recipients_of(header: bytes) -> list[str]:
    """Those to whom a header says that the message goes: To, Cc and Bcc; of one that is resent, Resent-To and so on."""
    fields = list(fields_of(header))
    resent = [f"resent-{name}" for name in _RECIPIENTS]
    names = resent if any(f.name in resent for f in fields) else _RECIPIENTS
    found = []
    for field in fields:
        if field.name in names:
            found += [a.text for a in find_addresses(field.body.decode("utf-8", "surrogateescape"))]
    return found


def fix_up(header: bytes, origin: Origin) -> bytes:
    """The header as it goes on."""
    kept = []
    seen = set()
    for field in fields_of(header):
        if field.name in _DROPPED:
            continue
        seen.add(field.name)
        kept.append(_completed(field, origin.domain) if origin.domain and field.name in _WITH_ADDRESSES else field.raw)
    for name, value in (("From", origin.sender), ("Date", origin.date), ("Message-ID", origin.message_id)):
        if name.lower() not in seen:
            kept.append(f"{name}: {value}\n".encode())
    return b"".join(kept)


def fix_up_head(head: bytes, origin: Origin) -> bytes:
    """The same for what stands before the first empty line of a message, of which only a part may be a header."""
    end, _ = header_end(head)
    text = head[end:]
    return fix_up(head[:end], origin) + (b"\n" + text if text else b"")


def runs_on(head: bytes) -> bool:
    """Whether a header that was cut may go on behind its cut: nothing in it, nor its last line, has ended it."""
    return not header_end(head + b"\n")[1]


def _completed(field: Field, domain: str) -> bytes:
    # Octet for octet: what is no UTF-8 must stay as it is.
    name, colon, body = field.raw.partition(b":")
    return name + colon + complete(body.decode("latin-1"), domain).encode("latin-1")


def phrase(text: str) -> str:
    """A name as the display name of an address (RFC 5322 3.4), without what could end the field."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if re.fullmatch(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*", text):
        return text
    if text.isascii():
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    # RFC 2047: a word of at most 75 characters holds 45 octets.
    words, octets = [], b""
    for character in text:
        encoded = character.encode("utf-8", "replace")
        if len(octets) + len(encoded) > 45:
            words.append(octets)
            octets = b""
        octets += encoded
    return " ".join(f"=?UTF-8?B?{_base64(word)}?=" for word in [*words, octets])


def _base64(octets: bytes) -> str:
    # Imported here: few names need it.
    import base64  # noqa: PLC0415

    return base64.b64encode(octets).decode("ascii")


def from_field(name: str, address: str) -> str:
    """The body of a From field; the name may be empty."""
    return f"{phrase(name)} <{address}>" if name.strip() else address
