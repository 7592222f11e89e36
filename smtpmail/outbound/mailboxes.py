"""Delivery into mailboxes of this host that could not take a message when it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from smtpmail.log import log
from smtpmail.mail import fields
from smtpmail.mail.queued import Item
from smtpmail.outbound.outcome import Finality, Outcome
from smtpmail.spool.commit import Busy
from smtpmail.spool.content import StoredContent
from smtpmail.spool.mailbox import JUNK, Copy, Spool


class Mailboxes:
    """The local counterpart of the courier."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def deliver(self, user: str, item: Item, recipients: Sequence[int], content: IO[bytes]) -> dict[int, Outcome]:
        """Puts one copy for these recipients into a user's mailbox; `content` is at the first field of the message.

        What was to go to Junk when it came still does.
        """
        header = fields.final_delivery(item.sender, [item.recipients[n].address for n in recipients])
        stored = StoredContent(content.fileno(), content.tell())
        try:
            draft, *_ = self._spool.store(stored, [Copy(user, header.encode(), JUNK if item.junk else "")])
            if draft.error is not None:
                raise draft.error
        except OSError as error:
            # What waits behind this message would find the same.
            status = "4.2.0" if isinstance(error, Busy) else "4.3.0"
            outcome = Outcome(Finality.UNREACHABLE, status, f"mailbox: {error}")
        else:
            log.info("message.stored", id=item.id, user=user, number=draft.number, folder=draft.subfolder or None)
            outcome = Outcome(Finality.FINAL, "2.0.0", "delivered", delivered=True)
        return dict.fromkeys(recipients, outcome)
