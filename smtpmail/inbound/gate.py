"""What a connection asks about each transaction: whether its sender is taken, and where its recipients' mail goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smtpmail.log import log
from smtpmail.mail.address import Address
from smtpmail.mail.envelope import Envelope
from smtpmail.mail.route import Route
from smtpmail.smtp.replies import Refusal

Routes = Callable[[Address, Address], tuple[Route, ...]]
"""The ways of mail for an address, from a sender. Raises Refusal."""

Check = Callable[[Envelope], None]
"""Looks at a transaction. Raises Refusal."""


class Gate:
    """One for each kind of listener. All of `senders` look at MAIL, all of `recipients` at each RCPT."""

    def __init__(self, routes: Routes, senders: Sequence[Check] = (), recipients: Sequence[Check] = ()) -> None:
        self._routes = routes
        self._senders = senders
        self._recipients = recipients

    def check_sender(self, envelope: Envelope) -> None:
        """Whether mail from this sender is taken. Raises Refusal."""
        try:
            for check in self._senders:
                check(envelope)
        except Refusal as refusal:
            peer = envelope.peer
            log.info(
                "sender.refused",
                id=envelope.id,
                sender=str(envelope.sender),
                client=peer.name if peer else None,
                listener=peer.listener if peer else None,
                reply=str(refusal.reply),
            )
            raise

    def routes(self, envelope: Envelope, address: Address) -> tuple[Route, ...]:
        """The ways of mail for one more recipient. Raises Refusal."""
        routes = self._routes(address, envelope.sender)
        for check in self._recipients:
            check(envelope)
        return routes
