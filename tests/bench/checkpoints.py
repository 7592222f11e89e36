"""The longest wait for a 250 under load, and while a checkpoint of the journal is under way."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from smtpmail.spool.journals import FOLDER, is_segment
from smtpmail.spool.segment import live_generation
from tests.bench.load import MESSAGE_OCTETS
from tests.bench.servers import DOMAIN, ROOT, BenchError, Server, Smtpmail

SECONDS = 12.0
SHORTEST = 7.0
"""More than the five seconds after which the journal makes a checkpoint at the latest."""

CLIENTS = 20

LOOK_SECONDS = 0.01
"""Between two looks at the journal: a checkpoint may have begun so much earlier than it is seen."""

Span = tuple[float, float]


class Synced(Smtpmail):
    """smtpmail without a journal, for comparison."""

    name = "smtpmail, each file synced"


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds from the end of a message to its 250, of one round."""

    messages: int
    median: float
    late: float
    """999 of 1,000 waited no longer."""
    longest: float
    checkpoints: int
    at_checkpoint: float
    """The longest of those that were under way during a checkpoint; 0 without one."""


class Watch:
    """Looks at the segments of the journals: while a process has records in both, a checkpoint frees one of them."""

    def __init__(self, journal: Path) -> None:
        self.spans: list[Span] = []
        self._journal = journal
        self._since: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.spans += [(since, time.monotonic()) for since in self._since.values()]

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            now = time.monotonic()
            busy = set(self._busy())
            for process in busy - self._since.keys():
                self._since[process] = now - 2 * LOOK_SECONDS
            for process in self._since.keys() - busy:
                self.spans.append((self._since.pop(process), now))

    def _busy(self) -> Iterator[str]:
        live: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._journal):
                if is_segment(name) and live_generation(str(self._journal / name)):
                    process = name.partition(".")[0]
                    live[process] = live.get(process, 0) + 1
        return (process for process, segments in live.items() if segments > 1)


def _measure(server: Server, user: str, seconds: float) -> Waits:
    """Raises BenchError."""
    command = [sys.executable, "-m", "tests.bench.waits", str(server.port), f"{user}@{DOMAIN}", str(CLIENTS)]
    command += [str(seconds), str(MESSAGE_OCTETS)]
    journal = server.spool / ".queue" / FOLDER if isinstance(server, Smtpmail) else Path("/nonexistent")
    with Watch(journal) as watch:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds + 300)
    if done.returncode:
        raise BenchError(f"{server.name}: the clients failed: {done.stderr.strip()[-300:]}")
    waits = sorted((float(wait), float(begin)) for begin, wait in map(str.split, done.stdout.splitlines()))
    if not waits:
        raise BenchError(f"{server.name}: no message within {seconds:g} s")
    spans = _merged(watch.spans)
    within = [wait for wait, begin in waits if any(begin < end and begin + wait > start for start, end in spans)]
    lengths = [wait for wait, _ in waits]
    return Waits(
        len(lengths), statistics.median(lengths), lengths[len(lengths) * 999 // 1000], lengths[-1],
        len(watch.spans), max(within, default=0.0),
    )  # fmt: skip


def _merged(spans: Sequence[Span]) -> list[Span]:
    """The same without overlaps."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def run(servers: Sequence[Server], rounds: int, seconds: float, users: Iterator[str]) -> Mapping[str, list[Waits]]:
    """By name of the server. Raises BenchError."""
    results: dict[str, list[Waits]] = {server.name: [] for server in servers}
    try:
        for server in servers:
            server.start()
            _measure(server, next(users), 1.0)  # the folders are made, all processes are there
        for turn, server in itertools.product(range(rounds), servers):
            os.sync()
            found = _measure(server, next(users), seconds)
            results[server.name].append(found)
            click.echo(
                f"waits, round {turn + 1}, {server.name}: longest of {found.messages} {found.longest * 1000:.0f} ms,"
                f" at {found.checkpoints} checkpoints {found.at_checkpoint * 1000:.0f} ms",
                err=True,
            )
    finally:
        for server in servers:
            server.stop()
    return results
