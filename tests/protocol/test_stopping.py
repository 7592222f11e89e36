"""How the server ends: signals, and processes that die."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

import pytest
from support.client import Client
from support.server import Server, Servers, wait_until


def refused(server: Server, listener: str) -> bool:
    """Whether nobody listens any more."""
    try:
        Client(server.address(listener), greet=False).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # somebody listened when it began, and nobody when it ended
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [False, True], ids=["the first process", "all processes"])
def test_graceful(servers: Servers, number: int, to_all: bool) -> None:
    """No new connections; idle sessions get 421; one in the middle of a message may finish; exit status 0.

    Ctrl-C and a service manager signal all processes at once: that is one request, too.
    """
    server = servers.start()
    idle = [server.client() for _ in range(6)]
    busy = [server.client("network") for _ in range(6)]
    for client in idle:
        client.ehlo()
    for client in busy:
        client.begin()
        client.expect("DATA", 354)
        client.send(b"Subject: half\r\n")
    if to_all:
        os.killpg(server.process.pid, number)
    else:
        server.signal(number)
    for client in idle:
        answer = client.read()
        assert (answer.code, answer.enhanced) == (421, "4.3.2")
        assert client.at_end()
    wait_until(lambda: refused(server, "loopback") and refused(server, "network"))
    time.sleep(0.3)
    for client in busy:
        client.send(b"\r\nrest\r\n.\r\n")
        assert client.read().code == 250
        assert client.read().code == 421
        assert client.at_end()
    assert server.wait() == 0
    assert len(server.messages("bob")) == 6
    assert server.events_named("server.stopped")


def test_clients_between_two_messages_are_told(server: Server) -> None:
    """Not only those that wait: one that keeps sending gets 421 instead of its next transaction, never within one."""
    with server.client() as client:
        client.ehlo()
        server.signal(signal.SIGTERM)
        messages = 0
        while (answer := client.command("MAIL FROM:<a@b>")).code == 250:
            client.expect("RCPT TO:<bob@dom.fr>", 250)
            assert client.data(b"x\r\n").code == 250
            messages += 1
            assert messages < 100_000
        assert (answer.code, answer.enhanced) == (421, "4.3.2")
        assert client.at_end()
    assert server.wait() == 0
    assert len(server.messages("bob")) == messages


def test_clients_that_go_away_do_not_hold_it_up(server: Server) -> None:
    """In the middle of a message, when the server is stopping: it waits for nobody who is gone."""
    clients = [server.client() for _ in range(8)]
    for client in clients:
        client.begin()
        client.expect("DATA", 354)
    server.signal(signal.SIGTERM)
    wait_until(lambda: refused(server, "loopback") and refused(server, "network"))
    time.sleep(0.5)
    started = time.monotonic()
    for client in clients:
        client.close()
    assert server.wait() == 0
    assert time.monotonic() - started < 20


def test_second_signal(server: Server) -> None:
    """At once, whoever is still sending; what was acknowledged is there."""
    with server.client() as client:
        client.ehlo()
        assert client.deliver(b"x\r\n").code == 250
        client.transaction()
        client.expect("DATA", 354)
        server.signal(signal.SIGTERM)
        server.wait_event("server.stopping")
        time.sleep(0.3)
        assert server.process.poll() is None
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0
        assert client.at_end()
    assert len(server.messages("bob")) == 1


def test_stops_with_nobody_there(server: Server) -> None:
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 20


def test_nothing_is_left(servers: Servers) -> None:
    """Stopped or killed, no process stays; another server can take the same ports at once."""
    server = servers.start()
    processes = server.processes()
    ports = {kind: server.address(kind)[1] for kind in ("loopback", "network")}
    with server.client() as client:
        client.ehlo()
        client.deliver()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in processes))
    other = servers.start(
        addresses=["--loopback", f"127.0.0.1:{ports['loopback']}", "--listen", f"127.0.0.1:{ports['network']}"]
    )
    with other.client() as client:
        client.ehlo()
        client.deliver()
    assert len(other.messages("bob")) == 2


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be taken note of does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_part_that_dies_is_noticed(servers: Servers) -> None:
    """Half a server would be worse than none: it ends with a status that its manager sees."""
    server = servers.start("--processes", "2")
    child = server.processes()[-1]
    assert child != server.pid
    os.kill(child, signal.SIGKILL)
    assert server.wait() != 0
    assert refused(server, "loopback")


def test_sighup_reads_the_users_again(servers: Servers) -> None:
    """In all processes, many times in a row, with sessions open."""
    users = servers._folder / "users"
    users.write_text("bob\n")
    server = servers.start("--users", str(users))
    clients = [server.client() for _ in range(6)]
    for client in clients:
        client.begin()
        client.expect("RCPT TO:<carol@dom.fr>", 550, "5.1.1")
    users.write_text("bob\ncarol\n")
    for count in range(1, 6):
        server.signal(signal.SIGHUP)
        wait_until(lambda count=count: len(server.events_named("server.reloaded")) >= count)
    for client in clients:
        client.expect("RCPT TO:<carol@dom.fr>", 250)
        assert client.data(b"x\r\n").code == 250
    assert len(server.messages("carol")) == 6
    assert server.stop() == 0


def test_signals_right_at_the_start(servers: Servers) -> None:
    """The moment it says that it has started, it obeys; none of its processes is still without ears."""
    for _ in range(5):
        server = servers.start()
        server.signal(signal.SIGHUP)
        server.wait_event("server.reloaded")
        assert server.stop() == 0


def test_readiness(servers: Servers) -> None:
    """sd_notify: READY when it accepts, RELOADING around SIGHUP, STOPPING when it ends."""
    path = servers._folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(60)
        server = servers.launch(environment={"NOTIFY_SOCKET": str(path)})

        def told() -> str:
            return sock.recv(1000).decode().partition("\n")[0]

        assert told() == "READY=1"
        with server.client() as client:
            client.ehlo()
        server.signal(signal.SIGHUP)
        assert [told(), told()] == ["RELOADING=1", "READY=1"]
        server.signal(signal.SIGTERM)
        assert told() == "STOPPING=1"
        assert server.wait() == 0


def test_watchdog(servers: Servers) -> None:
    path = servers._folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(60)
        servers.launch(environment={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"})
        assert sock.recv(1000).startswith(b"READY=1")
        assert [sock.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_the_watchdog_hears_of_every_process(servers: Servers) -> None:
    """It was fed by the first one alone, whatever became of the others."""
    path = servers._folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        server = servers.start("--processes", "2", environment={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1000000"})
        child = next(pid for pid in server.processes() if pid != server.pid)
        os.kill(child, signal.SIGSTOP)
        try:
            assert server.wait_event("watchdog.withheld")["process"] == 1
        finally:
            os.kill(child, signal.SIGCONT)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while sock.recv(1000):
                pass
        sock.settimeout(60)
        assert sock.recv(1000) == b"WATCHDOG=1", "it is well again"
