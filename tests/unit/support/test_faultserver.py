"""The fault server does what its script says, and notices what a client must not do."""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.faultserver import FaultServer, close, hang, late, reset, say
from support.tls import make_certificate

CONTENT = "Subject: hello\r\nMessage-ID: <1@test>\r\n\r\n.a dot\r\n"


@contextmanager
def raw(server: FaultServer) -> Iterator[socket.socket]:
    """A connection whose greeting has been read."""
    with socket.create_connection(server.address, timeout=5) as sock:
        sock.recv(1000)
        yield sock


def exchange(sock: socket.socket, command: bytes) -> bytes:
    sock.sendall(command)
    return sock.recv(1000)


def send(server: FaultServer, recipients: tuple[str, ...] = ("bob@one.test",)) -> dict[str, tuple[int, bytes]]:
    """Send one message with smtplib, a client nobody here wrote."""
    with smtplib.SMTP(server.address[0], server.address[1], timeout=5) as client:
        return client.sendmail("alice@dom.test", recipients, CONTENT)


def test_without_a_script_it_takes_mail_and_records_it() -> None:
    with FaultServer() as server:
        send(server, ("bob@one.test", "ann@one.test"))
        (message,) = server.accepted
    assert message.sender == "alice@dom.test"
    assert message.recipients == ["bob@one.test", "ann@one.test"]
    assert message.content.decode() == CONTENT
    assert server.deliveries == {("bob@one.test", "<1@test>"): 1, ("ann@one.test", "<1@test>"): 1}
    assert server.violations == []
    assert server.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]


def test_a_second_copy_is_counted() -> None:
    with FaultServer() as server:
        send(server)
        send(server)
    assert server.deliveries == {("bob@one.test", "<1@test>"): 2}


@pytest.mark.parametrize(
    ("point", "error"),
    [
        ("connect", smtplib.SMTPConnectError),
        ("MAIL", smtplib.SMTPSenderRefused),
        ("RCPT", smtplib.SMTPRecipientsRefused),
        ("RCPT bob@one.test", smtplib.SMTPRecipientsRefused),
        ("DATA", smtplib.SMTPDataError),
        (".", smtplib.SMTPDataError),
    ],
)
def test_a_refusal_at_any_point_is_told_and_nothing_is_accepted(point: str, error: type[Exception]) -> None:
    with FaultServer({point: say("451 4.3.0 not now")}) as server, pytest.raises(error):
        send(server)
    assert server.accepted == []


@pytest.mark.parametrize("fault", [close(), reset(), close(b"250-half"), close("421 4.3.2 bye")], ids=repr)
@pytest.mark.parametrize("point", ["connect", "EHLO", "MAIL", "RCPT", "DATA", "content", "."])
def test_it_closes_at_any_point(point: str, fault: object) -> None:
    with FaultServer({point: fault, "HELO": fault}) as server:  # type: ignore[dict-item]
        with pytest.raises((smtplib.SMTPException, OSError)):
            send(server)
        server.wait_until(lambda it: it.sessions and it.sessions[-1].ended)
    assert server.accepted == []
    assert len(server.messages) == (1 if point == "." else 0)


def test_it_says_nothing_until_the_client_goes() -> None:
    with FaultServer({"MAIL": hang(b"25")}) as server:
        with raw(server) as sock:
            exchange(sock, b"EHLO me\r\n")
            assert exchange(sock, b"MAIL FROM:<>\r\n") == b"25"
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        server.wait_until(lambda it: it.sessions[0].ended)


def test_it_stops_with_a_client_connected() -> None:
    with FaultServer({"connect": hang()}) as server:
        client = socket.create_connection(server.address, timeout=5)
        server.wait_until(lambda it: it.sessions)
    with client:
        assert client.recv(1) == b""


def test_replies_come_late_or_octet_by_octet() -> None:
    begin = time.monotonic()
    with FaultServer({"MAIL": late(0.2), "RCPT": say("250 ok", pace=0.02)}) as server:
        send(server)
    assert time.monotonic() - begin > 0.2 + 8 * 0.02
    assert len(server.accepted) == 1


def test_a_list_is_used_up() -> None:
    with FaultServer({"MAIL": [say("451 4.3.0 first"), None, say("451 4.3.0 third")]}) as server:
        outcomes = []
        for _ in range(4):
            try:
                send(server)
                outcomes.append("taken")
            except smtplib.SMTPSenderRefused as error:
                outcomes.append(str(error.smtp_error))
    assert outcomes == ["b'4.3.0 first'", "taken", "b'4.3.0 third'", "taken"]


def test_one_recipient_is_refused() -> None:
    with FaultServer({"RCPT bob@one.test": say("550 5.1.1 no such user")}) as server:
        assert send(server, ("bob@one.test", "ann@one.test")) == {"bob@one.test": (550, b"5.1.1 no such user")}
    assert server.accepted[0].recipients == ["ann@one.test"]


def test_without_ehlo_it_speaks_helo() -> None:
    with FaultServer({"EHLO": say("502 5.5.1 what?")}) as server:
        send(server)
    assert server.sessions[0].verbs[:2] == ["EHLO", "HELO"]
    assert server.violations == []


def test_size_is_a_limit() -> None:
    with FaultServer(extensions=["SIZE 50"]) as server, raw(server) as sock:
        exchange(sock, b"EHLO me\r\n")
        assert exchange(sock, b"MAIL FROM:<> SIZE=51\r\n").startswith(b"552 5.3.4")
        exchange(sock, b"MAIL FROM:<>\r\n")
        exchange(sock, b"RCPT TO:<bob@one.test>\r\n")
        exchange(sock, b"DATA\r\n")
        assert exchange(sock, b"x" * 51 + b"\r\n.\r\n").startswith(b"552 5.3.4")
    assert server.accepted == []


def test_bdat_is_put_together() -> None:
    with FaultServer() as server, raw(server) as sock:
        exchange(sock, b"EHLO me\r\n")
        sock.sendall(b"MAIL FROM:<>\r\nRCPT TO:<bob@one.test>\r\nBDAT 4\r\n..\r\nBDAT 3 LAST\r\nx\r\n")
        server.wait_until(lambda it: it.accepted)
    assert server.accepted[0].content == b"..\r\nx\r\n"
    assert server.violations == []


def tls_context(folder: Path) -> ssl.SSLContext:
    return make_certificate(folder, "localhost").server_context()


def test_starttls_and_a_handshake_that_fails_once(tmp_path: Path) -> None:
    trusting = ssl._create_unverified_context()
    with FaultServer({"handshake": [close()]}, tls=tls_context(tmp_path)) as server:
        with pytest.raises(OSError), smtplib.SMTP(server.address[0], server.address[1], timeout=5) as client:
            client.starttls(context=trusting)
        with smtplib.SMTP(server.address[0], server.address[1], timeout=5) as client:
            client.starttls(context=trusting)
            client.sendmail("alice@dom.test", ["bob@one.test"], CONTENT)
            assert not client.has_extn("starttls")
    assert [session.tls for session in server.sessions] == [False, True]
    assert server.accepted[0].tls


def test_implicit_tls_and_accounts(tmp_path: Path) -> None:
    trusting = ssl._create_unverified_context()
    with FaultServer(tls=tls_context(tmp_path), implicit_tls=True, accounts={"ann": "secret"}) as server:
        for mechanism in ("PLAIN", "LOGIN"):
            with smtplib.SMTP_SSL(server.address[0], server.address[1], timeout=5, context=trusting) as client:
                client.ehlo()
                assert client.mail("alice@dom.test")[0] == 530
                client.user, client.password = "ann", "secret"
                authenticate = getattr(client, f"auth_{mechanism.lower()}")
                assert client.auth(mechanism, authenticate)[0] == 235
                client.sendmail("alice@dom.test", ["bob@one.test"], CONTENT)
        with (
            smtplib.SMTP_SSL(server.address[0], server.address[1], timeout=5, context=trusting) as client,
            pytest.raises(smtplib.SMTPAuthenticationError),
        ):
            client.login("ann", "wrong")
    assert [session.user for session in server.sessions] == ["ann", "ann", None]
    assert len(server.accepted) == 2


@pytest.mark.parametrize(
    ("what", "extensions", "commands"),
    [
        ("without PIPELINING", [], b"MAIL FROM:<>\r\nRCPT TO:<b@one.test>\r\n"),
        ("last of a group", ["PIPELINING"], b"NOOP\r\nMAIL FROM:<>\r\n"),
        ("bare LF", [], b"MAIL FROM:<>\n"),
        ("not been offered", [], b"MAIL FROM:<> BODY=8BITMIME\r\n"),
        ("not been offered", ["8BITMIME"], b"MAIL FROM:<> SIZE=3\r\n"),
        ("without SMTPUTF8", [], "MAIL FROM:<josé@dom.test>\r\n".encode()),
        ("RFC 5321", [], b"MAIL FROM: <a@dom.test>\r\n"),
        ("RFC 5321", [], b"MAIL FROM:a@dom.test\r\n"),
        ("BDAT without", [], b"MAIL FROM:<>\r\nRCPT TO:<b@one.test>\r\nBDAT 1 LAST\r\nx"),
        ("bare CR or LF", [], b"MAIL FROM:<>\r\nRCPT TO:<b@one.test>\r\nDATA\r\na\nb\r\n.\r\n"),
        ("bare CR or LF", [], b"MAIL FROM:<>\r\nRCPT TO:<b@one.test>\r\nDATA\r\na\rb\r\n.\r\n"),
        ("not dot-stuffed", [], b"MAIL FROM:<>\r\nRCPT TO:<b@one.test>\r\nDATA\r\n.a\r\n.\r\n"),
        ("8-bit content", [], "MAIL FROM:<>\r\nRCPT TO:<b@one.test>\r\nDATA\r\né\r\n.\r\n".encode()),
    ],
)
def test_what_a_client_must_not_do_is_noted(what: str, extensions: list[str], commands: bytes) -> None:
    with FaultServer(extensions=extensions) as server, raw(server) as sock:
        exchange(sock, b"EHLO me\r\n")
        exchange(sock, commands)
        sock.sendall(b"QUIT\r\n")
        server.wait_until(lambda it: it.sessions[0].ended)
    assert any(what in violation for violation in server.violations), server.violations
