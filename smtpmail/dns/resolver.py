"""Questions to DNS, with one cache for the whole process. Nothing of dnspython is loaded before the first question."""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from smtpmail.dns.errors import DNSError, NoSuchName, NoSuchRecord, NotFound, ServerFailed
from smtpmail.settings.values import Endpoint

if TYPE_CHECKING:
    from smtpmail.dns.wire import Reply

QUERY_SECONDS = 3.0
"""Patience with one server for one question, ..."""

LOOKUP_SECONDS = 12.0
"""... and with all of them."""

DEAD_SECONDS = 60.0
"""A server that did not answer is asked last for this long."""

FAILURE_SECONDS = 20.0
"""A question that nobody answered is not asked again for this long."""

LONGEST_SECONDS = 86400.0
"""An answer is kept no longer than this, whatever its TTL, ..."""

LONGEST_NEGATIVE_SECONDS = 900.0
"""... and the answer that there is none no longer than this (RFC 2308 5)."""

CACHE_ENTRIES = 5000

CACHE_OCTETS = 8 * 1024 * 1024
"""The cache holds no more: what strangers publish may be 64 KiB each."""

RESOLV_CONF = "/etc/resolv.conf"
PORT = 53

_Key = tuple[str, str]


class Resolver:
    """`servers`: none means those of /etc/resolv.conf, which is read again whenever it changes."""

    def __init__(
        self,
        servers: Sequence[Endpoint] = (),
        *,
        resolv_conf: str = RESOLV_CONF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configured = not servers
        self._servers = [(server.host, server.port or PORT) for server in servers]
        self._resolv_conf = resolv_conf
        self._resolv_conf_state: tuple[int, ...] | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._dead: dict[tuple[str, int], float] = {}
        self._cache: OrderedDict[_Key, tuple[float, Reply | DNSError]] = OrderedDict()
        self._cached_octets = 0

    # -- what can be asked; a name with or without its final dot, a type as DNS writes it

    def lookup(self, name: str, kind: str, *, patience: float | None = None) -> tuple[str, ...]:
        """The values of a name, aliases followed: never empty. The strings of a TXT record are joined.

        Others are in zone-file form: `10 host.` for an MX. `patience`: seconds, at most LOOKUP_SECONDS.
        Raises NoSuchName, NoSuchRecord, DNSError.
        """
        return self._found(name, kind, patience).texts

    def records(self, name: str, kind: str) -> list[str]:
        """The values in zone-file form; [] when there is none. Raises DNSError."""
        try:
            return list(self._found(name, kind).values)
        except NotFound:
            return []

    def addresses(self, name: str) -> list[str]:
        """The IPv4 and IPv6 addresses of a name; [] when there is none. Raises DNSError."""
        return self.records(name, "A") + self.records(name, "AAAA")

    def zone_of(self, name: str) -> str:
        """The zone that a name lies in, with its final dot: the nearest name above it with an SOA. Raises DNSError."""
        labels = name.rstrip(".").lower().split(".")
        for start in range(len(labels)):
            candidate = ".".join(labels[start:])
            try:
                if self._found(candidate, "SOA").canonical == candidate:
                    return f"{candidate}."
            except NotFound:
                continue
        raise DNSError(f"{name} lies in no zone")

    # -- the cache

    def _found(self, name: str, kind: str, patience: float | None = None) -> Reply:
        """Raises NoSuchName, NoSuchRecord, DNSError."""
        key = (name.rstrip(".").lower(), kind)
        with self._lock:
            self._follow_resolv_conf()
            until, known = self._cache.get(key, (0.0, None))
            if known is not None and until > self._clock():
                self._cache.move_to_end(key)
                if isinstance(known, DNSError):
                    raise known
                return known
            servers = self._in_order()
        found: Reply | DNSError
        try:
            found = self._ask(*key, servers, min(patience or LOOKUP_SECONDS, LOOKUP_SECONDS))
            keep = min(found.ttl, LONGEST_SECONDS)
            if not found.values:
                keep = min(found.ttl, LONGEST_NEGATIVE_SECONDS)
                found = (
                    NoSuchRecord(f"{key[0]} has no {kind} record")
                    if found.exists
                    else NoSuchName(f"the name {key[0]} does not exist")
                )
        except DNSError as error:
            found, keep = error, FAILURE_SECONDS
        if keep:
            with self._lock:
                self._keep(key, self._clock() + keep, found)
        if isinstance(found, DNSError):
            raise found
        return found

    def _keep(self, key: _Key, until: float, found: Reply | DNSError) -> None:
        """With the lock held."""
        if (old := self._cache.pop(key, None)) is not None:
            self._cached_octets -= _octets(old[1])
        self._cache[key] = (until, found)
        self._cached_octets += _octets(found)
        while len(self._cache) > CACHE_ENTRIES or self._cached_octets > CACHE_OCTETS:
            _, (_, oldest) = self._cache.popitem(last=False)
            self._cached_octets -= _octets(oldest)

    # -- the servers

    def _in_order(self) -> list[tuple[str, int]]:
        """As they are given, but those that did not answer lately come last. With the lock held."""
        now = self._clock()
        self._dead = {server: until for server, until in self._dead.items() if until > now}
        return sorted(self._servers, key=lambda server: server in self._dead)

    def _ask(self, name: str, kind: str, servers: Sequence[tuple[str, int]], patience: float) -> Reply:
        """One server after the other, again and again while there is time. Raises DNSError."""
        from smtpmail.dns import wire  # noqa: PLC0415

        give_up = time.monotonic() + patience
        why = "there is no name server"
        left = list(servers)
        while left:
            for server in list(left):
                seconds = min(QUERY_SECONDS, give_up - time.monotonic())
                if seconds <= 0:
                    raise DNSError(f"DNS does not answer for {name} {kind}: {why}")
                try:
                    reply = wire.query(name, kind, *server, seconds)
                except ServerFailed as failure:
                    why = f"{server[0]} {failure}"
                    if not failure.silent:
                        left.remove(server)  # it would say the same again
                        continue
                    with self._lock:
                        self._dead[server] = self._clock() + DEAD_SECONDS
                else:
                    with self._lock:
                        self._dead.pop(server, None)
                    return reply
        raise DNSError(f"DNS does not answer for {name} {kind}: {why}")

    def _follow_resolv_conf(self) -> None:
        """With the lock held."""
        if not self._configured:
            return
        state: tuple[int, ...] = ()
        try:
            stat = os.stat(self._resolv_conf)
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            pass  # the server of this host, then
        if state == self._resolv_conf_state:
            return
        self._resolv_conf_state = state
        self._servers = [(server, PORT) for server in name_servers(self._resolv_conf)]
        self._dead.clear()
        self._cache.clear()  # another network may know other names
        self._cached_octets = 0


def _octets(found: Reply | DNSError) -> int:
    """What an answer takes in memory, roughly."""
    return 0 if isinstance(found, DNSError) else sum(map(len, found.values)) + sum(map(len, found.texts))


def name_servers(path: str) -> list[str]:
    """The servers that resolv.conf(5) names; without any, the one of this host, as the C library has it."""
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
                    found.append(words[1])
    except OSError:
        pass
    return found or ["127.0.0.1"]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
