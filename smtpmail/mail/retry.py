"""When a message is tried again, when its sender is told, when it is given up (RFC 5321 4.5.4.1). Times in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

JITTER = 0.1
"""A wait is up to this part longer, so that what failed together is not tried together for ever."""

START_SPREAD = 0.05
"""After a start, overdue messages are spread over so many seconds for each of them, ..."""

START_SPREAD_MOST = 10 * MINUTE
"""... at most over so many."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`schedule` holds the waits after the first, second, ... attempt; the last one goes on until `lifetime`."""

    schedule: tuple[float, ...] = (
        1 * MINUTE,
        5 * MINUTE,
        10 * MINUTE,
        20 * MINUTE,
        40 * MINUTE,
        80 * MINUTE,
        2 * HOUR,
    )
    lifetime: float = 5 * DAY
    delay_notice: float = 4 * HOUR
    """The sender is told once when a message is older than this and still here."""

    def next_attempt(self, arrived: float, attempts: int, now: float, random: Callable[[], float]) -> float | None:
        """When to try again after `attempts` attempts; None when the message is to be given up.

        The last attempt is made when the lifetime ends, not after it. `random` gives numbers from 0 to 1.
        """
        end = min(arrived, now) + self.lifetime
        if now >= end:
            return None
        wait = self.schedule[min(attempts, len(self.schedule)) - 1]
        return min(now + wait * (1 + JITTER * random()), end)

    def capped(self, at: float, now: float) -> float:
        """A time to try again as it was written down, but no later than a wait may be: the clock may have been set."""
        return min(at, now + max(self.schedule) * (1 + JITTER))

    def retell(self, attempts: int, now: float, random: Callable[[], float]) -> float:
        """When to try again to tell a sender who could not be told; this has no end."""
        return now + self.schedule[min(attempts, len(self.schedule)) - 1] * (1 + JITTER * random())

    def wants_delay_notice(self, arrived: float, now: float) -> bool:
        """Whether the message is late enough for its sender to be told."""
        return now - arrived >= self.delay_notice

    @staticmethod
    def after_start(due: float, overdue: int, now: float, random: Callable[[], float]) -> float:
        """When a message that was due at `due` is tried after a start at `now` that found `overdue` such messages."""
        if due > now:
            return due
        return now + random() * min(overdue * START_SPREAD, START_SPREAD_MOST)
