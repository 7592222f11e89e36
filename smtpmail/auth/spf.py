"""Whether an address may send mail of a domain: check_host() of RFC 7208."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from smtpmail.auth.lookup import Lookup, a_labels, is_or_below, texts
from smtpmail.auth.spf_macros import Address, Values, expand, expand_domain
from smtpmail.auth.spf_record import Mechanism, PermanentError, Record, is_explanation, is_record, parse
from smtpmail.auth.tags import printable
from smtpmail.dns.errors import DNSError, NoSuchRecord, NotFound

MAX_LOOKUPS = 10
"""Terms that ask the DNS, in one evaluation (4.6.4)."""

MAX_VOID = 2
"""Questions that find nothing (4.6.4)."""

MAX_NAMES = 10
"""MX hosts of one `mx`, and names of an address that are looked at (4.6.4)."""

MAX_EXPLANATION = 400
"""Characters of the explanation that a domain gives."""


@dataclass(frozen=True, slots=True)
class SpfResult:
    """The result in the words of RFC 7208 2.6, and why in plain words."""

    result: str
    """pass, fail, softfail, neutral, none, temperror or permerror."""
    domain: str
    """That of the sender, or of HELO."""
    reason: str
    mechanism: str = ""
    """The directive that matched."""
    explanation: str = ""
    """What the domain has to say to a fail (`exp=`): foreign text, printable ASCII, bounded."""


def check(
    address: Address, helo: str, sender: str, lookup: Lookup, *, receiver: str = "unknown", now: float | None = None
) -> SpfResult:
    """The result for a client's address and the sender of MAIL FROM, or HELO's name for the sender "" (2.3, 2.4)."""
    local, _, domain = sender.rpartition("@")
    domain = domain or helo
    name = domain.removesuffix(".")
    if not name.isascii():
        name = a_labels(name) or ""
    if not _is_name(name) or "." not in name or domain.startswith("["):
        return SpfResult("none", printable(domain), f"{printable(domain) or 'an empty name'} is no domain")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    evaluation = _Evaluation(
        address, local or "postmaster", name, helo, lookup, receiver, time.time() if now is None else now
    )
    return evaluation.run()


def _is_name(name: str) -> bool:
    """Whether the DNS can be asked for a name."""
    return name.isascii() and 0 < len(name) <= 253 and all(0 < len(label) < 64 for label in name.split("."))


class _Evaluation:
    """One check_host() with all that it includes, and its counts."""

    def __init__(
        self, address: Address, local: str, domain: str, helo: str, lookup: Lookup, receiver: str, now: float
    ) -> None:
        self._address = address
        self._family = "A" if address.version == 4 else "AAAA"
        self._domain = domain
        self._lookup = lookup
        self._values = Values(address, local, domain, helo, receiver, int(now), self._validated_name)
        self._lookups = 0
        self._void = 0
        self._names: list[str] | None = None

    def run(self) -> SpfResult:
        try:
            return replace(self._check_host(self._domain, explain=True), domain=self._domain)
        except PermanentError as error:
            return SpfResult("permerror", self._domain, f"the SPF policy of {self._domain} can't be evaluated: {error}")
        except DNSError as error:
            return SpfResult("temperror", self._domain, str(error))

    def _check_host(self, domain: str, *, explain: bool) -> SpfResult:
        """Raises PermanentError, DNSError."""
        record = self._record(domain)
        if record is None:
            return SpfResult("none", domain, f"{domain} has no SPF record")
        for mechanism in record.mechanisms:
            if self._matches(mechanism, domain):
                explanation = self._explain(record, domain) if explain and mechanism.result == "fail" else ""
                return SpfResult(mechanism.result, domain, self._reason(mechanism, domain), mechanism.text, explanation)
        if record.redirect:
            self._count_lookup()
            target = expand_domain(record.redirect, domain, self._values)
            result = self._check_host(target, explain=explain) if _is_name(target) else None
            if result is None or result.result == "none":
                raise PermanentError(f"redirect={printable(target)} leads to no SPF record")
            return result
        return SpfResult("neutral", domain, f"the policy of {domain} says nothing of {self._address}")

    def _record(self, domain: str) -> Record | None:
        records = [text for text in texts(domain, self._lookup) if is_record(text)]
        if len(records) > 1:
            raise PermanentError(f"{domain} has {len(records)} SPF records, one is allowed")
        return parse(records[0]) if records else None

    def _reason(self, mechanism: Mechanism, domain: str) -> str:
        verdict = {
            "pass": "may send mail of",
            "fail": "may not send mail of",
            "softfail": "probably may not send mail of",
            "neutral": "may or may not send mail of",
        }[mechanism.result]
        return f"{self._address} {verdict} {domain} ({printable(mechanism.text)})"

    # -- mechanisms (RFC 7208 5)

    def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        if mechanism.name == "all":
            return True
        if mechanism.network is not None:
            return self._address.version == mechanism.network.version and self._address in mechanism.network
        self._count_lookup()
        target = expand_domain(mechanism.target, domain, self._values) if mechanism.target else domain
        if mechanism.name == "include":
            result = self._check_host(target, explain=False).result if _is_name(target) else "none"
            if result == "none":
                raise PermanentError(f"include:{printable(target)} leads to no SPF record")
            return result == "pass"
        if not _is_name(target):
            return False
        match mechanism.name:
            case "a":
                return self._has_address(target, mechanism)
            case "mx":
                values = self._ask(target, "MX")
                if len(values) > MAX_NAMES:
                    raise PermanentError(f"{target} has more than {MAX_NAMES} MX records")
                hosts = [value.split()[-1].rstrip(".") for value in values]
                return any(self._has_address(host, mechanism) for host in hosts if _is_name(host))
            case "exists":
                return bool(self._ask(target, "A"))
            case _:
                return any(is_or_below(name.lower(), target.lower()) for name in self._validated_names())

    def _has_address(self, host: str, mechanism: Mechanism) -> bool:
        length = mechanism.prefix4 if self._address.version == 4 else mechanism.prefix6
        for value in self._ask(host, self._family):
            if self._address in ipaddress.ip_network(f"{value}/{length}", strict=False):
                return True
        return False

    def _validated_names(self) -> list[str]:
        """The client's names that lead back to it (5.5); failures of the DNS count as none."""
        if self._names is None:
            self._names = []
            try:
                pointers = self._ask(self._address.reverse_pointer, "PTR")
            except DNSError:
                pointers = []
            for name in [value.rstrip(".") for value in pointers[:MAX_NAMES]]:
                try:
                    found = self._lookup(name, self._family) if _is_name(name) else ()
                except (NotFound, DNSError):
                    continue
                if any(ipaddress.ip_address(value) == self._address for value in found):
                    self._names.append(name)
        return self._names

    def _validated_name(self, domain: str) -> str:
        """What %{p} stands for (7.3)."""
        names = self._validated_names()
        for fits in (lambda n: n.lower() == domain.lower(), lambda n: is_or_below(n.lower(), domain.lower())):
            for name in names:
                if fits(name):
                    return name
        return names[0] if names else "unknown"

    # -- the DNS, and what it may cost

    def _ask(self, name: str, kind: str) -> Sequence[str]:
        """Raises PermanentError when too many questions found nothing, DNSError."""
        try:
            return self._lookup(name, kind)
        except NoSuchRecord:
            # A host with addresses of the other family alone is not "void": that is no fault of its domain, and would
            # make false errors of policies of IPv4 for clients of IPv6.
            if kind in ("A", "AAAA") and kind == self._family and self._has_any(name, "AAAA" if kind == "A" else "A"):
                return []
        except NotFound:
            pass
        self._void += 1
        if self._void > MAX_VOID:
            raise PermanentError(f"more than {MAX_VOID} of its names do not exist")
        return []

    def _has_any(self, name: str, kind: str) -> bool:
        try:
            return bool(self._lookup(name, kind))
        except (NotFound, DNSError):
            return False

    def _count_lookup(self) -> None:
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise PermanentError(f"it needs more than {MAX_LOOKUPS} look-ups")

    def _explain(self, record: Record, domain: str) -> str:
        """RFC 7208 6.2; whatever goes wrong, there is no explanation."""
        if not record.explanation:
            return ""
        try:
            target = expand_domain(record.explanation, domain, self._values)
            found = texts(target, self._lookup) if _is_name(target) else []
            if len(found) != 1 or not found[0].isascii() or not is_explanation(found[0]):
                return ""
            text = expand(found[0][: 2 * MAX_EXPLANATION], domain, self._values)
        except (DNSError, PermanentError):
            return ""
        return "".join(c for c in text if " " <= c <= "~")[:MAX_EXPLANATION]
