"""How text becomes the value of a setting; each reader raises ValueError with what it must be."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from smtpmail.mail.address import AddressSyntaxError, normal_domain

MAX_COUNT = 1_000_000
MAX_PROCESSES = 128
MIN_JOURNAL, MAX_JOURNAL = 1024**2, 1024**3


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
        raise ValueError("must be a port from 0 to 65535")
    return int(text)


def read_host(text: str) -> Endpoint:
    """`HOST[:PORT]`, `ADDR[:PORT]`, `[v6]:PORT` or a bare IPv6 address."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("must be [address]:port")
        if ":" not in host:
            raise ValueError("must have an IPv6 address between the brackets")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    if not host:
        raise ValueError("must be an address")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("must be an IPv6 address; with a port, [address]:port") from None
    elif not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
        raise ValueError("must be a host name or an IP address")
    return Endpoint(host, None if port is None else read_port(port))


def read_address(text: str) -> Endpoint:
    """`ADDR[:PORT]` with an IP address, never a name."""
    endpoint = read_host(text)
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        raise ValueError("must be an IP address, with :PORT if needed; IPv6 with a port as [addr]:port") from None
    return endpoint


def read_ip_address(text: str) -> str:
    """An IP address without a port."""
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError("must be an IP address") from None


def read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network, or one address."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("must be a network, 10.1.0.0/16 or fd00:1::/32 for example") from None


def read_loopback(text: str) -> Endpoint:
    """An address of this machine that the network cannot reach."""
    endpoint = read_address(text)
    if not ipaddress.ip_address(endpoint.host).is_loopback:
        raise ValueError("must be a loopback address (127.0.0.0/8 or ::1): who reaches it may send to the world")
    return endpoint


def read_metrics(text: str) -> Endpoint | str:
    """The path of a Unix socket, or a loopback address with a port."""
    if text.startswith("/"):
        return read_path(text)
    try:
        endpoint = read_loopback(text)
    except ValueError:
        raise ValueError("must be the path of a socket, or a loopback address and a port, 127.0.0.1:9154") from None
    if endpoint.port is None:
        raise ValueError("a port must follow, 127.0.0.1:9154 for example")
    return endpoint


def read_domain(text: str) -> str:
    """A domain name, in its one form (A-labels, lower case). No top-level domain is a number (RFC 3696 2)."""
    try:
        name = normal_domain(text)
    except AddressSyntaxError:
        raise ValueError("must be a domain name, dom.fr for example") from None
    if name.rpartition(".")[2].isdigit():
        raise ValueError("must be a domain name, not an IP address")
    return name


_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def read_size(text: str) -> int:
    """Octets; K, M, G (also KiB, MB, ...) multiply by powers of 1024."""
    match = re.fullmatch(r"([0-9]{1,18})\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or not int(match[1]):
        raise ValueError("must be a size: octets, or with K, M, G behind the number")
    return int(match[1]) * _UNITS[match[2].upper()]


def read_journal_size(text: str) -> int:
    """Octets as read_size, within bounds, or 0."""
    if text.strip() == "0":
        return 0
    size = read_size(text)
    if not MIN_JOURNAL <= size <= MAX_JOURNAL:
        raise ValueError(f"must be 0 or from {show_size(MIN_JOURNAL)} to {show_size(MAX_JOURNAL)}")
    return size


def read_count(text: str) -> int:
    """A whole number from 1."""
    return _number(text, MAX_COUNT)


def read_processes(text: str) -> int:
    """How many processes: more than processors only take memory."""
    return _number(text, MAX_PROCESSES)


def _number(text: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or not 1 <= int(text) <= most:
        raise ValueError(f"must be a whole number from 1 to {most}")
    return int(text)


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

SHORTEST, LONGEST = 0.1, 1000.0 * 86400
"""Bounds of a time, in seconds: below, no network answers; above, clocks and heaps lose their sense."""


def read_duration(text: str) -> float:
    """Seconds; s, m, h, d may stand behind the number."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([smhd]?)", text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError("must be a time from 0.1s to 1000d: seconds, or with m, h, d behind the number")
    return seconds


def show_duration(seconds: float) -> str:
    """A time in the largest unit that divides it."""
    unit, size = next(((u, n) for u, n in reversed(_SECONDS.items()) if u and not seconds % n), ("s", 1))
    return f"{seconds / size:.12g}{unit}"


def show_size(octets: int) -> str:
    """A size in the largest unit that divides it."""
    if not octets:
        return "0"
    unit, size = next((u, n) for u, n in reversed(_UNITS.items()) if not octets % n)
    return f"{octets // size}{unit}"


def read_timeout(text: str) -> float:
    """Seconds of patience with somebody who is connected."""
    seconds = read_duration(text)
    if seconds > _SECONDS["d"]:
        raise ValueError("must be a time from 0.1s to 1d")
    return seconds


def read_durations(text: str) -> tuple[float, ...]:
    """Several of these, between spaces or commas."""
    durations = tuple(read_duration(word) for word in text.replace(",", " ").split())
    if not durations:
        raise ValueError("must be times, '1m 5m 1h' for example")
    return durations


def read_account(text: str) -> str:
    """The name of an account of this host."""
    if not re.fullmatch(r"[^\s:/\0-\x1f]{1,64}", text) or text.startswith("-"):
        raise ValueError("must be the name of an account")
    return text


def read_path(text: str) -> str:
    """A path."""
    if not text or "\0" in text:
        raise ValueError("must be a path")
    return text
