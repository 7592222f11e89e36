"""DNS questions as the admin commands ask them: values in zone-file form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from smtpmail.admin.dns_records import absolute, text_of
from smtpmail.auth import lookup as auth
from smtpmail.dns.errors import DNSError, NoSuchRecord

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


def answers(lookup: Lookup) -> auth.Lookup:
    """The same look-ups as smtpmail.auth makes them."""

    def ask(name: str, kind: str) -> Sequence[str]:
        values = lookup(absolute(name), kind)
        if not values:
            raise NoSuchRecord(f"{name} has no {kind} record")
        return [text_of(value) for value in values] if kind == "TXT" else values

    return ask
