"""What the log says in sum: counts of what came, where it went, what was refused and why. Pure, in bounded memory."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from smtpmail.admin.log_reader import Entry, time_of

MAX_NAMES = 10_000
"""So many different senders, destinations, texts are counted one by one; the rarest of more are summed up."""

SHOWN = 10
"""Of each list, the most frequent."""

OTHERS = "(others)"


class Tally:
    """Counts by name, in bounded memory."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._others = 0

    def add(self, name: str, count: int = 1) -> None:
        """Counts `count` more for a name."""
        self._counts[name] += count
        if len(self._counts) > MAX_NAMES:
            kept = dict(self._counts.most_common(MAX_NAMES // 2))
            self._others += self._counts.total() - sum(kept.values())
            self._counts = Counter(kept)

    @property
    def total(self) -> int:
        """Of all names."""
        return self._counts.total() + self._others

    def most(self, number: int = SHOWN) -> dict[str, int]:
        """The most frequent, and the sum of the rest."""
        most = dict(sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:number])
        rest = self.total - sum(most.values())
        return {**most, OTHERS: rest} if rest else most


@dataclass(slots=True)
class Share:
    """So many of all."""

    of: int = 0
    all: int = 0

    def add(self, is_one: bool) -> None:
        """Counts one more of all."""
        self.all += 1
        self.of += is_one

    @property
    def percent(self) -> float | None:
        """None of nothing."""
        return round(100 * self.of / self.all, 1) if self.all else None


@dataclass(slots=True)
class Summary:
    """Takes the entries of a log one after another."""

    first: str | None = None
    last: str | None = None
    received: Tally = field(default_factory=Tally)
    """Messages by listener; `itself` are notifications of the server's own."""
    octets: int = 0
    recipients: int = 0
    stored: Tally = field(default_factory=Tally)
    """Copies in mailboxes, by user."""
    queued: int = 0
    delivered: Tally = field(default_factory=Tally)
    """Recipients elsewhere, by destination."""
    deferred: Tally = field(default_factory=Tally)
    """Attempts, by destination."""
    deferred_why: dict[str, str] = field(default_factory=dict)
    """The last word of a destination."""
    failed: Tally = field(default_factory=Tally)
    failed_why: dict[str, str] = field(default_factory=dict)
    refused: Tally = field(default_factory=Tally)
    """By the reply."""
    turned_away: int = 0
    """Connections."""
    refused_clients: Tally = field(default_factory=Tally)
    bounces: Tally = field(default_factory=Tally)
    """Notifications by kind."""
    senders: Tally = field(default_factory=Tally)
    sender_octets: Tally = field(default_factory=Tally)
    tls_in: Share = field(default_factory=Share)
    """Of the messages over the network."""
    tls_out: Share = field(default_factory=Share)
    verified_out: Share = field(default_factory=Share)
    delays: list[float] = field(default_factory=list)
    """Seconds from arrival to delivery elsewhere: a sample."""
    errors: Tally = field(default_factory=Tally)
    """Events of level error."""

    def take(self, entry: Entry) -> None:
        """Counts one entry."""
        time = str(entry["timestamp"])
        self.first = self.first or time
        self.last = time
        if entry.get("level") == "error":
            self.errors.add(str(entry["event"]))
        match entry["event"]:
            case "message.received":
                self._received(entry)
            case "message.stored":
                self.stored.add(_text(entry, "user"))
            case "message.queued" | "message.forwarded":
                self.queued += 1
            case "delivery.succeeded":
                self._delivered(entry)
            case "delivery.deferred":
                destination = _destination(entry)
                self.deferred.add(destination)
                _remember(self.deferred_why, destination, _text(entry, "reply"))
            case "delivery.failed":
                destination = _destination(entry)
                self.failed.add(destination)
                _remember(self.failed_why, destination, _text(entry, "reply"))
            case "recipient.refused" | "message.refused" | "sender.refused":
                self.refused.add(_reason(_text(entry, "reply")))
                self.refused_clients.add(_host(_text(entry, "client")))
            case "session.refused":
                self.turned_away += 1
                self.refused_clients.add(_host(_text(entry, "client")))
            case "bounce.queued":
                self.bounces.add(_text(entry, "kind"))

    def _received(self, entry: Entry) -> None:
        listener = _text(entry, "listener") or "itself"
        size = entry["size"] if isinstance(entry.get("size"), int) else 0
        sender = f"<{_text(entry, 'sender')}>"
        self.received.add(listener)
        self.octets += size
        recipients = entry.get("recipients")
        self.recipients += len(recipients) if isinstance(recipients, list) else 0
        self.senders.add(sender)
        self.sender_octets.add(sender, size)
        if listener == "network":
            self.tls_in.add(bool(entry.get("tls")))

    def _delivered(self, entry: Entry) -> None:
        self.delivered.add(_destination(entry))
        tls = _text(entry, "tls")
        self.tls_out.add(bool(tls))
        self.verified_out.add(tls.endswith(" verified"))
        delay = delay_of(entry)
        if delay is not None:
            if len(self.delays) >= MAX_NAMES:
                # Every second one is as good a picture.
                self.delays = self.delays[::2]
            self.delays.append(delay)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "from": self.first,
            "to": self.last,
            "received": {
                "messages": self.received.total,
                "octets": self.octets,
                "recipients": self.recipients,
                "by_listener": self.received.most(),
                "tls_percent": self.tls_in.percent,
            },
            "stored": {"copies": self.stored.total, "by_user": self.stored.most()},
            "queued": self.queued,
            "delivered": {
                "recipients": self.delivered.total,
                "by_destination": self.delivered.most(),
                "tls_percent": self.tls_out.percent,
                "tls_verified_percent": self.verified_out.percent,
                "seconds_median": _quantile(self.delays, 0.5),
                "seconds_95_percent": _quantile(self.delays, 0.95),
            },
            "deferred": {
                "attempts": self.deferred.total,
                "by_destination": self.deferred.most(),
                "last_replies": {name: self.deferred_why.get(name) for name in _named(self.deferred)},
            },
            "failed": {
                "recipients": self.failed.total,
                "by_destination": self.failed.most(),
                "last_replies": {name: self.failed_why.get(name) for name in _named(self.failed)},
            },
            "refused": {
                "total": self.refused.total,
                "by_reason": self.refused.most(),
                "by_client": self.refused_clients.most(),
                "connections": self.turned_away,
            },
            "notifications": self.bounces.most(),
            "senders": {"by_messages": self.senders.most(), "by_octets": self.sender_octets.most()},
            "errors": self.errors.most(),
        }


def _named(tally: Tally) -> list[str]:
    return [name for name in tally.most() if name != OTHERS]


def _text(entry: Entry, key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _remember(texts: dict[str, str], name: str, text: str) -> None:
    if name in texts or len(texts) < MAX_NAMES:
        texts[name] = text


def _destination(entry: Entry) -> str:
    return _text(entry, "recipient").rpartition("@")[2].lower()


def _host(client: str) -> str:
    """The address of ADDRESS:PORT."""
    return client.rpartition(":")[0].strip("[]") or client


def _reason(reply: str) -> str:
    """A reply without what differs from one recipient to the next: what stands in angle brackets."""
    return re.sub(r"<[^>]*>", "<...>", reply)


def delay_of(entry: Entry) -> float | None:
    """Seconds between the arrival of a message, which its id tells, and this entry; None when that makes no sense."""
    time, id_ = time_of(entry), _text(entry, "id")
    try:
        arrived = int(id_[:14], 16) / 1e6
    except ValueError:
        return None
    delay = time.timestamp() - arrived if time and len(id_) == 19 else -1.0
    return round(delay, 3) if 0 <= delay < 31 * 86400 else None


def _quantile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
