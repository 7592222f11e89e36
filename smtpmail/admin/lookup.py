"""DNS questions as the admin commands ask them: values in zone-file form."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from smtpmail.admin.dns_records import absolute, text_of
from smtpmail.auth import lookup as auth
from smtpmail.dns.errors import DNSError, NoSuchRecord, NotFound

Lookup = Callable[[str, str], list[str]]
"""The values of a name and type; [] when there is none. Raises DNSError."""


SILENCE_SECONDS = 20.0
"""So long a command waits for answers that do not come, all its questions together."""


def while_answered(lookup: Lookup, clock: Callable[[], float] = time.monotonic) -> Lookup:
    """The same look-ups, as long as anybody answers: else the hundred questions of one check would take minutes."""
    left = SILENCE_SECONDS

    def ask(name: str, kind: str) -> list[str]:
        nonlocal left
        if left <= 0:
            raise DNSError(f"DNS does not answer: it was not asked for {name} {kind} any more")
        begun = clock()
        try:
            return lookup(name, kind)
        except NotFound:
            raise
        except DNSError:
            left -= clock() - begun
            raise

    return ask


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
