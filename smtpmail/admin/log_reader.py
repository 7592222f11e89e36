"""The JSON log, from files, standard input or the journal, between two times."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, Any, cast

import click

JOURNAL = ("journalctl", "--unit=smtpmail", "--output=cat", "--no-pager")

LINE_LIMIT = 1024 * 1024
"""Octets of a line; longer ones are no log of smtpmail."""

Entry = dict[str, Any]
"""One line of the log: timestamp, level, event and the event's fields (docs/formats.md)."""

_AGO = re.compile(r"-?(\d+)\s*(s|m|min|h|d|w)[a-z]*(\s+ago)?")
_SPANS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_time(text: str, now: datetime) -> datetime:
    """A time as people say it: `yesterday`, `today`, `now`, `2 h ago`, `2026-11-25`, `2026-11-25 14:30`. In UTC.

    `now` has a time zone: days begin at midnight there. Raises ValueError.
    """
    word = text.strip().lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if word in ("now", ""):
        return now.astimezone(UTC)
    if word in ("today", "yesterday"):
        return (midnight - timedelta(days=word == "yesterday")).astimezone(UTC)
    if match := _AGO.fullmatch(word):
        return (now - timedelta(seconds=int(match[1]) * _SPANS[match[2]])).astimezone(UTC)
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("yesterday, today, '2 h ago' or a date, 2026-11-25 14:30, must be given") from None
    return (time if time.tzinfo else time.replace(tzinfo=now.tzinfo)).astimezone(UTC)


def when(ctx: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """The callback of an option with a time. Raises click.BadParameter."""
    if value is None:
        return None
    try:
        return parse_time(value, datetime.now().astimezone())
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{value!r}: {error}", ctx, parameter) from None


def parse_line(raw: bytes) -> Entry | None:
    """The entry of a line; None when it is cut, too long or something else."""
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and {"timestamp", "event"} <= entry.keys() else None


def time_of(entry: Entry) -> datetime | None:
    """When it was written; None when that makes no sense."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        time = datetime.fromisoformat(entry["timestamp"])
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    return None


def is_between(entry: Entry, since: datetime | None, until: datetime | None) -> bool:
    """Whether it was written from `since` on and before `until`; of one without a sensible time nobody knows."""
    if since is None and until is None:
        return True
    time = time_of(entry)
    return time is not None and (since is None or time >= since) and (until is None or time < until)


def lines_of(log: IO[bytes]) -> Iterator[bytes]:
    """The lines of a log; of one that is too long only the beginning."""
    while line := log.readline(LINE_LIMIT):
        rest = line
        while len(rest) == LINE_LIMIT and not rest.endswith(b"\n"):
            rest = log.readline(LINE_LIMIT)
        yield line


def read_log(names: Sequence[str], since: datetime | None, until: datetime | None) -> Iterator[bytes]:
    """The lines of these files in turn (`-` is standard input, .gz is unpacked); without any, of the journal.

    The journal is asked for the time; of files every line comes. Raises click.ClickException.
    """
    if not names:
        yield from _journal(since, until)
    for name in names:
        if name == "-":
            yield from lines_of(sys.stdin.buffer)
            continue
        try:
            with open(name, "rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
                file.seek(0)
                with cast(IO[bytes], gzip.open(file)) if packed else contextlib.nullcontext(file) as log:
                    yield from lines_of(log)
        except (OSError, EOFError) as error:
            raise click.ClickException(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from None


def _journal(since: datetime | None, until: datetime | None) -> Iterator[bytes]:
    times = [f"--{name}=@{time.timestamp():.0f}" for name, time in (("since", since), ("until", until)) if time]
    try:
        journal = subprocess.Popen(  # noqa: S603
            [*JOURNAL, *times], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
    except OSError as error:
        raise click.ClickException(
            f"cannot run journalctl ({error.strerror}): name the file of the log, or pipe it in and say -"
        ) from None
    with journal:
        assert journal.stdout is not None
        yield from lines_of(journal.stdout)
    if journal.returncode:
        raise click.ClickException(f"journalctl failed with exit status {journal.returncode}")


def entries(lines: Iterator[bytes], since: datetime | None, until: datetime | None) -> Iterator[Entry]:
    """The entries among the lines that were written in this time: from `since` on, before `until`."""
    for line in lines:
        entry = parse_line(line)
        if entry is not None and is_between(entry, since, until):
            yield entry
