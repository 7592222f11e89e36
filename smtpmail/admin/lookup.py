"""DNS questions as the admin commands ask them: values in zone-file form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from smtpmail.admin.dns_records import absolute
from smtpmail.dns.errors import DNSError

Lookup = Callable[[str, str], list[str]]
"""The values of a name and type; [] when there is none. Raises DNSError."""


def addresses(name: str, lookup: Lookup) -> list[str]:
    """The IPv4 and IPv6 addresses of a name. Raises DNSError."""
    return lookup(name, "A") + lookup(name, "AAAA")


def has_cname(name: str, lookup: Lookup) -> bool:
    """Whether a name is an alias."""
    with contextlib.suppress(DNSError):
        return bool(lookup(absolute(name), "CNAME"))
    return False
