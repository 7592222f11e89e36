"""What became of a recipient in one attempt, and how final that is."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from smtpmail.log import log
from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED, Item


class Finality(enum.IntEnum):
    """From the least to the most final: where hosts of a destination differ, the higher one is believed.

    Another host may be asked about all below UNCERTAIN.
    """

    UNFIT = enum.auto()
    """This host can't take this message, or not from here: if no other one says more, nobody can."""
    UNREACHABLE = enum.auto()
    """It never came to a mail transaction: true for whatever else goes there now."""
    LATER = enum.auto()
    """An answer: not now."""
    UNCERTAIN = enum.auto()
    """The message was sent whole, but the answer never came: another host now might make two of it."""
    FINAL = enum.auto()
    """Taken, or refused for good."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a recipient in one attempt."""

    finality: Finality
    status: str
    """Enhanced status code (RFC 3463)."""
    reply: str
    """The server's reply, or why there is none."""
    mx: str = ""
    address: str = ""
    tls: str | None = None
    """How the connection was protected."""
    delivered: bool = False
    dsn: bool = False
    """The server knows DSN and reports on its own."""
    for_address: bool = False
    """It was refused for the address that this host connects from: the other IP version may do."""
    closing: bool = False
    """The host ended the session in the middle of a transaction."""

    @property
    def state(self) -> str:
        """What that makes of the recipient when no host says more."""
        if self.delivered:
            return DELIVERED
        return FAILED if self.finality in (Finality.UNFIT, Finality.FINAL) else DEFERRED

    @property
    def is_open(self) -> bool:
        """Whether another host of the destination may be asked."""
        return self.finality < Finality.UNCERTAIN

    def expired(self) -> Outcome:
        """The same, given up for its age."""
        return replace(self, finality=Finality.FINAL, status="5.4.7")


def log_outcome(item: Item, number: int, outcome: Outcome, **more: str) -> None:
    """Tells the log of one recipient."""
    fields = {
        "id": item.id,
        "recipient": item.recipients[number].address,
        "mx": outcome.mx or None,
        "address": outcome.address or None,
        "reply": outcome.reply,
        "attempt": item.attempts + 1,
        "tls": outcome.tls,
        **more,
    }
    if outcome.state == DELIVERED:
        log.info("delivery.succeeded", **fields)
    elif outcome.state == DEFERRED:
        log.warning("delivery.deferred", **fields)
    else:
        log.warning("delivery.failed", **fields)
