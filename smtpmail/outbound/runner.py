"""Moves the queue: decides what is due, lends threads to destinations, records what became of each recipient.

One destination (a domain, a literal, or the smarthost) has jobs in line and a few workers, each with a connection of
its own that it keeps while there is more to send. Destinations share nothing but the number of threads in all, so a
slow or dead one delays no other.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from smtpmail.log import log
from smtpmail.mail.notification import FULL_LIMIT, Fate, Kind, Original, wanted
from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED, Item
from smtpmail.mail.retry import RetryPolicy
from smtpmail.outbound.courier import Courier, Outcome, Session
from smtpmail.spool.queue import QueueError, QueueStore

KEEP_SECONDS = 1.0
"""So long a worker keeps its connection for the next message."""

LINE_SECONDS = 0.05
"""A destination gets another worker when a message has been in line for so long."""

RECIPIENTS_AT_ONCE = 100
"""In one transaction: what every server must take (RFC 5321 4.5.3.1.8)."""

IDLE_SECONDS = 60.0
"""So long the timer sleeps when nothing is due: the clock may be set meanwhile."""

FLUSH_SECONDS = 0.1
"""So long the removal of a delivered message may stay unsynced."""


class Bouncer(Protocol):
    """What tells senders: see bouncer.py."""

    def send(self, kind: Kind, original: Original, fates: Sequence[Fate], *, requiretls: bool, until: float) -> None:
        """Returns when the notification is on disk. Raises OSError."""


@dataclass(slots=True)
class _Job:
    """The recipients of one message at one destination."""

    item: Item
    recipients: list[int]
    since: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Destination:
    name: str
    jobs: deque[_Job] = field(default_factory=deque)
    workers: int = 0
    idle: int = 0
    ready: threading.Condition = field(default_factory=threading.Condition)
    failing: bool = False
    """No host could be reached the last time: one worker at a time tries."""


@dataclass(slots=True)
class _Attempt:
    """A message that is being tried now."""

    item: Item
    jobs_left: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    touched: bool = False
    """Somebody changed it on disk meanwhile: look again afterwards."""


class Runner:
    """Runs the queue of `store`. `submit` takes a new message, `wake` looks again at one that changed on disk."""

    def __init__(
        self,
        store: QueueStore,
        courier: Courier,
        policy: RetryPolicy,
        *,
        max_workers: int,
        max_per_destination: int,
    ) -> None:
        self._store = store
        self._courier = courier
        self._policy = policy
        self._max_workers = max_workers
        self._max_per_destination = max_per_destination
        self._lock = threading.Lock()
        self._timer = threading.Condition(self._lock)
        self._worker_ended = threading.Condition(self._lock)
        self._due: list[tuple[float, int, str]] = []
        self._due_at: dict[str, float] = {}
        self._sequence = itertools.count()
        self._destinations: dict[str, _Destination] = {}
        self._waiting: deque[_Destination] = deque()
        self._attempts: dict[str, _Attempt] = {}
        self._workers = 0
        self._stopping = False

    # -- what the outside calls

    def start(self, wake_socket: socket.socket, bouncer: Bouncer) -> None:
        """Takes up what is on disk, and begins; `bouncer` tells senders what became of their mail."""
        self._bouncer = bouncer
        now = time.time()
        items = []
        for id_ in self._store.ids():
            try:
                item = self._store.load(id_)
                items.append((item.next_attempt, id_, item.attempts, item.hold))
            except QueueError as error:
                log.error("queue.unreadable", id=id_, error=str(error))
        overdue = sum(1 for due, _, attempts, hold in items if attempts and due <= now and not hold)
        with self._lock:
            for due, id_, attempts, hold in items:
                if not hold:
                    at = self._policy.after_start(due, overdue, now, random.random) if attempts else now
                    self._schedule(id_, at)
        if items:
            log.info("queue.loaded", messages=len(items))
        threading.Thread(target=self._keep_time, name="queue", daemon=True).start()
        threading.Thread(target=self._hear, args=(wake_socket,), name="queue wake", daemon=True).start()

    def submit(self, item: Item) -> None:
        """A new message: it is tried at once."""
        with self._lock:
            # Somebody may have seen it on disk and told of it before.
            known = item.id in self._attempts or item.id in self._due_at
            if not self._stopping and not known:
                self._begin(item)

    def wake(self, id_: str) -> None:
        """A message was changed on disk (held, released, to be retried, removed), or is new from another process."""
        self._look_at(id_)

    def stop(self, patience: float) -> None:
        """Begins nothing new; waits up to `patience` seconds for what is being sent."""
        give_up = time.monotonic() + patience
        with self._lock:
            self._stopping = True
            for destination in self._destinations.values():
                destination.jobs.clear()
                destination.ready.notify_all()
            self._timer.notify()
            while self._workers and time.monotonic() < give_up:
                self._worker_ended.wait(0.1)
        with contextlib.suppress(OSError):
            self._store.flush()

    # -- time

    def _keep_time(self) -> None:
        while True:
            with self._lock:
                now = time.time()
                ready = []
                while self._due and self._due[0][0] <= now:
                    at, _, id_ = heapq.heappop(self._due)
                    if self._due_at.get(id_) == at:
                        del self._due_at[id_]
                        ready.append(id_)
                if self._waiting and self._workers < self._max_workers:
                    self._staff(self._waiting.popleft())  # there could be no more threads before
                for destination in list(self._destinations.values()):
                    if destination.jobs:
                        self._staff(destination)
                if not ready:
                    next_due = self._due[0][0] - now if self._due else IDLE_SECONDS
                    busy = self._attempts or self._store.unflushed
                    self._timer.wait(min(next_due, FLUSH_SECONDS if busy else IDLE_SECONDS))
                if self._stopping:
                    return
            for id_ in ready:
                self._look_at(id_)
            with contextlib.suppress(OSError):
                self._store.flush()

    def _hear(self, sock: socket.socket) -> None:
        """Other processes name messages that are new or changed."""
        while True:
            try:
                self.wake(sock.recv(128).decode("ascii", "replace"))
            except OSError as error:
                log.error("queue.deaf", error=str(error))
                return

    def _schedule(self, id_: str, at: float) -> None:
        """With the lock held."""
        self._due_at[id_] = at
        heapq.heappush(self._due, (at, next(self._sequence), id_))
        self._timer.notify()

    def _look_at(self, id_: str) -> None:
        """Reads a message from disk and does what its state asks for. Raises nothing: time must go on."""
        try:
            with self._lock:
                self._decide(id_)
        except Exception as error:
            if isinstance(error, QueueError):
                log.error("queue.unreadable", id=id_, error=str(error))
            else:
                log.exception("queue.error", id=id_)
            # Out of descriptors, say: it passes.
            with self._lock:
                self._schedule(id_, time.time() + self._policy.schedule[0])

    def _decide(self, id_: str) -> None:
        """With the lock held: no attempt begins, or ends, after the file was read. Raises QueueError, OSError."""
        self._due_at.pop(id_, None)
        if self._stopping:
            return
        attempt = self._attempts.get(id_)
        if attempt is not None:
            attempt.touched = True
            return
        try:
            item = self._store.load(id_)
        except QueueError:
            if id_ in self._store.ids():
                raise
            return
        if item.hold:
            return
        if item.next_attempt > time.time():
            self._schedule(id_, item.next_attempt)
        else:
            self._begin(item)

    # -- an attempt

    def _begin(self, item: Item) -> None:
        """Puts a message's recipients in line at their destinations. With the lock held."""
        groups: dict[str, list[int]] = {}
        for number in item.pending:
            name = self._courier.destination(item.recipients[number].address)
            groups.setdefault(name, []).append(number)
        jobs = [
            (name, _Job(item, list(numbers[start : start + RECIPIENTS_AT_ONCE])))
            for name, numbers in groups.items()
            for start in range(0, len(numbers), RECIPIENTS_AT_ONCE)
        ]
        if not jobs:
            # Everything had been done when a crash came before the removal.
            self._store.remove(item.id)
            return
        if not self._attempts:
            self._timer.notify()
        self._attempts[item.id] = _Attempt(item, len(jobs))
        for name, job in jobs:
            destination = self._destinations.get(name)
            if destination is None:
                destination = self._destinations[name] = _Destination(name, ready=threading.Condition(self._lock))
            destination.jobs.append(job)
            self._staff(destination)

    def _staff(self, destination: _Destination) -> None:
        """Sees to it that somebody works for a destination. With the lock held."""
        if destination.idle:
            destination.ready.notify()
        most = 1 if destination.failing else self._max_per_destination
        if destination.workers >= most or len(destination.jobs) <= destination.idle:
            return
        if destination.workers and time.monotonic() - destination.jobs[0].since < LINE_SECONDS:
            return  # those at work keep up: more would only be in each other's way
        if self._workers < self._max_workers:
            try:
                threading.Thread(target=self._work, args=(destination,), daemon=True).start()
            except RuntimeError:
                pass  # no more threads now
            else:
                destination.workers += 1
                self._workers += 1
                return
        if not destination.workers and destination not in self._waiting:
            self._waiting.append(destination)

    def _work(self, destination: _Destination) -> None:
        session = Session(destination.name)
        fresh = True
        try:
            while (job := self._next_job(destination, fresh=fresh, keep=session.is_open)) is not None:
                self._do(job, destination, session)
                fresh = False
        except Exception:
            log.exception("queue.error", destination=destination.name)
        finally:
            session.close()
            with self._lock:
                destination.workers -= 1
                self._workers -= 1
                if self._waiting:
                    self._staff(self._waiting.popleft())
                if destination.jobs:
                    self._staff(destination)
                elif not destination.workers:
                    self._destinations.pop(destination.name, None)
                self._worker_ended.notify_all()

    def _next_job(self, destination: _Destination, *, fresh: bool, keep: bool) -> _Job | None:
        """The next job of a destination; waits a little for one when there is a connection to keep.

        None ends the worker: also when it has had its turn and another destination has no worker at all.
        """
        give_up = time.monotonic() + KEEP_SECONDS
        with self._lock:
            while not destination.jobs:
                left = give_up - time.monotonic()
                if not keep or left <= 0 or self._waiting or self._stopping:
                    return None
                destination.idle += 1
                destination.ready.wait(left)
                destination.idle -= 1
            if self._waiting and not fresh:
                return None
            job = destination.jobs.popleft()
            self._staff(destination)
            return job

    def _do(self, job: _Job, destination: _Destination, session: Session) -> None:
        try:
            with self._store.open_content(job.item) as content:
                outcomes = self._courier.deliver(session, job.item, job.recipients, content)
        except FileNotFoundError:
            outcomes = {}  # removed by hand
        except Exception as error:
            # A fault of ours must not lose mail, nor stop the queue.
            log.exception("delivery.error", id=job.item.id)
            outcome = Outcome(DEFERRED, "4.3.0", f"internal error: {error}")
            outcomes = dict.fromkeys(job.recipients, outcome)
        self._settle(job, outcomes)
        dead = next((o for o in outcomes.values() if o.unreachable), None)
        with self._lock:
            destination.failing = dead is not None
            others = list(destination.jobs) if dead is not None else []
            if dead is not None:
                destination.jobs.clear()
        # Those in line would only find the same.
        for other in others:
            assert dead is not None
            self._settle(other, dict.fromkeys(other.recipients, dead))

    def _settle(self, job: _Job, outcomes: dict[int, Outcome]) -> None:
        """Takes in the outcome of one job; after the last one of a message, decides how it goes on."""
        item = job.item
        for number, outcome in outcomes.items():
            if outcome.state != DEFERRED:
                self._log_outcome(item, number, outcome)
        with self._lock:
            attempt = self._attempts[item.id]
            attempt.outcomes.update(outcomes)
            attempt.jobs_left -= 1
            last = attempt.jobs_left == 0
        try:
            if last:
                self._finish(attempt)
            else:
                # A crash may not send these twice. Failures wait until their sender has been told.
                self._record(item, {n: o for n, o in outcomes.items() if o.state == DELIVERED})
        except Exception as error:
            # The disk does not take what happened: tried again later, perhaps sent twice, never lost.
            if isinstance(error, OSError):
                log.error("queue.record_failed", id=item.id, error=str(error))
            else:
                log.exception("queue.error", id=item.id)
            with self._lock:
                self._attempts.pop(item.id, None)
                self._schedule(item.id, time.time() + self._policy.schedule[0])

    def _log_outcome(self, item: Item, number: int, outcome: Outcome, **more: str) -> None:
        fields = {
            "id": item.id,
            "recipient": item.recipients[number].address,
            "mx": outcome.mx or None,
            "address": outcome.address or None,
            "reply": outcome.reply,
            "attempt": item.attempts + 1,
            "tls": outcome.tls,
            **more,
        }
        if outcome.state == DELIVERED:
            log.info("delivery.succeeded", **fields)
        elif outcome.state == DEFERRED:
            log.warning("delivery.deferred", **fields)
        else:
            log.warning("delivery.failed", **fields)

    def _record(self, item: Item, outcomes: dict[int, Outcome], **more: object) -> None:
        entries: list[dict[str, object]] = [
            {"recipient": n, "state": o.state, "reply": o.reply, "mx": o.mx}
            for n, o in outcomes.items()
            if item.recipients[n].state == DEFERRED
        ]
        if more:
            entries.append(more)
        if entries:
            self._store.record(item, entries)

    def _finish(self, attempt: _Attempt) -> None:
        """All jobs of an attempt are done. Raises OSError."""
        item = attempt.item
        now = time.time()
        deferred = [n for n, o in attempt.outcomes.items() if o.state == DEFERRED]
        attempts = item.attempts + 1
        at = self._policy.next_attempt(item.arrived, attempts, now, random.random) if deferred else None
        if deferred and at is None:
            for number in deferred:
                attempt.outcomes[number] = attempt.outcomes[number].expired()
                self._log_outcome(item, number, attempt.outcomes[number])
            deferred = []
        self._notify(item, attempt.outcomes, now)
        if deferred and at is not None:
            for number in deferred:
                self._log_outcome(item, number, attempt.outcomes[number], next_try=_rfc3339(at))
            late = self._policy.wants_delay_notice(item.arrived, now) and not item.delay_notified
            self._record(
                item, attempt.outcomes, attempts=attempts, next_attempt=at, delay_notified=late or item.delay_notified
            )
            if late:
                self._tell(Kind.DELAY, item, {n: attempt.outcomes[n] for n in deferred})
        elif attempt.outcomes:
            self._store.remove(item.id)
        with self._lock:
            self._attempts.pop(item.id, None)
            if deferred and at is not None and not self._stopping:
                self._schedule(item.id, at)
        if attempt.touched:
            self._look_at(item.id)

    # -- notifications

    def _notify(self, item: Item, outcomes: dict[int, Outcome], now: float) -> None:
        """Tells the sender of failures, and of success where asked for, before the queue forgets. Raises OSError."""
        if any(o.state == FAILED or item.recipients[n].notify for n, o in outcomes.items()):
            # Telling takes its time; a crash meanwhile may not send these twice.
            self._record(item, {n: o for n, o in outcomes.items() if o.state == DELIVERED})
        self._tell(Kind.FAILURE, item, {n: o for n, o in outcomes.items() if o.state == FAILED})
        # A server that knows DSN will report itself (RFC 3461 5.2.2).
        self._tell(Kind.SUCCESS, item, {n: o for n, o in outcomes.items() if o.state == DELIVERED and not o.dsn})

    def _tell(self, kind: Kind, item: Item, outcomes: dict[int, Outcome]) -> None:
        fates = [
            Fate(r.address, r.orcpt, o.status, o.reply, o.mx, relayed=o.state == DELIVERED)
            for n, o in outcomes.items()
            if wanted(kind, (r := item.recipients[n]).notify)
        ]
        if fates and item.sender:
            notify(self._store, self._bouncer, self._policy, kind, item, fates)


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def notify(
    store: QueueStore, bouncer: Bouncer, policy: RetryPolicy, kind: Kind, item: Item, fates: Sequence[Fate]
) -> None:
    """Sends a notification about a queued message. Raises OSError."""
    full = kind is Kind.FAILURE and item.ret != "HDRS" and item.size <= FULL_LIMIT and not item.requiretls
    with store.open_content(item) as content:
        text = content.read(FULL_LIMIT)
    original = Original(item.id, item.sender, item.arrived, item.envid, full=full, text=text)
    bouncer.send(kind, original, fates, requiretls=item.requiretls, until=item.arrived + policy.lifetime)
