"""Numbers in memory that the processes share: each process writes its own row, a reader adds them up."""

from __future__ import annotations

import bisect
import contextlib
import mmap
import threading
from collections.abc import Callable, Mapping
from typing import Any

from smtpmail.metrics.families import BY_NAME, FAMILIES, Family, of_event


class Counts:
    """Made before the processes are; each then says which row is its own."""

    def __init__(self, processes: int) -> None:
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        width = 0
        for family in FAMILIES:
            if family.buckets:
                self._places[family.name, ()] = width
            else:
                self._places |= {(family.name, labels): width + n for n, labels in enumerate(family.label_sets())}
            width += family.slots
        self._width = width
        self._rows = memoryview(mmap.mmap(-1, processes * width * 8)).cast("d")
        self._start = 0
        self._lock = threading.Lock()

    def use_row(self, process: int) -> None:
        """From here on this process counts in its own row."""
        self._start = process * self._width
        self._lock = threading.Lock()

    def watch(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Counts one event of the log; raises nothing: what is counted must not stop the mail."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if level == "error":
                self.count("smtpmail_errors")
            of_event(event, fields, self.count, self.observe)

    def count(self, name: str, labels: tuple[str, ...] = ()) -> None:
        """One more. Raises KeyError for labels that are not foreseen."""
        place = self._start + self._places[name, labels]
        with self._lock:
            self._rows[place] += 1.0

    def observe(self, name: str, value: float) -> None:
        """One more value of a histogram."""
        family = BY_NAME[name]
        place = self._start + self._places[name, ()]
        with self._lock:
            self._rows[place + bisect.bisect_left(family.buckets, value)] += 1.0
            self._rows[place + len(family.buckets) + 1] += value

    def value(self, name: str, labels: tuple[str, ...] = ()) -> float:
        """Of all processes."""
        return self._sum(self._places[name, labels])

    def histogram(self, family: Family) -> tuple[list[float], float]:
        """How many values were at most as large as each bucket's bound, the last one all; and their sum."""
        place = self._places[family.name, ()]
        total, cumulative = 0.0, []
        for n in range(len(family.buckets) + 1):
            total += self._sum(place + n)
            cumulative.append(total)
        return cumulative, self._sum(place + len(family.buckets) + 1)

    def _sum(self, place: int) -> float:
        return sum(self._rows[place :: self._width])


Gauges = Callable[[], Mapping[str, float]]
"""Numbers that are looked up when they are asked for, by name."""
