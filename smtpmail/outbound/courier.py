"""Takes one message to one destination: tries its hosts in order until every recipient has a final word."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, Protocol

from smtpmail.log import log
from smtpmail.mail.address import AddressSyntaxError, normal_domain
from smtpmail.mail.queued import Item
from smtpmail.outbound import tls
from smtpmail.outbound.channel import LoopsBack, SessionFailed, TLSFailed
from smtpmail.outbound.client import Client, Credentials, MessageRefused, Timeouts
from smtpmail.outbound.content import Content
from smtpmail.outbound.mailhost import SMTP_PORT, MailHost, RoutingError
from smtpmail.outbound.outcome import Finality, Outcome
from smtpmail.outbound.tls import Protection
from smtpmail.settings.values import ConfigError, Endpoint
from smtpmail.smtp.reply_reader import ServerReply

MESSAGES_PER_CONNECTION = 100
SUBMISSION_TLS_PORT = 465

MOST_ADDRESSES = 5
"""Addresses that are tried in one attempt (Postfix: smtp_mx_address_limit), ..."""

MOST_OF_ONE_FAMILY = 4
"""... of which so many are of one family when the other is there, too."""

MOST_SESSIONS = 2
"""Hosts that are talked to as far as to a mail transaction (Postfix: smtp_mx_session_limit)."""

FAMILY_SECONDS = 86400.0
"""A destination that refused this host's address over one family is tried over the other first for this long."""

FAMILY_ENTRIES = 1000

HURRIED_CONNECT = 4.0
HURRIED_GREETING = 20.0
"""Patience with a host while others wait for their turn."""

Said = Callable[[Mapping[int, Outcome]], None]

# What large providers say to an address without reverse DNS, above all over IPv6 (RFC 7372, and in words).
_ADDRESS_STATUS = re.compile(r"[45]\.7\.(23|25|26|27)")
_ADDRESS_WORDS = re.compile(
    r"\bPTR\b|\brDNS\b|reverse[ -]?(DNS|lookup|hostname|mapping|record|resolution|name)|\bIPv[46]\b", re.IGNORECASE
)
_TLS_WORDS = re.compile(r"STARTTLS|\b(TLS|SSL|encrypt\w*|secure(d)? connection)\b", re.IGNORECASE)


class Kept:
    """A worker's connection to a destination, kept from message to message."""

    def __init__(self, destination: str) -> None:
        self.destination = destination
        self.client: Client | None = None
        self.fallback = False
        """It is in clear text because TLS failed."""

    @property
    def is_open(self) -> bool:
        return self.client is not None

    @property
    def sending(self) -> bool:
        """Whether content is on its way."""
        client = self.client
        return client is not None and client.sending

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


class Finder(Protocol):
    """Finds hosts: outbound/destinations.py."""

    def hosts(self, domain: str, *, stranger: bool = False) -> Iterator[MailHost]: ...

    def named(self, name: str, port: int) -> list[MailHost]: ...


class Courier:
    """Knows the ways out: by MX, or through the smarthost. `sources`: the address to connect from, by IP version."""

    def __init__(
        self,
        destinations: Finder,
        hostname: str,
        timeouts: Timeouts,
        smarthost: Endpoint | None = None,
        credentials: Callable[[], Credentials | None] = lambda: None,
        sources: Mapping[int, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._destinations = destinations
        self._hostname = hostname
        self._timeouts = timeouts
        self._smarthost = smarthost
        self._credentials = credentials
        self._sources = sources or {}
        self._clock = clock
        self._tls = tls.Policy(clock)
        self._shunned: dict[str, tuple[bool, float]] = {}
        """Destinations that refuse this host over IPv6 (true) or IPv4, and until when that is believed."""
        self.stopping = False
        """No further host is tried."""

    def destination(self, address: str) -> str:
        """What recipients must share to go out together."""
        if self._smarthost is not None:
            return str(self._smarthost)
        domain = address.rpartition("@")[2]
        with contextlib.suppress(AddressSyntaxError):
            return normal_domain(domain)
        return domain.lower()

    def deliver(
        self,
        kept: Kept,
        item: Item,
        recipients: Sequence[int],
        file: IO[bytes],
        said: Said = lambda outcomes: None,
        *,
        hurried: bool = False,
    ) -> dict[int, Outcome]:
        """One attempt for these recipients of a message; each gets an outcome.

        `said` is told of every final word as soon as it was said. `hurried`: others wait, patience is short.
        """
        attempt = _Attempt(self, kept, item, Content(file, item), said, self._hurried() if hurried else self._timeouts)
        try:
            outcomes = attempt.run(recipients)
        except BaseException:
            # In the middle of something: the next message may not go on from there.
            kept.drop()
            raise
        if any(o.finality is not Finality.UNREACHABLE for o in outcomes.values()):
            # It was reached for one of them: that says something about the others, not about the destination.
            return {
                n: replace(o, finality=Finality.LATER) if o.finality is Finality.UNREACHABLE else o
                for n, o in outcomes.items()
            }
        return outcomes

    def _hurried(self) -> Timeouts:
        patience = self._timeouts
        return Timeouts(min(patience.connect, HURRIED_CONNECT), patience.reply, min(patience.reply, HURRIED_GREETING))

    def hosts(self, item: Item, kept: Kept) -> Iterator[MailHost]:
        """The hosts to try, in order; one that is connected already comes first. Raises RoutingError."""
        if kept.client is not None:
            yield kept.client.host
        if self._smarthost is not None:
            host, port = self._smarthost.host, self._smarthost.port or SMTP_PORT
            try:
                yield from self._destinations.named(host, port)
            except RoutingError as error:
                # The smarthost is a setting: a mistake in it may not bounce everybody's mail.
                raise RoutingError(False, "4.4.4", f"smarthost {host}: {error}") from None
            return
        found = self._destinations.hosts(kept.destination, stranger=item.from_stranger)
        ipv6, until = self._shunned.get(kept.destination, (False, 0.0))
        yield from found if until < self._clock() else sorted(found, key=lambda host: host.is_ipv6 == ipv6)

    def shun(self, destination: str, host: MailHost) -> None:
        """A destination refuses this host's address of that family."""
        if len(self._shunned) >= FAMILY_ENTRIES:
            self._shunned.clear()
        self._shunned[destination] = (host.is_ipv6, self._clock() + FAMILY_SECONDS)

    # -- connections

    def connect(self, kept: Kept, host: MailHost, item: Item, timeouts: Timeouts) -> Client:
        """The connection to a host: the one that is open, or a new one. Raises SessionFailed, MessageRefused."""
        credentials = self._password()
        key = (host.name, host.address)
        protection = self._tls.choose(key, requiretls=item.requiretls, credentials=credentials is not None)
        client = kept.client
        if client is not None:
            if client.host == host and protection.admits(client.reached) and client.messages < MESSAGES_PER_CONNECTION:
                return client
            kept.close()
        put_off = item.attempts > 0
        kept.fallback = protection.use is tls.Use.NEVER
        if protection.use is tls.Use.IF_OFFERED and self._tls.falls_back(key, put_off=put_off):
            protection, kept.fallback = tls.NONE, True
        while True:
            try:
                kept.client = self._open(host, protection, timeouts, credentials)
            except TLSFailed as error:
                if item.requiretls and error.lasting:
                    raise MessageRefused("5.7.30", f"REQUIRETLS: {error}") from None
                if credentials:
                    raise SessionFailed(f"{error}: no password is sent", status="4.7.0") from None
                weaker = self._tls.weaker(
                    protection, lasting=error.lasting, put_off=put_off and not self._implicit_tls(host)
                )
                if weaker is None:
                    raise
                kept.fallback = weaker.use is tls.Use.NEVER
                log.warning(
                    "delivery.tls_weakened",
                    mx=host.name,
                    address=host.address,
                    error=str(error),
                    now="clear text" if kept.fallback else "unverified",
                )
                protection = weaker
            else:
                return kept.client

    def _open(
        self, host: MailHost, protection: Protection, timeouts: Timeouts, credentials: Credentials | None
    ) -> Client:
        return Client.connect(
            host,
            self._hostname,
            timeouts,
            protection,
            source=self._sources.get(6 if host.is_ipv6 else 4),
            implicit_tls=self._implicit_tls(host),
            credentials=credentials,
        )

    def _password(self) -> Credentials | None:
        """What the smarthost wants to know. Raises SessionFailed when the file with it is not as it must be."""
        try:
            return self._credentials()
        except ConfigError as error:
            raise SessionFailed(str(error), status="4.7.0") from None

    def _implicit_tls(self, host: MailHost) -> bool:
        return self._smarthost is not None and host.port == SUBMISSION_TLS_PORT

    # -- what replies mean

    def outcome(self, reply: ServerReply, kept: Kept, host: MailHost, client: Client | None = None) -> Outcome:
        """What a reply makes of a recipient."""
        key = (host.name, host.address)
        finality = Finality.FINAL if reply.positive or reply.permanent else Finality.LATER
        for_address = False
        if reply.positive:
            self._tls.delivered(key, client.reached if client else None, fallback=kept.fallback)
        elif client is not None and client.reached is None and self._about_clear_text(reply, client, kept, key):
            # It says nothing about the message: TLS has its turn again.
            self._tls.refused_clear_text(key)
            finality = Finality.LATER
        elif self._smarthost is None and self._about_address(reply):
            self.shun(kept.destination, host)
            for_address = True
            finality = Finality.UNFIT if reply.permanent else Finality.LATER
        reached = client.reached if client else None
        return Outcome(
            finality,
            reply.status,
            str(reply),
            host.name,
            host.address,
            str(reached) if reached else None,
            delivered=reply.positive,
            dsn=client is not None and "DSN" in client.extensions,
            for_address=for_address,
        )

    def _about_clear_text(self, reply: ServerReply, client: Client, kept: Kept, key: tuple[str, str]) -> bool:
        """Whether a refusal may be for the want of TLS."""
        if not reply.permanent:
            return False
        speaks_of_it = reply.code == 530 or _TLS_WORDS.search(str(reply)) is not None
        if not client.offers_tls:
            return speaks_of_it and _TLS_WORDS.search(str(reply)) is not None
        return speaks_of_it or (kept.fallback and not self._tls.proven(key))

    @staticmethod
    def _about_address(reply: ServerReply) -> bool:
        """Whether a refusal is for the address that this host connects from, not for the message."""
        if reply.positive:
            return False
        text = str(reply)
        if _ADDRESS_STATUS.fullmatch(reply.status):
            return True
        return (reply.enhanced or "x.7")[1:3] == ".7" and _ADDRESS_WORDS.search(text) is not None

    def lost(self, host: MailHost, client: Client | None) -> None:
        """A session ended before its time."""
        if client is not None and client.reached is not None:
            self._tls.lost((host.name, host.address))


class _Attempt:
    """One message, one destination, one attempt."""

    def __init__(
        self, courier: Courier, kept: Kept, item: Item, content: Content, said: Said, timeouts: Timeouts
    ) -> None:
        self._courier = courier
        self._kept = kept
        self._item = item
        self._content = content
        self._said = said
        self._timeouts = timeouts
        self._outcomes: dict[int, Outcome] = {}
        self._sessions = 0
        """How many hosts were talked to as far as to a transaction."""

    def run(self, recipients: Sequence[int]) -> dict[int, Outcome]:
        """Tries one host after the other, as long as there is a recipient for whom it makes sense."""
        courier = self._courier
        give_up = time.monotonic() + self._timeouts.reply
        tried: set[tuple[str, int]] = set()
        of_family = {True: 0, False: 0}
        hosts = courier.hosts(self._item, self._kept)
        try:
            while (host := next(hosts, None)) is not None:
                if (host.address, host.port) in tried or of_family[host.is_ipv6] >= MOST_OF_ONE_FAMILY:
                    continue
                tried.add((host.address, host.port))
                of_family[host.is_ipv6] += 1
                found = self._with_host(host, self._open(recipients))
                self._note(found)
                if any(o.for_address for o in found.values()):
                    hosts = _of_family(hosts, ipv6=not host.is_ipv6)
                if not self._open(recipients) or courier.stopping or time.monotonic() > give_up:
                    break
                if sum(of_family.values()) >= MOST_ADDRESSES or self._sessions >= MOST_SESSIONS:
                    break
        except RoutingError as error:
            if error.permanent:
                outcome = Outcome(Finality.FINAL, error.status, str(error))
            else:
                outcome = Outcome(Finality.UNREACHABLE, error.status, str(error))
            self._note({n: outcome for n in recipients if n not in self._outcomes})
        nothing = Outcome(Finality.UNREACHABLE, "4.4.1", "no host could be tried now")
        return {n: self._outcomes.get(n, nothing) for n in recipients}

    def _open(self, recipients: Sequence[int]) -> list[int]:
        return [n for n in recipients if n not in self._outcomes or self._outcomes[n].is_open]

    def _note(self, found: Mapping[int, Outcome]) -> None:
        """Believes the more final word; tells of those that are final at once."""
        for n, outcome in found.items():
            if n not in self._outcomes or outcome.finality >= self._outcomes[n].finality:
                self._outcomes[n] = outcome
        if final := {n: o for n, o in found.items() if o.finality >= Finality.UNCERTAIN}:
            self._said(final)

    def _with_host(self, host: MailHost, recipients: list[int]) -> dict[int, Outcome]:
        """As many transactions with one host as its room for recipients makes of it."""
        found: dict[int, Outcome] = {}
        left = recipients
        while left:
            some, later = self._transaction(host, left)
            left = later
            if later:
                self._note(some)
            found.update(some)
        return found

    def _transaction(self, host: MailHost, recipients: list[int]) -> tuple[dict[int, Outcome], list[int]]:
        """One transaction, on a connection kept or new: the outcomes, and who is to come in the next one."""
        kept = self._kept
        client: Client | None = None
        now = recipients
        try:
            client = self._courier.connect(kept, host, self._item, self._timeouts)
            now = recipients[: client.room]
            try:
                replies = self._send(client, now)
            except SessionFailed as error:
                if client.messages == 0 or error.uncertain:
                    raise
                # The server closed a connection that had been kept idle: that says nothing about the message.
                kept.drop()
                client = self._courier.connect(kept, host, self._item, self._timeouts)
                now = recipients[: client.room]
                replies = self._send(client, now)
            self._sessions += 1
        except SessionFailed as error:
            self._sessions += error.connected
            return self._failed(error, host, client, now, recipients), []
        except MessageRefused as error:
            outcome = Outcome(Finality.UNFIT, error.status, str(error), host.name, host.address)
            return dict.fromkeys(recipients, outcome), []
        return self._answered(client, host, now, replies, recipients)

    def _send(self, client: Client, numbers: Sequence[int]) -> list[ServerReply]:
        return client.send(self._item, [self._item.recipients[n] for n in numbers], self._content)

    def _answered(
        self, client: Client, host: MailHost, now: list[int], replies: list[ServerReply], recipients: list[int]
    ) -> tuple[dict[int, Outcome], list[int]]:
        kept = self._kept
        if not client.usable:
            kept.drop()
        crowded = [n for n, reply in zip(now, replies, strict=True) if reply.too_many_recipients]
        if crowded and len(crowded) < len(now):
            # RFC 5321 4.5.3.1.10: the next transaction has room for them.
            client.room = len(now) - len(crowded)
        else:
            crowded = []
        outcomes = {}
        for n, reply in zip(now, replies, strict=True):
            if n not in crowded:
                outcomes[n] = self._courier.outcome(reply, kept, host, client)
                if reply.too_many_recipients and reply.permanent:
                    outcomes[n] = replace(outcomes[n], finality=Finality.LATER)  # 552 stands for 452
        waiting = crowded + [n for n in recipients if n not in now]
        if not any(reply.positive or reply.permanent for reply in replies):
            # Nobody now: the rest need not ask.
            outcomes.update(dict.fromkeys(waiting, outcomes[now[0]]) if now[0] in outcomes else {})
            waiting = [n for n in waiting if n not in outcomes]
        return outcomes, waiting

    def _failed(
        self, error: SessionFailed, host: MailHost, client: Client | None, now: list[int], recipients: list[int]
    ) -> dict[int, Outcome]:
        kept = self._kept
        if error.reply is None:
            self._courier.lost(host, client)
        if error.uncertain:
            finality = Finality.UNCERTAIN
        elif error.connected:
            finality = Finality.LATER
        elif isinstance(error, LoopsBack):
            finality = Finality.UNFIT
        else:
            finality = Finality.UNREACHABLE
        status = "5.4.6" if finality is Finality.UNFIT else error.status
        failed = Outcome(finality, status, str(error), host.name, host.address, closing=error.connected)
        untouched = replace(failed, finality=Finality.LATER) if error.uncertain else failed
        outcomes = {n: failed if n in now else untouched for n in recipients}
        for place, reply in error.refusals.items():
            outcomes[now[place]] = self._courier.outcome(reply, kept, host, client)
        kept.drop()
        return outcomes


def _of_family(hosts: Iterator[MailHost], *, ipv6: bool) -> Iterator[MailHost]:
    return (host for host in hosts if host.is_ipv6 == ipv6)
