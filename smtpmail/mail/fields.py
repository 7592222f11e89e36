"""The header fields that this server puts before a message: Return-Path, Delivered-To, Received."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache

from smtpmail.mail.address import literal
from smtpmail.mail.envelope import Envelope


@lru_cache(maxsize=4)
def date(second: int) -> str:
    """The date-time of RFC 5322 3.3 in local time."""
    return formatdate(second, localtime=True)


def protocol(envelope: Envelope) -> str:
    """The word behind `with` (RFC 3848, RFC 6531 4.3)."""
    if not (envelope.esmtp or envelope.smtputf8):
        return "SMTP"
    word = "UTF8SMTP" if envelope.smtputf8 else "ESMTP"
    return word + "S" * bool(envelope.tls) + "A" * bool(envelope.user)


_HARMFUL = re.compile(r"""[^!#-'*-:=?A-\[\]-~]""")


def harmless(name: str) -> str:
    """A client's name as it may stand in a Received field: nothing in it is a comment, a quote or another field.

    The characters of Postfix's neuter(), and all that is not ASCII or not printable.
    """
    return _HARMFUL.sub("?", name)


def received(envelope: Envelope, hostname: str, now: float) -> str:
    """The Received field (RFC 5321 4.4) with LF line ends; `now` in Unix time.

    A single recipient is named in it; several are not, so that nobody learns of another (RFC 5321 7.2). What this
    server wrote itself came from nobody.
    """
    if envelope.peer is None:
        return f"Received: by {hostname} id {envelope.id};\n\t{date(int(now))}\n"
    only = f"\n\tfor <{envelope.recipients[0].address}>" if len(envelope.recipients) == 1 else ""
    tls = f" ({envelope.tls})" if envelope.tls else ""
    address = envelope.peer.address.partition("%")[0]
    return (
        f"Received: from {harmless(envelope.helo)} ({literal(address)})\n"
        f"\tby {hostname} with {protocol(envelope)}{tls} id {envelope.id}{only};\n"
        f"\t{date(int(now))}\n"
    )


_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


def separator(content: bytes) -> bytes:
    """What must stand between fields of ours and content that begins so (LF line ends): nothing, or an empty line.

    A first line that is no field (RFC 5322 2.2; blank at its start, `From `, plain text) would become a part of ours.
    """
    return b"" if not content or content.startswith(b"\n") or _FIELD.match(content) else b"\n"


def final_delivery(sender: str, recipients: Iterable[str]) -> str:
    """What final delivery puts before the Received field (RFC 5321 4.4: Return-Path; Delivered-To, Postfix)."""
    return f"Return-Path: <{sender}>\n" + "".join(f"Delivered-To: {recipient}\n" for recipient in recipients)
