"""Whether a message is from whom its From field says, and what that domain asks for if not (DMARC, RFC 9989)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from smtpmail.auth.dmarc_record import POLICIES, Discovered, Tree
from smtpmail.auth.fields import Field, unfolded
from smtpmail.auth.lookup import a_labels, is_or_below
from smtpmail.dns.errors import DNSError
from smtpmail.mail.mailbox_list import find_addresses

MAX_AUTHOR_DOMAINS = 4
"""More domains in From than this are somebody hiding one."""

_MAX_AUTHOR_FIELD = 16 * 1024
_AROUND_DOT = re.compile(r"\s*\.\s*")
_AT_DOMAIN = re.compile(r"@([^\s<>()\"',;:@\[\]]+)")


@dataclass(frozen=True, slots=True)
class Identifier:
    """A domain that SPF or DKIM spoke about, and what they said."""

    method: str
    """spf or dkim."""
    result: str
    domain: str


@dataclass(frozen=True, slots=True)
class DmarcResult:
    """The result in the words of RFC 8601 2.7: pass, fail, none, temperror or permerror."""

    result: str
    domain: str
    """The author's, in A-labels; "" when there is none."""
    reason: str
    policy: str = "none"
    """What the domain asks for: none, quarantine or reject."""
    disposition: str = "none"
    """What is to be done with this message, `t=y` taken into account."""


def author_domains(header: Iterable[Field]) -> list[str]:
    """The domains of all addresses in all From fields, in A-labels, each once; what is no domain is left out."""
    domains: dict[str, None] = {}
    for field in header:
        if field.name == b"from":
            value = unfolded(field.value[:_MAX_AUTHOR_FIELD])
            found = [address.text.rpartition("@")[2] for address in find_addresses(value) if "@" in address.text]
            # What is no address by the rules may still be shown as one.
            for text in found or _AT_DOMAIN.findall(_AROUND_DOT.sub(".", value)):
                domain = a_labels(text)
                if domain and "." in domain:
                    domains[domain] = None
    return list(domains)


def evaluate(authors: Sequence[str], identifiers: Sequence[Identifier], tree: Tree) -> DmarcResult:
    """The result for a message; of several authors that fail, the strictest policy counts."""
    if not authors:
        return DmarcResult("permerror", "", "From has no address with a domain")
    results = [_evaluate(author, identifiers, tree) for author in authors[:MAX_AUTHOR_DOMAINS]]
    order = ("pass", "none", "permerror", "temperror", "fail")
    worst = max(results, key=lambda found: (POLICIES.index(found.disposition), order.index(found.result)))
    if len(authors) > MAX_AUTHOR_DOMAINS:
        disposition = max(worst.disposition, "quarantine", key=POLICIES.index)
        return replace(
            worst, result="permerror", reason=f"From has addresses of {len(authors)} domains", disposition=disposition
        )
    return worst


def _evaluate(author: str, identifiers: Sequence[Identifier], tree: Tree) -> DmarcResult:
    try:
        found = tree.discover(author)
        if found is None:
            return DmarcResult("none", author, f"{author} has no DMARC policy")
        if not found.record.applies:
            return DmarcResult("none", author, f"the DMARC record of {found.domain} asks for nothing that is known")
        aligned = [item for item in identifiers if item.domain and _is_aligned(item, author, found, tree)]
    except DNSError as error:
        return DmarcResult("temperror", author, str(error))
    passed = sorted({item.method.upper() for item in aligned if item.result == "pass"})
    if passed:
        return DmarcResult("pass", author, f"it is from {author}: {' and '.join(passed)} pass", found.policy)
    for item in aligned:
        if item.result == "temperror":
            return DmarcResult(
                "temperror", author, f"{item.method.upper()} of {item.domain} could not be checked now", found.policy
            )
    return DmarcResult("fail", author, _why(author, identifiers), found.policy, _disposition(found))


def _disposition(found: Discovered) -> str:
    """RFC 9989 4.7: with t=y one step lower."""
    return POLICIES[max(POLICIES.index(found.policy) - 1, 0)] if found.record.testing else found.policy


def _is_aligned(item: Identifier, author: str, found: Discovered, tree: Tree) -> bool:
    """RFC 9989 4.4, 4.10.2. Raises DNSError."""
    if item.result not in ("pass", "temperror"):
        return False
    if item.domain == author:
        return True
    if found.record.strict_dkim if item.method == "dkim" else found.record.strict_spf:
        return False
    if item.domain.rpartition(".")[2] != author.rpartition(".")[2]:
        return False
    organization = tree.organizational_domain(author)
    return is_or_below(item.domain, organization) and tree.organizational_domain(item.domain) == organization


def _why(author: str, identifiers: Sequence[Identifier]) -> str:
    parts = []
    spf = "no SPF policy" if any(item.method == "spf" for item in identifiers) else "SPF not checked"
    for method, absent in (("spf", spf), ("dkim", "no DKIM signature")):
        items = [item for item in identifiers if item.method == method and item.result != "none"]
        said = ", ".join(f"{item.result} for {item.domain or 'no domain'}" for item in items[:3])
        parts.append(f"{method.upper()} {said}" if items else absent)
    return f"nothing proves that it is from {author} ({'; '.join(parts)})"
