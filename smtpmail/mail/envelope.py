"""What travels with a message: who sent it, to whom, from which client; and the trace header made of it."""

from __future__ import annotations

import ipaddress
import os
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from random import Random

from smtpmail.mail.address import Address, literal

_random = Random()  # seeded by the system, again in each process
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A name for a message: unique over processes and hosts, sorted by time when sorted as text."""
    return f"{time.time_ns() // 1000:014x}{_random.getrandbits(20):05x}"


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    """The date-time of RFC 5322 3.3 in local time."""
    return formatdate(second, localtime=True)


@dataclass(frozen=True, slots=True)
class Client:
    """Who is connected: its address and port, and the kind of listener it reached."""

    address: str
    port: int
    listener: str
    """`loopback` or `network`."""

    @property
    def name(self) -> str:
        """As it stands in the log."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def key(self) -> str:
        """What counts as one client for the limits: an IPv4 address, an IPv6 /64 (one customer's network)."""
        if ":" not in self.address:
            return self.address
        return str(ipaddress.IPv6Network((self.address.partition("%")[0], 64), strict=False))


@dataclass(frozen=True, slots=True)
class Recipient:
    """A forward-path that was accepted, and its DSN parameters (RFC 3461 4.1, 4.2)."""

    address: Address
    user: str | None
    """The local user whose mailbox it is, None for a recipient elsewhere."""
    notify: tuple[str, ...] = ()
    """NEVER, or any of SUCCESS, FAILURE, DELAY; empty when not given."""
    orcpt: str | None = None
    """`addr-type;xtext` as given."""


@dataclass(slots=True)
class Envelope:
    """One mail transaction (RFC 5321 2.3.1)."""

    sender: Address
    client: Client
    helo: str
    """The argument of HELO or EHLO."""
    esmtp: bool
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
    recipients: list[Recipient] = field(default_factory=list)
    id: str = field(default_factory=new_id)

    @property
    def local(self) -> list[Recipient]:
        return [r for r in self.recipients if r.user is not None]

    @property
    def remote(self) -> list[Recipient]:
        return [r for r in self.recipients if r.user is None]

    def protocol(self) -> str:
        """The word behind `with` (RFC 3848, RFC 6531 4.3)."""
        if self.smtputf8:
            return "UTF8SMTPS" if self.tls else "UTF8SMTP"
        if not self.esmtp:
            return "SMTP"
        return "ESMTPS" if self.tls else "ESMTP"

    def received(self, hostname: str, now: float) -> str:
        """The Received field (RFC 5321 4.4) with LF line ends.

        A single recipient is named in it; several are not, so that nobody learns of another (RFC 5321 7.2).
        """
        tls = f" ({self.tls})" if self.tls else ""
        only = f"\n\tfor <{self.recipients[0].address}>" if len(self.recipients) == 1 else ""
        address = self.client.address.partition("%")[0]
        return (
            f"Received: from {self.helo} ({literal(address)})\n"
            f"\tby {hostname} with {self.protocol()}{tls} id {self.id}{only};\n"
            f"\t{_date(int(now))}\n"
        )

    def delivery_header(self, recipient: Recipient) -> str:
        """What final delivery puts before the Received field (RFC 5321 4.4: Return-Path; Delivered-To, Postfix)."""
        return f"Return-Path: <{self.sender}>\nDelivered-To: {recipient.address}\n"
