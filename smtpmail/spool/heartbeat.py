"""Proof for a watchdog that a delivery could be committed: a file goes through the group commit as a message does.

Each process of the server proves it for itself, for each has a group commit and a journal of its own.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from smtpmail.spool.commit import Draft, Unlocked, commit
from smtpmail.spool.files import NewFile
from smtpmail.spool.folder import Folder
from smtpmail.spool.journal import Journal
from smtpmail.spool.record import Record


class _Unnamed:
    """See commit.Placing."""

    def __init__(self, drafts: Sequence[Draft]) -> None:
        self.drafts = drafts

    def records(self) -> Sequence[Record]:
        """None."""
        return ()

    def give_names(self, *, recorded: bool) -> Sequence[Record]:
        """None."""
        return ()


class _Nowhere(Unlocked):
    """A target that gives no names: what is put into it is synced, and then gone."""

    journal: Journal | None = None

    def __init__(self, path: str) -> None:
        self.path = path

    @contextlib.contextmanager
    def placing(self, drafts: Sequence[Any], give_up: float, *, apart: bool) -> Iterator[_Unnamed]:
        """Nothing has a place here."""
        yield _Unnamed(drafts)

    def withdraw(self, draft: Any) -> None:
        """Nothing is in."""


class _Beat(Draft):
    __slots__ = ()

    def write(self) -> None:
        self.folder = Folder(self.target.path)
        self.file = NewFile(self.folder)
        os.write(self.file.fd, b"\n")


class Heartbeat:
    """One for a spool. A disk that refuses (full, read-only) tells clients itself; one that hangs is found here."""

    def __init__(self, spool: str) -> None:
        self._target = _Nowhere(spool)
        self._thread: threading.Thread | None = None

    def beats(self) -> bool:
        """Whether the beat that began with the last call is over; begins another one then. Never waits."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        return True

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            commit([_Beat(self._target)])


class Pulses:
    """When each process of the server proved it last, in memory that they share."""

    def __init__(self, processes: int) -> None:
        self._last = memoryview(mmap.mmap(-1, processes * 8)).cast("d")
        for process in range(processes):
            self.note(process)

    def note(self, process: int) -> None:
        """A process has proved it now."""
        self._last[process] = time.monotonic()

    def silent(self, seconds: float) -> int | None:
        """The first process that has not proved it for so long; None when all have."""
        long_ago = time.monotonic() - seconds
        return next((process for process, last in enumerate(self._last) if last < long_ago), None)
