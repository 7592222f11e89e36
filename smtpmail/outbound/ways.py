"""Which hosts a message may be taken to, how they are connected to, and what their replies mean."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from smtpmail.log import log
from smtpmail.mail.queued import Item
from smtpmail.outbound import tls
from smtpmail.outbound.channel import SessionFailed, TLSFailed
from smtpmail.outbound.client import Client, Credentials, MessageRefused, Timeouts
from smtpmail.outbound.kept import Kept
from smtpmail.outbound.mailhost import SMTP_PORT, MailHost, RoutingError
from smtpmail.outbound.outcome import Finality, Outcome
from smtpmail.outbound.tls import Protection
from smtpmail.settings.values import ConfigError, Endpoint
from smtpmail.smtp.reply_reader import ServerReply

MESSAGES_PER_CONNECTION = 100
SUBMISSION_TLS_PORT = 465

FAMILY_SECONDS = 86400.0
"""A destination that refused this host's address over one family is tried over the other first for this long."""

FAMILY_ENTRIES = 1000

# What servers say to an address without reverse DNS, above all over IPv6, or that they think ill of: RFC 7372, and the
# words of Postfix, Exim and large providers.
_ADDRESS_STATUS = re.compile(r"[45]\.7\.(23|25|26|27)")
_ADDRESS_WORDS = re.compile(
    r"\bPTR\b|\brDNS\b|reverse[ -]?(DNS|lookup|hostname|mapping|record|resolution|name)|\bIPv[46]\b"
    r"|\bSPF\b|client host|(find|resolve|verify) your (IP|host|address)|sending (IP|MTA)|\bsender IP\b",
    re.IGNORECASE,
)
_TLS_WORDS = re.compile(r"STARTTLS|\b(TLS|SSL|encrypt\w*|secure(d)? connection)\b", re.IGNORECASE)


class Finder(Protocol):
    """Finds hosts: outbound/destinations.py."""

    def hosts(self, domain: str, *, stranger: bool = False) -> Iterator[MailHost]: ...

    def named(self, name: str, port: int) -> list[MailHost]: ...


class Ways:
    """By MX, or through the smarthost. `sources`: the address to connect from, by IP version."""

    def __init__(
        self,
        destinations: Finder,
        hostname: str,
        smarthost: Endpoint | None = None,
        credentials: Callable[[], Credentials | None] = lambda: None,
        sources: Mapping[int, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._destinations = destinations
        self._hostname = hostname
        self._smarthost = smarthost
        self._credentials = credentials
        self._sources = sources or {}
        self._clock = clock
        self._tls = tls.Policy(clock)
        self._shunned: dict[str, tuple[bool, float]] = {}
        """Destinations that refuse this host over IPv6 (true) or IPv4, and until when that is believed."""
        self.stopping = False
        """No further host is tried."""

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
