"""Tells senders what became of their mail: delivery status notifications (RFC 3461, 3464, 6533). Text in, text out."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from email.utils import formatdate

from smtpmail.mail.head import header_of
from smtpmail.mail.meanings import meaning, of_reply
from smtpmail.mail.mime import SignedContent, has_long_line, to_7bit
from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.mail.text import harmless
from smtpmail.mail.xtext import decode_xtext

FULL_LIMIT = 50_000
"""A message larger than so many octets is not returned whole, whatever RET says (Postfix: bounce_size_limit)."""

STRANGER_LIMIT = 2048
"""Octets of the header that are returned of a message that a stranger caused: it may carry their words to anybody."""


class Kind(enum.Enum):
    """What is told; the value is the word of NOTIFY (RFC 3461 4.1)."""

    FAILURE = "FAILURE"
    DELAY = "DELAY"
    SUCCESS = "SUCCESS"


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

_REPLY = re.compile(r"[2-5]\d\d( |$)")
"""What a server said begins so, not what we found ourselves."""


def build(
    kind: Kind,
    item: Item,
    recipients: Sequence[QueuedRecipient],
    hostname: str,
    now: float,
    until: float,
    text: bytes,
    *,
    full: bool = False,
) -> bytes:
    """The whole notification about some recipients of a message, LF line ends.

    `text` is the message, or as much of it as may be returned: all of that if `full`, else its header. A message that a
    stranger caused returns little. What comes out is 7-bit unless an address is not. `until`: when a delayed message
    will be given up (Unix time).
    """
    header = header_of(text)
    if item.stranger:
        full, header = False, header[: header.rfind(b"\n", 0, STRANGER_LIMIT) + 1]
    made = _compose(kind, item, recipients, hostname, now, until, text if full else header, full=full)
    if not item.sender.isascii() or (made.isascii() and not has_long_line(made)):
        return made
    try:
        return to_7bit(made)
    except SignedContent:
        return to_7bit(_compose(kind, item, recipients, hostname, now, until, header, full=False))


def _compose(
    kind: Kind,
    item: Item,
    recipients: Sequence[QueuedRecipient],
    hostname: str,
    now: float,
    until: float,
    returned: bytes,
    *,
    full: bool,
) -> bytes:
    international = any(not r.address.isascii() for r in recipients) or not item.sender.isascii()
    boundary = f"=_{item.id}_{int(now)}"
    human = _for_people(kind, item, recipients, hostname, until, full=full)
    machine = _for_programs(kind, item, recipients, hostname, until, international=international)
    returned_type = "message/rfc822" if full else "text/rfc822-headers"
    if international and not returned.isascii():
        returned_type = "message/global" if full else "message/global-headers"
    parts = [
        ("text/plain; charset=utf-8", human.encode()),
        (f"message/{'global-' if international else ''}delivery-status", machine.encode()),
        (returned_type, returned),
    ]
    head = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>\n"
        f"To: <{item.sender}>\n"
        f"Subject: {_SUBJECTS[kind]}\n"
        f"Date: {formatdate(now, localtime=True)}\n"
        f"Message-ID: <{item.id}.{kind.value.lower()}.{int(now)}@{hostname}>\n"
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


def _for_people(
    kind: Kind, item: Item, recipients: Sequence[QueuedRecipient], hostname: str, until: float, *, full: bool
) -> str:
    first = {
        Kind.FAILURE: "Your message could not be delivered to the recipients below. It is not tried again.",
        Kind.DELAY: "Your message could not be delivered yet to the recipients below. You need not do anything:\n"
        f"it is tried again until {formatdate(until, localtime=True)}.",
        Kind.SUCCESS: "Your message was delivered, or handed on, as you asked to be told:",
    }[kind]
    lines = [f"This is the mail server {hostname}.", "", first, ""]
    for r in recipients:
        lines.append(f"<{_plain(r.address)}>")
        if kind is Kind.SUCCESS:
            lines.append(
                f"    handed to {_plain(r.mx)}, which will not report further"
                if r.user is None
                else "    delivered into the mailbox"
            )
        elif r.mx and _REPLY.match(r.reply):
            lines.append(f"    The server {_plain(r.mx)} said:")
            lines.append(f"    {_plain(r.reply)}")
        else:
            lines.append(f"    {_plain(r.reply)}")
        explained = of_reply(r.reply) or (meaning(r.status) if kind is Kind.FAILURE else None)
        if explained and kind is not Kind.SUCCESS:
            lines.append(f"    {explained}")
        lines.append("")
    lines.append(f"The id of your message here is {item.id}.")
    lines.append("Your message follows." if full else "The header of your message follows.")
    return "\n".join(lines) + "\n"


def _for_programs(
    kind: Kind, item: Item, recipients: Sequence[QueuedRecipient], hostname: str, until: float, *, international: bool
) -> str:
    """message/delivery-status (RFC 3464 2)."""
    blocks = []
    block = [f"Original-Envelope-Id: {_plain(decode_xtext(item.envid))}"] if item.envid else []
    block += [f"Reporting-MTA: dns; {hostname}", f"Arrival-Date: {formatdate(item.arrived, localtime=True)}"]
    blocks.append(block)
    for r in recipients:
        block = []
        if r.orcpt:
            kind_of_address, _, address = r.orcpt.partition(";")
            block.append(f"Original-Recipient: {kind_of_address}; {_plain(decode_xtext(address))}")
        address_type = "utf-8" if international and not r.address.isascii() else "rfc822"
        block.append(f"Final-Recipient: {address_type}; {_plain(r.address)}")
        action = {
            Kind.FAILURE: "failed",
            Kind.DELAY: "delayed",
            Kind.SUCCESS: "relayed" if r.user is None else "delivered",
        }[kind]
        block.append(f"Action: {action}")
        block.append(f"Status: {r.status}")
        if r.mx and (kind is Kind.SUCCESS or _REPLY.match(r.reply)):
            block.append(f"Remote-MTA: dns; {_plain(r.mx)}")
        if _REPLY.match(r.reply):
            block.append(f"Diagnostic-Code: smtp; {_plain(r.reply)}")
        elif kind is not Kind.SUCCESS:
            block.append(f"Diagnostic-Code: X-smtpmail; {_plain(r.reply)}")
        if kind is Kind.DELAY:
            block.append(f"Will-Retry-Until: {formatdate(until, localtime=True)}")
        blocks.append(block)
    text = "\n\n".join("\n".join(block) for block in blocks) + "\n"
    # Only its international form may have letters outside of ASCII (RFC 6533 3).
    return text if international else text.encode("ascii", "replace").decode()


def _plain(text: str) -> str:
    """One line without control characters, not too long for a header line (RFC 5322 2.1.1)."""
    return harmless(text, 900)
