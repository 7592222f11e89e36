"""What clients may take: connections, time, octets. Sessions of others go on undisturbed."""

from __future__ import annotations

import socket
import time

import pytest
from support.client import Client, Closed
from support.server import Server, Servers, wait_until


def greeting(server: Server, listener: str) -> tuple[Client, int]:
    client = server.client(listener, greet=False)
    return client, client.read().code


def test_connections_in_all(servers: Servers) -> None:
    """421 at once for those too many, from whichever listener; room again when one leaves."""
    server = servers.start("--max-connections", "4")
    clients = [server.client("loopback"), server.client("network"), server.client("network", ipv6=True)]
    clients.append(server.client("loopback", ipv6=True))
    for listener in ("loopback", "network"):
        refused = server.client(listener, greet=False)
        answer = refused.read()
        assert (answer.code, answer.enhanced) == (421, "4.3.2")
        assert refused.at_end()
        refused.close()
    for client in clients:
        client.ehlo()
    clients.pop().close()
    wait_until(lambda: try_greeting(server) == 220)
    for client in clients:
        client.expect("QUIT", 221)
        client.close()


def try_greeting(server: Server) -> int:
    with server.client(greet=False) as client:
        return client.read().code


def test_connections_of_one_client(servers: Servers) -> None:
    """The network listener counts for each client; the loopback listener does not."""
    server = servers.start("--max-connections-per-client", "2")
    first, second = server.client("network"), server.client("network")
    third = server.client("network", greet=False)
    answer = third.read()
    assert (answer.code, answer.enhanced) == (421, "4.7.0")
    others = [server.client("network", ipv6=True) for _ in range(2)]
    locals_ = [server.client("loopback") for _ in range(10)]
    for client in (first, second, *others, *locals_):
        client.ehlo()
        client.close()
    third.close()


def test_silence(servers: Servers) -> None:
    """421 and the end, in each state of the dialogue."""
    server = servers.start("--timeout", "0.5")
    for silent_after in (
        [],
        ["EHLO a"],
        ["EHLO a", "MAIL FROM:<a@b>"],
        ["EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<bob@dom.fr>"],
    ):
        with server.client() as client:
            for line in silent_after:
                client.command(line)
            started = time.monotonic()
            answer = client.read()
            assert (answer.code, answer.enhanced) == (421, "4.4.2")
            assert client.at_end()
            assert 0.3 < time.monotonic() - started < 30


def test_silence_in_the_message(servers: Servers) -> None:
    server = servers.start("--timeout", "0.5")
    for command, half in (("DATA", b"Subject: half\r\n"), ("BDAT 100 LAST", b"Subject: half\r\n")):
        with server.client() as client:
            client.begin()
            client.send(command + "\r\n")
            if command == "DATA":
                assert client.read().code == 354
            client.send(half)
            assert client.read().code == 421
            assert client.at_end()
    assert server.messages("bob") == {}


def drip(client: Client, octet: bytes, every: float, at_most: float) -> float:
    """Sends octet after octet until the server has had enough; the seconds it took."""
    started = time.monotonic()
    client.sock.settimeout(every)
    while time.monotonic() - started < at_most:
        try:
            client.send(octet)
            if client.sock.recv(1000):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - started


@pytest.mark.parametrize(
    "before",
    [
        [],
        ["EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<bob@dom.fr>", "DATA"],
        ["EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<bob@dom.fr>", "BDAT 1000000 LAST"],
        ["EHLO a", "BDAT 1000000 LAST"],
    ],
    ids=["command", "DATA", "BDAT", "refused BDAT"],
)
def test_slow_drip(servers: Servers, before: list[str]) -> None:
    """An octet now and then keeps no connection: its time for a line or a message is bounded, silence or not."""
    server = servers.start("--timeout", "0.6")
    with server.client() as client:
        for line in before:
            client.send(line + "\r\n")
            if not line.startswith("BDAT"):
                client.read()
        assert drip(client, b"x", every=0.1, at_most=60) < 40
    assert server.messages("bob") == {}


def test_a_slow_message_is_not_cut_short(servers: Servers) -> None:
    """Slow but steady beyond the timeout is a slow line, no attack."""
    server = servers.start("--timeout", "3")
    with server.client() as client:
        client.begin()
        client.expect("DATA", 354)
        for _ in range(16):
            client.send(b"x" * 200 + b"\r\n")
            time.sleep(0.25)
        client.send(b".\r\n")
        assert client.read().code == 250


def test_line_without_end(server: Server) -> None:
    """Memory does not grow with it; 500 when its end comes, and the session goes on."""
    with server.client() as client:
        client.ehlo()
        before = server.resident()
        for _ in range(200):
            client.send(b"x" * 100_000)
        assert server.resident() - before < 4 * 1024**2
        client.send("\r\n")
        answer = client.read()
        assert (answer.code, answer.enhanced) == (500, "5.5.6")
        assert client.deliver().code == 250


def test_size_declared_and_not(servers: Servers) -> None:
    """552 at MAIL when SIZE says so, else after the end of data; the session goes on, nothing is visible."""
    server = servers.start("--max-size", "100K")
    with server.client() as client:
        assert any(line.endswith("SIZE 102400") for line in client.ehlo().lines)
        client.expect("MAIL FROM:<a@b> SIZE=102401", 552, "5.3.4")
        client.transaction()
        answer = client.data(b"NOOP\r\n" * 50_000)
        assert (answer.code, answer.enhanced) == (552, "5.3.4")
        client.transaction()
        client.send(b"BDAT 300000 LAST\r\n" + b"QUIT\r\n" * 50_000)
        assert client.read().code == 552
        assert server.messages("bob") == {}
        assert client.deliver().code == 250
    assert len(server.messages("bob")) == 1


def test_recipients(servers: Servers) -> None:
    server = servers.start("--max-recipients", "3")
    with server.client() as client:
        assert any("LIMITS RCPTMAX=3" in line for line in client.ehlo().lines)
        client.transaction("a@dom.fr", "b@dom.fr", "c@dom.fr")
        client.expect("RCPT TO:<d@dom.fr>", 452, "4.5.3")
        assert client.data(b"x\r\n").code == 250
    assert [len(server.messages(user)) for user in "abcd"] == [1, 1, 1, 0]


def test_errors_and_http(server: Server) -> None:
    with server.client() as client:
        answers = []
        with pytest.raises((Closed, ConnectionError)):
            for _ in range(50):
                answers.append(client.command("NONSENSE").code)
        assert answers[-1] == 421
        assert len(answers) < 30
    with server.client() as client:
        client.send("POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO a\r\nMAIL FROM:<a@b>\r\n")
        assert client.read().code == 421
        assert client.at_end()


def test_reset_and_half_closed_connections(server: Server) -> None:
    """Clients go away in every manner; the server keeps nothing of them."""
    for _ in range(20):
        client = server.client()
        client.begin()
        client.expect("DATA", 354)
        client.send(b"Subject: half\r\n")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    with server.client() as client:
        client.begin()
        client.expect("DATA", 354)
        client.send(b"Subject: half\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.at_end()
    wait_until(lambda: len(server.events_named("session.closed")) == 21)
    assert server.messages("bob") == {}
    assert server.events_named("session.error") == []


def test_end_of_stream_behind_the_dot(server: Server) -> None:
    """A client that sends everything and shuts its side down gets its replies (RFC 2920)."""
    with server.client("network") as client:
        client.send("EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@dom.fr>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.read().code for _ in range(6)] == [250, 250, 250, 354, 250, 221]
        assert client.at_end()
    assert len(server.messages("bob")) == 1
