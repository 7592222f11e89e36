"""Every metric once: its name, kind, meaning and labels, and which event of the log counts for it.

The names are an interface (docs/programs.md). Labels have few values, all known before: no sender, recipient or remote
server can make a new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

LISTENERS = ("network", "loopback", "submission", "itself")
TLS = ("none", "unverified", "verified")
REASONS = ("5.1.1", "5.7.1", "4.3.0", "4.5.3", "4.7.1", "other")
"""Enhanced status codes of refusals that have a line of their own."""

SIZES = (1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0)
SECONDS = (0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0, 172800.0)
SESSION_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0)

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric and its labels. `kind` is counter, gauge or histogram; a histogram has no labels here."""

    name: str
    """Without `_total`, which the samples of a counter have."""
    kind: str
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Each with all its values."""
    buckets: tuple[float, ...] = ()
    unit: str = ""

    def label_sets(self) -> Iterator[tuple[str, ...]]:
        """All combinations of values."""
        return product(*(values for _, values in self.labels))

    @property
    def slots(self) -> int:
        """Numbers that it needs: one for each combination; buckets and a sum for a histogram."""
        return len(self.buckets) + 2 if self.buckets else len(list(self.label_sets()))


FAMILIES = (
    Family("smtpmail_sessions", "counter", "Connections of clients.", (("listener", LISTENERS[:3]),)),
    Family("smtpmail_sessions_ended", "counter", "Connections of clients that are over."),
    Family("smtpmail_sessions_refused", "counter", "Connections turned away: too many."),
    Family("smtpmail_session_seconds", "histogram", "How long connections lasted.", (), SESSION_SECONDS, "seconds"),
    Family(
        "smtpmail_messages_received", "counter", "Messages taken; `itself` are notifications of the server's own.",
        (("listener", LISTENERS), ("tls", ("no", "yes"))),
    ),
    Family("smtpmail_message_size_bytes", "histogram", "Octets of messages taken.", (), SIZES, "bytes"),
    Family("smtpmail_messages_stored", "counter", "Copies put into mailboxes."),
    Family("smtpmail_messages_queued", "counter", "Messages put into the queue."),
    Family("smtpmail_messages_refused", "counter", "Messages begun and not taken."),
    Family(
        "smtpmail_recipients_refused", "counter", "Recipients refused, by enhanced status code.",
        (("reason", REASONS),),
    ),
    Family(
        "smtpmail_deliveries", "counter", "Attempts to deliver to a recipient elsewhere.",
        (("result", ("delivered", "deferred", "failed")),),
    ),
    Family("smtpmail_deliveries_tls", "counter", "Deliveries elsewhere, by TLS.", (("tls", TLS),)),
    Family(
        "smtpmail_delivery_seconds", "histogram", "From the arrival of a message to its delivery elsewhere.", (),
        SECONDS, "seconds",
    ),
    Family(
        "smtpmail_notifications", "counter", "Notifications to senders.",
        (("kind", ("failure", "delay", "success")),),
    ),
    Family("smtpmail_errors", "counter", "Events of level error in the log."),
    Family("smtpmail_queue_messages", "gauge", "Messages in the queue."),
    Family("smtpmail_queue_oldest_seconds", "gauge", "Age of the oldest message in the queue.", unit="seconds"),
)  # fmt: skip

BY_NAME = {family.name: family for family in FAMILIES}

Count = Callable[[str, tuple[str, ...]], None]
Observe = Callable[[str, float], None]


def of_event(event: str, fields: Fields, count: Count, observe: Observe, now: Callable[[], float] = time.time) -> None:
    """Counts one event of the log."""
    match event:
        case "session.opened":
            count("smtpmail_sessions", (fields["listener"],))
        case "session.closed":
            count("smtpmail_sessions_ended", ())
            observe("smtpmail_session_seconds", fields["seconds"])
        case "session.refused":
            count("smtpmail_sessions_refused", ())
        case "message.received":
            tls = "yes" if fields.get("tls") else "no"
            count("smtpmail_messages_received", (fields.get("listener") or "itself", tls))
            observe("smtpmail_message_size_bytes", fields["size"])
        case "message.stored":
            count("smtpmail_messages_stored", ())
        case "message.queued" | "message.forwarded":
            count("smtpmail_messages_queued", ())
        case "message.refused":
            count("smtpmail_messages_refused", ())
        case "recipient.refused" | "sender.refused":
            reason = str(fields["reply"]).split(" ", 2)[1:2]
            count("smtpmail_recipients_refused", (reason[0] if reason and reason[0] in REASONS else "other",))
        case "delivery.succeeded":
            count("smtpmail_deliveries", ("delivered",))
            tls = str(fields.get("tls") or "")
            count(
                "smtpmail_deliveries_tls",
                ("verified" if tls.endswith(" verified") else "unverified" if tls else "none",),
            )
            arrived = arrival(str(fields["id"]))
            if arrived is not None:
                observe("smtpmail_delivery_seconds", max(now() - arrived, 0.0))
        case "delivery.deferred":
            count("smtpmail_deliveries", ("deferred",))
        case "delivery.failed":
            count("smtpmail_deliveries", ("failed",))
        case "bounce.queued":
            count("smtpmail_notifications", (fields["kind"],))


def arrival(id_: str) -> float | None:
    """When a message came, which its id tells; Unix time. None for what is no id."""
    try:
        return int(id_[:14], 16) / 1e6 if len(id_) == 19 else None
    except ValueError:
        return None
