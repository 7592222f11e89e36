"""How the checks ask the DNS: one callable, so that a resolver, a table of a test or a zone file can answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smtpmail.dns.errors import NotFound
from smtpmail.mail.address import AddressSyntaxError, normal_domain

Lookup = Callable[[str, str], Sequence[str]]
"""`lookup(name, type)`: the values of a name without final dot; never an empty sequence.

A and AAAA: the address. TXT: the text, its strings joined (octets that are no UTF-8 as surrogates). MX: `10 host.`;
PTR: `host.`, both as in a zone file. Aliases (CNAME) are followed by the one who answers.
Raises NoSuchName, NoSuchRecord or, when nobody answers, DNSError: the errors of smtpmail.dns.
"""

MAX_TEXT = 64 * 1024
"""Characters of a TXT record that are looked at; a larger one counts as none."""


def texts(name: str, lookup: Lookup) -> list[str]:
    """The TXT records of a name that are not too large to be looked at; none is []. Raises DNSError."""
    try:
        return [text for text in lookup(name, "TXT") if len(text) <= MAX_TEXT]
    except NotFound:
        return []


def a_labels(domain: str) -> str | None:
    """A domain name as it is compared: A-labels, lower case, no final dot; None for what is no domain name."""
    try:
        return normal_domain(domain)
    except AddressSyntaxError:
        return None


def is_or_below(domain: str, parent: str) -> bool:
    """Whether a name is `parent` or lies below it; both as `a_labels` gives them."""
    return domain == parent or domain.endswith("." + parent)
