"""The command: which measurements, in which order, and the report of them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from tests.bench import (
    checkpoints,
    dead,
    disk,
    footprint,
    growth,
    load,
    measure,
    peers,
    queued,
    reading,
    report,
    signed,
)
from tests.bench.measure import Result
from tests.bench.paste import paste
from tests.bench.servers import USERS, BenchError, Postfix, Server, Smtpmail, free_port, require_programs
from tests.bench.work import CONTRACT, GROWTH, MILLION, PEERS, SESSIONS, SIZES, Work

KINDS = (
    "memory", "receive", "relay", "signed", "sessions", "sizes", "checkpoint", "peers", "million", "queue", "dead",
    "growth", "reading",
)  # fmt: skip
USUAL = ("memory", "receive", "relay")

DEAD_MESSAGES = 3000
"""To ten destinations, one of them dead."""

WARM_UP = 60
"""Messages before the first round: the processes of all servers are there, the folders made."""

Results = dict[Work, dict[str, list[Result]]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Rounds, each with all servers."
)  # fmt: skip
@click.option("--messages", type=click.IntRange(20), help="At most so many in each measurement; to try the bench out.")
@click.option(
    "--only", type=click.Choice(KINDS), multiple=True,
    help=f"What to measure; repeatable. Default: {', '.join(USUAL)}.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Measure everything: about two hours.")
@click.option("--row", multiple=True, help="Only rows whose name contains this; repeatable.")
@click.option(
    "--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder on the disk under test. Default: a disk made for the run (ext4 in a file of 6 GiB).",
)  # fmt: skip
@click.option(
    "--image-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), default="/var/tmp",
    show_default=True, help="Where the file with the disk lies; no memory disk.",
)  # fmt: skip
@click.option("--option", multiple=True, help="A further option for smtpmail, --journal-size=0 say; repeatable.")
@click.option("--without-postfix", is_flag=True, help="smtpmail alone, to look for what its time goes into.")
@click.option("--keep", is_flag=True, help="With --dir: do not remove the files of the servers, their logs among them.")
@click.option("--markdown", is_flag=True, help="The tables in Markdown.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="The file (SVG) that shows how the cost grows."
)  # fmt: skip
@click.option(
    "--into", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Markdown file that gets the tables, between `<!-- bench: KIND -->` and `<!-- bench: end -->`.",
)  # fmt: skip
def main(
    rounds: int, messages: int | None, only: Sequence[str], everything: bool, row: Sequence[str], parent: Path | None,
    image_dir: Path, option: Sequence[str], without_postfix: bool, keep: bool, markdown: bool, picture: Path | None,
    into: Path | None,
) -> None:  # fmt: skip
    """Measures smtpmail and Postfix side by side on the same disk in one run.

    Needs root (Postfix does, and a loop device) and Debian's package postfix. Sends to 127.0.0.1 only. Nothing else
    should run meanwhile.
    """
    if os.getuid():
        raise click.ClickException("root is needed: Postfix does not start without")
    require_programs("smtp-source", "smtp-sink", *([] if without_postfix else ["postfix", "ip"]))
    if os.getloadavg()[0] > 0.2 * (os.cpu_count() or 1):
        click.echo(f"warning: this machine is busy (load average {os.getloadavg()[0]:.2f})", err=True)
    chosen = KINDS if everything else tuple(only) or USUAL
    parts = [report.circumstances(rounds)]
    failure = None
    with _disk(parent, image_dir, keep=keep) as place:
        for kind in (kind for kind in KINDS if kind in chosen):
            with place.fresh() as folder:
                if len(parts) == 1:
                    parts.append(f"disk: {place.what} ({report.file_system(folder)})")
                bench = Bench(folder, rounds, messages, row, option, without_postfix=without_postfix)
                try:
                    tables = bench.run(kind, markdown=markdown or into is not None, picture=picture)
                    parts += tables
                    if into is not None and not paste(into, kind, parts[0], tables):
                        click.echo(f"{into} has no place for {kind}", err=True)
                except BenchError as error:
                    failure = error  # what was measured before is worth seeing
                    parts += bench.unfinished(markdown=markdown)
                    break
    click.echo("\n\n".join(parts))
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _disk(parent: Path | None, image_dir: Path, *, keep: bool) -> Iterator[disk.Disk]:
    """The disk under test. Nothing on it is removed before the end: to delete files slows those that are made next."""
    if parent is None:
        why_not = disk.can_be_made()
        if why_not:
            raise click.ClickException(f"no disk can be made for the run ({why_not}): name a folder with --dir")
        where, manager = image_dir, disk.made(image_dir)
    else:
        where, manager = parent, disk.given(parent, keep=keep)
    if report.file_system(where) in ("tmpfs", "ramfs"):
        raise click.ClickException(f"{where} is in memory: name a folder on a disk")
    try:
        with manager as made:
            yield made
    except disk.DiskError as error:
        raise click.ClickException(f"{error}; or name a folder with --dir") from None


class Bench:
    """The measurements of one kind."""

    def __init__(
        self, folder: Path, rounds: int, messages: int | None, rows: Sequence[str], options: Sequence[str],
        *, without_postfix: bool,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._rounds = rounds
        self._messages = messages
        self._rows = rows
        self._options = options
        self._alone = without_postfix
        self._users = (f"user{number}" for number in range(USERS))
        self._results: Results = {}

    def run(self, kind: str, *, markdown: bool, picture: Path | None) -> list[str]:
        """One kind of measurement: its tables. Raises BenchError."""
        folder = self._folder / kind
        match kind:
            case "memory":
                return [report.memory(footprint.measure(folder), markdown=markdown)]
            case "receive" | "relay":
                work = self._chosen(w for w in CONTRACT if w.kind == kind)
                return [report.speed(self._measure(work, folder), markdown=markdown)] if work else []
            case "signed":
                work = self._chosen(w for w in CONTRACT if w.kind == "relay")
                return [signed.table(self._measure(work, folder, signing=True), markdown=markdown)] if work else []
            case "sessions" | "sizes":
                work = self._chosen(SESSIONS if kind == "sessions" else SIZES)
                return [report.speed(self._measure(work, folder), markdown=markdown)] if work else []
            case "checkpoint":
                seconds = checkpoints.SECONDS if self._messages is None else checkpoints.SHORTEST
                servers = self._servers(folder)
                if not self._options:
                    servers.insert(1, checkpoints.Synced(folder / "synced", "--journal-size", "0"))
                waits = checkpoints.run(servers, self._rounds, seconds, self._users)
                return [report.waits(waits, markdown=markdown)]
            case "peers":
                others, missing = peers.available(folder)
                text = report.peers(self._measure(self._chosen(PEERS), folder, others), markdown=markdown)
                return [text, *(f"not there, not measured: {name}" for name in missing)]
            case "reading":
                return [reading.table(folder, self._messages or reading.MESSAGES, markdown=markdown)]
            case "million":
                return [report.speed(self._million(folder), markdown=markdown)] if self._chosen(MILLION) else []
            case "queue":
                rates, _ = queued.run(folder, self._rounds, min(self._messages or queued.MESSAGES, queued.MESSAGES))
                return [report.rates("10,000 messages in the queue at the start", rates, markdown=markdown)]
            case "dead":
                return [report.dead(self._dead(folder), markdown=markdown)]
            case _:
                results = self._measure(self._chosen(GROWTH), folder)
                _, memory = queued.smtpmail(folder / "queue", min(self._messages or 10_000, 10_000))
                if picture is not None:
                    picture.write_text(growth.picture(results, memory))
                return [growth.table(results, markdown=markdown), growth.queue_table(memory, markdown=markdown)]

    def unfinished(self, *, markdown: bool) -> list[str]:
        """A table of what was measured before a failure."""
        complete = {work: of_server for work, of_server in self._results.items() if all(of_server.values())}
        return [report.speed(complete, markdown=markdown)] if complete else []

    def _chosen(self, work: Iterator[Work] | Sequence[Work]) -> list[Work]:
        return [
            replace(w, messages=min(self._messages or w.messages, w.messages))
            for w in work
            if not self._rows or any(text in w.name for text in self._rows)
        ]

    def _servers(self, folder: Path, *options: str, smarthost: int | None = None) -> list[Server]:
        servers: list[Server] = [Smtpmail(folder / "smtpmail", *options, *self._options)]
        if not self._alone:
            servers.append(Postfix(folder / "postfix", smarthost=smarthost))
        return servers

    def _measure(
        self, work: Sequence[Work], folder: Path, others: Sequence[Server] = (), *, signing: bool = False
    ) -> Results:
        """All rounds of all work of one kind: smtpmail, Postfix, Postfix, smtpmail, ..."""
        folder.mkdir(parents=True, exist_ok=True)
        self._results = {}
        with contextlib.ExitStack() as stack:
            sink, smarthost, options = None, None, []
            if any(w.kind == "relay" for w in work):
                smarthost = free_port()
                sink = load.Sink("127.0.0.1", smarthost)
                stack.callback(sink.stop)
                # No name server is there: nothing is to be looked up, and no query may leave.
                options = ["--smarthost", f"127.0.0.1:{smarthost}", "--resolver", "127.0.0.1:9"]
            servers = [*self._servers(folder, *options, smarthost=smarthost), *others]
            if signing:
                servers += signed.servers(folder, smarthost, [*options, *self._options], alone=self._alone)
            for server in servers:
                stack.callback(server.stop)
                server.start()
            for item in work:
                self._results[item] = {server.name: [] for server in servers}
                for server in servers:
                    warm_up = replace(item, messages=min(WARM_UP, item.messages))
                    measure.run(warm_up, server, next(self._users), sink)
                for turn in range(self._rounds):
                    user = next(self._users)
                    # Whoever comes second comes first in the next round.
                    for server in servers if turn % 2 == 0 else servers[::-1]:
                        self._take(item, turn, server, user, sink)
        return self._results

    def _take(self, item: Work, turn: int, server: Server, user: str, sink: load.Sink | None, before: int = 0) -> None:
        result = measure.run(item, server, user, sink, before)
        self._results[item][server.name].append(result)
        click.echo(
            f"{item.name}, round {turn + 1}, {server.name}: {result.rate:.0f} msg/s, {result.cpu * 1000:.2f} ms CPU",
            err=True,
        )

    def _million(self, folder: Path) -> Results:
        """smtpmail alone: what matters is how it compares with an empty mailbox, which stands in the other tables."""
        server = Smtpmail(folder / "smtpmail", *self._options)
        count = growth.fill(server.spool / "user", min(1_000_000, (self._messages or 10**6) * 10))
        self._results = {item: {server.name: []} for item in self._chosen(MILLION)}
        try:
            server.start()
            for turn in range(self._rounds):
                for item in self._results:
                    self._take(item, turn, server, "user", None, count)
        finally:
            server.stop()
        return self._results

    def _dead(self, folder: Path) -> dict[str, list[float]]:
        """Messages a second to nine destinations while the tenth is alive, and while it is dead."""
        makers = {"smtpmail": dead.smtpmail} | ({} if self._alone else {"Postfix": dead.postfix})
        rates: dict[str, list[float]] = {f"{n}, {state}": [] for n in makers for state in ("alive", "dead")}
        with dead.network() as (net, sinks):
            for turn in range(self._rounds):
                for state, domain in (("alive", dead.ALIVE), ("dead", dead.DEAD)):
                    for name, make in makers.items():
                        server = make(net, folder / f"{name}-{state}{turn}")
                        rate = dead.run(net, sinks, server, domain, self._messages or DEAD_MESSAGES)
                        rates[f"{name}, {state}"].append(rate)
                        click.echo(f"nine of ten, {name}, {state}, round {turn + 1}: {rate:.0f} msg/s", err=True)
        return rates


if __name__ == "__main__":
    # Whoever ends the bench is left with nothing running.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        main(prog_name="python -m tests.bench")
    except BenchError as error:
        sys.exit(f"bench: {error}")
