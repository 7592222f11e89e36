"""Delivery status notifications (RFC 3464) as a test reads them."""

from __future__ import annotations

import email
import email.policy
import quopri
import re
from dataclasses import dataclass
from email.message import EmailMessage


@dataclass(frozen=True)
class RecipientReport:
    """One recipient's fields of a notification, without their address- and diagnostic types."""

    recipient: str
    action: str
    status: str
    diagnostic: str
    remote_mta: str


def is_report(message: EmailMessage) -> bool:
    return (message.get_content_type() == "multipart/report"
            and message.get_param("report-type") in {"delivery-status", "global-delivery-status"})  # fmt: skip


def recipients(message: EmailMessage) -> dict[str, RecipientReport]:
    """The reports of a notification by their final recipient. Checks what holds for every notification."""
    assert is_report(message)
    text, status, *returned = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    # RFC 6522 3: the report-type is the subtype of the second part.
    assert status.get_content_type() == f"message/{message.get_param('report-type')}"
    assert len(returned) == 1
    assert message["Return-Path"] == "<>"
    head, _, body = status.as_bytes().replace(b"\r\n", b"\n").strip().partition(b"\n\n")
    if b"quoted-printable" in head.lower():
        body = quopri.decodestring(body)  # which that of an international notification may be (RFC 6533 6)
    blocks = re.split(rb"\n\n+", body)
    per_message, *per_recipient = (email.message_from_bytes(each, policy=email.policy.SMTPUTF8) for each in blocks)
    assert per_message["Reporting-MTA"].startswith("dns;")
    found = {}
    for fields in per_recipient:
        report = RecipientReport(
            _value(fields["Final-Recipient"]), fields["Action"].lower(), fields["Status"].split()[0],
            _value(fields["Diagnostic-Code"]), _value(fields["Remote-MTA"]),
        )  # fmt: skip
        found[report.recipient] = report
    return found


def concerns(message: EmailMessage, recipient: str, *, action: str = "failed") -> bool:
    """Whether this message is a notification that this happened to that recipient."""
    if not is_report(message):
        return False
    report = recipients(message).get(recipient)
    return report is not None and report.action == action


def _value(field: str | None) -> str:
    return (field or "").partition(";")[2].strip()
