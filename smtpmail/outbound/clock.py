"""Time and chance, which tests can turn."""

from __future__ import annotations

import random
import threading
import time


class Clock:
    """What the queue's runner takes from the world."""

    def now(self) -> float:
        """Unix time, which may be set; for what is written down."""
        return time.time()

    def elapsed(self) -> float:
        """Seconds that only grow, also while the machine sleeps; for waiting."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def chance(self) -> float:
        """A number from 0 to 1."""
        return random.random()

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Waits for a condition, at most so long."""
        condition.wait(seconds)
