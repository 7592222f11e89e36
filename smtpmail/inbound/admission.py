"""Who may come in: limits of connections, counted over all processes."""

from __future__ import annotations

import hashlib
import mmap
import threading

from smtpmail.mail.envelope import Peer
from smtpmail.settings.config import Config
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply

RESERVED = 10
"""One of so many connections is kept for the loopback listener: programs on this host are never locked out."""

SITE_FACTOR = 2
"""An IPv6 site (/48) may have so many times the connections of one network (/64)."""

CROWDED = 0.7
"""From this part of its connections on, the network has to hurry ..."""

HURRY_SECONDS = 10.0
"""... and may be silent for so long only (Postfix under stress: 10 s)."""


class SharedCounts:
    """Who is connected, in memory that the processes share: a slot for each connection, a part for each process.

    A process writes only to its own part and reads all, so that no lock is needed between them; two that admit at the
    same instant may exceed a limit by one.
    """

    KEY = 16
    """Octets that stand for a network; zeros are none."""

    SLOT = 2 * KEY
    """A connection: its network, and the site that is in."""

    def __init__(self, processes: int, connections: int) -> None:
        self._part = connections * self.SLOT
        self._clients = mmap.mmap(-1, processes * self._part)
        self._totals = memoryview(mmap.mmap(-1, processes * 8)).cast("q")

    def count(self, client: bytes) -> int:
        """Connections of one client."""
        return self._clients[:].count(client)

    def total(self) -> int:
        """Connections of all clients."""
        return sum(self._totals)

    def slots(self, process: int) -> list[int]:
        """The slots of a process."""
        return list(range(process * self._part, (process + 1) * self._part, self.SLOT))

    def take(self, slot: int, client: bytes) -> None:
        """Puts a client into a slot."""
        self._clients[slot : slot + self.SLOT] = client.ljust(self.SLOT, b"\0")
        self._totals[slot // self._part] += 1

    def free(self, slot: int) -> None:
        """Empties a slot."""
        self._clients[slot : slot + self.SLOT] = bytes(self.SLOT)
        self._totals[slot // self._part] -= 1


class Admission:
    """Limits for all connections, for those of the network, and for those of one client, over all processes."""

    def __init__(self, config: Config, counts: SharedCounts, process: int) -> None:
        self._most = config.max_connections
        self._most_of_network = config.max_connections - config.max_connections // RESERVED
        self._most_per_client = config.max_connections_per_client
        self._patience = config.timeout
        self._counts = counts
        self._lock = threading.Lock()
        self._free = counts.slots(process)

    def enter(self, peer: Peer) -> int | Reply:
        """Lets the peer in and returns its slot, or the reply that turns it away."""
        # Of digests, no two that stand side by side make a third.
        keys = [hashlib.blake2b(n.encode(), digest_size=SharedCounts.KEY).digest() for n in peer.networks]
        from_network = peer.listener != "loopback"
        with self._lock:
            total = self._counts.total()
            if not self._free or total >= (self._most_of_network if from_network else self._most):
                return replies.TOO_MANY_CONNECTIONS
            if from_network and any(
                self._counts.count(key) >= limit
                for key, limit in zip(keys, (self._most_per_client, SITE_FACTOR * self._most_per_client), strict=False)
            ):
                return replies.TOO_MANY_FROM_CLIENT
            slot = self._free.pop()
            self._counts.take(slot, b"".join(keys))
            return slot

    def leave(self, slot: int) -> None:
        """The connection in this slot is over."""
        with self._lock:
            self._counts.free(slot)
            self._free.append(slot)

    def patience(self, peer: Peer) -> float:
        """Seconds that a peer may be silent now: fewer for the network when it takes most of the connections."""
        if peer.listener != "loopback" and self._counts.total() >= CROWDED * self._most_of_network:
            return min(self._patience, HURRY_SECONDS)
        return self._patience
