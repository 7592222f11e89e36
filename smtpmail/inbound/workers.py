"""The threads that serve connections, kept for the next one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

IDLE_SECONDS = 10.0
"""So long a thread waits for another connection before it ends."""


STACK_SIZE = 512 * 1024
"""Octets of address space for the stack of a thread that serves a connection."""


class Workers:
    """Threads that serve one connection after another: as many as there are connections, kept for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = 0
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def start(self, job: Callable[[], None]) -> None:
        """Runs the job in a thread of its own. Raises RuntimeError when there can be no more threads."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._jobs.put(job)
                return
        threading.Thread(target=self._work, args=(job,), daemon=True).start()

    def _work(self, job: Callable[[], None] | None) -> None:
        while job is not None:
            job()
            job = self._next_job()

    def _next_job(self) -> Callable[[], None] | None:
        with self._lock:
            self._idle += 1
        while True:
            try:
                return self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    # At zero, a job has been counted out for this thread and is on its way.
                    if self._idle:
                        self._idle -= 1
                        return None
