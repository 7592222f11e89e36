"""How many notifications one address elsewhere gets: who forges it as a sender may not flood it through this host."""

from __future__ import annotations

import threading
from collections import OrderedDict

BURST = 30
"""Notifications to one address at once, ..."""

PER_HOUR = 30
"""... and in the long run."""

ENTRIES = 10_000


class NoticeLimit:
    """A bucket of tokens for each address. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admits(self, address: str, now: float) -> bool:
        """Whether one more may go to an address; `now` in seconds."""
        with self._lock:
            tokens, since = self._buckets.pop(address, (float(BURST), now))
            tokens = min(float(BURST), tokens + max(now - since, 0.0) * PER_HOUR / 3600)
            admitted = tokens >= 1
            self._buckets[address] = (tokens - 1 if admitted else tokens, now)
            while len(self._buckets) > ENTRIES:
                self._buckets.popitem(last=False)
            return admitted
