"""The clock by which a file system dates changes: it ticks, so that two changes may bear the same time."""

from __future__ import annotations

import os
import time

_COARSE = 5
"""CLOCK_REALTIME_COARSE of Linux: the time that files get."""

TICK_NS = 12_000_000
"""Nanoseconds within which two changes may bear the same time."""


def wait_for_tick(folder_fd: int) -> None:
    """Lets the clock of the file system go on, so that what is changed now is younger than any change before.

    A clock that was set back does not come on in time: what is changed then is younger only once it has caught up.
    """
    for _ in range(20):
        if time.clock_gettime_ns(_COARSE) > os.fstat(folder_fd).st_mtime_ns:
            return
        time.sleep(0.001)
