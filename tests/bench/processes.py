"""What a daemon and all its children use: CPU time and memory, from /proc (proc(5))."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Sums over the processes of a tree, in octets."""

    resident: int
    """Pages in memory; those that processes share are counted for each of them."""
    proportional: int
    """The same with shared pages divided among all who share them (PSS)."""
    processes: int


def tree(root: int) -> dict[int, list[str]]:
    """The process `root` and its descendants, each with the fields of /proc/PID/stat from `state` (field 3) on.

    Raises ProcessLookupError when the root is gone.
    """
    everything: dict[int, list[str]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    # The name of the program stands in brackets and may contain anything.
                    everything[int(name)] = file.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
    if root not in everything:
        raise ProcessLookupError(f"process {root} is gone")
    members = {root}
    while more := {pid for pid, fields in everything.items() if int(fields[1]) in members} - members:
        members |= more
    return {pid: everything[pid] for pid in members}


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, that of children which ended and were waited for included."""
    return sum(sum(map(int, fields[11:15])) for fields in tree(root).values()) / _TICKS


def settled_cpu_seconds(root: int, patience: float = 10.0) -> float:
    """The CPU time once the tree has nothing left to do: the last clean-up belongs to the messages, too."""
    before, give_up = -1.0, time.monotonic() + patience
    while (now := cpu_seconds(root)) != before and time.monotonic() < give_up:
        before = now
        time.sleep(0.3)
    return now


def memory(root: int) -> Memory:
    """What the tree holds in memory now."""
    resident = proportional = processes = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                sizes = dict(line.split(":", 1) for line in file if line.startswith(("Rss:", "Pss:")))
        except (FileNotFoundError, ProcessLookupError):
            continue
        resident += int(sizes["Rss"].split()[0]) * 1024
        proportional += int(sizes["Pss"].split()[0]) * 1024
        processes += 1
    return Memory(resident, proportional, processes)
