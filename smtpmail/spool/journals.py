"""The folder with the journals of all processes."""

from __future__ import annotations

import contextlib
import os

from smtpmail.spool.record import SECTOR
from smtpmail.spool.segment import live_generation, make

FOLDER = ".journal"
"""Below the folder of the queue; in it are PROCESS.SEGMENT."""

KEPT = "kept"
"""Records of a mailbox that could not be restored at the last start."""

SEGMENTS = 2


def segment_paths(folder: str, name: str) -> list[str]:
    """The segments of a process."""
    return [os.path.join(folder, f"{name}.{number}") for number in range(SEGMENTS)]


def segment_size(size: int) -> int:
    """Octets of each, when the journal may take `size`."""
    return max(size // SEGMENTS // SECTOR * SECTOR, SECTOR)


def make_segments(folder: str, name: str, size: int) -> None:
    """Makes what `Journal.prepare` opens, if it is not there: all blocks are written once. Raises OSError."""
    for path in segment_paths(folder, name):
        make(path, segment_size(size))


def live_generations(folder: str, without: str = "") -> frozenset[bytes]:
    """The generations of the segments that hold records, those of one process left out. Raises OSError, FormatError."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if is_segment(name) and name.partition(".")[0] != without:
                with contextlib.suppress(FileNotFoundError):
                    found.add(live_generation(os.path.join(folder, name)))
    return frozenset(generation for generation in found if generation is not None)


def is_segment(name: str) -> bool:
    """Whether a file in the folder is a segment of a process."""
    process, _, number = name.partition(".")
    return process.isdecimal() and number.isdecimal()
