"""The tables, as text or in Markdown."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import smtpmail
from tests.bench.checkpoints import Waits
from tests.bench.measure import Result
from tests.bench.processes import Memory
from tests.bench.work import Work

Row = Sequence[str]


def table(header: Row, rows: Sequence[Row], *, markdown: bool) -> str:
    """The first column to the left, figures to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Row) -> str:
        cells = [
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |" if markdown else "  ".join(cells)

    rule = (
        ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])] if markdown else ["-" * w for w in widths]
    )
    return "\n".join(line(row) for row in [header, rule, *rows])


def speed(results: Mapping[Work, Mapping[str, Sequence[Result]]], *, markdown: bool) -> str:
    """Medians of the rounds with their span, and what they are to Postfix's, beside what the contract asks."""
    rows = []
    for work, of_server in results.items():
        rates = {name: [r.rate for r in rounds] for name, rounds in of_server.items()}
        cpu = {name: [r.cpu * 1000 for r in rounds] for name, rounds in of_server.items()}
        rows.append([
            work.name,
            *(_span(rates.get(name), ".0f") for name in ("smtpmail", "Postfix")),
            _ratio(rates, work.least_rate, at_least=True),
            *(_span(cpu.get(name), ".2f") for name in ("smtpmail", "Postfix")),
            _ratio(cpu, work.most_cpu, at_least=False),
        ])  # fmt: skip
    header = ["work", "smtpmail msg/s", "Postfix msg/s", "ratio", "smtpmail CPU ms", "Postfix CPU ms", "ratio"]
    text = table(header, rows, markdown=markdown)
    return text + ("\n\n! the contract is missed here" if any("!" in cell for row in rows for cell in row) else "")


def peers(results: Mapping[Work, Mapping[str, Sequence[Result]]], *, markdown: bool) -> str:
    """Messages a second and CPU of all servers that were there."""
    names = list(dict.fromkeys(name for of_server in results.values() for name in of_server))
    rows = [
        [work.name]
        + [
            f"{statistics.median(r.rate for r in of_server[name]):.0f} / "
            f"{statistics.median(r.cpu for r in of_server[name]) * 1000:.2f}"
            if of_server.get(name)
            else "-"
            for name in names
        ]
        for work, of_server in results.items()
    ]
    return table(["messages a second / CPU ms a message", *names], rows, markdown=markdown)


def rates(title: str, of_server: Mapping[str, Sequence[float]], *, markdown: bool) -> str:
    """Messages a second of each server: medians with their span."""
    theirs = statistics.median(of_server["Postfix"]) if of_server.get("Postfix") else float("nan")
    rows = [
        [name, _span(values, ".0f"), f"{statistics.median(values) / theirs:.2f}"] for name, values in of_server.items()
    ]
    return table([title, "msg/s", "ratio"], rows, markdown=markdown)


def _span(values: Sequence[float] | None, form: str) -> str:
    """Median (least-most)."""
    if not values:
        return "-"
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def _ratio(figures: Mapping[str, Sequence[float]], asked: float, *, at_least: bool) -> str:
    if not (figures.get("smtpmail") and figures.get("Postfix")):
        return "-"
    theirs = statistics.median(figures["Postfix"])
    ratio = statistics.median(figures["smtpmail"]) / theirs if theirs else float("nan")
    if not asked:
        return f"{ratio:.2f}"
    met = ratio >= asked if at_least else ratio <= asked
    return f"{ratio:.2f} ({'≥' if at_least else '≤'} {asked:.2f}){'' if met else '!'}"


def memory(rows: Sequence[tuple[str, Mapping[str, Memory]]], *, markdown: bool) -> str:
    """Resident (RSS) and proportional (PSS) memory in MiB, and how many processes hold it."""
    lines = []
    for name, of_server in rows:
        line = [name]
        for server in ("smtpmail", "Postfix"):
            found = of_server.get(server)
            line += (
                [f"{found.resident / 2**20:.0f}", f"{found.proportional / 2**20:.0f}", str(found.processes)]
                if found
                else ["-"] * 3
            )
        lines.append(line)
    columns = [f"{server} {unit}" for server in ("smtpmail", "Postfix") for unit in ("RSS MiB", "PSS MiB", "processes")]
    return table(["memory", *columns], lines, markdown=markdown)


def dead(rates: Mapping[str, Sequence[float]], *, markdown: bool) -> str:
    """What nine destinations get while the tenth is alive or dead: medians with their span."""
    rows = []
    for server in dict.fromkeys(key.partition(", ")[0] for key in rates):
        usual = statistics.median(rates[f"{server}, alive"])
        for state in ("alive", "dead"):
            of_state = rates[f"{server}, {state}"]
            ratio = statistics.median(of_state) / usual
            rows.append([f"{server}, the tenth {state}", _span(of_state, ".0f"), f"{ratio:.2f}"])
    return table(["relay to nine destinations", "msg/s", "ratio"], rows, markdown=markdown)


def waits(of_server: Mapping[str, Sequence[Waits]], *, markdown: bool) -> str:
    """How long clients wait for their 250: medians of the rounds with their span, the longest of all rounds."""
    rows = []
    for name, rounds in of_server.items():
        row = [name, str(sum(r.messages for r in rounds)), str(sum(r.checkpoints for r in rounds) or "-")]
        for figure in ("median", "late", "longest"):
            row.append(_span([getattr(r, figure) * 1000 for r in rounds], ".1f"))
        at_checkpoints = [r.at_checkpoint * 1000 for r in rounds if r.at_checkpoint]
        rows.append([*row, _span(at_checkpoints, ".1f")])
    header = ["waits for the 250, ms, 20 sessions", "messages", "checkpoints", "median", "99.9 of 100", "longest",
              "longest at a checkpoint"]  # fmt: skip
    return table(header, rows, markdown=markdown)


def circumstances(rounds: int) -> str:
    """When, on what and how it is measured."""
    processor = next(
        (x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x),
        platform.machine(),
    )
    octets = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    postfix = _output("postconf", "-d", "-h", "mail_version")
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {processor}, {os.cpu_count()} cores, {octets / 2**30:.0f} GiB, "
        f"Linux {platform.release()}; "
        f"smtpmail {smtpmail.__version__} on Python {platform.python_version()}, Postfix {postfix}; "
        f"messages of 4 KiB; medians of {rounds} alternating round{'s' if rounds > 1 else ''}; load average before: "
        + " ".join(f"{x:.2f}" for x in os.getloadavg())
    )


def file_system(folder: Path) -> str:
    """The type of the file system that holds the folder."""
    # The last one lies on top of the others.
    return _output("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(folder)).split()[-1]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
