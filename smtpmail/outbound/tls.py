"""How connections to other servers are protected: the one place that decides, and what it has learnt of hosts."""

from __future__ import annotations

import enum
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

MEMORY_SECONDS = 3600.0
"""What was learnt of a host is remembered for this long; then it gets the chance to do better."""

MEMORY_ENTRIES = 1000

LOSSES = 3
"""A host with which this many sessions over TLS were lost in a row counts as one whose TLS does not work."""


class Use(enum.Enum):
    """When TLS is spoken."""

    NEVER = enum.auto()
    IF_OFFERED = enum.auto()
    ALWAYS = enum.auto()


@dataclass(frozen=True, slots=True)
class Protection:
    """How a connection out must be protected."""

    use: Use
    verify: bool = True
    """The certificate must lead to a known root and be for `name`."""
    name: str = ""
    """Empty: the host's own name."""

    @property
    def required(self) -> bool:
        return self.use is Use.ALWAYS

    def admits(self, reached: Reached | None) -> bool:
        """Whether what an open connection has reached is enough."""
        return not self.required or (reached is not None and (reached.verified or not self.verify))


NONE = Protection(Use.NEVER, verify=False)
TRY = Protection(Use.IF_OFFERED)
ENCRYPT = Protection(Use.ALWAYS, verify=False)
VERIFY = Protection(Use.ALWAYS)


@dataclass(frozen=True, slots=True)
class Reached:
    """How a connection with TLS is protected."""

    version: str
    cipher: str
    verified: bool

    def __str__(self) -> str:
        """As it stands in the log."""
        return f"{self.version} {self.cipher}{' verified' if self.verified else ''}"


@cache
def context(protection: Protection) -> ssl.SSLContext:
    """The TLS settings for a protection. Where the next step would be clear text, old versions are better than that."""
    made = ssl.create_default_context()
    if protection.verify:
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        return made
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_2 if protection.required else ssl.TLSVersion.MINIMUM_SUPPORTED
    if not protection.required:
        made.set_ciphers("DEFAULT:@SECLEVEL=0")
    return made


class _Expiring:
    """A bounded set of hosts, each for MEMORY_SECONDS, with a number."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], tuple[int, float]] = {}

    def add(self, key: tuple[str, str]) -> None:
        now = self._clock()
        with self._lock:
            if len(self._entries) >= MEMORY_ENTRIES:
                self._entries = {k: v for k, v in self._entries.items() if v[1] > now}
                while len(self._entries) >= MEMORY_ENTRIES:
                    self._entries.pop(next(iter(self._entries)))
            number, until = self._entries.get(key, (0, 0.0))
            self._entries[key] = (number + 1 if until > now else 1, now + MEMORY_SECONDS)

    def discard(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def count(self, key: tuple[str, str]) -> int:
        number, until = self._entries.get(key, (0, 0.0))
        return number if until > self._clock() else 0


class Policy:
    """Chooses the protection of each connection. A host is (name, address).

    Without a demand TLS is used where it is offered: with a certificate that verifies, else with any. Clear text to a
    host that offers TLS comes last: only for a message that was put off for it before (as with Postfix), and what is
    refused there says nothing about the message until the host has taken one in clear text.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._unverified = _Expiring(clock)
        self._takes_clear_text = _Expiring(clock)
        self._lost = _Expiring(clock)

    def choose(self, host: tuple[str, str], *, requiretls: bool, credentials: bool) -> Protection:
        """How to begin with a host."""
        if requiretls or credentials:
            return VERIFY
        if self._takes_clear_text.count(host):
            return NONE
        return replace(TRY, verify=False) if self._unverified.count(host) else TRY

    @staticmethod
    def weaker(failed: Protection, *, lasting: bool, put_off: bool) -> Protection | None:
        """What to try after TLS failed, None for nothing now.

        `lasting`: it would fail again so, for the certificate or the way of speaking TLS. `put_off`: the message was
        deferred before.
        """
        if failed.required or failed.use is Use.NEVER:
            return None
        if failed.verify and lasting:
            return replace(failed, verify=False)
        return NONE if put_off else None

    def falls_back(self, host: tuple[str, str], *, put_off: bool) -> bool:
        """Whether TLS with a host works and then always dies, so that clear text may be tried in the end."""
        return put_off and self._lost.count(host) >= LOSSES

    def proven(self, host: tuple[str, str]) -> bool:
        """Whether a host that offers TLS has taken mail in clear text: then its refusals there count."""
        return self._takes_clear_text.count(host) > 0

    def delivered(self, host: tuple[str, str], reached: Reached | None, *, fallback: bool) -> None:
        """A message was taken: what the connection was is good enough for the next ones."""
        if reached is None and fallback and not self.proven(host):
            self._takes_clear_text.add(host)
        elif reached is not None:
            self._lost.discard(host)
            if not reached.verified:
                self._unverified.add(host)

    def refused_clear_text(self, host: tuple[str, str]) -> None:
        """Clear text does not help."""
        self._takes_clear_text.discard(host)

    def lost(self, host: tuple[str, str]) -> None:
        """A session over TLS ended before its time."""
        self._lost.add(host)
