"""One measurement: a fixed number of messages through one server, until all are where they belong."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from tests.bench import load, processes
from tests.bench.servers import DOMAIN, Server


@dataclass(frozen=True, slots=True)
class Work:
    """What is done, and what the contract asks of smtpmail's share of Postfix's figures."""

    name: str
    kind: str
    """`receive`: until all messages are in the mailbox. `relay`: until all are at the sink."""
    sessions: int
    reuse: bool
    """Many messages a connection."""
    messages: int
    least_rate: float
    """Messages a second, at least so many times Postfix's."""
    most_cpu: float
    """CPU time a message, at most so much of Postfix's."""


@dataclass(frozen=True, slots=True)
class Result:
    rate: float
    """Messages a second."""
    cpu: float
    """Seconds of CPU time a message."""


def run(work: Work, server: Server, user: str, sink: load.Sink | None) -> Result:
    """Does the work once; `user` is a mailbox that has no messages yet. Raises BenchError."""
    os.sync()  # what others have written is not to be waited for
    cpu = processes.cpu_seconds(server.pid)
    if work.kind == "receive":
        seconds = _receive(work, server, user)
    else:
        assert sink is not None
        seconds = _relay(work, server, sink)
    cpu = processes.settled_cpu_seconds(server.pid) - cpu
    return Result(work.messages / seconds, cpu / work.messages)


def _receive(work: Work, server: Server, user: str) -> float:
    begin = time.time()
    load.finish(load.source(server.port, f"{user}@{DOMAIN}", work.messages, work.sessions, reuse=work.reuse))
    accepted = time.time()
    # Counting costs time that the server needs: seldom, for the files tell by themselves when the last one came.
    name = f"{server.name}'s mailbox of {user}"
    load.wait_until(lambda: len(server.delivered(user)), work.messages, interval=0.25, what=name)
    # A file's change time is when it got its name in the mailbox.
    return max(accepted, *(os.stat(path).st_ctime for path in server.delivered(user))) - begin


def _relay(work: Work, server: Server, sink: load.Sink) -> float:
    wanted = sink.received() + work.messages
    begin = time.time()
    load.finish(load.source(server.port, "anybody@remote.example", work.messages, work.sessions, reuse=work.reuse))
    load.wait_until(sink.received, wanted, interval=0.005, what=f"{server.name} to the sink")
    return time.time() - begin
