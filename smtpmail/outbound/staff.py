"""Lends threads to destinations: who works where, who waits, who yields.

One destination (a domain, a literal, or the smarthost) has jobs in line and a few workers, each with a connection of
its own that it keeps while there is more to send. Destinations share nothing but the number of threads in all, and how
many of these are within reach is a matter of rank: so neither dead hosts nor what strangers cause keeps other mail
waiting.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from smtpmail.log import log
from smtpmail.outbound.kept import Kept
from smtpmail.outbound.outcome import Outcome

J = TypeVar("J")

KEEP_SECONDS = 1.0
"""A worker keeps its connection for the next message for this long."""

LINE_SECONDS = 0.05
"""A destination gets another worker when a job has been in line for this long."""

KNOWN_SECONDS = 4 * 3600.0
"""What is known of a destination, that it could be reached or not, counts for this long, or until it is otherwise."""

KNOWN_ENTRIES = 10_000

CROWD = 10
"""When so many are at work for destinations that are not proven, patience with them is short."""

BREAKS = 3
"""After so many messages in a row in whose middle the hosts ended the session, those in line need not try."""

GRACE_SECONDS = 1.0
"""At a stop, those who are not sending a content get this long to end."""


class Rank(enum.IntEnum):
    """Of a destination; the lower, the fewer threads are within its reach."""

    MINOR = 0
    """It could not be reached lately, or what waits are notifications."""
    UNPROVEN = 1
    """Nothing is known of it."""
    PROVEN = 2
    """It could be reached lately."""


@dataclass(frozen=True, slots=True)
class Trip:
    """What a job found out about its destination: at most one of them."""

    dead: Outcome | None = None
    """No host could be talked to."""
    broken: Outcome | None = None
    """The hosts ended the session in the middle."""


@dataclass(slots=True)
class _Destination(Generic[J]):
    name: str
    minor: bool
    """What waits here are notifications: they have a line of their own."""
    line: deque[tuple[float, J]] = field(default_factory=deque)
    workers: int = 0
    idle: int = 0
    breaks: int = 0
    waits: bool = False
    """It has nobody, and a place among those that wait for one."""
    ready: threading.Condition = field(default_factory=threading.Condition)


class Staff(Generic[J]):
    """`do` does a job over a connection (hurried, when others may have to wait); `put_off` ends one that would only
    find the same. Neither may raise.
    """

    def __init__(
        self,
        do: Callable[[J, Kept, bool], Trip],
        put_off: Callable[[J, Outcome], None],
        *,
        most: int,
        most_per_destination: int,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._do = do
        self._put_off = put_off
        # For those of a rank and of the ranks below together: half, three quarters, all.
        self._most = {Rank.MINOR: max(1, most // 2), Rank.UNPROVEN: max(1, most - most // 4), Rank.PROVEN: most}
        self._most_per_destination = most_per_destination
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._destinations: dict[tuple[str, bool], _Destination[J]] = {}
        self._waiting: dict[Rank, deque[tuple[float, _Destination[J]]]] = {rank: deque() for rank in Rank}
        """Destinations that nobody works for, and since when."""
        self._known: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        """Whether a destination could be reached, and until when that counts."""
        self._kept: set[Kept] = set()
        self._workers = dict.fromkeys(Rank, 0)
        self._stopping = False

    def add(self, name: str, job: J, *, minor: bool) -> None:
        """Puts a job in line at a destination; `minor`: a notification."""
        with self._lock:
            key = (name, minor)
            destination = self._destinations.get(key)
            if destination is None:
                destination = self._destinations[key] = _Destination(name, minor, ready=threading.Condition(self._lock))
            destination.line.append((time.monotonic(), job))
            self._see_to(destination)

    def look(self) -> None:
        """To be called now and then: more workers where they are needed, and where there were no threads before."""
        with self._lock:
            self._next_in_waiting()
            for destination in list(self._destinations.values()):
                if destination.line:
                    self._see_to(destination)

    def stop(self, patience: float) -> None:
        """Begins nothing new; waits up to `patience` seconds for contents that are being sent."""
        begun = time.monotonic()
        with self._lock:
            self._stopping = True
            for destination in self._destinations.values():
                destination.line.clear()
                destination.ready.notify_all()
            while any(self._workers.values()) and (passed := time.monotonic() - begun) < patience:
                if passed > GRACE_SECONDS and not any(kept.sending for kept in self._kept):
                    break
                self._ended.wait(0.05)

    # -- all with the lock held

    def _rank(self, destination: _Destination[J]) -> Rank:
        reached, until = self._known.get(destination.name, (False, 0.0))
        known = until > self._elapsed()
        if destination.minor or (known and not reached):
            return Rank.MINOR
        return Rank.PROVEN if known else Rank.UNPROVEN

    def _note(self, name: str, *, reached: bool) -> None:
        self._known[name] = (reached, self._elapsed() + KNOWN_SECONDS)
        self._known.move_to_end(name)
        while len(self._known) > KNOWN_ENTRIES:
            self._known.popitem(last=False)

    def _has_place(self, rank: Rank) -> bool:
        """Whether one more may work for destinations of a rank."""
        total = 0
        for each in Rank:
            total += self._workers[each]
            if each >= rank and total >= self._most[each]:
                return False
        return True

    def _see_to(self, destination: _Destination[J]) -> None:
        """Sees to it that somebody works for a destination."""
        if destination.idle:
            destination.ready.notify()
        rank = self._rank(destination)
        most = 1 if rank is Rank.MINOR and not destination.minor else self._most_per_destination
        if destination.workers >= most or len(destination.line) <= destination.idle or self._stopping:
            return
        if destination.workers and time.monotonic() - destination.line[0][0] < LINE_SECONDS:
            return  # those at work keep up: more would only be in each other's way
        if self._has_place(rank):
            try:
                threading.Thread(target=self._work, args=(destination, rank), daemon=True).start()
            except RuntimeError:
                pass  # no more threads now
            else:
                destination.workers += 1
                self._workers[rank] += 1
                return
        if not destination.workers and not destination.waits:
            destination.waits = True
            self._waiting[rank].append((time.monotonic(), destination))

    def _next_in_waiting(self) -> None:
        """Gives a free place to a destination that has nobody: who came first, but those of minor rank last."""
        lines = [self._waiting[rank] for rank in Rank if self._waiting[rank] and self._has_place(rank)]
        if lines:
            first = min(lines, key=lambda line: (line is self._waiting[Rank.MINOR], line[0][0]))
            _, destination = first.popleft()
            destination.waits = False
            self._see_to(destination)

    # -- a worker

    def _work(self, destination: _Destination[J], rank: Rank) -> None:
        kept = Kept(destination.name)
        with self._lock:
            self._kept.add(kept)
        fresh = True
        try:
            while (job := self._next_job(destination, rank, fresh=fresh, keep=kept.is_open)) is not None:
                self._take(job, destination, kept, rank)
                fresh = False
        except Exception:
            log.exception("queue.error", destination=destination.name)
        finally:
            kept.close()
            with self._lock:
                self._kept.discard(kept)
                destination.workers -= 1
                self._workers[rank] -= 1
                self._next_in_waiting()
                if destination.line:
                    self._see_to(destination)
                elif not destination.workers:
                    self._destinations.pop((destination.name, destination.minor), None)
                self._ended.notify_all()

    def _next_job(self, destination: _Destination[J], rank: Rank, *, fresh: bool, keep: bool) -> J | None:
        """The next job of a destination; waits a little for one when there is a connection to keep.

        None ends the worker: also when it has had its turn and another destination has no worker at all.
        """
        give_up = time.monotonic() + KEEP_SECONDS
        with self._lock:
            while not destination.line:
                left = give_up - time.monotonic()
                if not keep or left <= 0 or self._others_wait(rank) or self._stopping:
                    return None
                destination.idle += 1
                destination.ready.wait(left)
                destination.idle -= 1
            if self._others_wait(rank) and not fresh:
                return None
            _, job = destination.line.popleft()
            self._see_to(destination)
            return job

    def _others_wait(self, rank: Rank) -> bool:
        """Whether the place of a worker of this rank is needed elsewhere."""
        self._workers[rank] -= 1
        try:
            return any(line and self._has_place(each) for each, line in self._waiting.items())
        finally:
            self._workers[rank] += 1

    def _take(self, job: J, destination: _Destination[J], kept: Kept, rank: Rank) -> None:
        crowd = self._workers[Rank.UNPROVEN] > CROWD or bool(self._waiting[Rank.UNPROVEN])
        trip = self._do(job, kept, crowd and rank is Rank.UNPROVEN)
        with self._lock:
            destination.breaks = destination.breaks + 1 if trip.broken else 0
            same = trip.dead or (trip.broken if destination.breaks >= BREAKS else None)
            if trip.dead:
                self._note(destination.name, reached=False)
            elif not trip.broken:
                self._note(destination.name, reached=True)
            others = [other for _, other in destination.line] if same else []
            if same:
                destination.line.clear()
        for other in others:
            assert same is not None
            self._put_off(other, same)
