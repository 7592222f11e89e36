"""Lends threads to destinations: who works where, who waits, who yields.

One destination (a domain, a literal, or the smarthost) has jobs in line and a few workers, each with a connection of
its own that it keeps while there is more to send. Destinations share nothing but the number of threads in all. Half of
these are out of reach for destinations that failed lately and for notifications, so that neither dead hosts nor what
strangers cause keeps other mail waiting.
"""

from __future__ import annotations

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

FAILING_SECONDS = 4 * 3600.0
"""A destination that could not be reached counts as failing for this long, or until it is."""

FAILING_ENTRIES = 10_000

BREAKS = 3
"""After so many messages in a row in whose middle the hosts ended the session, those in line need not try."""

GRACE_SECONDS = 1.0
"""At a stop, those who are not sending a content get this long to end."""


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
    ready: threading.Condition = field(default_factory=threading.Condition)


class Staff(Generic[J]):
    """`do` does a job over a connection (hurried, when others wait); `put_off` ends one that would only find the same.

    Neither may raise.
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
        self._most = most
        self._most_minor = max(1, most // 2)
        self._most_per_destination = most_per_destination
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._destinations: dict[tuple[str, bool], _Destination[J]] = {}
        self._waiting: deque[_Destination[J]] = deque()
        self._waiting_minor: deque[_Destination[J]] = deque()
        self._failing: OrderedDict[str, float] = OrderedDict()
        self._kept: set[Kept] = set()
        self._workers = 0
        self._minor_workers = 0
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
            while self._workers and (passed := time.monotonic() - begun) < patience:
                if passed > GRACE_SECONDS and not any(kept.sending for kept in self._kept):
                    break
                self._ended.wait(0.05)

    # -- all with the lock held

    def _is_failing(self, name: str) -> bool:
        return self._failing.get(name, 0.0) > self._elapsed()

    def _see_to(self, destination: _Destination[J]) -> None:
        """Sees to it that somebody works for a destination."""
        if destination.idle:
            destination.ready.notify()
        failing = self._is_failing(destination.name)
        most = 1 if failing else self._most_per_destination
        if destination.workers >= most or len(destination.line) <= destination.idle or self._stopping:
            return
        if destination.workers and time.monotonic() - destination.line[0][0] < LINE_SECONDS:
            return  # those at work keep up: more would only be in each other's way
        minor = destination.minor or failing
        if self._workers < self._most and (not minor or self._minor_workers < self._most_minor):
            try:
                threading.Thread(target=self._work, args=(destination, minor), daemon=True).start()
            except RuntimeError:
                pass  # no more threads now
            else:
                destination.workers += 1
                self._workers += 1
                self._minor_workers += minor
                return
        waiting = self._waiting_minor if minor else self._waiting
        if not destination.workers and destination not in self._waiting and destination not in self._waiting_minor:
            waiting.append(destination)

    def _next_in_waiting(self) -> None:
        """Gives a free place to a destination that has nobody."""
        if self._waiting and self._workers < self._most:
            self._see_to(self._waiting.popleft())
        elif self._waiting_minor and self._workers < self._most and self._minor_workers < self._most_minor:
            self._see_to(self._waiting_minor.popleft())

    # -- a worker

    def _work(self, destination: _Destination[J], minor: bool) -> None:
        kept = Kept(destination.name)
        with self._lock:
            self._kept.add(kept)
        fresh = True
        try:
            while (job := self._next_job(destination, fresh=fresh, keep=kept.is_open)) is not None:
                self._take(job, destination, kept, minor=minor)
                fresh = False
        except Exception:
            log.exception("queue.error", destination=destination.name)
        finally:
            kept.close()
            with self._lock:
                self._kept.discard(kept)
                destination.workers -= 1
                self._workers -= 1
                self._minor_workers -= minor
                self._next_in_waiting()
                if destination.line:
                    self._see_to(destination)
                elif not destination.workers:
                    self._destinations.pop((destination.name, destination.minor), None)
                self._ended.notify_all()

    def _next_job(self, destination: _Destination[J], *, fresh: bool, keep: bool) -> J | None:
        """The next job of a destination; waits a little for one when there is a connection to keep.

        None ends the worker: also when it has had its turn and another destination has no worker at all.
        """
        give_up = time.monotonic() + KEEP_SECONDS
        with self._lock:
            while not destination.line:
                left = give_up - time.monotonic()
                if not keep or left <= 0 or self._others_wait() or self._stopping:
                    return None
                destination.idle += 1
                destination.ready.wait(left)
                destination.idle -= 1
            if self._others_wait() and not fresh:
                return None
            _, job = destination.line.popleft()
            self._see_to(destination)
            return job

    def _others_wait(self) -> bool:
        """Whether the place of a worker is needed elsewhere."""
        return bool(self._waiting) or (bool(self._waiting_minor) and self._minor_workers >= self._most_minor)

    def _take(self, job: J, destination: _Destination[J], kept: Kept, *, minor: bool) -> None:
        trip = self._do(job, kept, bool(self._waiting) and not minor)
        with self._lock:
            destination.breaks = destination.breaks + 1 if trip.broken else 0
            same = trip.dead or (trip.broken if destination.breaks >= BREAKS else None)
            if trip.dead:
                self._failing[destination.name] = self._elapsed() + FAILING_SECONDS
                self._failing.move_to_end(destination.name)
                while len(self._failing) > FAILING_ENTRIES:
                    self._failing.popitem(last=False)
            elif not trip.broken:
                self._failing.pop(destination.name, None)
            others = [other for _, other in destination.line] if same else []
            if same:
                destination.line.clear()
        for other in others:
            assert same is not None
            self._put_off(other, same)
