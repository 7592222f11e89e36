"""Moves the queue: decides what is due, and writes down what was said of each recipient when it was said.

What is known is kept in memory until the disk takes it, and every attempt counts, so that nobody gets a message again
and again because it can't be written down that they have it.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smtpmail.log import log
from smtpmail.mail.notification import Kind, wanted
from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED, Item
from smtpmail.mail.retry import RetryPolicy
from smtpmail.mail.text import rfc3339
from smtpmail.outbound.clock import Clock
from smtpmail.outbound.courier import Courier
from smtpmail.outbound.kept import Kept
from smtpmail.outbound.mailboxes import Mailboxes
from smtpmail.outbound.notify import Bouncer, notify
from smtpmail.outbound.outcome import Finality, Outcome, log_outcome
from smtpmail.outbound.staff import Staff, Trip
from smtpmail.spool import wake
from smtpmail.spool.queue import QueueError, QueueStore

RECIPIENTS_AT_ONCE = 100
"""In one transaction: what every server must take (RFC 5321 4.5.3.1.8)."""

SCAN_SECONDS = 60.0
"""The folder is looked through this often: a message may be there of which nobody told."""

FLUSH_SECONDS = 0.1
"""The removal of a delivered message may stay unsynced for this long."""

Entry = dict[str, Any]
"""A line of a message's log."""


@dataclass(slots=True)
class _Job:
    """The recipients of one message at one destination."""

    item: Item
    recipients: list[int]
    told: set[int] = field(default_factory=set)
    """Those whose final word has been written down."""


@dataclass(slots=True)
class _Attempt:
    """A message that is being tried now."""

    item: Item
    jobs_left: int
    deferred: dict[int, Outcome] = field(default_factory=dict)
    touched: bool = False
    """Somebody changed it on disk meanwhile: look again afterwards."""
    writing: threading.Lock = field(default_factory=threading.Lock)


class Runner:
    """Runs the queue of `store`. `submit` takes a new message, `look_at` one that changed on disk."""

    def __init__(
        self,
        store: QueueStore,
        courier: Courier,
        policy: RetryPolicy,
        *,
        max_workers: int,
        max_per_destination: int,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._courier = courier
        self._bouncer: Bouncer
        self._policy = policy
        self._clock = clock or Clock()
        self._staff: Staff[_Job] = Staff(
            self._do, self._put_off, most=max_workers, most_per_destination=max_per_destination,
            elapsed=self._clock.elapsed,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._timer = threading.Condition(self._lock)
        self._due: list[tuple[float, int, str]] = []
        self._due_at: dict[str, float] = {}
        self._sequence = itertools.count()
        self._attempts: dict[str, _Attempt] = {}
        self._looking: dict[str, bool] = {}
        """Messages that are being read from disk, and whether they must be read once more."""
        self._unwritten: dict[str, list[Entry]] = {}
        """What the disk did not take yet."""
        self._next_scan = 0.0
        self._stopping = False

    # -- what the outside calls

    def start(self, wake_socket: socket.socket, bouncer: Bouncer, mailboxes: Mailboxes) -> None:
        """Takes up what is on disk, and begins; `bouncer` tells senders what became of their mail."""
        self._bouncer = bouncer
        self._mailboxes = mailboxes
        now = self._clock.now()
        items = []
        for id_ in self._store.ids():
            try:
                item = self._store.load(id_)
                items.append((self._policy.capped(item.next_attempt, now), id_, item.attempts, item.hold))
            except QueueError as error:
                log.error("queue.unreadable", id=id_, error=str(error))
        overdue = sum(1 for due, _, attempts, hold in items if attempts and due <= now and not hold)
        with self._lock:
            for due, id_, attempts, hold in items:
                if not hold:
                    at = self._policy.after_start(due, overdue, now, self._clock.chance) if attempts else now
                    self._schedule(id_, at - now)
            self._next_scan = self._clock.elapsed() + SCAN_SECONDS
        if items:
            log.info("queue.loaded", messages=len(items))
        threading.Thread(target=self._keep_time, name="queue", daemon=True).start()
        threading.Thread(target=self._hear, args=(wake_socket,), name="queue wake", daemon=True).start()

    def submit(self, item: Item) -> None:
        """A new message: it is tried at once."""
        with self._lock:
            # Somebody may have seen it on disk and told of it before.
            if not self._stopping and not self._knows(item.id):
                self._begin(item)

    def stop(self, patience: float) -> None:
        """Begins nothing new; waits up to `patience` seconds for what is being sent."""
        with self._lock:
            self._stopping = True
            self._courier.stop()
            self._timer.notify()
        self._staff.stop(patience)
        with contextlib.suppress(OSError):
            self._store.flush()

    def look_at(self, id_: str, *, due: bool = False) -> None:
        """Reads a message from disk and does what its state asks for. Raises nothing: time must go on.

        `due`: it has waited for as long as it had to.
        """
        with self._lock:
            if self._stopping:
                return
            if (attempt := self._attempts.get(id_)) is not None:
                attempt.touched = True
                return
            if id_ in self._looking:
                self._looking[id_] = True
                return
            self._looking[id_] = False
            self._due_at.pop(id_, None)
        again, ending = True, None
        while again:
            item, retry = self._read(id_)
            with self._lock:
                again = self._looking[id_]
                self._looking[id_] = False
                if not again:
                    del self._looking[id_]
                    if retry:
                        self._schedule(id_, self._policy.schedule[0])
                    elif item is not None:
                        ending = self._decide(item, due=due)
        if ending is not None:
            self._end(ending)

    # -- time

    def _keep_time(self) -> None:
        while True:
            with self._lock:
                now = self._clock.elapsed()
                ready = []
                while self._due and self._due[0][0] <= now:
                    at, _, id_ = heapq.heappop(self._due)
                    if self._due_at.get(id_) == at:
                        del self._due_at[id_]
                        ready.append(id_)
                scan = self._next_scan <= now
                if not ready and not scan:
                    next_due = self._due[0][0] if self._due else self._next_scan
                    busy = self._attempts or self._store.unflushed
                    pause = min(next_due, self._next_scan) - now
                    self._clock.wait(self._timer, min(pause, FLUSH_SECONDS) if busy else pause)
                if self._stopping:
                    return
            for id_ in self._scan(now) if scan else ():
                self.look_at(id_)
            for id_ in ready:
                self.look_at(id_, due=True)
            self._staff.look()
            with contextlib.suppress(OSError):
                self._store.flush()

    def _scan(self, now: float) -> list[str]:
        """Messages in the folder that nobody has told of."""
        self._next_scan = now + SCAN_SECONDS
        try:
            ids = self._store.ids()
        except QueueError as error:
            log.error("queue.unreadable", id=None, error=str(error))
            return []
        with self._lock:
            return [id_ for id_ in ids if not self._knows(id_)]

    def _hear(self, sock: socket.socket) -> None:
        """Other processes name messages that are new or changed."""
        while True:
            try:
                note = wake.receive(sock)
            except OSError as error:
                log.error("queue.deaf", error=str(error))
                return
            if note is not None:
                if note.change:
                    log.info("queue.changed", id=note.id, change=note.change, by=note.by or None)
                self.look_at(note.id)

    def _knows(self, id_: str) -> bool:
        """With the lock held."""
        return id_ in self._attempts or id_ in self._due_at or id_ in self._looking

    def _schedule(self, id_: str, seconds: float) -> None:
        """With the lock held."""
        at = self._clock.elapsed() + max(seconds, 0.0)
        self._due_at[id_] = at
        heapq.heappush(self._due, (at, next(self._sequence), id_))
        self._timer.notify()

    def _read(self, id_: str) -> tuple[Item | None, bool]:
        """A message as it is known, None when it is gone; and whether to look again, since it could not be read."""
        try:
            try:
                item = self._store.load(id_)
            except QueueError:
                if id_ in self._store.ids():
                    raise
                with self._lock:
                    self._unwritten.pop(id_, None)
                self._store.note_removed(id_)
                return None, False
        except Exception as error:
            if isinstance(error, QueueError):
                log.error("queue.unreadable", id=id_, error=str(error))
            else:
                log.exception("queue.error", id=id_)
            return None, True  # out of descriptors, say: it passes
        with self._lock:
            for entry in self._unwritten.get(id_, ()):
                item.apply(entry)
        return item, False

    def _decide(self, item: Item, *, due: bool) -> _Attempt | None:
        """See `_begin`. With the lock held."""
        if item.hold or self._stopping:
            return None
        now = self._clock.now()
        at = self._policy.capped(item.next_attempt, now)
        # A time that no wait can lead to is from a clock that was wrong.
        if at <= now or (due and at < item.next_attempt):
            return self._begin(item)
        self._schedule(item.id, at - now)
        return None

    # -- an attempt

    def _begin(self, item: Item) -> _Attempt | None:
        """Puts a message's recipients in line at their destinations. With the lock held.

        Returns the attempt when only its end is left: a sender to be told, or the removal before which a crash came.
        """
        groups: dict[str, list[int]] = {}
        mailboxes: dict[str, list[int]] = {}
        for number in item.pending:
            recipient = item.recipients[number]
            if recipient.user is not None:
                mailboxes.setdefault(f"mailbox {recipient.user}", []).append(number)
            else:
                groups.setdefault(self._courier.destination(recipient.address), []).append(number)
        jobs = [
            (name, _Job(item, list(numbers[start : start + RECIPIENTS_AT_ONCE])))
            for name, numbers in groups.items()
            for start in range(0, len(numbers), RECIPIENTS_AT_ONCE)
        ]
        # A mailbox gets one copy, whatever the number of recipients that lead there.
        jobs += [(name, _Job(item, numbers)) for name, numbers in mailboxes.items()]
        if not self._attempts:
            self._timer.notify()
        attempt = self._attempts[item.id] = _Attempt(item, len(jobs))
        for name, job in jobs:
            self._staff.add(name, job, minor=item.bounce_of is not None)
        return None if jobs else attempt

    def _do(self, job: _Job, kept: Kept, hurried: bool) -> Trip:
        """Does a job; raises nothing."""
        try:
            self._store.hold()
            with self._store.open_content(job.item) as content:
                user = job.item.recipients[job.recipients[0]].user
                if user is not None:
                    outcomes = self._mailboxes.deliver(user, job.item, job.recipients, content)
                else:
                    outcomes = self._courier.deliver(
                        kept, job.item, job.recipients, content, lambda said: self._hear_word(job, said),
                        hurried=hurried,
                    )  # fmt: skip
        except FileNotFoundError:
            outcomes = {}  # removed by hand
        except QueueError as error:
            log.error("queue.lost", id=job.item.id, error=str(error))
            outcomes = dict.fromkeys(job.recipients, Outcome(Finality.LATER, "4.3.0", str(error)))
        except Exception as error:
            # A fault of ours must not lose mail, nor stop the queue.
            log.exception("delivery.error", id=job.item.id)
            outcome = Outcome(Finality.LATER, "4.3.0", f"internal error: {error}")
            outcomes = dict.fromkeys((n for n in job.recipients if n not in job.told), outcome)
        self._settle(job, outcomes)
        if kept.client is not None:
            kept.client.sending = False
        first = next(iter(outcomes.values()), None)
        if first is not None and all(o.finality is Finality.UNREACHABLE for o in outcomes.values()):
            return Trip(dead=first)
        if any(o.finality is Finality.FINAL for o in outcomes.values()):
            return Trip()
        closing = next((o for o in outcomes.values() if o.closing), None)
        return Trip(broken=closing and replace(closing, finality=Finality.LATER))

    def _put_off(self, job: _Job, outcome: Outcome) -> None:
        """Ends a job that would only find what another one found."""
        self._settle(job, dict.fromkeys(job.recipients, outcome))

    def _hear_word(self, job: _Job, outcomes: Mapping[int, Outcome]) -> None:
        """Writes down final words when they are said: a crash may not send a message twice."""
        item = job.item
        final = {n: o for n, o in outcomes.items() if o.state != DEFERRED and n not in job.told}
        for number, outcome in final.items():
            log_outcome(item, number, outcome)
        job.told.update(final)
        entries = [self._entry(item, n, o) for n, o in final.items()]
        with self._lock:
            for entry in entries:
                item.apply(entry)
            needless = not item.pending and not item.untold
        # When nothing is left to do, the message will be removed instead.
        if entries and not needless:
            self._write(item, entries)

    def _settle(self, job: _Job, outcomes: Mapping[int, Outcome]) -> None:
        """Takes in the outcomes of one job; after the last one of a message, decides how it goes on. Raises nothing."""
        self._hear_word(job, outcomes)
        with self._lock:
            attempt = self._attempts[job.item.id]
            attempt.deferred.update({n: o for n, o in outcomes.items() if o.state == DEFERRED})
            attempt.jobs_left -= 1
            last = attempt.jobs_left == 0
        if last:
            self._end(attempt)

    def _end(self, attempt: _Attempt) -> None:
        """All jobs of an attempt are done. Raises nothing."""
        item = attempt.item
        wait: float | None = self._policy.schedule[0]
        try:
            wait = self._finish(attempt)
        except Exception:
            log.exception("queue.error", id=item.id)
        with self._lock:
            self._attempts.pop(item.id, None)
            if wait is not None and not self._stopping:
                self._schedule(item.id, wait)
        if attempt.touched:
            self.look_at(item.id)

    def _finish(self, attempt: _Attempt) -> float | None:
        """Tells the sender, writes down what is left; returns how long it waits, None for a message that is gone."""
        item, now = attempt.item, self._clock.now()
        deferred = attempt.deferred
        attempts = item.attempts + 1
        at = self._policy.next_attempt(item.arrived, attempts, now, self._clock.chance) if deferred else None
        if deferred and at is None:
            job = _Job(item, list(deferred))
            self._hear_word(job, {n: o.expired() for n, o in deferred.items()})
            deferred = {}
        entries: list[Entry] = self._tell_senders(item)
        if not item.pending and not item.untold:
            try:
                self._store.remove(item.id)
            except OSError as error:
                log.error("queue.record_failed", id=item.id, error=str(error))
                entries = [self._known(item, n) for n in range(len(item.recipients))]
            else:
                with self._lock:
                    self._unwritten.pop(item.id, None)
                return None
        if at is None:
            at = self._policy.retell(attempts, now, self._clock.chance)
        late = bool(deferred) and not item.delay_notified and self._policy.wants_delay_notice(item.arrived, now)
        for number, outcome in deferred.items():
            log_outcome(item, number, outcome, next_try=rfc3339(at))
            entries.append(self._entry(item, number, outcome))
        told = late and self._tell(Kind.DELAY, item, deferred)
        entries.append({"attempts": attempts, "next_attempt": at, "delay_notified": item.delay_notified or told})
        self._write(item, entries)
        return at - now

    # -- what is written down

    def _entry(self, item: Item, number: int, outcome: Outcome) -> Entry:
        entry: Entry = {
            "recipient": number,
            "state": outcome.state,
            "status": outcome.status,
            "reply": outcome.reply,
            "mx": outcome.mx,
        }
        kind = Kind.FAILURE if outcome.state == FAILED else Kind.SUCCESS
        # A server that knows DSN will report success itself (RFC 3461 5.2.2).
        reports_itself = outcome.delivered and outcome.dsn
        if outcome.state != DEFERRED and item.sender and not reports_itself:
            entry["tell"] = wanted(kind, item.recipients[number].notify)
        return entry

    @staticmethod
    def _known(item: Item, number: int) -> Entry:
        """What is known of a recipient."""
        r = item.recipients[number]
        entry = {"recipient": number, "state": r.state, "status": r.status, "reply": r.reply, "mx": r.mx}
        return {**entry, "tell": True} if r.tell else entry

    def _write(self, item: Item, entries: Sequence[Entry]) -> None:
        """Takes in what was said, and writes it down together with what the disk did not take before.

        What it does not take now is kept. One thread at a time writes about a message: the last line counts.
        """
        with self._attempts[item.id].writing:
            with self._lock:
                for entry in entries:
                    item.apply(entry)
                before = {e["recipient"] for e in self._unwritten.pop(item.id, ()) if "recipient" in e}
                new = {e.get("recipient") for e in entries}
                lines = [*(self._known(item, n) for n in sorted(before - new)), *entries]
                if before and None not in new and item.attempts:
                    lines.append({"attempts": item.attempts, "next_attempt": item.next_attempt})
                # Other threads go on with the item meanwhile.
                copy = replace(item, recipients=[replace(r) for r in item.recipients])
            if not lines:
                return
            try:
                self._store.record(copy, lines)
            except OSError as error:
                log.error("queue.record_failed", id=item.id, error=str(error))
                with self._lock:
                    self._unwritten[item.id] = lines

    # -- notifications

    def _tell_senders(self, item: Item) -> list[Entry]:
        """Tells of failures, and of success where asked for; what the log then has to say. It is tried again later."""
        entries = []
        for kind, state in ((Kind.FAILURE, FAILED), (Kind.SUCCESS, DELIVERED)):
            numbers = [n for n in item.untold if item.recipients[n].state == state]
            if numbers and self._told(lambda kind=kind, numbers=numbers: self._notify(kind, item, numbers), item):  # type: ignore[misc]
                for n in numbers:
                    item.recipients[n].tell = False
                    entries.append(self._known(item, n))
        return entries

    def _tell(self, kind: Kind, item: Item, outcomes: Mapping[int, Outcome]) -> bool:
        """Tells of a delay; whether that is done."""
        numbers = [n for n in outcomes if wanted(kind, item.recipients[n].notify)]
        for n in numbers:
            r, o = item.recipients[n], outcomes[n]
            r.status, r.reply, r.mx = o.status, o.reply, o.mx
        return not numbers or self._told(lambda: self._notify(kind, item, numbers), item)

    def _notify(self, kind: Kind, item: Item, numbers: list[int]) -> None:
        if item.sender:
            notify(self._store, self._bouncer, self._policy, kind, item, numbers)

    @staticmethod
    def _told(tell: Callable[[], None], item: Item) -> bool:
        try:
            tell()
        except FileNotFoundError:
            return True  # removed by hand
        except OSError as error:
            log.error("bounce.failed", id=item.id, error=str(error))
            return False
        except Exception:
            log.exception("queue.error", id=item.id)
            return False
        return True
