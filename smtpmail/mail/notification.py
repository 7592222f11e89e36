"""Tells senders what became of their mail: delivery status notifications (RFC 3461, 3464, 6533). Text in, text out."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate

from smtpmail.mail.head import header_of
from smtpmail.mail.xtext import decode_xtext

FULL_LIMIT = 50_000
"""A message larger than so many octets is not returned whole, whatever RET says (Postfix: bounce_size_limit)."""


class Kind(enum.Enum):
    """What is told; the value is the word of NOTIFY (RFC 3461 4.1)."""

    FAILURE = "FAILURE"
    DELAY = "DELAY"
    SUCCESS = "SUCCESS"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one recipient."""

    recipient: str
    orcpt: str | None
    status: str
    """Enhanced status code (RFC 3463)."""
    reply: str
    """What the other server said, or what was found without it."""
    mx: str = ""
    """The server that said it; empty when none was asked."""
    relayed: bool = False
    """Success: handed to a server that reports no further (RFC 3461 5.2.2)."""


@dataclass(frozen=True, slots=True)
class Original:
    """The message that is reported about."""

    id: str
    sender: str
    arrived: float
    envid: str | None
    full: bool
    """Whether the whole message is to be returned, or only its header."""
    text: bytes
    """The message, or as much of it as is returned."""


def wanted(kind: Kind, notify: Sequence[str]) -> bool:
    """Whether a recipient's NOTIFY asks for this; not given means failures and delays (RFC 3461 5.2)."""
    if not notify:
        return kind is not Kind.SUCCESS
    return kind.value in notify


_SUBJECTS = {
    Kind.FAILURE: "Your message could not be delivered",
    Kind.DELAY: "Your message is delayed",
    Kind.SUCCESS: "Your message was delivered",
}

_MEANINGS = {
    "5.1.1": "There is no such mailbox there. Please check the part before the @.",
    "5.1.2": "This domain does not exist. Please check the part behind the @.",
    "5.1.10": "This domain takes no mail at all.",
    "5.2.2": "The mailbox is full.",
    "5.3.4": "The message is too large for that server.",
    "5.4.4": "No server takes mail for this domain.",
    "5.4.6": "The message goes in circles: that domain's mail is sent to this server, which does not serve it.",
    "5.4.7": "It could not be delivered for so long that it was given up.",
    "5.6.3": "That server cannot take 8-bit text.",
    "5.6.7": "That server cannot take addresses or headers with letters outside of ASCII.",
    "5.7.1": "That server does not want this message.",
    "5.7.30": "You asked for verified TLS all the way (REQUIRETLS), which that server does not give.",
}


_REPLY = re.compile(r"[2-5]\d\d( |$)")
"""What a server said begins so, not what we found ourselves."""


def build(kind: Kind, original: Original, fates: Sequence[Fate], hostname: str, now: float, until: float) -> bytes:
    """The whole notification, LF line ends. `until`: when a delayed message will be given up (Unix time)."""
    international = any(not f.recipient.isascii() for f in fates) or not original.sender.isascii()
    boundary = f"=_{original.id}_{int(now)}"
    human = _for_people(kind, original, fates, hostname, until)
    machine = _for_programs(kind, original, fates, hostname, until, international=international)
    returned = original.text if original.full else header_of(original.text)
    returned_type = "message/rfc822" if original.full else "text/rfc822-headers"
    if international and not returned.isascii():
        returned_type = "message/global" if original.full else "message/global-headers"
    parts = [
        ("text/plain; charset=utf-8", human.encode()),
        (f"message/{'global-' if international else ''}delivery-status", machine.encode()),
        (returned_type, returned),
    ]
    head = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>\n"
        f"To: <{original.sender}>\n"
        f"Subject: {_SUBJECTS[kind]}\n"
        f"Date: {formatdate(now, localtime=True)}\n"
        f"Message-ID: <{original.id}.{kind.value.lower()}.{int(now)}@{hostname}>\n"
        "Auto-Submitted: auto-replied\n"
        "MIME-Version: 1.0\n"
        f"Content-Type: multipart/report; report-type={'global-' if international else ''}delivery-status;\n"
        f'\tboundary="{boundary}"\n'
        f"Content-Transfer-Encoding: {_encoding(b''.join(text for _, text in parts))}\n"
        "\n"
        "This is a report in MIME format.\n"
    )
    body = b"".join(
        f"\n--{boundary}\nContent-Type: {type_}\nContent-Transfer-Encoding: {_encoding(text)}\n\n".encode() + text
        for type_, text in parts
    )
    return head.encode() + body + f"\n--{boundary}--\n".encode()


def _encoding(text: bytes) -> str:
    """The transfer encoding that needs no change of the text (RFC 2045 6.2)."""
    return "7bit" if text.isascii() else "8bit"


def _for_people(kind: Kind, original: Original, fates: Sequence[Fate], hostname: str, until: float) -> str:
    first = {
        Kind.FAILURE: "Your message could not be delivered to the recipients below. It is not tried again.",
        Kind.DELAY: "Your message could not be delivered yet to the recipients below. You need not do anything:\n"
        f"it is tried again until {formatdate(until, localtime=True)}.",
        Kind.SUCCESS: "Your message was delivered, or handed on, as you asked to be told:",
    }[kind]
    lines = [f"This is the mail server {hostname}.", "", first, ""]
    for fate in fates:
        lines.append(f"<{_plain(fate.recipient)}>")
        if kind is Kind.SUCCESS:
            lines.append(
                f"    handed to {_plain(fate.mx)}, which will not report further"
                if fate.relayed
                else "    delivered into the mailbox"
            )
        elif fate.mx and _REPLY.match(fate.reply):
            lines.append(f"    The server {_plain(fate.mx)} said:")
            lines.append(f"    {_plain(fate.reply)}")
        else:
            lines.append(f"    {_plain(fate.reply)}")
        meaning = _MEANINGS.get(fate.status)
        if meaning and kind is Kind.FAILURE:
            lines.append(f"    {meaning}")
        lines.append("")
    lines.append(f"The id of your message here is {original.id}.")
    lines.append("Your message follows." if original.full else "The header of your message follows.")
    return "\n".join(lines) + "\n"


def _for_programs(
    kind: Kind, original: Original, fates: Sequence[Fate], hostname: str, until: float, *, international: bool
) -> str:
    """message/delivery-status (RFC 3464 2)."""
    blocks = []
    block = [f"Original-Envelope-Id: {_plain(decode_xtext(original.envid))}"] if original.envid else []
    block += [f"Reporting-MTA: dns; {hostname}", f"Arrival-Date: {formatdate(original.arrived, localtime=True)}"]
    blocks.append(block)
    for fate in fates:
        block = []
        if fate.orcpt:
            kind_of_address, _, address = fate.orcpt.partition(";")
            block.append(f"Original-Recipient: {kind_of_address}; {_plain(decode_xtext(address))}")
        address_type = "utf-8" if international and not fate.recipient.isascii() else "rfc822"
        block.append(f"Final-Recipient: {address_type}; {_plain(fate.recipient)}")
        action = {
            Kind.FAILURE: "failed",
            Kind.DELAY: "delayed",
            Kind.SUCCESS: "relayed" if fate.relayed else "delivered",
        }[kind]
        block.append(f"Action: {action}")
        block.append(f"Status: {fate.status}")
        if fate.mx and (kind is Kind.SUCCESS or _REPLY.match(fate.reply)):
            block.append(f"Remote-MTA: dns; {_plain(fate.mx)}")
        if _REPLY.match(fate.reply):
            block.append(f"Diagnostic-Code: smtp; {_plain(fate.reply)}")
        elif kind is not Kind.SUCCESS:
            block.append(f"Diagnostic-Code: X-smtpmail; {_plain(fate.reply)}")
        if kind is Kind.DELAY:
            block.append(f"Will-Retry-Until: {formatdate(until, localtime=True)}")
        blocks.append(block)
    text = "\n\n".join("\n".join(block) for block in blocks) + "\n"
    # Only its international form may have letters outside of ASCII (RFC 6533 3).
    return text if international else text.encode("ascii", "replace").decode()


def _plain(text: str) -> str:
    """One line without control characters, not too long for a header line (RFC 5322 2.1.1)."""
    return "".join(c if c.isprintable() else "?" for c in text)[:900]
