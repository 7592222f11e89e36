"""Takes one message to one destination: tries its hosts in order until every recipient has a final word."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Protocol

from smtpmail.log import log
from smtpmail.mail.address import AddressSyntaxError, normal_domain
from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED, Item, sender_address
from smtpmail.outbound import tls
from smtpmail.outbound.client import (
    Client,
    Credentials,
    MessageRefused,
    Outgoing,
    OutgoingRecipient,
    SessionFailed,
    Timeouts,
    TLSFailed,
    outgoing_address,
)
from smtpmail.outbound.target import RoutingError, Target
from smtpmail.settings.values import ConfigError, Endpoint
from smtpmail.smtp.reply_reader import ServerReply

MESSAGES_PER_CONNECTION = 100
SUBMISSION_TLS_PORT = 465


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a recipient in one attempt."""

    state: str
    """DELIVERED, FAILED (for good) or DEFERRED."""
    status: str
    """Enhanced status code (RFC 3463)."""
    reply: str
    """The server's reply, or why there is none."""
    mx: str = ""
    address: str = ""
    tls: str | None = None
    dsn: bool = False
    """The server knows DSN and reports on its own."""
    unreachable: bool = False
    """No host of the destination could be talked to: true for whatever else goes there now."""
    here_only: bool = False
    """The host lacks what this message needs: another one may have it."""
    uncertain: bool = False
    """The content was sent whole, but the reply to it never came: another host now might make two of it."""

    @property
    def is_open(self) -> bool:
        """Whether another host of the destination may be asked."""
        return (self.state == DEFERRED or self.unreachable or self.here_only) and not self.uncertain

    @property
    def weight(self) -> int:
        """What to believe when hosts differ: an answer, then "not now", then a host that is not fit."""
        if not self.unreachable and not self.here_only:
            return 2
        return 1 if self.state == DEFERRED else 0

    def expired(self) -> Outcome:
        """The same, given up for its age."""
        return replace(self, state=FAILED, status="5.4.7", unreachable=False)


class Session:
    """A worker's connection to a destination, kept from message to message."""

    def __init__(self, destination: str) -> None:
        self.destination = destination
        self.client: Client | None = None

    @property
    def is_open(self) -> bool:
        return self.client is not None

    def close(self) -> None:
        """Says good-bye, if there is somebody."""
        if self.client is not None:
            self.client.quit()
            self.client = None

    def drop(self) -> None:
        """The connection is of no more use."""
        if self.client is not None:
            self.client.close()
            self.client = None


class Resolver(Protocol):
    """Where mail for a domain goes: see outbound/destinations.py."""

    def targets(self, domain: str) -> list[Target]: ...

    def addresses(self, host: str) -> tuple[list[str], bool]: ...


class Courier:
    """Knows the ways out: by MX, or through the smarthost."""

    def __init__(
        self,
        resolver: Resolver,
        hostname: str,
        timeouts: Timeouts,
        smarthost: Endpoint | None = None,
        credentials: Callable[[], Credentials | None] = lambda: None,
    ) -> None:
        self._resolver = resolver
        self._hostname = hostname
        self._timeouts = timeouts
        self._smarthost = smarthost
        self._credentials = credentials
        self._memory = tls.Memory()

    def destination(self, address: str) -> str:
        """What recipients must share to go out together."""
        if self._smarthost is not None:
            return str(self._smarthost)
        domain = address.rpartition("@")[2]
        with contextlib.suppress(AddressSyntaxError):
            return normal_domain(domain)
        return domain.lower()

    def deliver(
        self, session: Session, item: Item, recipients: Sequence[int], content: IO[bytes]
    ) -> dict[int, Outcome]:
        """One attempt for these recipients of a message: all hosts are tried before it is put off."""
        try:
            message = self._outgoing(item)
            wanted = {
                n: OutgoingRecipient(outgoing_address(r.address), r.notify, r.orcpt)
                for n in recipients
                for r in (item.recipients[n],)
            }
            targets = self._targets(session.destination)
        except RoutingError as error:
            state = FAILED if error.permanent else DEFERRED
            outcome = Outcome(state, error.status, str(error), unreachable=not error.permanent)
            return dict.fromkeys(recipients, outcome)
        except MessageRefused as error:
            return dict.fromkeys(recipients, Outcome(FAILED, error.status, str(error)))
        if session.client is not None:
            # The host that is connected already comes first.
            targets = [session.client.target, *(t for t in targets if t != session.client.target)]
        try:
            outcomes = self._try_all(session, targets, message, wanted, content)
        except BaseException:
            # In the middle of something: the next message may not go on from there.
            session.drop()
            raise
        if any(not o.unreachable for o in outcomes.values()):
            return {n: replace(o, unreachable=False) for n, o in outcomes.items()}
        return outcomes

    def _try_all(
        self,
        session: Session,
        targets: Sequence[Target],
        message: Outgoing,
        wanted: dict[int, OutgoingRecipient],
        content: IO[bytes],
    ) -> dict[int, Outcome]:
        """One host after the other, as long as there is a recipient for whom it makes sense."""
        outcomes: dict[int, Outcome] = {}
        begin = content.tell()
        for target in targets:
            open_ = {n: r for n, r in wanted.items() if n not in outcomes or outcomes[n].is_open}
            if not open_:
                break
            content.seek(begin)
            for n, outcome in self._try(session, target, message, open_, content).items():
                if n not in outcomes or outcome.weight >= outcomes[n].weight:
                    outcomes[n] = outcome
        return outcomes

    def _targets(self, destination: str) -> list[Target]:
        if self._smarthost is None:
            return self._resolver.targets(destination)
        host, port = self._smarthost.host, self._smarthost.port or 25
        try:
            addresses = [host] if _is_address(host) else self._resolver.addresses(host)[0]
        except RoutingError as error:
            # The smarthost is a setting: a mistake in it may not bounce everybody's mail.
            raise RoutingError(False, "4.4.4", f"smarthost {host}: {error}") from None
        return [Target(host, address, port) for address in addresses]

    @staticmethod
    def _outgoing(item: Item) -> Outgoing:
        return Outgoing(
            sender_address(item), item.size, item.eightbit, item.smtputf8, item.requiretls, item.ret, item.envid
        )

    def _try(
        self,
        session: Session,
        target: Target,
        message: Outgoing,
        recipients: dict[int, OutgoingRecipient],
        content: IO[bytes],
    ) -> dict[int, Outcome]:
        """One transaction with one host, on a connection kept or new."""
        try:
            client, replies = self._transact(session, target, message, list(recipients.values()), content)
        except SessionFailed as error:
            session.drop()
            outcome = Outcome(
                FAILED if error.permanent else DEFERRED,
                error.status,
                str(error),
                target.host,
                target.address,
                unreachable=not error.connected,
                uncertain=error.uncertain,
            )
            return {
                n: self._outcome(error.refusals[place], target) if place in error.refusals else outcome
                for place, n in enumerate(recipients)
            }
        except MessageRefused as error:
            outcome = Outcome(FAILED, error.status, str(error), target.host, target.address, here_only=True)
            return dict.fromkeys(recipients, outcome)
        return {n: self._outcome(reply, target, client) for n, reply in zip(recipients, replies, strict=True)}

    def _transact(
        self,
        session: Session,
        target: Target,
        message: Outgoing,
        recipients: list[OutgoingRecipient],
        content: IO[bytes],
    ) -> tuple[Client, list[ServerReply]]:
        """Raises SessionFailed, MessageRefused."""
        client = self._client(session, target, requiretls=message.requiretls)
        begin = content.tell()
        try:
            return client, client.send(message, recipients, content)
        except SessionFailed as error:
            if client.messages == 0 or error.uncertain:
                raise
        # The server closed a connection that had been kept idle: that says nothing about the message.
        session.drop()
        content.seek(begin)
        client = self._client(session, target, requiretls=message.requiretls)
        return client, client.send(message, recipients, content)

    @staticmethod
    def _outcome(reply: ServerReply, target: Target, client: Client | None = None) -> Outcome:
        state = DELIVERED if reply.positive else FAILED if reply.permanent else DEFERRED
        tls, dsn = (client.tls, "DSN" in client.extensions) if client else (None, False)
        return Outcome(state, reply.status, str(reply), target.host, target.address, tls, dsn)

    def _client(self, session: Session, target: Target, *, requiretls: bool) -> Client:
        """The connection to a host: the one that is open, or a new one. Raises SessionFailed, MessageRefused."""
        client = session.client
        if client is not None:
            fits = client.target == target and (client.verified or not requiretls)
            if fits and client.messages < MESSAGES_PER_CONNECTION:
                return client
            session.close()
        session.client = self._connect_verified(target) if requiretls else self._connect(target)
        return session.client

    def _connect_verified(self, target: Target) -> Client:
        """Connects for a message with REQUIRETLS (RFC 8689 4.2.1). Raises SessionFailed, MessageRefused."""
        try:
            return self._open(target, tls.Level.VERIFIED)
        except TLSFailed as error:
            raise MessageRefused("5.7.30", f"REQUIRETLS: {error}") from None

    def _connect(self, target: Target) -> Client:
        """Connects with the best TLS that works; each step down is logged (RFC 7435: some protection beats none)."""
        if self._password() is not None:
            return self._open(target, tls.Level.VERIFIED)
        level = self._memory.level(target.host, target.address)
        while True:
            try:
                return self._open(target, level)
            except TLSFailed as error:
                if level is tls.Level.CLEAR:
                    raise
                level = tls.Level.UNVERIFIED if error.only_unverified else tls.Level.CLEAR
                if self._implicit_tls(target) and level is tls.Level.CLEAR:
                    raise
                self._memory.remember(target.host, target.address, level)
                log.warning(
                    "delivery.tls_weakened",
                    mx=target.host,
                    address=target.address,
                    error=str(error),
                    now="unverified" if level is tls.Level.UNVERIFIED else "clear text",
                )

    def _open(self, target: Target, level: tls.Level) -> Client:
        return Client.connect(
            target,
            self._hostname,
            self._timeouts,
            level,
            implicit_tls=self._implicit_tls(target),
            credentials=self._password(),
        )

    def _password(self) -> Credentials | None:
        """What the smarthost wants to know. Raises SessionFailed when the file with it is not as it must be."""
        try:
            return self._credentials()
        except ConfigError as error:
            raise SessionFailed(str(error), status="4.7.0") from None

    def _implicit_tls(self, target: Target) -> bool:
        return self._smarthost is not None and target.port == SUBMISSION_TLS_PORT


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False
