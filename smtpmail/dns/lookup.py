"""DNS questions as the admin commands ask them: values in zone-file form, errors as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver

from smtpmail.admin.dns_records import Address, absolute
from smtpmail.settings.values import Endpoint

TIMEOUT = 5.0
"""Seconds for an answer, with all attempts."""

Lookup = Callable[[str, str], list[str]]
"""The values of a name and type; [] when there is none. Raises LookupFailed."""


class LookupFailed(Exception):
    """There was no answer, not even that there is none: one line for people."""


def make_resolver(servers: Sequence[Endpoint]) -> dns.resolver.Resolver:
    """A resolver that asks these servers, or those of /etc/resolv.conf. Raises LookupFailed."""
    try:
        resolver = dns.resolver.Resolver(configure=not servers)
    except dns.exception.DNSException as error:
        raise LookupFailed(f"/etc/resolv.conf: {error}") from None
    if servers:
        resolver.nameservers = [server.host for server in servers]
        resolver.nameserver_ports = {server.host: server.port or 53 for server in servers}
    resolver.lifetime = TIMEOUT
    return resolver


def through(resolver: dns.resolver.Resolver) -> Lookup:
    """Look-ups through a resolver."""

    def lookup(name: str, kind: str) -> list[str]:
        try:
            answer = resolver.resolve(name, kind, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.exception.DNSException as error:
            raise LookupFailed(f"{name} {kind}: {' '.join(str(error).split())}") from None
        return [rdata.to_text() for rdata in answer]

    return lookup


def ask(server: Address, name: str, kind: str) -> list[str]:
    """The values that one server has, asked over TCP without recursion. Raises LookupFailed."""
    query = dns.message.make_query(name, kind)
    query.flags &= ~dns.flags.RD
    try:
        response = dns.query.tcp(query, str(server), timeout=TIMEOUT)
    except (OSError, dns.exception.DNSException) as error:
        raise LookupFailed(f"{server} does not answer for {name}: {error}") from None
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise LookupFailed(f"{server} answers {dns.rcode.to_text(response.rcode())} for {name}")
    kinds = (dns.rdatatype.from_text(kind), dns.rdatatype.CNAME)
    return [
        rdata.to_text() if rrset.rdtype != dns.rdatatype.CNAME else f"CNAME {rdata.to_text()}"
        for rrset in response.answer
        if rrset.rdtype in kinds and rrset.name == query.question[0].name
        for rdata in rrset
    ]


def zone_of(name: str, resolver: dns.resolver.Resolver) -> str:
    """The zone that a name lies in. Raises LookupFailed."""
    try:
        return dns.resolver.zone_for_name(dns.name.from_text(name), resolver=resolver).to_text()
    except dns.exception.DNSException as error:
        raise LookupFailed(f"{name}: its zone is not to be found: {' '.join(str(error).split())}") from None


def addresses(name: str, lookup: Lookup) -> list[str]:
    """The IPv4 and IPv6 addresses of a name. Raises LookupFailed."""
    return lookup(name, "A") + lookup(name, "AAAA")


def has_cname(name: str, lookup: Lookup) -> bool:
    """Whether a name is an alias."""
    with contextlib.suppress(LookupFailed):
        return bool(lookup(absolute(name), "CNAME"))
    return False
