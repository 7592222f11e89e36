"""DMARC policy records and where they are found: the tree walk of RFC 9989 4.10."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from smtpmail.auth.lookup import Lookup, is_or_below, texts
from smtpmail.dns.errors import NotFound

MAX_QUERIES = 8
"""Names that one tree walk asks for."""

POLICIES = ("none", "quarantine", "reject")
"""From the mildest to the strictest."""

_RECORD = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|$)")
_REPORT_URI = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+")


@dataclass(frozen=True, slots=True)
class Record:
    """A policy record (RFC 9989 4.7). What is absent or makes no sense has its default."""

    policy: str
    """`p=`."""
    subdomain_policy: str
    """`sp=`."""
    nonexistent_policy: str
    """`np=`."""
    strict_dkim: bool
    strict_spf: bool
    psd: str
    """y: the name is a public suffix; n: it is an organizational domain; u: found out by the walk."""
    testing: bool
    """`t=y`: the policy is obeyed one step lower."""
    applies: bool = True
    """Whether DMARC is to be applied at all: not by a policy that makes no sense and names nobody for reports."""


def parse_record(text: str) -> Record | None:
    """A TXT record at _dmarc as a policy; None for any other text. Unknown tags mean nothing, `pct` among them."""
    if not _RECORD.match(text):
        return None
    tags: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if equals:
            tags.setdefault(name.strip().lower(), value.strip().lower())
    policy = tags.get("p", "")
    below = [tags.get(name, policy) for name in ("sp", "np")]
    applies = True
    if policy not in POLICIES or not all(value in POLICIES for value in below):
        # A policy that is not understood is not guessed at (4.10.1).
        policy, below = "none", ["none", "none"]
        applies = any(_REPORT_URI.fullmatch(uri.strip()) for uri in tags.get("rua", "").split(","))
    elif "np" not in tags:
        below[1] = below[0]
    psd = tags.get("psd", "u")
    return Record(
        policy,
        below[0],
        below[1],
        tags.get("adkim") == "s",
        tags.get("aspf") == "s",
        psd if psd in ("y", "n") else "u",
        tags.get("t") == "y",
        applies,
    )


def walk(domain: str) -> Iterator[str]:
    """The names of a tree walk from a domain up to its top label; of a long one the middle is left out (4.10)."""
    labels = domain.split(".")
    yield domain
    for left in range(min(len(labels), MAX_QUERIES) - 1, 0, -1):
        yield ".".join(labels[-left:])


@dataclass(frozen=True, slots=True)
class Discovered:
    """The policy for an author's domain."""

    record: Record
    domain: str
    """Where it stands."""
    policy: str
    """none, quarantine or reject: of p=, sp= and np= the one that is meant."""


class Tree:
    """The records of one message's domains; no name is asked for twice. Methods may raise DNSError."""

    def __init__(self, lookup: Lookup) -> None:
        self.ask = lookup
        self._records: dict[str, Record | None] = {}

    def record(self, domain: str) -> Record | None:
        """The one policy record at a domain; several are none."""
        if domain not in self._records:
            found = [record for text in texts(f"_dmarc.{domain}", self.ask) if (record := parse_record(text))]
            self._records[domain] = found[0] if len(found) == 1 else None
        return self._records[domain]

    def organizational_domain(self, domain: str) -> str:
        """RFC 9989 4.10.2."""
        highest = domain
        for name in walk(domain):
            record = self.record(name)
            if record is None:
                continue
            if record.psd == "n":
                return name
            if record.psd == "y" and name != domain:
                labels = domain.split(".")
                return ".".join(labels[-(name.count(".") + 2) :])
            highest = name
        return highest

    def discover(self, domain: str) -> Discovered | None:
        """The policy for mail whose author is in a domain (4.10.1); None when there is none."""
        own = self.record(domain)
        if own:
            return Discovered(own, domain, own.policy)
        organization = self.organizational_domain(domain)
        for name in walk(domain):
            # The organization's own record, or else that of the public suffix above it.
            record = self.record(name)
            if record and is_or_below(organization, name) and (name == organization or record.psd == "y"):
                if record.nonexistent_policy == record.subdomain_policy or self._exists(domain):
                    return Discovered(record, name, record.subdomain_policy)
                return Discovered(record, name, record.nonexistent_policy)
        return None

    def _exists(self, domain: str) -> bool:
        """Whether there is any record that a mail domain has (RFC 9989 3.2.13)."""
        for kind in ("MX", "A", "AAAA"):
            try:
                if self.ask(domain, kind):
                    return True
            except NotFound:
                continue
        return False
