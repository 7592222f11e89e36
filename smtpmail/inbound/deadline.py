"""How long a client may take: pure arithmetic on times that are passed in (monotonic seconds)."""

from __future__ import annotations

TRANSACTION_TIMEOUTS = 4
"""One message may take this many times the timeout, and besides ..."""

MIN_RATE = 1024
"""... a second for so many octets: a client that drips is not allowed to hold a thread for long."""

IDLE_TIMEOUTS = 2 * TRANSACTION_TIMEOUTS
"""A session without a message that is taken may last this many times the timeout, whatever commands it sends."""


class Deadline:
    """The patience with one client, in terms of a timeout that may shrink while it waits."""

    __slots__ = ("_max_size", "_message", "_message_since", "_messages", "_octets", "_useful_since", "_waiting_since")

    def __init__(self, max_size: int, now: float) -> None:
        self._max_size = max_size
        self._message: object = None
        self._message_since = now
        self._octets = 0
        self._messages = 0
        self._useful_since = now
        self._waiting_since = now

    def waiting(
        self, now: float, timeout: float, message: object, messages: int, *, content: bool, progress: bool
    ) -> float:
        """Seconds to wait for the next input, at `now`.

        `message` is the one under way, or None: as long as it is the same, its time runs. `messages` have been taken.
        `content`: octets of it come next, and each piece has the timeout anew; a command line has it as a whole.
        `progress`: a reply was just sent, or a new command line begins.
        """
        if message is not self._message:
            self._message, self._message_since, self._octets = message, now, 0
        if messages != self._messages:
            self._messages, self._useful_since = messages, now
        wait = timeout
        if not content:
            if progress:
                self._waiting_since = now
            wait -= now - self._waiting_since
        return min(wait, self.time_left(now, timeout))

    def received(self, octets: int) -> None:
        """So many octets came."""
        self._octets += octets

    def time_left(self, now: float, timeout: float) -> float:
        """Seconds that the message under way may still take, or the session without one."""
        # What comes beyond the size that is taken buys no more time.
        allowed = min(self._octets, 2 * self._max_size) / MIN_RATE
        idle = self._useful_since + IDLE_TIMEOUTS * timeout + allowed - now
        if self._message is None:
            return idle
        return min(idle, self._message_since + TRANSACTION_TIMEOUTS * timeout + allowed - now)
