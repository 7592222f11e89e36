"""A message in the queue and what became of its recipients so far; how both are written (docs/formats.md)."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from smtpmail.mail.address import NULL_PATH, Address, AddressSyntaxError, parse_address
from smtpmail.mail.departure import Departure
from smtpmail.mail.envelope import Envelope

DELIVERED, FAILED, DEFERRED = "delivered", "failed", "deferred"


@dataclass(slots=True)
class QueuedRecipient:
    """One recipient elsewhere, or one whose mailbox here could not take the message when it came."""

    address: str
    notify: tuple[str, ...] = ()
    orcpt: str | None = None
    user: str | None = None
    """The local user whose mailbox it is; None for a recipient elsewhere."""
    state: str = DEFERRED
    """DEFERRED until it is DELIVERED or FAILED."""
    reply: str = ""
    """What the other side said last, or why it could not be asked."""
    mx: str = ""
    """Who said it."""
    status: str = ""
    """The enhanced status code of it (RFC 3463)."""
    tell: bool = False
    """The sender is still to be told what became of it."""


@dataclass(slots=True)
class Item:
    """One queued message without its content."""

    id: str
    arrived: float
    """Unix time."""
    sender: str
    recipients: list[QueuedRecipient]
    size: int = 0
    body: str | None = None
    """What the client declared: for people who look; what counts is `eightbit`."""
    eightbit: bool = False
    """The content has octets above 127."""
    smtputf8: bool = False
    """It can go only to servers that offer SMTPUTF8 (RFC 6531)."""
    requiretls: bool = False
    ret: str | None = None
    envid: str | None = None
    bounce_of: str | None = None
    """The id of the message this one reports about."""
    stranger: bool = False
    """Somebody from the network caused it."""
    junk: bool = False
    """What of it goes to mailboxes here goes to their folders for Junk."""
    content_offset: int = 0
    """Where in the file the message begins."""
    attempts: int = 0
    next_attempt: float = 0.0
    """Unix time; 0 is at once."""
    hold: bool = False
    delay_notified: bool = False

    @property
    def pending(self) -> list[int]:
        """Indexes of the recipients that still wait."""
        return [n for n, r in enumerate(self.recipients) if r.state == DEFERRED]

    @property
    def untold(self) -> list[int]:
        """Indexes of the recipients with a final word of which the sender is still to be told."""
        return [n for n, r in enumerate(self.recipients) if r.tell and r.state != DEFERRED]

    @property
    def from_stranger(self) -> bool:
        """Whether it goes where somebody says who may not choose where this host connects to."""
        return self.stranger or self.bounce_of is not None

    def apply(self, entry: dict[str, Any]) -> None:
        """Takes in one line of the log, all of it or nothing. Unknown keys are left alone; nonsense is a ValueError."""
        _check(entry, _LOG_TYPES)
        number = entry.get("recipient")
        if number is not None:
            if not 0 <= number < len(self.recipients) or entry.get("state") not in (DELIVERED, FAILED, DEFERRED):
                raise ValueError("no such recipient, or no state of one")
            recipient = self.recipients[number]
            recipient.state = entry["state"]
            recipient.reply = entry.get("reply", "")
            recipient.mx = entry.get("mx", "")
            recipient.status = entry.get("status", "")
            recipient.tell = entry.get("tell", False)
        self.attempts = entry.get("attempts", self.attempts)
        self.next_attempt = entry.get("next_attempt", self.next_attempt)
        self.hold = entry.get("hold", self.hold)
        self.delay_notified = entry.get("delay_notified", self.delay_notified)


_TEXT = (str, type(None))


_ENVELOPE_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,), "arrived": (int, float), "sender": (str,), "size": (int,), "body": _TEXT, "eightbit": (bool,),
    "smtputf8": (bool,), "requiretls": (bool,), "ret": _TEXT, "envid": _TEXT, "bounce_of": _TEXT, "stranger": (bool,),
    "junk": (bool,),
}  # fmt: skip


_RECIPIENT_TYPES: dict[str, tuple[type, ...]] = {"address": (str,), "notify": (list,), "orcpt": _TEXT, "user": _TEXT}


_LOG_TYPES: dict[str, tuple[type, ...]] = {
    "recipient": (int,), "state": (str,), "reply": (str,), "mx": (str,), "attempts": (int,),
    "status": (str,), "tell": (bool,), "next_attempt": (int, float), "hold": (bool,), "delay_notified": (bool,),
}  # fmt: skip


def _check(fields: Any, types: dict[str, tuple[type, ...]]) -> None:
    """Raises ValueError when the JSON is no object, or a key in it has a value of another type."""
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    for key, wanted in types.items():
        if key in fields and (
            not isinstance(value := fields[key], wanted)
            or (isinstance(value, bool) and bool not in wanted)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise ValueError(f"{key} is {value!r}")


def _decode_json(text: bytes) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON of nothing but brackets") from None


def encode_envelope(item: Item) -> bytes:
    """The first line of a queue file."""
    fields: dict[str, Any] = {key: getattr(item, key) for key in _ENVELOPE_TYPES}
    fields["recipients"] = [
        {"address": r.address, "notify": list(r.notify), "orcpt": r.orcpt} | ({"user": r.user} if r.user else {})
        for r in item.recipients
    ]
    return json.dumps(fields).encode() + b"\n"


def decode_envelope(line: bytes) -> Item:
    """The opposite of encode_envelope. Raises ValueError."""
    fields = _decode_json(line)
    _check(fields, _ENVELOPE_TYPES)
    if missing := {"id", "arrived", "sender", "recipients"} - fields.keys():
        raise ValueError(f"not an envelope: without {', '.join(sorted(missing))}")
    if not isinstance(fields["recipients"], list) or not fields["recipients"]:
        raise ValueError("not an envelope: without recipients")
    recipients = []
    for recipient in fields["recipients"]:
        _check(recipient, _RECIPIENT_TYPES)
        if "address" not in recipient:
            raise ValueError("not an envelope: a recipient without an address")
        notify = tuple(str(word) for word in recipient.get("notify", ()))
        recipients.append(QueuedRecipient(recipient["address"], notify, recipient.get("orcpt"), recipient.get("user")))
    return Item(
        recipients=recipients,
        content_offset=len(line),
        **{key: fields[key] for key in _ENVELOPE_TYPES if key in fields},
    )


def replay(item: Item, log: bytes) -> None:
    """Takes in the log of an item; a last line without its end is left out, as is a line that makes no sense."""
    for line in log[: log.rfind(b"\n") + 1].split(b"\n"):
        with contextlib.suppress(ValueError):
            item.apply(_decode_json(line))


def item_of(
    envelope: Envelope,
    departure: Departure,
    late: Iterable[str],
    size: int,
    *,
    eightbit: bool,
    utf8_header: bool,
    now: float,
    junk: bool = False,
) -> Item:
    """The queue's view of an envelope that leaves; with it go the users `late` whose mailboxes failed."""
    recipients = [QueuedRecipient(str(a), notify, r.orcpt) for a, (r, notify) in departure.leads.items()]
    recipients += [
        QueuedRecipient(str(r.address), r.notify, r.orcpt, user) for user in late for r in envelope.mailboxes[user]
    ]
    addresses = [departure.sender, *departure.leads]
    needs_utf8 = (envelope.smtputf8 and (utf8_header or not departure.sender.is_ascii)) or any(
        not address.local.isascii() for address in addresses
    )
    return Item(
        departure.id, now, str(departure.sender), recipients, size, envelope.body, eightbit, needs_utf8,
        envelope.requiretls, envelope.ret, envelope.envid, envelope.bounce_of,
        stranger=envelope.peer is not None and not envelope.peer.is_ours,
        junk=junk,
    )  # fmt: skip


def sender_address(item: Item) -> Address:
    """The reverse-path; the null one for a bounce (or for what can't be read)."""
    try:
        return parse_address(item.sender) if item.sender else NULL_PATH
    except AddressSyntaxError:
        return NULL_PATH
