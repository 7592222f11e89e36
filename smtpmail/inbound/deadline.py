"""How long a client may take: pure arithmetic on times that are passed in (monotonic seconds)."""

from __future__ import annotations

TRANSACTION_TIMEOUTS = 4
"""One message may take this many times the timeout, and besides ..."""

MIN_RATE = 1024
"""... a second for so many octets: a client that drips is not allowed to hold a thread for long."""


class Deadline:
    """The patience with one client. `timeout` is for a command line, or for the next octets of content."""

    __slots__ = ("_max_size", "_octets", "_since", "_timeout", "_waiting_since", "_what")

    def __init__(self, timeout: float, max_size: int) -> None:
        self._timeout = timeout
        self._max_size = max_size
        self._what: object = None
        self._since = 0.0
        self._octets = 0
        self._waiting_since = 0.0

    def waiting(self, now: float, what: object, *, content: bool, progress: bool) -> float:
        """Seconds to wait for the next input, at `now`.

        `what` is the message under way, or None: as long as it is the same, its time runs. `content`: octets of it come
        next, and each piece has the timeout anew; a command line has it as a whole. `progress`: a reply was just sent,
        or a new command line begins.
        """
        if what is not self._what:
            self._what, self._since, self._octets = what, now, 0
        wait = self._timeout
        if not content:
            if progress:
                self._waiting_since = now
            wait -= now - self._waiting_since
        return wait if what is None else min(wait, self.time_left(now))

    def received(self, octets: int) -> None:
        """So many octets came."""
        self._octets += octets

    def time_left(self, now: float) -> float:
        """Seconds that the message under way may still take; the timeout when there is none."""
        if self._what is None:
            return self._timeout
        # What comes beyond the size that is taken buys no more time.
        octets = min(self._octets, 2 * self._max_size)
        return self._since + TRANSACTION_TIMEOUTS * self._timeout + octets / MIN_RATE - now
