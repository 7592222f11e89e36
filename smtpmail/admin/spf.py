"""What a domain's SPF policy says of an address: check_host() of RFC 7208, as far as records without macros go."""

from __future__ import annotations

import ipaddress

from smtpmail.admin.dns_records import Address, absolute, is_spf, text_of
from smtpmail.admin.lookup import Lookup, addresses

MAX_LOOKUPS = 10
"""Terms that ask the DNS, in one evaluation (RFC 7208 4.6.4)."""

RESULTS = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}


class PermanentError(Exception):
    """The policy can't be evaluated (permerror, RFC 7208 2.6.7): why."""


class Evaluation:
    """One check_host() with its count of look-ups."""

    def __init__(self, address: Address, lookup: Lookup) -> None:
        self._address = address
        self._lookup = lookup
        self._left = MAX_LOOKUPS

    def result(self, domain: str) -> str:
        """`pass`, `fail`, `softfail`, `neutral` or `none`. Raises PermanentError, DNSError."""
        policies = [text for text in map(text_of, self._lookup(absolute(domain), "TXT")) if is_spf(text)]
        if not policies:
            return "none"
        if len(policies) > 1:
            raise PermanentError(f"{domain} has {len(policies)} SPF records, one is allowed")
        redirect = None
        for term in policies[0].split()[1:]:
            if "=" in term and not any(c in term.partition("=")[0] for c in ":/"):
                name, _, value = term.partition("=")
                redirect = value if name.lower() == "redirect" else redirect
                continue
            qualifier, mechanism = (term[0], term[1:]) if term[0] in RESULTS else ("+", term)
            if self._matches(mechanism, domain):
                return RESULTS[qualifier]
        if redirect:
            self._count()
            result = self.result(redirect)
            if result == "none":
                raise PermanentError(f"redirect={redirect} leads to no SPF record")
            return result
        return "neutral"

    def _matches(self, mechanism: str, domain: str) -> bool:
        name, _, argument = mechanism.partition(":")
        name, slash, prefix = name.partition("/")
        name = name.lower()
        if "%" in argument:
            raise PermanentError(f"'{mechanism}' has a macro, which this check does not expand")
        if name == "all":
            return True
        if name in ("ip4", "ip6"):
            try:
                return self._address in ipaddress.ip_network(argument, strict=False)
            except ValueError:
                raise PermanentError(f"'{mechanism}' is no network") from None
        if name == "include":
            self._count()
            result = self.result(argument)
            if result == "none":
                raise PermanentError(f"include:{argument} leads to no SPF record")
            return result == "pass"
        if not slash:
            argument, slash, prefix = argument.partition("/")
        target = absolute(argument or domain)
        if name in ("a", "mx", "exists"):
            self._count()
        if name == "a":
            return self._has(target, prefix)
        if name == "mx":
            hosts = [value.split()[1] for value in self._lookup(target, "MX")]
            return any(self._has(host, prefix) for host in hosts if host != ".")
        if name == "exists":
            return bool(self._lookup(target, "A"))
        if name == "ptr":
            raise PermanentError(f"'{mechanism}' should not be used (RFC 7208 5.5)")
        raise PermanentError(f"'{mechanism}' is unknown")

    def _has(self, host: str, prefix: str) -> bool:
        """Whether a host has the address, or one in the network of that prefix (`24`, `24//64`, `/64`)."""
        four, _, six = prefix.partition("//") if "//" in prefix else (prefix, "", "")
        if prefix.startswith("/"):
            four, six = "", prefix.lstrip("/")
        length = six or "128" if self._address.version == 6 else four or "32"
        try:
            return any(
                self._address in ipaddress.ip_network(f"{address}/{length}", strict=False)
                for address in addresses(host, self._lookup)
                if ipaddress.ip_address(address).version == self._address.version
            )
        except ValueError:
            raise PermanentError(f"'/{prefix}' is no prefix length") from None

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise PermanentError(f"it needs more than {MAX_LOOKUPS} look-ups")
