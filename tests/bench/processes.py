"""What a daemon and all its children use: CPU time and memory, from /proc (proc(5))."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def settled(seconds: Callable[[], float], patience: float = 10.0) -> float:
    """CPU time once it does not grow any more: the last clean-up belongs to the messages, too."""
    before, give_up = -1.0, time.monotonic() + patience
    while (now := seconds()) != before and time.monotonic() < give_up:
        before = now
        time.sleep(0.3)
    return now


class Group:
    """A control group (cgroups(7), version 2): counts what its processes use, however they end."""

    def __init__(self, name: str) -> None:
        """Raises OSError where there are none."""
        mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        root = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
        if root is None:
            raise FileNotFoundError("no control groups are mounted")
        self._folder = Path(root, name)
        self._folder.mkdir()

    def entering(self, command: Sequence[str]) -> list[str]:
        """The same command, in the group from its beginning."""
        return ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(self._folder / "cgroup.procs"), *command]

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        lines = (self._folder / "cpu.stat").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("usage_usec")).split()[1]) / 1e6

    def remove(self) -> None:
        """When its processes have ended."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


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
