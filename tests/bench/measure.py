"""One measurement: a fixed number of messages through one server, until all are where they belong."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from tests.bench import load, processes
from tests.bench.servers import DOMAIN, Server
from tests.bench.work import Work


@dataclass(frozen=True, slots=True)
class Result:
    rate: float
    """Messages a second."""
    cpu: float
    """Seconds of CPU time a message."""
    memory: int
    """PSS after it, octets."""


def run(work: Work, server: Server, user: str, sink: load.Sink | None, before: int = 0) -> Result:
    """Does the work once; `user` is a mailbox that has `before` messages yet. Raises BenchError."""
    os.sync()  # what others have written is not to be waited for
    before_it = cpu_seconds(server)
    if work.kind == "receive":
        seconds = _receive(work, server, user, before)
    else:
        assert sink is not None
        seconds = _relay(work, server, sink)
    memory = processes.memory(server.pid).proportional
    cpu = processes.settled(lambda: cpu_seconds(server)) - before_it
    return Result(work.messages / seconds, cpu / work.messages, memory)


def cpu_seconds(server: Server) -> float:
    """CPU time of all its processes so far."""
    own: processes.Group | None = getattr(server, "group", None)
    if own is not None:
        return own.cpu_seconds()
    return sum(map(processes.cpu_seconds, (server.pid, *getattr(server, "helpers", ()))))


def _receive(work: Work, server: Server, user: str, before: int) -> float:
    mailboxes = [user, *(f"{n}{user}" for n in range(2, work.recipients + 1))]
    already = 0 if before else sum(len(server.delivered(mailbox)) for mailbox in mailboxes)
    begin = time.time()
    load.finish(
        load.source(
            server.port, f"{user}@{DOMAIN}", work.messages, work.sessions,
            reuse=work.reuse, octets=work.octets, recipients=work.recipients, tls=work.tls,
        )
    )  # fmt: skip
    accepted = time.time()
    if before:
        return accepted - begin  # to look through a million names would take longer than the messages

    def count() -> int:
        return sum(len(server.delivered(mailbox)) for mailbox in mailboxes)

    # Counting costs time that the server needs: seldom, for the files tell by themselves when the last one came.
    load.wait_until(count, already + work.stored, interval=0.25, what=f"{server.name}'s mailbox of {user}")
    # A file's change time is when it got its name in the mailbox.
    return max(accepted, *(os.stat(path).st_ctime for m in mailboxes for path in server.delivered(m))) - begin


def _relay(work: Work, server: Server, sink: load.Sink) -> float:
    expected = sink.received() + work.messages
    begin = time.time()
    load.finish(load.source(server.port, "anybody@remote.example", work.messages, work.sessions, reuse=work.reuse))
    load.wait_until(sink.received, expected, interval=0.005, what=f"{server.name} to the sink")
    return time.time() - begin
