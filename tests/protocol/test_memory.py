"""How much memory the server holds, all its processes together (design: 40 and 120 MiB, a few MiB)."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator

import pytest
from support import require
from support.client import Client
from support.server import Servers

MIB = 1024**2


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for 1,000 connections in this process, and in the server, which inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        require.missing("4,096 file descriptors (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_at_rest(servers: Servers) -> None:
    server = servers.start()
    assert server.resident() < 40 * MIB


@pytest.mark.usefixtures("descriptors")
def test_a_thousand_sessions(servers: Servers) -> None:
    """Open, each in the middle of a transaction; one more is turned away; all are served."""
    server = servers.start("--max-connections", "1000")
    clients = [server.client(timeout=120) for _ in range(1000)]
    for client in clients:
        client.send("EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@dom.fr>\r\n")
    for client in clients:
        assert [client.read().code for _ in range(3)] == [250, 250, 250]
    with server.client(greet=False) as client:
        assert client.read().code == 421
    assert server.resident() < 120 * MIB
    for client in clients[::100]:
        assert client.data(b"x\r\n").code == 250
    for client in clients:
        client.close()


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
def test_a_large_message(servers: Servers, verb: str) -> None:
    """50 MiB stream to the disk, to two mailboxes, and cost a few MiB of memory."""
    server = servers.start("--max-size", "60M")
    piece = (b"x" * 76 + b"\r\n") * 1344
    pieces = 50 * MIB // len(piece) + 1
    with server.client(timeout=120) as client:
        client.begin()
        assert client.data(b"warm\r\n").code == 250
        client.transaction("bob@dom.fr", "carol@dom.fr")
        before = server.resident()
        most = before
        watching = True

        def watch() -> None:
            nonlocal most
            while watching:
                most = max(most, server.resident())
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            answer = send_large(client, verb, piece, pieces)
        finally:
            watching = False
            watcher.join()
        assert answer == 250
    assert most - before < 6 * MIB
    stored = server.messages("carol")[1]
    assert stored[stored.index(b"\nxxx") + 1 :] == piece.replace(b"\r\n", b"\n") * pieces
    assert len(server.messages("bob")[2]) > 50 * 1000**2


def send_large(client: Client, verb: str, piece: bytes, pieces: int) -> int:
    if verb == "DATA":
        client.expect("DATA", 354)
    else:
        client.send(b"BDAT %d LAST\r\n" % (len(piece) * pieces))
    for _ in range(pieces):
        client.send(piece)
    if verb == "DATA":
        client.send(b".\r\n")
    return client.read().code
