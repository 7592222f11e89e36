"""Where mail for a domain goes: its MX hosts and their addresses, in the order to be tried (RFC 5321 5.1)."""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from smtpmail.dns.errors import DNSError, NoSuchName, NoSuchRecord, NotFound
from smtpmail.mail.address import AddressSyntaxError, normal_domain, parse_literal
from smtpmail.network import IPAddress, IPNetwork, is_loopback, is_public
from smtpmail.outbound.mailhost import SMTP_PORT, MailHost, RoutingError

MOST_HOSTS = 10
"""MX names of a domain that are looked up in one attempt."""

LOOKUPS_SECONDS = 30.0
"""No further MX name is looked up when the ones before have taken this long."""

SECOND_FAMILY_SECONDS = 3.0
"""Patience with the look-up of the other family when a host has an address already."""

HOSTS_FILE = "/etc/hosts"

FAMILIES = {"any": ("AAAA", "A"), "ipv4": ("A",), "ipv6": ("AAAA",)}
"""What is asked for with each --address-family, in the order to be tried."""


class Lookup(Protocol):
    """dns/resolver.py."""

    def lookup(self, name: str, kind: str, *, patience: float | None = None) -> Sequence[str]: ...


class Destinations:
    """Finds the hosts of a domain. `receives` tells whether an address and port leads to this server itself.

    `private` are the networks behind this host that strangers may cause mail to, besides the public ones.
    """

    def __init__(
        self,
        dns: Lookup,
        hostname: str,
        receives: Callable[[IPAddress, int], bool],
        *,
        family: str = "any",
        private: Sequence[IPNetwork] = (),
        hosts_file: str = HOSTS_FILE,
        shuffle: Callable[[list[tuple[int, str]]], None] = random.shuffle,
    ) -> None:
        self._dns = dns
        self._hostname = hostname
        self._receives = receives
        self._kinds = FAMILIES[family]
        self._family = family
        self._private = private
        self._hosts_file = hosts_file
        self._shuffle = shuffle

    def hosts(self, domain: str, *, stranger: bool = False) -> Iterator[MailHost]:
        """The addresses of the hosts that take mail for `domain` (a name or a [literal]), in the order to be tried.

        They are looked up as they are asked for. `stranger`: the mail was caused by somebody who may not choose where
        this host connects to. Raises RoutingError: no such domain 5.1.2, it takes no mail 5.1.10 (RFC 7505), it is
        this server itself 5.4.6, its hosts don't exist or may not be connected to 5.4.4, DNS does not answer 4.4.3.
        """
        if domain.startswith("["):
            yield self._literal(domain, stranger=stranger)
            return
        try:
            domain = normal_domain(domain)
        except AddressSyntaxError as error:
            raise RoutingError(True, "5.1.2", str(error)) from None
        exchanges = self._exchanges(domain)
        # Hosts that are no better than this one are left out: they would send the mail back (RFC 5321 5.1).
        ours = min((preference for preference, name in exchanges if name == self._hostname), default=None)
        exchanges = [(p, name) for p, name in exchanges if ours is None or p < ours][:MOST_HOSTS]
        problem = None if ours is None else _loop(domain)
        some = False
        give_up = time.monotonic() + LOOKUPS_SECONDS
        for preference in sorted({p for p, _ in exchanges}):
            equals: list[MailHost] = []
            for name in (name for p, name in exchanges if p == preference):
                if time.monotonic() > give_up:
                    problem = RoutingError(False, "4.4.3", f"DNS takes too long for the hosts of {domain}")
                    break
                try:
                    addresses = self.addresses(name)
                    if any(self._receives(ipaddress.ip_address(address), SMTP_PORT) for address in addresses):
                        ours = preference
                    equals += [MailHost(name, address) for address in self._allowed(name, addresses, stranger)]
                except RoutingError as error:
                    problem = problem if problem and error.permanent else error
            if ours == preference:
                problem = problem if problem and not problem.permanent else _loop(domain)
                break
            for host in equals:
                some = True
                yield host
        if not some:
            if problem and (not problem.permanent or problem.status == "5.4.6" or len(exchanges) == 1):
                raise problem
            raise RoutingError(True, "5.4.4", f"no host that takes mail for {domain} has an address to be used")

    def named(self, name: str, port: int) -> list[MailHost]:
        """The addresses of a host that a setting names: an address, a name of /etc/hosts, or one of DNS.

        Raises RoutingError.
        """
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return [MailHost(name, address, port) for address in self._of_hosts_file(name) or self.addresses(name)]
        return [MailHost(name, name, port)]

    def addresses(self, name: str) -> list[str]:
        """The addresses of a host in DNS, in the order to be tried. Raises RoutingError."""
        found: list[str] = []
        failure: DNSError | None = None
        for kind in self._kinds:
            try:
                found += self._dns.lookup(name, kind, patience=SECOND_FAMILY_SECONDS if found else None)
            except NotFound as error:
                # A server that is wrong about one family is right about the other: what exists in one, exists.
                if failure is None or isinstance(failure, NoSuchName):
                    failure = error
            except DNSError as error:
                failure = error
        if found:
            return found
        if isinstance(failure, NoSuchName):
            raise RoutingError(True, "5.4.4", f"the host {name} does not exist")
        if isinstance(failure, NoSuchRecord):
            family = {"ipv4": "IPv4 ", "ipv6": "IPv6 "}.get(self._family, "")
            raise RoutingError(True, "5.4.4", f"{name} has no {family}address")
        raise RoutingError(False, "4.4.3", str(failure))

    def _literal(self, domain: str, *, stranger: bool) -> MailHost:
        try:
            address = parse_literal(domain)
        except AddressSyntaxError as error:
            raise RoutingError(True, "5.1.2", str(error)) from None
        if self._receives(address, SMTP_PORT):
            raise _loop(domain)
        if self._family != "any" and (address.version == 6) != (self._family == "ipv6"):
            raise RoutingError(True, "5.4.4", f"{domain} can't be reached over {self._family}")
        self._allowed(domain, [str(address)], stranger)
        return MailHost(domain, str(address))

    def _allowed(self, name: str, addresses: Sequence[str], stranger: bool) -> list[str]:
        """Those that may be connected to for this mail. Raises RoutingError when there is none."""
        found = []
        for text in addresses:
            address = ipaddress.ip_address(text)
            if any(address in network for network in self._private if network.version == address.version) or not (
                is_loopback(address) or (stranger and not is_public(address))
            ):
                found.append(text)
        if addresses and not found:
            kind = "private" if stranger else "loopback"
            raise RoutingError(
                True, "5.4.4", f"{name} has {kind} addresses only ({addresses[0]}), which this mail is not taken to"
            )
        return found

    def _exchanges(self, domain: str) -> list[tuple[int, str]]:
        """(preference, host), random among equals; without MX the domain itself (RFC 5321 5.1). Raises RoutingError."""
        try:
            values = self._dns.lookup(domain, "MX")
        except NoSuchRecord:
            return [(0, domain)]
        except NoSuchName:
            # Some servers say so of a type that they do not know: the address counts (as with Postfix).
            try:
                self.addresses(domain)
            except RoutingError as error:
                if error.permanent:
                    raise RoutingError(True, "5.1.2", f"the domain {domain} does not exist") from None
                raise
            return [(0, domain)]
        except DNSError as error:
            raise RoutingError(False, "4.4.3", str(error)) from None
        records = [(int(preference), name.rstrip(".").lower()) for preference, name in map(str.split, values)]
        if any(not name for _, name in records):
            if len(records) == 1:
                raise RoutingError(True, "5.1.10", f"{domain} takes no mail (null MX)")
            records = [(preference, name) for preference, name in records if name]
        self._shuffle(records)
        return sorted(records, key=lambda record: record[0])

    def _of_hosts_file(self, name: str) -> list[str]:
        """The addresses of a name in /etc/hosts (hosts(5)) that the setting of the family admits."""
        found = []
        try:
            with open(self._hosts_file, encoding="utf-8", errors="replace") as file:
                for line in file:
                    address, *names = line.partition("#")[0].split() or [""]
                    if name.lower() in (n.lower() for n in names):
                        found.append(address)
        except OSError:
            pass
        if not found and name.lower() == "localhost":
            found = ["127.0.0.1", "::1"]  # RFC 6761 6.3
        return [a for a in found if ("AAAA" if ":" in a else "A") in self._kinds]


def _loop(domain: str) -> RoutingError:
    return RoutingError(True, "5.4.6", f"mail for {domain} loops back to this host, which does not serve it")
