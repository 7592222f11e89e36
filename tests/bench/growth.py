"""How the cost grows: with the sessions, with what lies in a mailbox, with what waits in the queue."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench import picture as drawing
from tests.bench import report
from tests.bench.measure import Result
from tests.bench.work import MIB, Work

LINKS = 60_000
"""Names that one file may have on ext4, about."""

Results = Mapping[Work, Mapping[str, Sequence[Result]]]


def fill(mailbox: Path, count: int) -> int:
    """A mailbox of so many messages; returns the number. Many names share a file: what counts is the folder."""
    mailbox.mkdir(parents=True, mode=0o700)
    folder = os.open(mailbox, os.O_RDONLY)
    try:
        for suffix in ("", ".status"):
            for first in range(1, count + 1, LINKS):
                name = f"{first}{suffix}"
                (mailbox / name).write_text("\\Seen\n" if suffix else "Subject: old\n\nold\n")
                for number in range(first + 1, min(first + LINKS, count + 1)):
                    os.link(name, f"{number}{suffix}", src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)
    (mailbox / ".lock").write_text(f"{count:020d}\n")
    os.sync()
    return count


def table(results: Results, *, markdown: bool) -> str:
    """A row for each number of sessions."""
    names = _names(results)
    rows = [
        [str(work.sessions)]
        + [f"{_median(of_server, name, figure):{form}}" for figure, form in FIGURES for name in names]
        for work, of_server in results.items()
    ]
    header = ["sessions", *(f"{name} {title}" for title in ("msg/s", "CPU ms", "PSS MiB") for name in names)]
    return report.table(header, rows, markdown=markdown)


def queue_table(memory: Sequence[tuple[float, float]], *, markdown: bool) -> str:
    """Memory against the length of the queue."""
    rows = [[f"{waiting:.0f}", f"{octets / MIB:.0f}"] for waiting, octets in memory]
    return report.table(["messages in the queue", "smtpmail PSS MiB"], rows, markdown=markdown)


def picture(results: Results, memory: Sequence[tuple[float, float]]) -> str:
    """Four charts in one SVG."""
    charts = []
    for (figure, _), title in zip(FIGURES, ("messages a second", "CPU ms a message", "memory, MiB (PSS)"), strict=True):
        lines = {
            name: [(float(work.sessions), _median(of_server, name, figure)) for work, of_server in results.items()]
            for name in _names(results)
        }
        charts.append(drawing.chart(title, "sessions", lines))
    lines = {"smtpmail": [(waiting, octets / MIB) for waiting, octets in memory]}
    charts.append(drawing.chart("memory, MiB (PSS)", "messages in the queue", lines))
    return drawing.page(charts)


FIGURES = (("rate", ".0f"), ("cpu", ".2f"), ("memory", ".0f"))
_SCALE = {"rate": 1.0, "cpu": 1000.0, "memory": 1 / MIB}


def _names(results: Results) -> list[str]:
    return list(dict.fromkeys(name for of_server in results.values() for name in of_server))


def _median(of_server: Mapping[str, Sequence[Result]], name: str, figure: str) -> float:
    return statistics.median(getattr(r, figure) for r in of_server[name]) * _SCALE[figure]
