"""The one place where the parts are put together, for the server, its commands and tests alike."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

from smtpmail import __version__
from smtpmail.accept import Accept, Accepted, reply_to
from smtpmail.auth.inspector import ExemptionsFile, Inspector
from smtpmail.auth.signing import Signer
from smtpmail.bouncer import Bouncer
from smtpmail.dns.resolver import Resolver
from smtpmail.inbound.accounts import Rates
from smtpmail.inbound.gate import Check, Gate
from smtpmail.log import log
from smtpmail.mail.address import NULL_PATH, Address, AddressSyntaxError
from smtpmail.mail.envelope import Envelope
from smtpmail.mail.queued import Item
from smtpmail.mail.route import Local, Route
from smtpmail.network import IPAddress, is_own_address
from smtpmail.outbound.client import Credentials, Timeouts
from smtpmail.outbound.content import Sign
from smtpmail.outbound.courier import Courier
from smtpmail.outbound.destinations import Destinations
from smtpmail.outbound.runner import Runner
from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal
from smtpmail.spool import durability
from smtpmail.spool.heartbeat import Heartbeat
from smtpmail.spool.mailbox import MAX_STORED, Spool
from smtpmail.spool.patience import Unresponsive
from smtpmail.spool.queue import QueueStore
from smtpmail.spool.turns import Turns
from smtpmail.users.aliases import Aliases, AliasesUnreadable
from smtpmail.users.blocked import BlockedFile
from smtpmail.users.forwarding import Forwarding
from smtpmail.users.own import Missing, Own
from smtpmail.users.routing import LocalDomains, Router
from smtpmail.users.users import Users, UsersUnreadable

if TYPE_CHECKING:
    from smtpmail.inbound.admission import Admission
    from smtpmail.inbound.doors import Doors
    from smtpmail.inbound.guard import FailedLogins, Gatekeeper, Submitter
    from smtpmail.mail.envelope import Peer
    from smtpmail.metrics.service import Service


class MailSystem:
    """What every process of the server shares in kind: users, mailboxes, the queue's folder, the door.

    `queued` is told of each message that waits to leave. `journal`: the number of the process, if it is to have one.
    `queue`: the folder as the process that runs it has claimed it. `failed_logins`: those of all processes together.
    `turns`: of the processes, where there is no journal to bring them.
    """

    def __init__(
        self,
        config: Config,
        queued: Callable[[Item], None],
        journal: int | None = None,
        queue: QueueStore | None = None,
        failed_logins: FailedLogins | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.config = config
        self._failed_logins = failed_logins
        self.users = Users(config.users, _users_changed)
        self.spool = Spool(config.spool, shared=config.is_shared)
        self.queue = queue or queue_store(config)
        self.journal = (
            durability.use_journal(self.spool, self.queue, journal, config.journal_size)
            if journal is not None
            else None
        )
        if turns is not None:
            self.spool.turns = turns
        self._is_local = is_local = local_domains(config)
        # Bounces come to any of the hosts that share the mailboxes.
        keys = config.spool if config.is_shared else config.queue
        forwarding = Forwarding(keys, config.origin, is_local)
        self.aliases = Aliases(config.aliases, _aliases_changed) if config.aliases else None
        self.blocked = BlockedFile(config.blocked, _blocked_changed) if config.blocked else None
        missing = Missing() if config.is_shared else None
        self.routers = {
            kind: Router(
                is_local,
                self.users,
                may_relay=kind != "network",
                aliases=self.aliases,
                forwarding=forwarding,
                own=partial(own_of, config, missing=missing),
            )
            for kind in ("loopback", "network", "submission")
        }
        self._queued = queued
        self.inspector = inspector(config)
        self.accept = Accept(
            self.spool, self.queue, config.hostname, self._announce, rewrite=forwarding.rewrite, origin=config.origin,
            min_free=config.min_free,
            inspector=self.inspector,
        )  # fmt: skip
        self.bouncer = Bouncer(self.accept, self.routers["loopback"].routes, config.hostname)

    def _announce(self, accepted: Accepted) -> None:
        for item in accepted.queued:
            self._queued(item)
        self.bouncer.delivered(accepted)

    @cached_property
    def gatekeeper(self) -> Gatekeeper | None:
        """Who decides about the passwords of devices; None when there are none."""
        if not self.config.devices:
            return None
        from smtpmail.inbound.guard import Gatekeeper  # noqa: PLC0415
        from smtpmail.users.devices import Devices  # noqa: PLC0415

        return Gatekeeper(
            Devices(self.config.devices), self.config.domains, exists=self.is_user, failures=self._failed_logins
        )

    def submitter(self, peer: Peer) -> Submitter:
        """Who decides as whom a client of the submission port may send."""
        from smtpmail.inbound.guard import Submitter  # noqa: PLC0415

        assert self.gatekeeper is not None
        return Submitter(self.gatekeeper, peer, self.routers["loopback"].routes)

    def is_user(self, name: str) -> bool:
        """Whether there is a user of this name, with a mailbox of their own."""
        try:
            return self.users.mailbox(name) == name
        except UsersUnreadable:
            return False

    def doors(self, sockets: Sequence[tuple[str, socket.socket]], admission: Callable[[], Admission]) -> Doors | None:
        """The doors to the mailboxes; None when no socket is one's."""
        sockets = [(kind, sock) for kind, sock in sockets if kind in ("imap", "imap-socket")]
        if not sockets:
            return None
        from smtpmail.inbound.doors import Doors  # noqa: PLC0415

        return Doors(self.config, sockets, admission(), self.spool, self.is_user, self.gatekeeper)

    def routes(self, listener: str, address: Address, sender: Address = NULL_PATH) -> tuple[Route, ...]:
        """The ways of mail for an address that comes in through a kind of listener. Raises Refusal.

        Also when no mailbox could take it: better known now than for all recipients together.
        """
        look = partial(self._look, listener, address, sender)
        user, _, _ = address.local.partition("+")
        try:
            routes, errors = self.spool.patiently(user, look) if self._is_here(address) else look()
        except Unresponsive as hang:
            log.error("mailbox.unavailable", recipient=str(address), error=str(hang))
            raise Refusal(reply_to(hang)) from None
        broken = [error for error in errors if error is not None]
        for error in broken:
            log.error("mailbox.unavailable", recipient=str(address), error=str(error))
        if broken and len(broken) == len(routes):
            raise Refusal(reply_to(broken[0]))
        return routes

    def _is_here(self, address: Address) -> bool:
        """Whether the ways of an address may lead past mailboxes."""
        with contextlib.suppress(AddressSyntaxError):
            return self._is_local(address.domain)
        return True

    def _look(self, listener: str, address: Address, sender: Address) -> tuple[tuple[Route, ...], list[OSError | None]]:
        """The ways, and for each why nothing can be delivered there. Raises Refusal."""
        routes = self.routers[listener].routes(address, sender)
        return routes, [self.spool.can_deliver(route.user) if isinstance(route, Local) else None for route in routes]

    def heartbeat(self) -> Heartbeat | None:
        """What proves to a watchdog that mail could be committed; None where only other hosts could cure what hangs."""
        if not self.config.is_shared:
            return self.spool.heartbeat()
        return None if self.config.is_queue_shared else Heartbeat(self.queue.path)

    def gates(self, rates: Rates | None = None) -> dict[str, Gate]:
        """What decides about transactions, for each kind of listener; `rates` bounds who sends to the world."""
        senders: list[Check] = [self._not_blocked]
        recipients: list[Check] = [_check_stored]
        gates = {kind: Gate(partial(self.routes, kind), senders, recipients) for kind in self.routers}
        if rates is not None:
            for kind in ("loopback", "submission"):
                routes = partial(self.routes, kind)
                gates[kind] = Gate(routes, [*senders, rates.message], [*recipients, rates.recipient])
        return gates

    def _not_blocked(self, envelope: Envelope) -> None:
        if self.blocked is not None and self.blocked.has(envelope.sender):
            raise Refusal(replies.SENDER_BLOCKED)

    def start(self) -> None:
        """What goes on in the background."""
        if self.journal is not None:
            self.journal.start()

    def stop(self) -> None:
        """Leaves nothing in the journal, when no message comes any more."""
        if self.journal is not None:
            self.journal.stop()

    def read_users(self) -> bool:
        """Reads users and aliases again, and whether that went well; what can't be read is said in the log."""
        whole = True
        if self.aliases is not None:
            try:
                self.aliases.table()
            except AliasesUnreadable:
                whole = False  # the reading has told what is wrong
        with contextlib.suppress(UsersUnreadable):
            self.users.reload()
            return whole
        log.error("users.unreadable", file=self.config.users, hint="recipients get 451 until the file can be read")
        return False


def failed_logins(config: Config, processes: int) -> FailedLogins | None:
    """What the processes know together of those who guess passwords; None when there are no devices."""
    if not config.devices:
        return None
    from smtpmail.inbound.guard import FailedLogins  # noqa: PLC0415

    return FailedLogins(processes)


def _check_stored(envelope: Envelope) -> None:
    """Raises Refusal when one more copy of the announced size would be too much: the rest comes in another message."""
    size = envelope.size or 0
    if size * (len(envelope.recipients) + 1) <= MAX_STORED:
        return  # the usual case, without counting mailboxes
    copies = len(envelope.mailboxes)
    if copies and size * (copies + 1) > MAX_STORED:
        raise Refusal(replies.TOO_MANY_RECIPIENTS)


def _users_changed(count: int, complaints: list[str]) -> None:
    log.info("users.read", count=count)
    if not count:
        log.error("users.empty", hint="recipients get 451 until the file names a user")
    for complaint in complaints:
        log.warning("users.line_ignored", complaint=complaint)


def queue_store(config: Config) -> QueueStore:
    """The folder of the queue."""
    return QueueStore(config.queue, shared=config.is_queue_shared)


def local_domains(config: Config) -> LocalDomains:
    """The domains of the settings, and the names by which programs of this host know it."""
    return LocalDomains([*config.domains, config.hostname, "localhost"], is_own_address)


def own_of(config: Config, user: str, missing: Missing | None = None) -> Own:
    """What a user decides about their mail."""
    return Own(os.path.join(config.spool, user), missing)


def _aliases_changed(count: int, complaints: list[str]) -> None:
    log.info("aliases.read", count=count)
    for complaint in complaints:
        log.error("aliases.broken", complaint=complaint, hint="what was good before stays in use")


def _blocked_changed(count: int, complaints: list[str]) -> None:
    log.info("blocked.read", count=count)
    for complaint in complaints:
        log.warning("blocked.line_ignored", complaint=complaint)


def metrics(config: Config, queue: QueueStore) -> Service | None:
    """What counts the events of the log, if it is asked for. Raises ConfigError for want of a socket."""
    if config.metrics is None:
        return None
    # Loaded only here: a server without metrics does without their memory.
    from smtpmail.metrics.families import arrival  # noqa: PLC0415
    from smtpmail.metrics.service import Service  # noqa: PLC0415

    def gauges() -> dict[str, float]:
        ids = queue.ids()
        oldest = next(filter(None, map(arrival, ids)), None)
        age = max(time.time() - oldest, 0.0) if oldest else 0.0
        return {"smtpmail_queue_messages": len(ids), "smtpmail_queue_oldest_seconds": age}

    where = config.metrics
    address = where if isinstance(where, str) else (where.host, where.port or 0)
    try:
        return Service(address, config.processes, gauges, __version__)
    except OSError as error:
        raise ConfigError(f"--metrics: cannot listen on {where}: {error.strerror or error}") from None


def inspector(config: Config) -> Inspector:
    """What verifies and signs, as the settings say."""
    resolver = Resolver(config.resolver)
    signer = (
        Signer(config.dkim_keys, config.domains, config.hostname, required=config.dkim_required)
        if config.dkim_keys
        else None
    )
    return Inspector(
        config.hostname,
        signer,
        config.verify,
        config.verify_timeout,
        lambda name, kind: resolver.lookup(name, kind, patience=config.verify_timeout),
        ExemptionsFile(config.verify_exempt),
    )


def runner(
    config: Config, queue: QueueStore, receives: Callable[[IPAddress, int], bool], sign: Sign | None = None
) -> Runner:
    """What moves the queue. `receives` tells whether a connection to an address and port would come in here.

    `sign` signs what must be converted for a server anew.
    """
    return Runner(
        queue,
        courier(config, receives, sign),
        config.retry_policy,
        max_workers=config.max_deliveries,
        max_per_destination=config.max_deliveries_per_destination,
    )


def courier(config: Config, receives: Callable[[IPAddress, int], bool], sign: Sign | None = None) -> Courier:
    """The way out that the settings describe."""

    def credentials() -> Credentials | None:
        return Credentials(*config.read_smarthost_auth()) if config.smarthost_auth else None

    return Courier(
        Destinations(
            Resolver(config.resolver),
            config.hostname,
            receives,
            family=config.address_family,
            private=config.private_network,
        ),
        config.hostname,
        Timeouts(config.connect_timeout, config.reply_timeout),
        config.smarthost,
        credentials,
        sources={ipaddress.ip_address(address).version: address for address in config.bind_address},
        sign=sign,
    )
