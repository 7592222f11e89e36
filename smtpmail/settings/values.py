"""How text becomes the value of a setting; each reader raises ValueError with what is required."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from smtpmail.mail.address import AddressSyntaxError, normal_domain


class ConfigError(Exception):
    """A setting is wrong: one line for people."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address or a host name, and a port (None: the default of its use)."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def read_port(text: str) -> int:
    """A TCP port; 0 takes a free one."""
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise ValueError("a port from 0 to 65535 is wanted")
    return int(text)


def read_host(text: str) -> Endpoint:
    """`HOST[:PORT]`, `ADDR[:PORT]`, `[v6]:PORT` or a bare IPv6 address."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("[address]:port is wanted")
        if ":" not in host:
            raise ValueError("an IPv6 address is wanted between the brackets")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    if not host:
        raise ValueError("an address is wanted")
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
        raise ValueError("a host name or an IP address is wanted")
    return Endpoint(host, None if port is None else read_port(port))


def read_address(text: str) -> Endpoint:
    """`ADDR[:PORT]` with an IP address, never a name."""
    endpoint = read_host(text)
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        raise ValueError("an IP address is wanted, with :PORT if needed; IPv6 with a port as [addr]:port") from None
    return endpoint


def read_loopback(text: str) -> Endpoint:
    """An address of this machine that the network cannot reach."""
    endpoint = read_address(text)
    if not ipaddress.ip_address(endpoint.host).is_loopback:
        raise ValueError("a loopback address is wanted (127.0.0.0/8 or ::1): who reaches it may send to the world")
    return endpoint


def read_domain(text: str) -> str:
    """A domain name, in its one form (A-labels, lower case)."""
    try:
        return normal_domain(text)
    except AddressSyntaxError:
        raise ValueError("a domain name is wanted, dom.fr for example") from None


_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def read_size(text: str) -> int:
    """Octets; K, M, G (also KiB, MB, ...) multiply by powers of 1024."""
    match = re.fullmatch(r"(\d+)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or not int(match[1]):
        raise ValueError("a size is wanted: octets, or with K, M, G behind it")
    return int(match[1]) * _UNITS[match[2].upper()]


def read_count(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise ValueError("a whole number from 1 is wanted")
    return int(text)


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def read_duration(text: str) -> float:
    """Seconds; s, m, h, d may stand behind the number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match or not float(match[1]):
        raise ValueError("a time is wanted: seconds, or with m, h, d behind it")
    return float(match[1]) * _SECONDS[match[2]]


def read_durations(text: str) -> tuple[float, ...]:
    """Several of these, between spaces or commas."""
    durations = tuple(read_duration(word) for word in text.replace(",", " ").split())
    if not durations:
        raise ValueError("times are wanted, '1m 5m 1h' for example")
    return durations


def read_path(text: str) -> str:
    """A path."""
    if not text or "\0" in text:
        raise ValueError("a path is wanted")
    return text
