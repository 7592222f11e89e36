"""`smtpmail status`: on one screen, whether all is well; the exit status is for monitoring."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import click

from smtpmail import mounts
from smtpmail.admin.log_reader import JOURNAL, parse_line
from smtpmail.mail import meanings
from smtpmail.mail.queued import Item
from smtpmail.mail.text import harmless
from smtpmail.settings import machine
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsCommand, load_config
from smtpmail.settings.values import ConfigError, Endpoint
from smtpmail.spool.files import forget_pages
from smtpmail.spool.queue import QueueStore

OK, WARNING, CRITICAL = "ok", "warning", "critical"
LEVELS = (OK, WARNING, CRITICAL)
COLOURS = {OK: "green", WARNING: "yellow", CRITICAL: "red"}

CONNECT_SECONDS = 5.0

ANSWER_SECONDS = 5.0
"""Seconds that a file system which hosts share has to answer."""

FULL, NEARLY_FULL = 0.02, 0.10
"""Shares of a disk, free."""

LATE = 4 * 3600.0
"""Seconds that a message may wait in the queue before that is worth a look."""

SHOWN = 8
ERRORS_SHOWN = 5
ERRORS_SINCE = "-1d"
ERROR_LINES = 2000
"""Lines of the journal that are looked at for errors."""


@dataclass(slots=True)
class Row:
    """One thing that was looked at."""

    name: str
    level: str
    text: str
    details: list[str] = field(default_factory=list)
    data: Any = None
    """For programs."""


@click.command(cls=SettingsCommand, short_help="Whether all is well, on one screen.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show whether all is well: listeners, certificate, queue, mailboxes, disks, the last errors.

    Takes the options of the server. Exit status 0: all is well, 1: something is worth a look, 2: something is broken.
    """
    rows = list(look(load_config(ctx)))
    worst = max((LEVELS.index(row.level) for row in rows), default=0)
    if as_json:
        click.echo(json.dumps({"status": LEVELS[worst], "checks": [asdict(row) for row in rows]}, indent=2))
    else:
        for row in rows:
            click.echo(
                f"{click.style(f'{row.level:9}', fg=COLOURS[row.level])} {row.name:12} {harmless(row.text, 300)}"
            )
            for detail in row.details:
                click.echo(f"{'':22} {harmless(detail, 300)}")
    ctx.exit(worst)


def look(settings: Config) -> Iterator[Row]:
    """All rows."""
    yield _listeners(settings)
    if settings.tls_cert:
        yield _certificate(settings)
    if settings.dkim_keys:
        yield _keys(settings.dkim_keys) if _answers(settings.dkim_keys) else _silence("dkim", settings.dkim_keys)
    places = {"spool": settings.spool, "queue": settings.queue}
    there = {name: path for name, path in places.items() if _answers(path)}
    items: list[Item] = []
    if "queue" in there:
        items = list(QueueStore(settings.queue).load_all()) if _may_read(settings.queue) else []
    yield _queue(settings, items) if "queue" in there else _silence("queue", settings.queue)
    yield _mailboxes(settings) if "spool" in there else _silence("mailboxes", settings.spool)
    yield from _disks(there)
    entries = _journal()
    refusals = _refusals(items, entries or [])
    if refusals is not None:
        yield refusals
    if entries is not None:
        yield _errors(entries)


def _answers(path: str) -> bool:
    """Who looks at a file system whose servers are away may never come back."""
    return not mounts.is_shared(path) or machine.answers(path, ANSWER_SECONDS)


def _silence(name: str, path: str) -> Row:
    return Row(name, CRITICAL, f"the file system of {path} does not answer: is the network away, or its servers?")


# -- the listeners


def _listeners(settings: Config) -> Row:
    down: list[str] = []
    up: list[str] = []
    for kind, endpoint in _endpoints(settings):
        reply = _greeting(endpoint)
        (up if reply.startswith("220") else down).append(f"{endpoint} ({kind}): {reply or 'no answer'}")
    if not up:
        return Row("listeners", CRITICAL, "none answers: is the server running?", down)
    if down:
        return Row("listeners", CRITICAL, f"{len(down)} of {len(down) + len(up)} do not answer", down, up)
    return Row("listeners", OK, f"{len(up)} answer", [], up)


def _endpoints(settings: Config) -> Iterator[tuple[str, Endpoint]]:
    """Those of the settings; of the network listener on all addresses, nothing can be told from here."""
    loopback = settings.loopback or (Endpoint("127.0.0.1"), *([Endpoint("::1")] if _has_ipv6() else []))
    network = () if settings.no_network else settings.listen
    for kind, endpoints in (("loopback", loopback), ("network", network)):
        for endpoint in endpoints:
            yield kind, Endpoint(endpoint.host, settings.port if endpoint.port is None else endpoint.port)


def _has_ipv6() -> bool:
    """Whether ::1 is there: the default listener is left out without."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            return f"{1:032x}" in file.read()
    except OSError:
        return False


def _greeting(endpoint: Endpoint) -> str:
    """The first line that a listener says; why there is none, when it says nothing."""
    try:
        address = (endpoint.host, endpoint.port or 0)
        with socket.create_connection(address, CONNECT_SECONDS) as sock, sock.makefile("rb") as stream:
            line = stream.readline(1000).decode("utf-8", "replace").strip()
            sock.sendall(b"QUIT\r\n")
            return line
    except OSError as error:
        return error.strerror or str(error)


# -- certificate, queue, mailboxes


def _certificate(settings: Config) -> Row:
    # Loaded only here: many servers have none.
    from smtpmail.settings import certificate  # noqa: PLC0415

    try:
        context = settings.tls_context()
        found = certificate.judge(certificate.in_memory(context, settings.hostname), settings.hostname, "--tls-cert")
    except (ConfigError, OSError) as error:
        return Row("certificate", CRITICAL, str(error))
    level = {"ok": OK, "warning": WARNING}.get(found.level, CRITICAL)
    return Row("certificate", level, found.text, [found.advice] if found.advice else [])


def _keys(path: str) -> Row:
    """The keys that sign mail, and those whose record somebody has to publish."""
    # Loaded only here: not everybody signs.
    from smtpmail.auth.dkim_keys import NEXT, KeyFileError, KeyFolder, those_that_sign  # noqa: PLC0415

    folder = KeyFolder(path)
    try:
        found = [folder.readable(domain) for domain in folder.domains()]
    except KeyFileError as error:
        return Row("dkim", CRITICAL, str(error))
    signing = [f"{key.domain}/{key.selector}" for keys, _ in found for key in those_that_sign(keys)]
    waiting = [f"{key.domain}/{key.selector}" for keys, _ in found for key in keys if key.state == NEXT]
    wrong = [complaint for _, complaints in found for complaint in complaints]
    data = {"signing": signing, "waiting": waiting}
    text = f"{_count(len(signing), 'key')} for signatures"
    if wrong or not signing:
        return Row("dkim", CRITICAL, text, wrong or ["smtpmail dkim new DOMAIN makes one"], data)
    if waiting:
        text += f", {len(waiting)} to come"
        details = [f"{name} signs when its record is in the DNS: smtpmail dkim show" for name in waiting]
        return Row("dkim", WARNING, text, details, data)
    return Row("dkim", OK, text, data=data)


def _may_read(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)


def _queue(settings: Config, items: Sequence[Item]) -> Row:
    if not os.path.isdir(settings.queue):
        return Row("queue", WARNING, f"{settings.queue} is not there yet")
    if not _may_read(settings.queue):
        return Row("queue", CRITICAL, f"no right to read {settings.queue}: as root, or as the server's account")
    now = time.time()
    messages, oldest, held = 0, 0.0, 0
    ages: dict[str, float] = {}
    waiting: Counter[str] = Counter()
    for item in items:
        messages += 1
        held += item.hold
        age = now - item.arrived
        oldest = max(oldest, age)
        for domain in {item.recipients[n].address.rpartition("@")[2].lower() for n in item.pending}:
            waiting[domain] += 1
            ages[domain] = max(ages.get(domain, 0.0), age)
    data = {
        "messages": messages,
        "held": held,
        "oldest_seconds": round(oldest),
        "destinations": {
            name: {"messages": n, "oldest_seconds": round(ages[name])} for name, n in waiting.most_common()
        },
    }
    if not messages:
        return Row("queue", OK, "empty", data=data)
    text = f"{_count(messages, 'message')}, the oldest {_span(oldest)} old" + (f", {held} on hold" if held else "")
    details = [f"{n:>5}  {name}, the oldest {_span(ages[name])}" for name, n in waiting.most_common(SHOWN)]
    if len(waiting) > SHOWN:
        details.append(f"and {len(waiting) - SHOWN} destinations more (smtpmail queue list)")
    return Row("queue", WARNING if oldest > LATE else OK, text, details, data)


def _mailboxes(settings: Config) -> Row:
    try:
        names = [e.name for e in os.scandir(settings.spool) if e.is_dir(follow_symlinks=False) and e.name[0] != "."]
    except OSError as error:
        return Row("mailboxes", CRITICAL, f"{settings.spool}: {error.strerror}")
    new = {name: count for name in sorted(names) if (count := unseen(os.path.join(settings.spool, name)))}
    details = [f"{count:>5}  {name}" for name, count in sorted(new.items(), key=lambda item: -item[1])[:SHOWN]]
    text = f"{len(names)}, {_count(sum(new.values()), 'new message')} in {len(new)}"
    return Row("mailboxes", OK, text, details, {"mailboxes": len(names), "new": new})


def unseen(mailbox: str) -> int:
    """New messages, as MH readers count them: the sequence `unseen`. 0 when that can't be told."""
    try:
        fd = os.open(os.path.join(mailbox, ".mh_sequences"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            forget_pages(fd)
            lines = file.read(1024 * 1024).decode("ascii", "replace").splitlines()
    except OSError:
        return 0
    count = 0
    for line in lines:
        name, _, numbers = line.partition(":")
        if name.strip() == "unseen":
            for word in numbers.split():
                first, _, last = word.partition("-")
                if first.isdecimal() and (last or first).isdecimal():
                    count += max(int(last or first) - int(first) + 1, 0)
    return count


# -- disks, errors


def _disks(places: Mapping[str, str]) -> Iterator[Row]:
    seen = set()
    for name, path in places.items():
        try:
            device = os.stat(path).st_dev
            space, nodes = shutil.disk_usage(path), os.statvfs(path)
        except OSError:
            continue  # told by the other rows
        if device in seen:
            continue
        seen.add(device)
        free = space.free / space.total if space.total else 1.0
        free_nodes = nodes.f_favail / nodes.f_files if nodes.f_files else 1.0
        least = min(free, free_nodes)
        text = f"{space.free / 1024**3:.1f} GiB free ({free:.0%})"
        if free_nodes < NEARLY_FULL:
            text += f", but only {free_nodes:.1%} of its files"
        level = CRITICAL if least < FULL else WARNING if least < NEARLY_FULL else OK
        yield Row(f"disk {name}", level, text, data={"free_octets": space.free, "free_share": round(least, 4)})


def _refusals(items: Sequence[Item], entries: Sequence[dict[str, Any]]) -> Row | None:
    """What other servers refuse for reasons of policy, in the queue and in the journal, each with what it means.

    None when there is nothing of that kind.
    """
    replies = [(r.mx, r.reply) for item in items for r in (item.recipients[n] for n in item.pending)]
    replies += [(str(e.get("mx") or ""), str(e.get("reply") or "")) for e in entries if e["event"] == "delivery.failed"]
    meant: dict[str, dict[tuple[str, str], None]] = {}
    for mx, reply in replies:
        if text := meanings.of_reply(reply):
            meant.setdefault(text, {})[mx, reply] = None
    if not meant:
        return None
    details = []
    for text, found in meant.items():
        (mx, reply), *others = found
        details.append(f"{mx or 'a server'} said: {reply}" + (f" (and {len(others)} like it)" if others else ""))
        details.append(text)
    data = [{"mx": mx, "reply": reply, "meaning": text} for text, found in meant.items() for mx, reply in found]
    return Row("refusals", WARNING, "other servers do not believe mail of this one, or do not want it", details, data)


def _journal() -> list[dict[str, Any]] | None:
    """The last lines of a day in the journal; None without a journal."""
    try:
        ran = subprocess.run(  # noqa: S603
            [*JOURNAL, f"--since={ERRORS_SINCE}", f"--lines={ERROR_LINES}"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return [entry for entry in map(parse_line, ran.stdout.splitlines()) if entry is not None]


def _errors(entries: Sequence[dict[str, Any]]) -> Row:
    """The last errors of a day."""
    # A local account that sends too much is no error of the server's, but somebody should know.
    found = [e for e in entries if e.get("level") == "error" or e["event"] == "account.limited"]
    if not found:
        return Row("errors", OK, "none in the last lines of a day")
    shown = [_error_text(entry) for entry in found[-ERRORS_SHOWN:]]
    return Row("errors", WARNING, f"{_count(len(found), 'error')} in the last lines of a day", shown)


def _error_text(entry: dict[str, Any]) -> str:
    hidden = ("timestamp", "level", "event", "exception")
    fields = " ".join(f"{key}={value}" for key, value in entry.items() if key not in hidden and value is not None)
    return f"{str(entry['timestamp'])[:19]} {entry['event']} {fields}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
