"""ENVELOPE, BODY and BODYSTRUCTURE as they are written (RFC 3501 7.4.2)."""

from __future__ import annotations

from smtpmail.imap.header import Address, Header, parse_disposition
from smtpmail.imap.mime import Part
from smtpmail.imap.responses import listed, nstring, string


def envelope(header: Header, *, utf8: bool = False) -> bytes:
    """The envelope structure of a header."""

    def people(field: bytes, instead: bytes = b"NIL") -> bytes:
        addresses = header.addresses(field)
        return _addresses(addresses, utf8) if addresses else instead

    sender = people(b"from")
    return listed(
        [
            nstring(header.get(b"date"), utf8=utf8),
            nstring(header.get(b"subject"), utf8=utf8),
            sender,
            people(b"sender", sender),
            people(b"reply-to", sender),
            people(b"to"),
            people(b"cc"),
            people(b"bcc"),
            nstring(header.get(b"in-reply-to"), utf8=utf8),
            nstring(header.get(b"message-id"), utf8=utf8),
        ]
    )


def _addresses(addresses: list[Address], utf8: bool) -> bytes:
    return b"(" + b"".join(listed(nstring(x, utf8=utf8) for x in address) for address in addresses) + b")"


def body_structure(data: bytes, part: Part, *, extended: bool, utf8: bool = False) -> bytes:
    """The structure of a part of `data`; `extended` makes it BODYSTRUCTURE, without it is BODY."""
    if part.is_multipart:
        children = b"".join(body_structure(data, child, extended=extended, utf8=utf8) for child in part.children)
        fields = [children + b" " + string(part.subtype, utf8=utf8)]
        if extended:
            fields += [_parameters(part.parameters, utf8), *_extension(part.header, utf8)]
        return listed(fields)
    header = part.header
    lines = data.count(b"\n", part.body, part.end)
    fields = [
        string(part.main_type, utf8=utf8),
        string(part.subtype, utf8=utf8),
        _parameters(part.parameters, utf8),
        nstring(header.get(b"content-id"), utf8=utf8),
        nstring(header.get(b"content-description"), utf8=utf8),
        string(transfer_encoding(header) or b"7bit", utf8=utf8),
        b"%d" % (part.end - part.body + lines),
    ]
    if part.message is not None:
        fields.append(envelope(part.message.header, utf8=utf8))
        fields.append(body_structure(data, part.message, extended=extended, utf8=utf8))
    if part.is_text or part.message is not None:
        fields.append(b"%d" % lines)
    if extended:
        fields += [nstring(header.get(b"content-md5"), utf8=utf8), *_extension(header, utf8)]
    return listed(fields)


def transfer_encoding(header: Header) -> bytes:
    """The content transfer encoding as it is declared, empty if it is not."""
    value = header.get(b"content-transfer-encoding") or b""
    return value.partition(b";")[0].partition(b"(")[0].strip()


def _parameters(parameters: list[tuple[bytes, bytes]], utf8: bool) -> bytes:
    if not parameters:
        return b"NIL"
    return listed(string(x, utf8=utf8) for parameter in parameters for x in parameter)


def _extension(header: Header, utf8: bool) -> list[bytes]:
    """Disposition, language, location."""
    disposition = b"NIL"
    value = header.get(b"content-disposition")
    if value and (parsed := parse_disposition(value)):
        disposition = listed([string(parsed[0], utf8=utf8), _parameters(parsed[1], utf8)])
    languages = [x.strip() for x in (header.get(b"content-language") or b"").split(b",") if x.strip()]
    language = b"NIL"
    if languages:
        language = string(languages[0], utf8=utf8)
        if len(languages) > 1:
            language = listed(string(x, utf8=utf8) for x in languages)
    return [disposition, language, nstring(header.get(b"content-location"), utf8=utf8)]
