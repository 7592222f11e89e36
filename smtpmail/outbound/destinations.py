"""Where mail for a domain goes: its MX hosts and their addresses, in the order to be tried (RFC 5321 5.1)."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Callable, Sequence

import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from smtpmail.mail.address import AddressSyntaxError, normal_domain, parse_literal
from smtpmail.network import IPAddress
from smtpmail.outbound.target import SMTP_PORT, RoutingError, Target
from smtpmail.settings.values import Endpoint

QUERY_SECONDS = 3.0
"""Patience with one DNS server for one question, ..."""

LOOKUP_SECONDS = 12.0
"""... and with all of them."""

CACHE_ENTRIES = 5000


class Resolver:
    """Asks DNS; answers are kept for their TTL."""

    def __init__(
        self,
        servers: Sequence[Endpoint],
        hostname: str,
        receives: Callable[[IPAddress, int], bool],
    ) -> None:
        """`servers`: none means those of /etc/resolv.conf. `receives` tells whether an address and port is ours."""
        self._servers = servers
        self._hostname = hostname
        self._receives = receives
        self._lock = threading.Lock()
        self._dns: dns.resolver.Resolver | None = None

    def targets(self, domain: str) -> list[Target]:
        """All addresses of all hosts that take mail for `domain` (a name or a [literal]), in the order to be tried.

        Raises RoutingError: no such domain 5.1.2, it takes no mail 5.1.10 (RFC 7505), it is we ourselves 5.4.6,
        its hosts don't exist 5.4.4, DNS does not answer 4.4.3.
        """
        if domain.startswith("["):
            return self._literal(domain)
        try:
            domain = normal_domain(domain)
        except AddressSyntaxError as error:
            raise RoutingError(True, "5.1.2", str(error)) from None
        targets: list[tuple[int, Target]] = []
        last_resort: list[tuple[int, Target]] = []
        temporary: RoutingError | None = None
        ours: int | None = None
        for preference, host in self._exchanges(domain):
            if ours is not None and preference >= ours:
                break
            try:
                addresses, alias = ([], False) if host == self._hostname else self.addresses(host)
            except RoutingError as error:
                temporary = temporary if error.permanent else error
                continue
            if host == self._hostname or any(self._receives(ipaddress.ip_address(a), SMTP_PORT) for a in addresses):
                ours = preference
            else:
                (last_resort if alias else targets).extend((preference, Target(host, a)) for a in addresses)
        # An MX that is an alias breaks RFC 2181 10.3: only where there is no better one. Hosts that are no better
        # than we are send to us: they would make a loop (RFC 5321 5.1).
        for found in (targets, last_resort):
            if better := [target for preference, target in found if ours is None or preference < ours]:
                return better
        if temporary:
            raise temporary
        if ours is not None:
            raise RoutingError(True, "5.4.6", f"mail for {domain} loops back to this host, which does not serve it")
        raise RoutingError(True, "5.4.4", f"no host that takes mail for {domain} has an address")

    def addresses(self, host: str) -> tuple[list[str], bool]:
        """The IPv6 and IPv4 addresses of a host, and whether its name is an alias. Raises RoutingError."""
        found: list[str] = []
        alias = False
        failure: RoutingError | None = None
        for kind in (dns.rdatatype.AAAA, dns.rdatatype.A):
            try:
                answer = self._ask(host, kind)
            except RoutingError as error:
                failure = error if failure is None or not error.permanent else failure
                continue
            alias = alias or answer.canonical_name != dns.name.from_text(host)
            found += [str(record.address) for record in answer]
        if not found:
            raise failure or RoutingError(True, "5.4.4", f"{host} has no address")
        return found, alias

    def _literal(self, domain: str) -> list[Target]:
        try:
            address = parse_literal(domain)
        except AddressSyntaxError as error:
            raise RoutingError(True, "5.1.2", str(error)) from None
        if self._receives(address, SMTP_PORT):
            raise RoutingError(True, "5.4.6", f"{domain} is this host, which does not serve it")
        return [Target(domain, str(address))]

    def _exchanges(self, domain: str) -> list[tuple[int, str]]:
        """(preference, host), random among equals; without MX the domain itself (RFC 5321 5.1)."""
        try:
            answer = self._ask(domain, dns.rdatatype.MX)
        except RoutingError as error:
            if error.status == "5.4.4":  # the name exists, but has no MX
                return [(0, domain)]
            raise
        records = [(r.preference, r.exchange.to_text(omit_final_dot=True).lower()) for r in answer]
        if any(host in ("", ".") for _, host in records):
            if len(records) == 1:
                raise RoutingError(True, "5.1.10", f"{domain} takes no mail (null MX)")
            records = [(preference, host) for preference, host in records if host not in ("", ".")]
        random.shuffle(records)
        return sorted(records, key=lambda record: record[0])

    def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        try:
            return self._resolver().resolve(
                dns.name.from_text(name), kind, lifetime=LOOKUP_SECONDS, search=False, raise_on_no_answer=True
            )
        except dns.resolver.NXDOMAIN:
            raise RoutingError(True, "5.1.2", f"the domain {name} does not exist") from None
        except dns.resolver.NoAnswer:
            raise RoutingError(True, "5.4.4", f"{name} has no {dns.rdatatype.to_text(kind)} record") from None
        except (dns.exception.DNSException, OSError, ValueError) as error:
            # The library tells it again for each server and each try.
            text = " ".join(str(error).partition(";")[0].split()).removesuffix(".")
            raise RoutingError(False, "4.4.3", f"DNS does not answer for {name}: {text}") from None

    def _resolver(self) -> dns.resolver.Resolver:
        with self._lock:
            if self._dns is None:
                self._dns = dns.resolver.Resolver(configure=not self._servers)
                self._dns.cache = dns.resolver.LRUCache(CACHE_ENTRIES)
                self._dns.timeout = QUERY_SECONDS
                if self._servers:
                    self._dns.nameservers = [dns.nameserver.Do53Nameserver(s.host, s.port or 53) for s in self._servers]
            return self._dns
