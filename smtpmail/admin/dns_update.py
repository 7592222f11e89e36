"""Publishes records at the primary server of their zone: dynamic updates (RFC 2136), signed (TSIG, RFC 8945)."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import dns.exception
import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.update

from smtpmail.admin.dns_records import Address, Change, Record, merge
from smtpmail.dns.errors import DNSError
from smtpmail.dns.resolver import Resolver
from smtpmail.dns.wire import authoritative

ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
PAUSE = 1.0
"""Seconds between two looks at the authoritative servers."""

TSIG_ERRORS = {dns.tsig.PeerBadKey: "BADKEY", dns.tsig.PeerBadSignature: "BADSIG", dns.tsig.PeerBadTime: "BADTIME"}


class UpdateFailed(Exception):
    """The records could not be published: one line for people. Never holds the key."""


@dataclass(frozen=True)
class Key:
    """A TSIG key. Its secret is in no text form of it."""

    name: str
    algorithm: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.name!r}, {self.algorithm!r})"


def parse_key(text: str) -> Key:
    """The key in a file as bind9's tsig-keygen and knot's keymgr write it. Raises UpdateFailed."""
    match = re.search(r'key\s+"?([^"\s{]+)"?\s*\{(.*?)\}', text, re.DOTALL)
    fields = dict(re.findall(r'(algorithm|secret)\s+"?([^";\s]+)"?\s*;', match[2])) if match else {}
    if not match or fields.keys() != {"algorithm", "secret"}:
        raise UpdateFailed('the key file must read: key "NAME" { algorithm hmac-sha256; secret "..."; };')
    algorithm = fields["algorithm"].lower().rstrip(".")
    if algorithm not in ALGORITHMS:
        raise UpdateFailed(f"the algorithm of the key is {algorithm}; it must be one of {', '.join(ALGORITHMS)}")
    try:
        secret = base64.b64decode(fields["secret"], validate=True)
    except binascii.Error:
        raise UpdateFailed(f"the secret of the key {match[1]} is no base64") from None
    return Key(match[1].rstrip("."), algorithm, secret)


class Publisher:
    """Publishes records; `server` (an address or a name) is asked instead of the primary that the zone names."""

    def __init__(self, resolver: Resolver, key: Key, server: str | None = None) -> None:
        self._resolver = resolver
        self._key = key
        self._server = server
        self.primaries: dict[str, str] = {}
        """The address of the primary server of each zone, once `publish` has asked it."""

    def publish(self, records: Iterable[Record], *, dry_run: bool = False) -> list[Change]:
        """Makes the records hold beside all others and returns what was (to be) changed, zone by zone.

        Raises UpdateFailed, DNSError.
        """
        zones: dict[str, list[Record]] = {}
        for record in records:
            zones.setdefault(self._resolver.zone_of(record.name), []).append(record)
        done = []
        for zone, wanted in zones.items():
            primary = self._primary(zone)
            self.primaries[zone] = str(primary)
            changes = plan(wanted, lambda name, kind, server=primary: authoritative(server, name, kind))  # type: ignore[misc]
            if changes and not dry_run:
                self._send(zone, primary, changes)
            done += changes
        return done

    def wait(self, records: Sequence[Record], seconds: float) -> None:
        """Returns when every authoritative server answers with the records. Raises UpdateFailed after `seconds`."""
        end = time.monotonic() + seconds
        while missing := lacking(self._resolver, records):
            if time.monotonic() > end:
                raise UpdateFailed(f"after {seconds:g} s {missing}; secondary servers may need longer: look at them")
            time.sleep(PAUSE)

    def _primary(self, zone: str) -> Address:
        name = self._server
        if name is None:
            soa = self._resolver.records(zone, "SOA")
            if not soa:
                raise DNSError(f"{zone} has no SOA record that names its primary server")
            name = soa[0].split()[0]
        try:
            return ipaddress.ip_address(name)
        except ValueError:
            found = self._resolver.addresses(name)
        if not found:
            raise DNSError(f"{name}, the primary server of {zone}, has no address; give --server ADDRESS")
        return _ask_one_of(found, zone, "SOA")[0]

    def _send(self, zone: str, primary: Address, changes: Sequence[Change]) -> None:
        update = dns.update.UpdateMessage(zone, keyring={dns.name.from_text(self._key.name): self._tsig_key()})
        for change in changes:
            for value in change.remove:
                update.delete(change.name, change.type, value)
            for value in change.add:
                update.add(change.name, change.ttl, change.type, value)
        advice = "check the key's name, algorithm and secret, and what the server lets it change"
        try:
            response = dns.query.tcp(update, str(primary), timeout=10)
        except dns.tsig.PeerError as error:
            code = TSIG_ERRORS.get(type(error), str(error))
            if code == "BADTIME":
                advice = "set the clock of this host"
            text = f"{primary} refused the TSIG key {self._key.name} for {zone}: {code}; {advice}"
            raise UpdateFailed(text) from None
        except (OSError, dns.exception.DNSException) as error:
            raise UpdateFailed(f"{primary}, the primary server of {zone}, does not take updates: {error}") from None
        if response.rcode() != dns.rcode.NOERROR:
            code = dns.rcode.to_text(response.rcode())
            raise UpdateFailed(f"{primary} refused to update {zone} with the key {self._key.name}: {code}; {advice}")

    def _tsig_key(self) -> dns.tsig.Key:
        return dns.tsig.Key(self._key.name, self._key.secret, self._key.algorithm)


def lacking(resolver: Resolver, records: Iterable[Record], *, silent_is_missing: bool = True) -> str:
    """What the first authoritative server that lacks a record lacks, '' when none does. Raises DNSError.

    `silent_is_missing`: a server that does not answer counts as one that lacks it.
    """
    for record in records:
        zone = resolver.zone_of(record.name)
        for nameserver in resolver.records(zone, "NS"):
            try:
                address, values = _ask_one_of(resolver.addresses(nameserver), record.name, record.type)
            except DNSError as error:
                if silent_is_missing:
                    return str(error)
                continue
            if not silent_is_missing and any(value.startswith("CNAME ") for value in values):
                continue  # where the alias leads is another zone's
            if merge(record, values) is not None:
                return f"{nameserver} ({address}) does not have {record.name} {record.type} {record.value}"
    return ""


def _ask_one_of(servers: Sequence[str], name: str, kind: str) -> tuple[Address, list[str]]:
    """The first of a name server's addresses that answers, and what it has: a host without IPv6 reaches but some.

    Raises DNSError when none answers.
    """
    failure = DNSError(f"a name server that should have {name} has no address")
    for server in map(ipaddress.ip_address, servers):
        try:
            return server, authoritative(server, name, kind)
        except DNSError as error:
            failure = error
    raise failure


def plan(records: Iterable[Record], existing: Callable[[str, str], list[str]]) -> list[Change]:
    """The changes that make the records hold beside what is there. Raises UpdateFailed where a CNAME is in the way."""
    sets: dict[tuple[str, str], list[str]] = {}
    changes = []
    for record in records:
        key = (record.name, record.type)
        values = sets[key] if key in sets else existing(*key)
        alias = next((value for value in values if value.startswith("CNAME ")), None)
        if alias:
            raise UpdateFailed(f"{record.name} is an alias ({alias}); a mail host and a mail domain may not be one")
        change = merge(record, values)
        if change:
            values = [value for value in values if value not in change.remove] + list(change.add)
            changes.append(change)
        sets[key] = values
    return changes
