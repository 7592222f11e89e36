"""How the queue looks: rows for people, objects for programs, a summary by domain and age. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from smtpmail.mail.queued import Item
from smtpmail.mail.text import harmless, rfc3339

HEAD = ("ID", "AGE", "FROM", "TO", "TRIES", "NEXT", "LAST REPLY")

CELL = 40
"""Characters of an address in a table."""

AGES = (5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""Minutes at which a column of the summary ends, as in Postfix's qshape(1)."""


def span(seconds: float) -> str:
    """A time span for people: its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def octets(count: int) -> str:
    """A size for people."""
    for size, unit in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} octets"


def messages(count: int) -> str:
    """How many."""
    return "1 message" if count == 1 else f"{count} messages"


def state(item: Item, now: float) -> str:
    """When it is tried next."""
    if item.hold:
        return "on hold"
    if not item.attempts or item.next_attempt <= now:
        return "now"
    return f"in {span(item.next_attempt - now)}"


def as_json(item: Item) -> dict[str, Any]:
    """A message as programs get it."""
    return {
        "id": item.id,
        "arrived": rfc3339(item.arrived),
        "sender": item.sender,
        "size": item.size,
        "attempts": item.attempts,
        "next_attempt": None if item.hold else rfc3339(item.next_attempt or item.arrived),
        "hold": item.hold,
        "bounce_of": item.bounce_of,
        "recipients": [
            {"address": r.address, "state": r.state, "reply": r.reply or None, "mx": r.mx or None}
            for r in item.recipients
        ],
    }


def row(item: Item, now: float) -> tuple[str, ...]:
    """A message as a row of the table with HEAD."""
    waiting = [item.recipients[n] for n in item.pending]
    first = waiting[0] if waiting else item.recipients[0]
    more = f" +{len(waiting) - 1}" if len(waiting) > 1 else ""
    return (
        item.id, span(now - item.arrived), f"<{item.sender}>", f"{first.address}{more}",
        str(item.attempts), state(item, now), first.reply,
    )  # fmt: skip


def table(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The rows below HEAD, aligned, each within `width` columns (None: as long as they are)."""
    every = [HEAD, *rows]
    widths = [min(max(len(row[n]) for row in every), CELL) for n in range(len(HEAD) - 1)]
    lines = []
    for cells in every:
        shown = [_cut(harmless(cell), size).ljust(size) for cell, size in zip(cells[:-1], widths, strict=True)]
        line = "  ".join([*shown, harmless(cells[-1])]).rstrip()
        lines.append(line if width is None else _cut(line, width))
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def details(item: Item, now: float) -> list[str]:
    """The envelope of a message and what happened to it, for people."""
    about = f" (a notification about {item.bounce_of})" if item.bounce_of else ""
    lines = [
        f"id:       {item.id}",
        f"arrived:  {rfc3339(item.arrived)} ({span(now - item.arrived)} ago)",
        f"sender:   <{item.sender}>{about}",
        f"size:     {octets(item.size)}",
        f"attempts: {item.attempts}, next: {state(item, now)}",
    ]
    for recipient in item.recipients:
        lines.append(f"to:       <{recipient.address}> {recipient.state}")
        if recipient.reply:
            lines.append(f"          {recipient.mx}{': ' if recipient.mx else ''}{recipient.reply}")
    return [harmless(line) for line in lines]


def domain_of(address: str) -> str:
    """The domain of an address, in lower case; of none, `-`."""
    return address.rpartition("@")[2].lower() or "-"


def summarize(items: Iterable[Item], now: float, *, senders: bool) -> list[dict[str, Any]]:
    """For each domain how many recipients wait, and since when; the largest first, TOTAL before them.

    `ages` has a count for each of AGES (younger than so many minutes, and not than the one before), and one for older.
    """
    counts: dict[str, Counter[int]] = {"TOTAL": Counter()}
    for item in items:
        minutes = (now - item.arrived) / 60
        column = next((n for n, end in enumerate(AGES) if minutes < end), len(AGES))
        waiting = [item.recipients[n].address for n in item.pending]
        for address in [item.sender] * bool(waiting) if senders else waiting:
            for name in ("TOTAL", domain_of(address)):
                counts.setdefault(name, Counter())[column] += 1
    total = counts.pop("TOTAL")
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1].total(), pair[0]))
    return [
        {"domain": name, "total": ages.total(), "ages": [ages[n] for n in range(len(AGES) + 1)]}
        for name, ages in [("TOTAL", total), *ordered]
    ]


def summary_table(summary: Sequence[dict[str, Any]]) -> list[str]:
    """The summary as qshape(1) prints it: minutes above the columns."""
    heads = ["T", *map(str, AGES), f"{AGES[-1]}+"]
    rows = [(harmless(s["domain"]), [str(s["total"]), *map(str, s["ages"])]) for s in summary]
    first = max(len(name) for name, _ in rows)
    widths = [max(len(head), *(len(cells[n]) for _, cells in rows)) for n, head in enumerate(heads)]
    return [
        "  ".join([name.rjust(first), *(cell.rjust(size) for cell, size in zip(cells, widths, strict=True))])
        for name, cells in [("", heads), *rows]
    ]
