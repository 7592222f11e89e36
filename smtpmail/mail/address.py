"""The syntax of commands, paths and parameters (RFC 5321 4.1.2, RFC 6531, RFC 3461, RFC 8689): text in, values out."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

import idna

MAX_LOCAL_PART = 64
"""Octets, RFC 5321 4.5.3.1.1. Asked of local users only: elsewhere longer ones (VERP) are in real use."""

MAX_DOMAIN = 255
"""Octets, RFC 5321 4.5.3.1.2."""

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_DOT_STRING = rf"{_ATOM}(?:\.{_ATOM})*"
_QUOTED_STRING = r'"(?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*"'
_LABEL = r"[A-Za-z0-9_\u0080-\U0010ffff](?:[A-Za-z0-9_\u0080-\U0010ffff-]*[A-Za-z0-9_\u0080-\U0010ffff])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*\.?"
_LITERAL = r"\[[!-Z^-~]+\]"
_MAILBOX = rf"(?P<local>{_DOT_STRING}|{_QUOTED_STRING})@(?P<domain>{_DOMAIN}|{_LITERAL})"
# A source route is accepted and ignored (RFC 5321 C).
_ROUTE = rf"(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?"

# Dots where none may stand are in real use (a..b@, a.@), as are paths without brackets: taken, as by Postfix.
_LENIENT_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff.-]+"
_LENIENT = rf"(?P<local>{_LENIENT_LOCAL}|{_QUOTED_STRING})@(?P<domain>{_DOMAIN}|{_LITERAL})"
_PATH = re.compile(rf"< ?(?:{_ROUTE}{_LENIENT}|(?P<bare>{_LENIENT_LOCAL}|{_QUOTED_STRING})|(?P<null>)) ?>")
_PATH_WITHOUT_BRACKETS = re.compile(rf"(?:{_LENIENT}|(?P<bare>{_LENIENT_LOCAL}))(?P<null>(?!))?(?= |$)")
_ADDRESS = re.compile(_MAILBOX)
_DOT_STRING_RE = re.compile(_DOT_STRING)
_DOMAIN_RE = re.compile(_DOMAIN)


class AddressSyntaxError(ValueError):
    """Not an address, a domain or a literal."""


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox: `local` with quotes and backslashes undone, `domain` as it was given (a name or a [literal]).

    The null reverse-path has both empty; the bare `postmaster` (RFC 5321 4.1.1.3) has an empty domain.
    """

    local: str
    domain: str

    @property
    def is_null(self) -> bool:
        return not self.local and not self.domain

    @property
    def is_ascii(self) -> bool:
        return self.local.isascii() and self.domain.isascii()

    def __str__(self) -> str:
        """As it is written between angle brackets."""
        if not self.domain:
            return self.local
        if _DOT_STRING_RE.fullmatch(self.local):
            return f"{self.local}@{self.domain}"
        quoted = self.local.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"@{self.domain}'


NULL_PATH = Address("", "")


def _address(local: str, domain: str) -> Address:
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    if len(domain.encode()) > MAX_DOMAIN:
        raise AddressSyntaxError("domain too long")
    if domain.startswith("["):
        parse_literal(domain)
    return Address(local, domain.removesuffix("."))


def parse_path(text: str, origin: str | None = None) -> tuple[Address, str]:
    """Reads a reverse-path or forward-path at the start of `text`; returns it and what follows.

    Raises AddressSyntaxError. `<>` gives NULL_PATH, `<postmaster>` the bare postmaster. With `origin`, any other local
    part alone gets this domain (RFC 6409 8.1).
    """
    match = (_PATH if text.startswith("<") else _PATH_WITHOUT_BRACKETS).match(text)
    if not match:
        raise AddressSyntaxError("not a path")
    if match["null"] is not None:
        return NULL_PATH, text[match.end() :]
    if match["bare"]:
        if match["bare"].lower() == "postmaster":
            return Address(match["bare"], ""), text[match.end() :]
        if not origin:
            raise AddressSyntaxError("a path must have a domain")
        return _address(match["bare"], origin), text[match.end() :]
    return _address(match["local"], match["domain"]), text[match.end() :]


def parse_address(text: str) -> Address:
    """An address without brackets, as people write it in options and files. Raises AddressSyntaxError."""
    match = _ADDRESS.fullmatch(text)
    if not match:
        raise AddressSyntaxError(f"not an address: {text!r}")
    return _address(match["local"], match["domain"])


def parse_literal(domain: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address in `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3). Raises AddressSyntaxError."""
    inner = domain.removeprefix("[").removesuffix("]")
    try:
        if inner[:5].lower() == "ipv6:":
            return ipaddress.IPv6Address(inner[5:])
        return ipaddress.IPv4Address(inner)
    except ValueError:
        raise AddressSyntaxError(f"not an address literal: {domain}") from None


def literal(address: str) -> str:
    """An IP address as the literal that RFC 5321 4.1.3 writes."""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


@lru_cache(maxsize=1024)
def normal_domain(domain: str) -> str:
    """The one form of a domain name to compare and to look up: A-labels, lower case, no final dot.

    Raises AddressSyntaxError for what is no domain name (RFC 5890, RFC 1035 2.3.4).
    """
    domain = domain.removesuffix(".").lower()
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise AddressSyntaxError(f"not a domain name: {domain} ({error})") from None
    if not _DOMAIN_RE.fullmatch(domain) or len(domain) > 253 or any(len(x) > 63 for x in domain.split(".")):
        raise AddressSyntaxError(f"not a domain name: {domain}")
    return domain
