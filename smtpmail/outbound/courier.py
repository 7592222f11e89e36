"""Takes one message to one destination: tries its hosts in order until every recipient has a final word."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO

from smtpmail.mail.address import AddressSyntaxError, normal_domain
from smtpmail.mail.queued import Item
from smtpmail.outbound.channel import LoopsBack, SessionFailed
from smtpmail.outbound.client import Client, Credentials, MessageRefused, Timeouts
from smtpmail.outbound.content import Content, Sign
from smtpmail.outbound.kept import Kept
from smtpmail.outbound.mailhost import MailHost, RoutingError
from smtpmail.outbound.outcome import Finality, Outcome
from smtpmail.outbound.ways import Finder, Ways
from smtpmail.settings.values import Endpoint
from smtpmail.smtp.reply_reader import ServerReply

MOST_ADDRESSES = 5
"""Addresses that are tried in one attempt (Postfix: smtp_mx_address_limit), ..."""

MOST_OF_ONE_FAMILY = 4
"""... of which so many are of one family when the other is there, too."""

MOST_SESSIONS = 2
"""Hosts that are talked to as far as to a mail transaction (Postfix: smtp_mx_session_limit)."""

HURRIED_CONNECT = 2.0
HURRIED_GREETING = 20.0
"""Patience with a host while others wait for their turn, ..."""

HURRIED_SEARCH = 3.0
"""... after which no further host is tried."""

Said = Callable[[Mapping[int, Outcome]], None]


class Courier:
    """Knows where recipients' mail goes, and takes it there; see Ways for the parameters."""

    def __init__(
        self,
        destinations: Finder,
        hostname: str,
        timeouts: Timeouts,
        smarthost: Endpoint | None = None,
        credentials: Callable[[], Credentials | None] = lambda: None,
        sources: Mapping[int, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sign: Sign | None = None,
    ) -> None:
        """`sign`: signs what must leave in another form than that in which it was signed."""
        self._sign = sign
        self._timeouts = timeouts
        self._smarthost = smarthost
        self._ways = Ways(destinations, hostname, smarthost, credentials, sources, clock)

    def stop(self) -> None:
        """No further host is tried."""
        self._ways.stopping = True

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
        attempt = _Attempt(
            self._ways, kept, item, Content(file, item, self._sign), said, self._timeouts, hurried=hurried
        )
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


class _Attempt:
    """One message, one destination, one attempt."""

    def __init__(
        self, ways: Ways, kept: Kept, item: Item, content: Content, said: Said, timeouts: Timeouts, *, hurried: bool
    ) -> None:
        self._search_seconds = timeouts.reply
        if hurried:
            connect, greeting = min(timeouts.connect, HURRIED_CONNECT), min(timeouts.reply, HURRIED_GREETING)
            timeouts = Timeouts(connect, timeouts.reply, greeting)
            self._search_seconds = min(timeouts.reply, HURRIED_SEARCH)
        self._ways = ways
        self._kept = kept
        self._item = item
        self._content = content
        self._said = said
        self._timeouts = timeouts
        self._outcomes: dict[int, Outcome] = {}
        self._sessions = 0
        """How many hosts were talked to as far as to a transaction."""
        self._no_route = 0
        """How many addresses are of an IP version that this host does not have: they count for nothing."""

    def run(self, recipients: Sequence[int]) -> dict[int, Outcome]:
        """Tries one host after the other, as long as there is a recipient for whom it makes sense."""
        give_up = time.monotonic() + self._search_seconds
        tried: set[tuple[str, int]] = set()
        of_family = {True: 0, False: 0}
        hosts = self._ways.hosts(self._item, self._kept)
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
                if not self._open(recipients) or self._ways.stopping or time.monotonic() > give_up:
                    break
                if sum(of_family.values()) - self._no_route >= MOST_ADDRESSES or self._sessions >= MOST_SESSIONS:
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
            client = self._ways.connect(kept, host, self._item, self._timeouts)
            now = recipients[: client.room]
            try:
                replies = self._send(client, now)
            except SessionFailed as error:
                if client.messages == 0 or error.uncertain:
                    raise
                # The server closed a connection that had been kept idle: that says nothing about the message.
                kept.drop()
                client = self._ways.connect(kept, host, self._item, self._timeouts)
                now = recipients[: client.room]
                replies = self._send(client, now)
            self._sessions += 1
        except SessionFailed as error:
            self._sessions += error.connected
            self._no_route += error.no_route
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
                outcomes[n] = self._ways.outcome(reply, kept, host, client)
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
            self._ways.lost(host, client)
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
            outcomes[now[place]] = self._ways.outcome(reply, kept, host, client)
        kept.drop()
        return outcomes


def _of_family(hosts: Iterator[MailHost], *, ipv6: bool) -> Iterator[MailHost]:
    return (host for host in hosts if host.is_ipv6 == ipv6)
