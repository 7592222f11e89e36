"""Delivery status notifications (RFC 3464) as a test reads them."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import EmailMessage
from typing import cast


@dataclass(frozen=True)
class RecipientReport:
    """One recipient's fields of a notification, without their address- and diagnostic types."""

    recipient: str
    action: str
    status: str
    diagnostic: str
    remote_mta: str


def is_report(message: EmailMessage) -> bool:
    return message.get_content_type() == "multipart/report" and message.get_param("report-type") == "delivery-status"


def recipients(message: EmailMessage) -> dict[str, RecipientReport]:
    """The reports of a notification by their final recipient. Checks what holds for every notification."""
    assert is_report(message)
    text, status, *returned = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert status.get_content_type() in {"message/delivery-status", "message/global-delivery-status"}
    assert len(returned) == 1
    assert message["Return-Path"] == "<>"
    per_message, *per_recipient = cast(list[EmailMessage], status.get_payload())
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
