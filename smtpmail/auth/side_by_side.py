"""Several things that wait for the DNS, done at the same time, and given up together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from smtpmail.auth.lookup import Lookup
from smtpmail.dns.errors import DNSError

MAX_THREADS = 5

T = TypeVar("T")


class Job(Generic[T]):
    """One thing to do, and what came of it: None until it is done, or when it failed or came too late."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self.result: T | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Never raises."""
        try:
            self.result = self._function()
        except Exception as error:  # the caller looks at it: a thread has nobody to tell
            self.error = error


class SideBySide:
    """Jobs that share one time-out, counted from the moment this is made."""

    def __init__(self, lookup: Lookup, timeout: float) -> None:
        self._lookup = lookup
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._jobs: list[Job[object]] = []

    def lookup(self, name: str, kind: str) -> Sequence[str]:
        """See Lookup; after the time-out nothing is asked any more, so that what is late ends by itself."""
        if time.monotonic() >= self._deadline:
            raise DNSError(f"DNS did not answer within {self._timeout:g} s")
        return self._lookup(name, kind)

    def add(self, function: Callable[[], T]) -> Job[T]:
        """Something to do when `wait` is called; the first ones begin first."""
        job = Job(function)
        self._jobs.append(job)  # type: ignore[arg-type]
        return job

    def wait(self) -> None:
        """Does it all; returns when it is done or the time is over. Raises what a job raised, which is a mistake."""
        waiting = deque(self._jobs)
        left = len(waiting)
        condition = threading.Condition()

        def work() -> None:
            nonlocal left
            while waiting:
                try:
                    job = waiting.popleft()
                except IndexError:
                    return
                job.run()
                with condition:
                    left -= 1
                    condition.notify()

        for number in range(min(left, MAX_THREADS)):
            try:
                threading.Thread(target=work, name="dns", daemon=True).start()
            except RuntimeError:  # this host takes no more threads: then it is done here, in the end
                if not number:
                    work()
                break
        with condition:
            condition.wait_for(lambda: left == 0, max(self._deadline - time.monotonic(), 0))
        for job in self._jobs:
            if job.error is not None and not isinstance(job.error, DNSError):
                raise job.error
