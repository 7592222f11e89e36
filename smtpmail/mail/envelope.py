"""What travels with a message: who sent it, to whom, by which ways, from which peer."""

from __future__ import annotations

import ipaddress
import os
import time
from dataclasses import dataclass, field
from random import Random

from smtpmail.mail.address import Address
from smtpmail.mail.route import Local, Remote, Route

_random = Random()  # seeded by the system, again in each process
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A name for a message: unique over processes and hosts, sorted by time when sorted as text."""
    return f"{time.time_ns() // 1000:014x}{_random.getrandbits(20):05x}"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is connected: its address and port, and the kind of listener it reached."""

    address: str
    port: int
    listener: str
    """`loopback`, `network` or `submission`."""
    uid: int | None = None
    """The account of this host at the other end, where it is known."""

    @property
    def name(self) -> str:
        """As it stands in the log."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def networks(self) -> tuple[str, ...]:
        """What counts as one client for the limits: an IPv4 address; an IPv6 /64 (a network) and a /48 (a site)."""
        if ":" not in self.address:
            return (self.address,)
        address = self.address.partition("%")[0]
        return tuple(str(ipaddress.IPv6Network((address, length), strict=False)) for length in (64, 48))

    @property
    def is_ours(self) -> bool:
        """Whether it may send to the world: a program of this host, or a device of a user."""
        return self.listener in ("loopback", "submission")

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this host, by its address."""
        return ipaddress.ip_address(self.address.partition("%")[0]).is_loopback


@dataclass(frozen=True, slots=True)
class Recipient:
    """A forward-path that was accepted, the ways its mail takes, and its DSN parameters (RFC 3461 4.1, 4.2)."""

    address: Address
    routes: tuple[Route, ...]
    notify: tuple[str, ...] = ()
    """NEVER, or any of SUCCESS, FAILURE, DELAY; empty when not given."""
    orcpt: str | None = None
    """`addr-type;xtext` as given."""

    @property
    def is_local(self) -> bool:
        """Whether a copy goes into a mailbox of this host."""
        return any(isinstance(route, Local) for route in self.routes)


@dataclass(slots=True)
class Envelope:
    """One mail transaction (RFC 5321 2.3.1), or a message that this server writes itself (then without a peer)."""

    sender: Address
    peer: Peer | None = None
    helo: str = ""
    """The argument of HELO or EHLO."""
    esmtp: bool = False
    tls: str | None = None
    """Version and cipher, None without TLS."""
    size: int | None = None
    """Octets the client declared (RFC 1870)."""
    body: str | None = None
    """7BIT or 8BITMIME (RFC 6152), None when not given."""
    smtputf8: bool = False
    requiretls: bool = False
    """Only over verified TLS, at every hop (RFC 8689)."""
    ret: str | None = None
    """FULL or HDRS (RFC 3461 4.3)."""
    envid: str | None = None
    """As given: xtext (RFC 3461 4.4)."""
    user: str | None = None
    """Who has sent it, known by a password (RFC 4954)."""
    bounce_of: str | None = None
    """The id of the message that this one reports about."""
    recipients: list[Recipient] = field(default_factory=list)
    id: str = field(default_factory=new_id)

    @property
    def mailboxes(self) -> dict[str, list[Recipient]]:
        """The users who get a copy, each with the recipients that lead there: one copy a mailbox."""
        found: dict[str, list[Recipient]] = {}
        for recipient in self.recipients:
            for route in recipient.routes:
                if isinstance(route, Local):
                    found.setdefault(route.user, []).append(recipient)
        return found

    def sender_for(self, user: str, recipients: list[Recipient]) -> Address:
        """The envelope sender of a user's copy: the owner of a list, unless the message came to them otherwise, too."""
        routes = [w for r in recipients for w in r.routes if isinstance(w, Local) and w.user == user]
        owners = [route.sender for route in routes if route.sender is not None]
        return owners[0] if owners and len(owners) == len(routes) else self.sender

    @property
    def remote(self) -> list[tuple[Recipient, Remote]]:
        """The recipients elsewhere, each with the way that its copy takes."""
        return [(r, route) for r in self.recipients for route in r.routes if isinstance(route, Remote)]
