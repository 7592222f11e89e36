"""Macros in SPF records (RFC 7208 7)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MACRO = re.compile(
    r"%(?:\{(?P<letter>[A-Za-z])(?P<digits>[0-9]*)(?P<reverse>[rR]?)(?P<marks>[-.+,/_=]*)\}|(?P<other>[%_-]))"
)
_OTHER = {"%": "%", "_": " ", "-": "%20"}
_MAX_NAME = 253


@dataclass(frozen=True, slots=True)
class Values:
    """What the macros of one evaluation stand for."""

    address: Address
    local: str
    sender_domain: str
    helo: str
    receiver: str
    now: int
    """Seconds since 1970."""
    validated_name: Callable[[str], str]
    """The client's name as its reverse DNS proves it, seen from a domain; `unknown` without one."""


def expand(text: str, domain: str, values: Values) -> str:
    """`text` with its macros replaced; its syntax is right. Raises DNSError."""
    return _MACRO.sub(lambda match: _replacement(match, domain, values), text)


def expand_domain(text: str, domain: str, values: Values) -> str:
    """The name that a domain-spec means, shortened from the left to what a name may have (7.3); no final dot."""
    name = expand(text, domain, values).removesuffix(".")
    if len(name) <= _MAX_NAME:
        return name
    dot = name.find(".", len(name) - _MAX_NAME - 1)
    return name[dot + 1 :]


def _replacement(match: re.Match[str], domain: str, values: Values) -> str:
    if match["other"]:
        return _OTHER[match["other"]]
    value = _value(match["letter"].lower(), domain, values)
    if match["digits"] or match["reverse"] or match["marks"]:
        parts = re.split(f"[{re.escape(match['marks'] or '.')}]", value)
        if match["reverse"]:
            parts.reverse()
        # A record with `%{d0}` is refused; more parts than there are mean all.
        value = ".".join(parts[-min(int(match["digits"][:4] or "999"), 999) :])
    return quote(value, safe="-._~") if match["letter"].isupper() else value


def _value(letter: str, domain: str, values: Values) -> str:
    match letter:
        case "s":
            return f"{values.local}@{values.sender_domain}"
        case "l":
            return values.local
        case "o":
            return values.sender_domain
        case "d":
            return domain
        case "i":
            if values.address.version == 4:
                return str(values.address)
            return ".".join(values.address.exploded.replace(":", "").upper())
        case "p":
            return values.validated_name(domain)
        case "v":
            return "in-addr" if values.address.version == 4 else "ip6"
        case "h":
            return values.helo
        case "c":
            return str(values.address)
        case "r":
            return values.receiver
        case _:
            return str(values.now)
