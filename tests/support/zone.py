"""A table of DNS records that answers the checks of smtpmail.auth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smtpmail.dns.errors import DNSError, NoSuchName, NoSuchRecord

TIMEOUT = "TIMEOUT"
"""As the value of a name: the DNS does not answer."""


class Zone:
    """`{"name": {"TXT": ["..."], "CNAME": ["..."]}}`, or TIMEOUT for a name or a type. Keeps what was asked."""

    def __init__(self, records: Mapping[str, Mapping[str, Sequence[str] | str] | str]) -> None:
        self.records = {name.lower().rstrip("."): types for name, types in records.items()}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, name: str, kind: str) -> Sequence[str]:
        self.asked.append((name, kind))
        return self._answer(name.lower().rstrip("."), kind, 0)

    def _answer(self, name: str, kind: str, aliases: int) -> Sequence[str]:
        if aliases > 10:
            raise DNSError(f"{name}: a loop of aliases")
        types = self.records.get(name)
        if types is None:
            if any(other.endswith("." + name) for other in self.records):
                raise NoSuchRecord(name)
            raise NoSuchName(name)
        if isinstance(types, str) or types.get(kind) == TIMEOUT:
            raise DNSError(f"DNS does not answer for {name}")
        if kind in types:
            return types[kind]
        if "CNAME" in types:
            return self._answer(types["CNAME"][0].lower().rstrip("."), kind, aliases + 1)
        raise NoSuchRecord(name)
