"""Composes delivery status notifications and hands them to the door: they arrive as any other message does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from smtpmail.accept import Accept, Accepted
from smtpmail.log import log
from smtpmail.mail import notification
from smtpmail.mail.address import NULL_PATH, Address, AddressSyntaxError, parse_address
from smtpmail.mail.envelope import Envelope, Recipient
from smtpmail.mail.notice_limit import NoticeLimit
from smtpmail.mail.notification import Kind
from smtpmail.mail.queued import DELIVERED, Item, QueuedRecipient
from smtpmail.mail.route import Local, Route
from smtpmail.smtp.replies import Refusal, Reply

TOO_MANY_NOTICES = Reply(550, "5.7.0", "Too many notifications to this address: this one is dropped")


class Bouncer:
    """`routes` are those of the loopback listener: a notification may leave."""

    def __init__(
        self,
        accept: Accept,
        routes: Callable[[Address], tuple[Route, ...]],
        hostname: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._accept = accept
        self._routes = routes
        self._hostname = hostname
        self._clock = clock
        self._limit = NoticeLimit()

    def send(
        self,
        kind: Kind,
        item: Item,
        recipients: Sequence[QueuedRecipient],
        text: bytes,
        *,
        full: bool = False,
        until: float = 0.0,
    ) -> bool:
        """Tells a sender about some recipients; returns, when it is on disk, whether anybody is told. Raises OSError.

        Nobody is told of a bounce (RFC 5321 4.5.5), or when the sender's address can take no mail here.
        """
        if not item.sender or not recipients:
            return False
        international = not item.sender.isascii()
        envelope = Envelope(NULL_PATH, smtputf8=international, requiretls=item.requiretls, bounce_of=item.id)
        try:
            address = parse_address(item.sender)
            told = Recipient(address, self._routes(address), ("NEVER",))
            if not told.is_local and not self._limit.admits(item.sender.lower(), self._clock()):
                raise Refusal(TOO_MANY_NOTICES)
            envelope.recipients.append(told)
            now = self._clock()
            notice = notification.build(kind, item, recipients, self._hostname, now, until, text, full=full)
            self._accept.take(envelope, notice)
        except AddressSyntaxError:
            return False
        except Refusal as refusal:
            if refusal.reply.code < 500:
                raise OSError(f"the sender {item.sender} can't be told now: {refusal.reply}") from None
            log.warning("bounce.dropped", id=envelope.id, of=item.id, recipient=item.sender, reply=str(refusal.reply))
            return False
        log.info(
            "bounce.queued",
            id=envelope.id,
            of=item.id,
            kind=kind.value.lower(),
            recipient=item.sender,
            about=[r.address for r in recipients],
        )
        return True

    def delivered(self, accepted: Accepted) -> None:
        """Tells of delivery into mailboxes where NOTIFY asked for it (RFC 3461 5.2.3); raises nothing."""
        envelope = accepted.envelope
        late = {r.address for item in accepted.queued for r in item.recipients if r.user}
        recipients = [
            QueuedRecipient(
                str(r.address), r.notify, r.orcpt, state=DELIVERED, status="2.0.0", reply="delivered", user=user
            )
            for r in envelope.recipients
            for user in [next((route.user for route in r.routes if isinstance(route, Local)), None)]
            if user and str(r.address) not in late and notification.wanted(Kind.SUCCESS, r.notify)
        ]
        if not recipients:
            return
        item = Item(envelope.id, self._clock(), str(envelope.sender), recipients)
        item.envid, item.requiretls = envelope.envid, envelope.requiretls
        item.stranger = envelope.peer is not None and not envelope.peer.is_ours
        try:
            self.send(Kind.SUCCESS, item, recipients, accepted.header)
        except OSError as error:
            log.error("bounce.failed", id=envelope.id, error=str(error))
