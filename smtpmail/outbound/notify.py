"""Tells the sender of a queued message what became of some of its recipients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from smtpmail.mail.notification import FULL_LIMIT, Kind
from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.mail.retry import RetryPolicy
from smtpmail.spool.queue import QueueStore


class Bouncer(Protocol):
    """What tells senders: see bouncer.py."""

    def send(
        self, kind: Kind, item: Item, recipients: Sequence[QueuedRecipient], text: bytes, *, full: bool, until: float
    ) -> bool:
        """Returns, when the notification is on disk, whether anybody is told. Raises OSError."""


def notify(
    store: QueueStore, bouncer: Bouncer, policy: RetryPolicy, kind: Kind, item: Item, recipients: Sequence[int]
) -> bool:
    """Sends a notification about a queued message; returns whether anybody is told. Raises OSError."""
    full = kind is Kind.FAILURE and item.ret != "HDRS" and item.size <= FULL_LIMIT and not item.requiretls
    with store.open_content(item) as content:
        text = content.read(FULL_LIMIT)
    about = [item.recipients[n] for n in recipients]
    return bouncer.send(kind, item, about, text, full=full, until=item.arrived + policy.lifetime)
