"""Group commit: what several threads want on disk at the same moment is done by one of them, for all who came."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

D = TypeVar("D")


class _Entry(Generic[D]):
    """The drafts of one caller."""

    __slots__ = ("done", "drafts", "give_up", "leads")

    def __init__(self, drafts: Sequence[D], give_up: float) -> None:
        self.drafts = drafts
        self.give_up = give_up
        self.leads = False
        self.done = threading.Lock()
        self.done.acquire()


class Group(Generic[D]):
    """Threads that come while a batch is at work form the next one.

    There is no thread behind it: one of the callers leads, so that a caller alone waits for nobody.
    """

    def __init__(self, place: Callable[[Sequence[D], float], None]) -> None:
        """`place` does the work for a batch, waiting for locks until a moment of monotonic time. It raises nothing."""
        self._place = place
        self._mutex = threading.Lock()
        self._waiting: list[_Entry[D]] = []
        self._busy = False

    def run(self, drafts: Sequence[D], give_up: float = math.inf) -> float:
        """Returns when the drafts are synced and placed, or have their `error` set.

        `give_up` (monotonic time): for those that wait for a lock apart from others. Returns until when they did, which
        may be less for the sake of another one in the batch.
        """
        entry = _Entry(drafts, give_up)
        with self._mutex:
            self._waiting.append(entry)
            entry.leads = not self._busy
            self._busy = True
        if not entry.leads:
            entry.done.acquire()
        if entry.leads:
            self._lead()
        return entry.give_up

    def _lead(self) -> None:
        with self._mutex:
            batch, self._waiting = self._waiting, []
        try:
            give_up = min(entry.give_up for entry in batch)
            for entry in batch:
                entry.give_up = give_up
            self._place([draft for entry in batch for draft in entry.drafts], give_up)
        finally:
            with self._mutex:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].done.release()
                else:
                    self._busy = False
            for entry in batch:
                if not entry.leads:
                    entry.done.release()
