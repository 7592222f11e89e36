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
from tests.bench.measure import Result, Work
from tests.bench.processes import Memory

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
    """Medians of the rounds and what they are to each other, beside the floor of the contract."""
    rows = []
    for work, of_server in results.items():
        rates = {name: statistics.median(r.rate for r in rounds) for name, rounds in of_server.items()}
        cpu = {name: statistics.median(r.cpu for r in rounds) * 1000 for name, rounds in of_server.items()}
        row = [work.name]
        for figures, form, floor, at_least in (
            (rates, ".0f", work.least_rate, True),
            (cpu, ".2f", work.most_cpu, False),
        ):
            ours, theirs = figures["smtpmail"], figures["Postfix"]
            ratio = ours / theirs if theirs else float("nan")
            met = ratio >= floor if at_least else ratio <= floor
            row += [
                f"{ours:{form}}",
                f"{theirs:{form}}",
                f"{ratio:.2f}",
                f"{'≥' if at_least else '≤'} {floor:.2f}",
            ]
            row[-1] += " " if met else "!"
        rows.append(row)
    header = [
        "work",
        "smtpmail msg/s",
        "Postfix msg/s",
        "ratio",
        "floor ",
        "smtpmail CPU ms",
        "Postfix CPU ms",
    ]
    text = table([*header, "ratio", "limit "], rows, markdown=markdown)
    return text + ("\n\n! the contract is missed here" if any("!" in cell for row in rows for cell in row) else "")


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
    """What nine destinations get while the tenth is alive or dead: medians, and the span of the rounds."""
    usual = statistics.median(rates["alive"])
    rows = [
        (
            f"relay to nine destinations, the tenth {state}",
            f"{statistics.median(of_state):.0f}",
            f"{min(of_state):.0f}-{max(of_state):.0f}",
            f"{statistics.median(of_state) / usual:.2f}",
        )
        for state, of_state in rates.items()
    ]
    return table(["one dead destination among ten", "msg/s", "span", "ratio"], rows, markdown=markdown)


def circumstances(folder: Path, rounds: int) -> str:
    """When, on what and how it was measured."""
    processor = next(
        (x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x),
        platform.machine(),
    )
    octets = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    postfix = _output("postconf", "-d", "-h", "mail_version")
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {processor}, {os.cpu_count()} cores, {octets / 2**30:.0f} GiB, "
        f"Linux {platform.release()}, {file_system(folder)}; "
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
