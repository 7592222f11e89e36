"""The command: which measurements, in which order, and the report of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from tests.bench import dead, footprint, load, measure, processes, report
from tests.bench.measure import Result, Work
from tests.bench.servers import USERS, BenchError, Postfix, Server, Smtpmail, free_port, require_programs

WORK = (
    Work("receive, 20 sessions, many messages a connection", "receive", 20, True, 6000, 4, 1 / 4),
    Work("receive, 20 sessions, one message a connection", "receive", 20, False, 4000, 2, 0.45),
    Work("receive, 1 session, many messages a connection", "receive", 1, True, 1000, 2, 1 / 3),
    Work("receive, 1 session, one message a connection", "receive", 1, False, 1000, 2, 1 / 3),
    Work("relay, 20 sessions, many messages a connection", "relay", 20, True, 3000, 2, 0.5),
    Work("relay, 20 sessions, one message a connection", "relay", 20, False, 3000, 2, 0.5),
    Work("relay, 1 session, many messages a connection", "relay", 1, True, 1000, 1.5, 0.5),
    Work("relay, 1 session, one message a connection", "relay", 1, False, 1000, 1.5, 0.5),
)
"""The rows of the contract. So many messages that Postfix takes some seconds for them."""

DEAD_MESSAGES = 3000
"""To ten destinations, one of them dead."""

KINDS = ("memory", "receive", "relay", "dead")

WARM_UP = 60
"""Messages before the first round: the processes of both servers are there, the folders made."""

Results = dict[Work, dict[str, list[Result]]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rounds",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="Rounds, each with both servers.",
)
@click.option("--messages", type=click.IntRange(20), help="So many in each measurement; to try the bench out.")
@click.option(
    "--only", type=click.Choice(KINDS), multiple=True, help="Leave the other measurements out; repeatable."
)  # fmt: skip
@click.option(
    "--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path), default="/var/tmp",
    show_default=True, help="Both servers store below it: it stands for the disk under test.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Do not remove the files of the servers, their logs among them.")
@click.option("--markdown", is_flag=True, help="The tables in Markdown.")
def main(rounds: int, messages: int | None, only: Sequence[str], parent: Path, keep: bool, markdown: bool) -> None:
    """Measures smtpmail and Postfix side by side on the same disk in one run.

    Needs root (Postfix does) and Debian's package postfix. Sends to 127.0.0.1 only. Nothing else should run meanwhile.
    """
    if os.getuid():
        raise click.ClickException("root is needed: Postfix does not start without")
    require_programs("postfix", "smtp-source", "smtp-sink", "ip")
    if report.file_system(parent) in ("tmpfs", "ramfs"):
        raise click.ClickException(f"{parent} is in memory: name a folder on a disk with --dir")
    head = report.circumstances(parent, rounds)
    if os.getloadavg()[0] > 0.2 * (os.cpu_count() or 1):
        click.echo(f"warning: this machine is busy (load average {os.getloadavg()[0]:.2f})", err=True)
    results: Results = {}
    memories: footprint.Rows = []
    nine: dict[str, list[float]] = {}
    failure = None
    with _folder(parent, keep=keep) as folder:
        try:
            for kind in [kind for kind in KINDS if not only or kind in only]:
                if kind == "memory":
                    memories += footprint.measure(folder / kind)
                elif kind == "dead":
                    nine = _measure_dead(messages or DEAD_MESSAGES, rounds, folder / kind)
                else:
                    work = [replace(w, messages=messages or w.messages) for w in WORK if w.kind == kind]
                    _measure(kind, work, rounds, folder / kind, results, memories)
        except BenchError as error:
            failure = error  # what was measured before is worth seeing
    parts = [head]
    complete = {work: of_server for work, of_server in results.items() if all(of_server.values())}
    if complete:
        parts.append(report.speed(complete, markdown=markdown))
    if memories:
        parts.append(report.memory(memories, markdown=markdown))
    if nine:
        parts.append(report.dead(nine, markdown=markdown))
    click.echo("\n\n".join(parts))
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _folder(parent: Path, *, keep: bool) -> Iterator[Path]:
    """A folder for all files of all rounds. They go at the very end: to delete many files slows those made next."""
    path = Path(tempfile.mkdtemp(prefix="smtpmail-bench-", dir=parent))
    path.chmod(0o755)  # Postfix's own user passes through
    try:
        yield path
    finally:
        if keep:
            click.echo(f"the files are in {path}", err=True)
        else:
            shutil.rmtree(path)


def _measure(
    kind: str, work: list[Work], rounds: int, folder: Path, results: Results, memories: footprint.Rows
) -> None:
    """All rounds of all work of one kind: smtpmail, Postfix, smtpmail, Postfix, ..."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        sink = None
        smarthost = None
        options: list[str] = []
        if kind == "relay":
            smarthost = free_port()
            sink = load.Sink("127.0.0.1", smarthost)
            stack.callback(sink.stop)
            # No name server is there: nothing is to be looked up, and no query may leave.
            options = ["--smarthost", f"127.0.0.1:{smarthost}", "--resolver", "127.0.0.1:9"]
        servers: list[Server] = [
            Smtpmail(folder / "smtpmail", *options),
            Postfix(folder / "postfix", smarthost=smarthost),
        ]
        for server in servers:
            stack.callback(server.stop)
            server.start()
        users = iter(USERS[1:])
        for item in work:
            results[item] = {server.name: [] for server in servers}
            for server in servers:
                warm_up = Work("", kind, item.sessions, item.reuse, WARM_UP, 0, 0)
                measure.run(warm_up, server, next(users), sink)
            for turn in range(rounds):
                user = next(users)
                for server in servers:
                    result = measure.run(item, server, user, sink)
                    results[item][server.name].append(result)
                    click.echo(
                        f"{item.name}, round {turn + 1}, {server.name}: {result.rate:.0f} msg/s, "
                        f"{result.cpu * 1000:.2f} ms CPU",
                        err=True,
                    )
            memories.append((f"after: {item.name}", {s.name: processes.memory(s.pid) for s in servers}))


def _measure_dead(messages: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Messages a second to nine destinations while the tenth is alive, and while it is dead."""
    rates: dict[str, list[float]] = {"alive": [], "dead": []}
    with dead.network() as (net, sinks):
        for turn in range(rounds):
            for state, domain in (("alive", dead.ALIVE), ("dead", dead.DEAD)):
                rate = dead.run(net, sinks, domain, messages, folder / f"{state}{turn}")
                rates[state].append(rate)
                click.echo(f"nine destinations, the tenth {state}, round {turn + 1}: {rate:.0f} msg/s", err=True)
    return rates


if __name__ == "__main__":
    # Whoever ends the bench is left with nothing running.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        main(prog_name="python -m tests.bench")
    except BenchError as error:
        sys.exit(f"bench: {error}")
