"""Composes delivery status notifications and hands them to the door: they arrive as any other message does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from smtpmail.accept import Accept, Accepted
from smtpmail.log import log
from smtpmail.mail import notification
from smtpmail.mail.address import NULL_PATH, Address, AddressSyntaxError, parse_address
from smtpmail.mail.envelope import Envelope, Recipient
from smtpmail.mail.notification import Fate, Kind, Original
from smtpmail.mail.route import Route
from smtpmail.smtp.replies import Refusal


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

    def send(
        self, kind: Kind, original: Original, fates: Sequence[Fate], *, requiretls: bool, until: float = 0.0
    ) -> None:
        """Tells the sender; returns when the notification is on disk. Raises OSError.

        Nobody is told of a bounce (RFC 5321 4.5.5), or when the sender's address can take no mail here.
        """
        if not original.sender or not fates:
            return
        envelope = Envelope(
            NULL_PATH, smtputf8=not original.sender.isascii(), requiretls=requiretls, bounce_of=original.id
        )
        try:
            address = parse_address(original.sender)
            envelope.recipients.append(Recipient(address, self._routes(address), ("NEVER",)))
            text = notification.build(kind, original, fates, self._hostname, self._clock(), until)
            self._accept.take(envelope, text)
        except AddressSyntaxError:
            return
        except Refusal as refusal:
            if refusal.reply.code < 500:
                raise OSError(f"the sender {original.sender} can't be told now: {refusal.reply}") from None
            log.warning(
                "bounce.dropped", id=envelope.id, of=original.id, recipient=original.sender, reply=str(refusal.reply)
            )
            return
        log.info(
            "bounce.queued",
            id=envelope.id,
            of=original.id,
            kind=kind.value.lower(),
            recipient=original.sender,
            about=[fate.recipient for fate in fates],
        )

    def delivered(self, accepted: Accepted) -> None:
        """Tells of delivery into mailboxes where NOTIFY asked for it (RFC 3461 5.2.3); raises nothing."""
        envelope = accepted.envelope
        late = {r.address for item in accepted.queued for r in item.recipients if r.user}
        fates = [
            Fate(str(r.address), r.orcpt, "2.0.0", "delivered")
            for r in envelope.recipients
            if r.is_local and str(r.address) not in late and notification.wanted(Kind.SUCCESS, r.notify)
        ]
        if not fates:
            return
        sender = str(envelope.sender)
        original = Original(envelope.id, sender, self._clock(), envelope.envid, full=False, text=accepted.header)
        try:
            self.send(Kind.SUCCESS, original, fates, requiretls=envelope.requiretls)
        except OSError as error:
            log.error("bounce.failed", id=envelope.id, error=str(error))
