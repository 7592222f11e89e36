"""The change of a DKIM key, one safe step after the other; each call goes as far as the DNS lets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from smtpmail.admin.dns_records import Record, absolute, quoted
from smtpmail.admin.dns_update import Publisher
from smtpmail.auth.dkim_keys import NEXT, RETIRED, SIGNING, Key, KeyFolder, public_key
from smtpmail.dns.errors import DNSError, NotFound

REVOKED = "v=DKIM1; p="
"""The record of a key that is withdrawn (RFC 6376 3.6.1)."""


@dataclass(frozen=True)
class Step:
    """Something that was done, or that a person has to do."""

    action: str
    """made, publish, switched, withdraw or removed."""
    domain: str
    selector: str
    text: str
    record: str = ""
    """In zone-file form, when it has to do with one."""

    def __str__(self) -> str:
        return f"{self.domain}: {self.text}" + (f"\n{self.record}" if self.record else "")

    def as_dict(self) -> dict[str, str]:
        """For programs."""
        return {"action": self.action, "domain": self.domain, "selector": self.selector, "text": self.text,
                "record": self.record}  # fmt: skip


class Rotation:
    """`publisher`: with dynamic updates; without, the records are shown to be published by hand."""

    def __init__(
        self,
        folder: KeyFolder,
        lookup: Callable[[str, str], Sequence[str]],
        publisher: Publisher | None,
        *,
        wait: float,
        keep: float,
        younger_stays: float,
        now: float,
        lacking: Callable[[Record], str] = lambda record: "",
    ) -> None:
        """`wait`: seconds for all servers. `keep`: seconds that a key's record outlives it. `now`: since 1970.

        `lacking`: of a record that the resolver knows, which authoritative server says that it has it not.
        """
        self._folder = folder
        self._lookup = lookup
        self._publisher = publisher
        self._wait = wait
        self._keep = keep
        self._younger_stays = younger_stays
        self._now = now
        self._lacking = lacking

    def go_on(self, domain: str) -> Iterator[Step]:
        """Does what can be done now. Raises KeyFileError, DNSError, UpdateFailed."""
        for current in self._folder.signing(domain):
            # A switch that was interrupted in its middle.
            for other in self._retire_others(current):
                yield _switched(current, other)
        keys = self._folder.keys(domain)
        for current in self._folder.signing(domain):
            coming = [key for key in keys if key.state == NEXT and key.algorithm == current.algorithm]
            if not coming:
                if self._now - current.changed < self._younger_stays:
                    continue
                coming = [self._folder.create(domain, current.algorithm, state=NEXT)]
                yield Step("made", domain, coming[0].selector, f"the next key is {coming[0].selector}")
            why = ""
            try:
                published = self._is_published(coming[0])
            except DNSError as error:
                if self._publisher is not None:
                    raise
                published, why = False, f" (now {error})"
            if not published:
                record = str(_record(coming[0], coming[0].record))
                text = f"publish this record; {coming[0].selector} will sign when it is seen in the DNS{why}:"
                yield Step("publish", domain, coming[0].selector, text, record)
                continue
            # Between these two steps the newer one signs.
            self._retire_others(self._folder.move(coming[0], SIGNING))
            yield _switched(coming[0], current)
        for key in keys:
            if key.state == RETIRED and self._now - key.changed > self._keep:
                yield from self._withdraw(key)

    def _is_published(self, key: Key) -> bool:
        """Whether all have the record of a key; with dynamic updates it is sent, and waited for."""
        record = _record(key, key.record)
        if self._publisher is None:
            return self._is_seen(key) and not self._lacking(record)
        self._publisher.publish([record])
        self._publisher.wait([record], self._wait)
        return True

    def _retire_others(self, key: Key) -> list[Key]:
        """No other key of its algorithm signs from now on; returns those that did."""
        others = [
            other
            for other in self._folder.keys(key.domain)
            if (other.state, other.algorithm) == (SIGNING, key.algorithm) and other.selector != key.selector
        ]
        for other in others:
            self._folder.move(other, RETIRED)
        return others

    def _withdraw(self, key: Key) -> Iterator[Step]:
        record = _record(key, REVOKED)
        if self._publisher is not None:
            self._publisher.publish([record])
        elif self._is_seen(key):
            text = f"{key.selector} signs no more; change its record to:"
            yield Step("withdraw", key.domain, key.selector, text, str(record))
            return
        self._folder.remove(key)
        yield Step("removed", key.domain, key.selector, f"the old key {key.selector} is withdrawn and deleted")

    def _is_seen(self, key: Key) -> bool:
        """Whether the DNS has the key's record."""
        wanted = public_key(key.record)
        try:
            return any(public_key(text) == wanted for text in self._lookup(key.record_name, "TXT"))
        except NotFound:
            return False


def _switched(key: Key, old: Key) -> Step:
    return Step("switched", key.domain, key.selector, f"{key.selector} signs in the place of {old.selector}")


def _record(key: Key, text: str) -> Record:
    return Record(absolute(key.record_name), "TXT", quoted(text), "")
