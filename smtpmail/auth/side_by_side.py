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

    def lookup_in_time(self, name: str, kind: str) -> Sequence[str]:
        """The same for who must come to an end: it is the question that is given up."""
        job = self.add(lambda: self.lookup(name, kind))
        self.wait()
        if job.error is not None:
            raise job.error
        if job.result is None:
            raise DNSError(f"DNS did not answer within {self._timeout:g} s")
        return job.result

    def add(self, function: Callable[[], T]) -> Job[T]:
        """Something to do when `wait` is called; the first ones begin first."""
        job = Job(function)
        self._jobs.append(job)  # type: ignore[arg-type]
        return job

    def wait(self) -> None:
        """Does what was added; returns when it is done or the time is over. Raises what a job raised by mistake."""
        jobs, self._jobs = self._jobs, []
        waiting = deque(jobs)
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
        for job in jobs:
            if job.error is not None and not isinstance(job.error, DNSError):
                raise job.error
