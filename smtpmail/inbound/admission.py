"""Who may come in: limits of connections, counted over all processes."""

from __future__ import annotations

import hashlib
import mmap
import threading

from smtpmail.mail.envelope import Peer
from smtpmail.settings.config import Config
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply


class SharedCounts:
    """Who is connected, in memory that the processes share: a slot for each connection, a part for each process.

    A process writes only to its own part and reads all, so that no lock is needed between them; two that admit at the
    same instant may exceed a limit by one.
    """

    SLOT = 16
    """Octets that stand for a client; zeros are a free slot."""

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
        self._clients[slot : slot + self.SLOT] = client
        self._totals[slot // self._part] += 1

    def free(self, slot: int) -> None:
        """Empties a slot."""
        self._clients[slot : slot + self.SLOT] = bytes(self.SLOT)
        self._totals[slot // self._part] -= 1


class Admission:
    """Who may come in: limits for all connections and for those of one client (Peer.key), over all processes."""

    def __init__(self, config: Config, counts: SharedCounts, process: int) -> None:
        self._most = config.max_connections
        self._most_per_client = config.max_connections_per_client
        self._counts = counts
        self._lock = threading.Lock()
        self._free = counts.slots(process)

    def enter(self, peer: Peer) -> int | Reply:
        """Lets the client in and returns its slot, or the reply that turns it away."""
        # Of a digest, no two that stand side by side make a third.
        key = hashlib.blake2b(peer.key.encode(), digest_size=SharedCounts.SLOT).digest()
        with self._lock:
            if not self._free or self._counts.total() >= self._most:
                return replies.TOO_MANY_CONNECTIONS
            if peer.listener != "loopback" and self._counts.count(key) >= self._most_per_client:
                return replies.TOO_MANY_FROM_CLIENT
            slot = self._free.pop()
            self._counts.take(slot, key)
            return slot

    def leave(self, slot: int) -> None:
        """The connection in this slot is over."""
        with self._lock:
            self._counts.free(slot)
            self._free.append(slot)
