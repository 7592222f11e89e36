"""Work on a file system of other hosts, which may hang: who waits for it gives up, and what comes too late is undone.

A thread that waits for such a file system can't be interrupted; it can be left alone.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from smtpmail.log import log

T = TypeVar("T")


class Unresponsive(OSError):
    """A file system does not answer."""

    def __init__(self, place: str) -> None:
        super().__init__(errno.ETIMEDOUT, "the file system does not answer", place)


def _nothing() -> None:
    return


class Job(Generic[T]):
    """Work in a thread of its own."""

    def __init__(
        self,
        owner: Patience,
        place: str,
        work: Callable[[], T],
        too_late: Callable[[], None],
        release: Callable[[], None],
    ) -> None:
        self._owner = owner
        self._place = place
        self._work = work
        self._too_late = too_late
        self._release = release
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._given_up = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Does it; for its own thread."""
        try:
            self._result.append(self._work())
        except BaseException as error:  # handed to who waits
            self._error = error
        self._release()
        with self._lock:
            self._ended.set()
            late = self._given_up
        if late:
            try:
                self._too_late()
            except Exception:
                log.exception("spool.error")
            finally:
                self._owner.came_back(self._place)

    def result(self, give_up: float) -> T:
        """What the work returned or raised; Unresponsive when it has not ended by `give_up` (monotonic time)."""
        if not self._ended.wait(max(0.0, give_up - time.monotonic())):
            with self._lock:
                if not self._ended.is_set():
                    self._given_up = True
                    self._owner.was_given_up(self._place)
                    raise Unresponsive(self._place)
        if self._error is not None:
            raise self._error
        return self._result[0]


class Patience:
    """While something that was given up is still under way in a place, nothing new is begun there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hanging: Counter[str] = Counter()

    def begin(
        self,
        place: str,
        work: Callable[[], T],
        too_late: Callable[[], None] = _nothing,
        release: Callable[[], None] = _nothing,
    ) -> Job[T]:
        """Begins work in a place; `too_late` follows when it ends after having been given up.

        `release` is called when the work has ended, and when it does not begin. Raises Unresponsive.
        """
        with self._lock:
            hangs = self._hanging[place] > 0
        if hangs:
            release()
            raise Unresponsive(place)
        job = Job(self, place, work, too_late, release)
        threading.Thread(target=job.run, name="patience", daemon=True).start()
        return job

    def run(self, place: str, seconds: float, work: Callable[[], T], too_late: Callable[[], None] = _nothing) -> T:
        """What the work returns or raises. Raises Unresponsive when it has not ended after so many seconds."""
        return self.begin(place, work, too_late).result(time.monotonic() + seconds)

    def was_given_up(self, place: str) -> None:
        """For a job."""
        with self._lock:
            self._hanging[place] += 1
            first = self._hanging[place] == 1
        if first:
            log.error("spool.hangs", place=place, hint="its mail gets 451 until the file system answers again")

    def came_back(self, place: str) -> None:
        """For a job."""
        with self._lock:
            self._hanging[place] -= 1
            last = not self._hanging[place]
            if last:
                del self._hanging[place]
        if last:
            log.info("spool.answers", place=place)
