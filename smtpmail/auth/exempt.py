"""Who is let through whatever the checks say: the file of `--verify-exempt`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smtpmail.auth.fields import Field, unfolded
from smtpmail.auth.lookup import a_labels, is_or_below

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LIST_ID = re.compile(r"<\s*([^<>\s]+)\s*>")


class ExemptError(ValueError):
    """A line that is none of what may stand there."""


@dataclass(frozen=True, slots=True)
class Exemptions:
    """Addresses, domains (with all below; also the id of a list), networks."""

    addresses: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def match(self, client: Address | None, senders: Iterable[str], list_ids: Iterable[str]) -> str | None:
        """The line that lets a message through, None without one. `senders`: of the envelope and of From."""
        if client is not None:
            if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped:
                client = client.ipv4_mapped
            for network in self.networks:
                if client.version == network.version and client in network:
                    return str(network) if network.num_addresses > 1 else str(network.network_address)
        for sender in senders:
            normal = _normal_address(sender)
            if normal in self.addresses:
                return normal
            if normal and (domain := self._above(normal.rpartition("@")[2])):
                return domain
        for list_id in list_ids:
            if (domain := a_labels(list_id) or list_id.lower()) in self.domains:
                return domain
        return None

    def _above(self, domain: str) -> str | None:
        return next((known for known in self.domains if is_or_below(domain, known)), None)


def _normal_address(text: str) -> str | None:
    local, at, domain = text.rpartition("@")
    name = a_labels(domain) if at else None
    return f"{local.lower()}@{name}" if name else None


def parse(lines: Iterable[str]) -> tuple[Exemptions, list[str]]:
    """The exemptions, one a line, `#` comments; and a complaint for each line that is none, which is left out."""
    addresses: set[str] = set()
    domains: set[str] = set()
    networks: list[Network] = []
    complaints = []
    for number, line in enumerate(lines, 1):
        token = line.partition("#")[0].strip()
        if not token:
            continue
        try:
            kind, value = _token(token)
        except ExemptError as error:
            complaints.append(f"line {number}: {error}")
            continue
        if isinstance(value, str):
            (addresses if kind == "address" else domains).add(value)
        else:
            networks.append(value)
    return Exemptions(frozenset(addresses), frozenset(domains), tuple(networks)), complaints


def _token(token: str) -> tuple[str, str | Network]:
    """Raises ExemptError."""
    if len(token.split()) > 1:
        raise ExemptError(f"{token[:80]!r}: one address, domain, network or List-Id a line")
    try:
        return "network", ipaddress.ip_network(token.strip("[]"), strict=False)
    except ValueError:
        pass
    if "@" in token:
        address = _normal_address(token.removeprefix("<").removesuffix(">"))
        if address and not address.startswith("@"):
            return "address", address
    else:
        name = token.removeprefix("<").removesuffix(">")
        if domain := a_labels(name.removeprefix(".")):
            return "domain", domain
        if re.fullmatch(r"[!-~]+", name) and "/" not in name:
            return "domain", name.lower()
    raise ExemptError(f"{token[:80]!r} is no address, domain, network or List-Id")


def list_ids(header: Sequence[Field]) -> list[str]:
    """The ids in List-Id fields (RFC 2919)."""
    return [
        match[1] for field in header if field.name == b"list-id" for match in _LIST_ID.finditer(unfolded(field.value))
    ]
