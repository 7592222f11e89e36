"""The DNS records that a mail domain needs, and how they join those that are there. Pure: no network.

One list serves all: `smtpmail dns records` prints it, `publish` sends it. A kind of record that comes later (MTA-STS)
is one more line in `needed`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TTL = 3600
MX_PREFERENCE = 10
NULL_MX = "0 ."  # RFC 7505: the domain takes no mail


NO_SERVICE = "."
"""The target of an SRV record that says: not offered here (RFC 2782)."""


@dataclass(frozen=True)
class Service:
    """What mail programs find by the domain of an address alone (RFC 6186, RFC 8314 5.1)."""

    name: str
    """As SRV records have it: `_imaps._tcp`."""
    port: int
    purpose: str


@dataclass(frozen=True)
class Record:
    """One resource record; `name` is absolute with its final dot, `value` is in zone-file form."""

    name: str
    type: str
    value: str
    purpose: str
    ttl: int = TTL

    def __str__(self) -> str:
        return f"{self.name} {self.ttl} IN {self.type} {self.value}"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Change:
    """What to do with one set of records (all of one name and type): values to add, values to remove."""

    name: str
    type: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    ttl: int = TTL

    def __str__(self) -> str:
        return ", ".join(
            [f"- {self.name} {self.type} {value}" for value in self.remove]
            + [f"+ {self.name} {self.type} {value}" for value in self.add]
        )


@dataclass(frozen=True)
class Task:
    """What to do with one needed record at the provider: `add` it, let it `replace` others, or `keep` what is there.

    `check` says that nobody knows, because DNS did not answer. `record` has the value that is right beside what exists.
    """

    action: str
    record: Record
    replaces: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {**self.record.as_dict(), "action": self.action, "replaces": list(self.replaces)}


def absolute(name: str) -> str:
    return name.rstrip(".").lower() + "."


def quoted(text: str) -> str:
    """A TXT value in zone-file form: strings of at most 255 octets (RFC 1035 3.3)."""
    escaped = [text[i : i + 255].replace("\\", "\\\\").replace('"', '\\"') for i in range(0, len(text), 255)]
    return " ".join(f'"{part}"' for part in escaped or [""])


def needed(
    domains: Sequence[str],
    hostname: str,
    addresses: Iterable[Address],
    keys: Iterable[tuple[str, str]] = (),
    dmarc: str = "none",
    services: Sequence[Service] = (),
) -> list[Record]:
    """The records of the domains whose mail the host of that name and those public addresses takes and sends.

    `keys`: name and text of the DKIM records. `dmarc`: the least that the policies ask for. `services`: what the host
    offers to mail programs.
    """
    host = absolute(hostname)
    records = []
    for domain in map(absolute, domains):
        records += [
            Record(domain, "MX", f"{MX_PREFERENCE} {host}", f"mail for {domain[:-1]} comes to {hostname}"),
            Record(domain, "TXT", quoted("v=spf1 mx -all"), f"{hostname} alone sends mail of {domain[:-1]} (SPF)"),
            Record(
                f"_dmarc.{domain}", "TXT", quoted(f"v=DMARC1; p={dmarc}; rua=mailto:postmaster@{domain[:-1]}"),
                f"what becomes of mail that only claims to be of {domain[:-1]} (DMARC)",
            ),
            Record(
                f"_smtp._tls.{domain}", "TXT", quoted(f"v=TLSRPTv1; rua=mailto:postmaster@{domain[:-1]}"),
                f"who is told when mail for {domain[:-1]} can't be encrypted (TLS reports)",
            ),
        ]  # fmt: skip
        records += [
            Record(f"{service.name}.{domain}", "SRV", f"0 1 {service.port} {host}", service.purpose)
            for service in services
        ]
    for name, text in keys:
        records.append(Record(absolute(name), "TXT", quoted(text), "the key that verifies signatures (DKIM)"))
    for address in addresses:
        kind = "A" if address.version == 4 else "AAAA"
        records.append(Record(host, kind, str(address), f"where {hostname} is"))
    if host not in map(absolute, domains):
        # Bounces have no sender, so receivers look at the name given in EHLO (RFC 7208 2.3).
        records.append(Record(host, "TXT", quoted("v=spf1 a -all"), f"{hostname} sends its own bounces (SPF)"))
    return records


def is_spf(text: str) -> bool:
    """Whether a TXT record's text is an SPF policy (RFC 7208 4.5)."""
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")


def merge(record: Record, existing: Sequence[str]) -> Change | None:
    """What makes `record` hold beside the `existing` values of its name and type; None when it does already.

    Everything else stays. Some can stand but once: a domain's SPF policy, which is extended, its other policies, a key
    of one name, and the null MX.
    """
    if record.type == "TXT" and is_spf(record.value.strip('"')):
        policies = [value for value in existing if is_spf(text_of(value))]
        if not policies:
            return Change(record.name, record.type, (record.value,), ttl=record.ttl)
        # Its first mechanism is the one that this host needs; the qualifier of `all` stays the owner's choice.
        mechanism = record.value.strip('"').split()[1]
        terms = text_of(policies[0]).split()
        if len(policies) == 1 and any(term.lower().lstrip("+") == mechanism for term in terms):
            return None
        if not any(term.lower().lstrip("+") == mechanism for term in terms):
            terms.insert(1, mechanism)
        return Change(record.name, record.type, (quoted(" ".join(terms)),), tuple(policies), record.ttl)
    if record.type == "TXT":
        return _merge_text(record, existing)
    if record.type == "SRV":
        return _merge_service(record, existing)
    if record.value.lower() in (value.lower() for value in existing):
        return None
    remove = (NULL_MX,) if record.type == "MX" and NULL_MX in existing else ()
    return Change(record.name, record.type, (record.value,), remove, record.ttl)


def _merge_text(record: Record, existing: Sequence[str]) -> Change | None:
    """A key is replaced; a policy of its owner stays, but a DMARC policy that is milder than asked for is tightened."""
    wanted = text_of(record.value)
    kind = _version(wanted)
    same = [value for value in existing if _version(text_of(value)) == kind]
    if kind == "v=DKIM1":
        # A key's record need not say its version (RFC 6376 3.6.1).
        same = [value for value in existing if value in same or _KEY.search(text_of(value))]
    if same and kind == "v=DMARC1":
        wanted = tightened(text_of(same[0]), _policy(wanted))
    elif same and kind == "v=TLSRPTv1":
        wanted = text_of(same[0])
    if [text_of(value) for value in same] == [wanted]:
        return None
    return Change(record.name, record.type, (quoted(wanted),), tuple(same), record.ttl)


def _merge_service(record: Record, existing: Sequence[str]) -> Change | None:
    """Other hosts of the service stay, and so do the priority and the weight that its owner gave to this one."""
    host = _place_of(record.value)[1]
    there = any(same_place(value, record.value) for value in existing)
    wrong = [v for v in existing if _place_of(v)[1] in (host, NO_SERVICE) and not same_place(v, record.value)]
    if there and not wrong:
        return None
    return Change(record.name, record.type, () if there else (record.value,), tuple(wrong), record.ttl)


def _place_of(value: str) -> tuple[str, str]:
    """Port and host of an SRV record."""
    fields = value.split()
    return fields[-2] if len(fields) == 4 else "", fields[-1].lower()


def same_place(one: str, other: str) -> bool:
    """Whether two SRV records lead to the same port of the same host."""
    return _place_of(one) == _place_of(other)


_KEY = re.compile(r"(?:^|;)\s*p\s*=")


def _version(text: str) -> str:
    """What kind of record a text is, blanks or none."""
    return "".join(text.partition(";")[0].split())


_POLICY = re.compile(r"(;\s*p\s*=\s*)([A-Za-z]*)")
POLICIES = ("none", "quarantine", "reject")


def _policy(text: str) -> str:
    match = _POLICY.search(text)
    return match[2].lower() if match and match[2].lower() in POLICIES else "none"


def tightened(text: str, policy: str) -> str:
    """A DMARC record whose `p=` asks for at least `policy`; all else stays."""
    if POLICIES.index(_policy(text)) >= POLICIES.index(policy):
        return text
    if _POLICY.search(text):
        return _POLICY.sub(rf"\g<1>{policy}", text, count=1)
    return re.sub(r"^\s*v\s*=\s*DMARC1\s*;?", f"v=DMARC1; p={policy};", text, count=1)


def text_of(value: str) -> str:
    """The text of a TXT value in zone-file form."""
    parts = value.split('"')[1::2] if value.startswith('"') else [value]
    return "".join(parts)


def tasks(records: Iterable[Record], existing: Callable[[str, str], list[str] | None]) -> list[Task]:
    """What each needed record asks for, beside the values that exist; those are None where DNS does not answer."""
    found = []
    for record in records:
        values = existing(record.name, record.type)
        change = merge(record, values or [])
        if values is None:
            found.append(Task("check", record))
        elif change is None:
            kind = text_of(record.value).partition(";")[0].partition(" ")[0].lower()
            own = next((v for v in values if record.type == "TXT" and text_of(v).lower().startswith(kind)), None)
            own = own or next((v for v in values if record.type == "SRV" and same_place(v, record.value)), None)
            found.append(Task("keep", replace(record, value=own or record.value)))
        else:
            action = "replace" if change.remove else "add"
            found.append(Task(action, replace(record, value=(*change.add, record.value)[0]), change.remove))
    return found
