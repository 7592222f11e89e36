"""Memory: at rest, with many open sessions, and while a large message streams to disk."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import load, processes
from tests.bench.processes import Memory
from tests.bench.servers import DOMAIN, BenchError, Postfix, Server, Smtpmail

SESSIONS = 1000
"""As many as smtpmail lets in by default; Postfix ends at 100 processes."""

LARGE_OCTETS = 50_000_000
"""A little less than the default limit of 50 MiB, which counts the header, too."""

Rows = list[tuple[str, dict[str, Memory]]]


def measure(folder: Path) -> Rows:
    """Three rows, both servers fresh. Raises BenchError."""
    rest: dict[str, Memory] = {}
    large: dict[str, Memory] = {}
    many: dict[str, Memory] = {}
    for server in (Smtpmail(folder / "smtpmail"), Postfix(folder / "postfix")):
        try:
            server.start()
            time.sleep(1)
            rest[server.name] = processes.memory(server.pid)
            large[server.name] = _peak_with_large_message(server)
            if isinstance(server, Smtpmail):
                with _open_sessions(server.port):
                    many[server.name] = processes.memory(server.pid)
        finally:
            server.stop()
    return [
        ("at rest (smtpmail: under 40 MiB)", rest),
        ("peak while a 50 MB message comes in", large),
        (f"{SESSIONS} open sessions (smtpmail: under 120 MiB)", many),
    ]


def _peak_with_large_message(server: Server) -> Memory:
    source = load.source(server.port, f"user0@{DOMAIN}", 1, 1, reuse=False, octets=LARGE_OCTETS)
    peak = processes.memory(server.pid)
    while source.poll() is None:
        peak = max(peak, processes.memory(server.pid), key=lambda memory: memory.resident)
        time.sleep(0.2)  # looking takes time that the server needs
    load.finish(source)
    load.wait_until(lambda: len(server.delivered("user0")), 1, interval=0.1, what=f"{server.name}'s mailbox")
    return peak


@contextlib.contextmanager
def _open_sessions(port: int) -> Iterator[None]:
    """Clients that have said EHLO and MAIL, and wait."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        for number in range(SESSIONS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            replies = stack.enter_context(sock.makefile("rb"))
            # Who talks before the greeting is no mail program.
            if not replies.readline().startswith(b"220 "):
                raise BenchError(f"smtpmail turned session {number + 1} of {SESSIONS} away")
            sock.sendall(f"EHLO client{number}.example\r\nMAIL FROM:<sender@{DOMAIN}>\r\n".encode())
            for line in replies:
                if line.startswith(b"250 2.1.0"):
                    break
        yield
