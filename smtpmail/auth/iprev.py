"""Whether a client's address has a name that leads back to it (iprev, RFC 8601 2.7.3)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from smtpmail.auth.lookup import Lookup
from smtpmail.auth.tags import printable
from smtpmail.dns.errors import DNSError, NotFound

MAX_NAMES = 5
"""Names of one address that are looked at."""


@dataclass(frozen=True, slots=True)
class IprevResult:
    """pass, fail, temperror or permerror, and why."""

    result: str
    address: str
    reason: str
    name: str = ""
    """The name that leads back."""


def check(address: ipaddress.IPv4Address | ipaddress.IPv6Address, lookup: Lookup) -> IprevResult:
    """Asks for the names of an address, and for the addresses of these."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    text = str(address)
    try:
        names = [value.rstrip(".").lower() for value in lookup(address.reverse_pointer, "PTR")][:MAX_NAMES]
    except NotFound:
        return IprevResult("permerror", text, f"{text} has no name")
    except DNSError as error:
        return IprevResult("temperror", text, str(error))
    failure: DNSError | None = None
    for name in names:
        try:
            found = lookup(name, "A" if address.version == 4 else "AAAA")
        except NotFound:
            continue
        except DNSError as error:
            failure = error
            continue
        if any(ipaddress.ip_address(value) == address for value in found):
            return IprevResult("pass", text, f"{text} is {printable(name)}, and back", name)
    if failure:
        return IprevResult("temperror", text, str(failure))
    return IprevResult("fail", text, f"{text} is called {printable(', '.join(names))}, which does not lead back to it")
