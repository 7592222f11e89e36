"""One connection over a pair of sockets, in this process: what moves between socket, session and door."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from support.dialogue import routes
from support.server import wait_until
from support.tls import Certificate

from smtpmail import log as log_module
from smtpmail.accept import Accept
from smtpmail.inbound.connection import Connection
from smtpmail.inbound.gate import Gate
from smtpmail.mail.envelope import Envelope, Peer
from smtpmail.settings.machine import tls_context
from smtpmail.smtp.session import Limits, Session
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueStore

PEER = Peer("192.0.2.7", 4711, "network")
HELLO = b"EHLO client.example\r\nMAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@dom.fr>\r\n"


class Line:
    """The client's end of a connection that runs in a thread; `events` is what it logged."""

    def __init__(
        self, folder: Path, events: list[dict[str, Any]], timeout: float = 30.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.folder = folder
        self.events = events
        (folder / ".queue").mkdir(exist_ok=True)
        accept = Accept(Spool(str(folder)), QueueStore(str(folder / ".queue")), "mail.dom.fr", lambda _: None)
        self.sock, theirs = socket.socketpair()
        theirs.settimeout(timeout)
        self.sock.settimeout(30)
        session = Session("mail.dom.fr", PEER, Limits(10_000, 10), offer_tls=tls is not None)
        context = (lambda: tls) if tls is not None else None
        gate = Gate(lambda address, _: routes(address))
        self.connection = Connection(theirs, PEER, session, gate, accept, lambda: timeout, context)
        self.thread = threading.Thread(target=self.connection.run, daemon=True)
        self.thread.start()
        self._input = self.sock.makefile("rb")
        self.greeting = self.reply()

    def reply(self) -> bytes:
        """The last line of the next reply."""
        while (line := self._input.readline())[3:4] == b"-":
            pass
        return line

    def say(self, data: bytes, replies: int = 1) -> bytes:
        """Sends; returns the last of so many replies."""
        self.sock.sendall(data)
        return [self.reply() for _ in range(replies)][-1]

    def close(self) -> None:
        self._input.close()
        self.sock.close()
        self.end()

    def end(self) -> None:
        self.thread.join(30)
        assert not self.thread.is_alive()

    def named(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]


@pytest.fixture
def events() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as captured:
        log_module.log.use(structlog.get_logger())
        yield captured
    log_module.log.use(structlog.get_logger())


@pytest.fixture
def line(tmp_path: Path, events: list[dict[str, Any]]) -> Iterator[Line]:
    made = Line(tmp_path, events)
    yield made
    made.close()


def test_a_message(line: Line) -> None:
    assert line.greeting.startswith(b"220 mail.dom.fr ")
    assert line.say(HELLO + b"DATA\r\n", 4).startswith(b"354")
    assert line.say(b"Subject: x\r\n\r\nHello\r\n.\r\n").startswith(b"250 2.0.0 Ok: queued as ")
    assert (line.folder / "bob" / "1").read_bytes().endswith(b"Subject: x\n\nHello\n")
    assert line.say(b"QUIT\r\n").startswith(b"221")
    assert line.reply() == b""
    line.end()
    assert line.named("message.refused") == []
    assert line.named("session.closed")[0]["reason"] == "quit"


@pytest.mark.parametrize(
    ("content", "reply"),
    [
        (b"x" * 10_001 + b"\r\n.\r\n", "552 5.3.4"),
        (b"Received: x\r\n" * 60 + b"\r\n.\r\n", "554 5.4.6"),
    ],
)
def test_a_message_that_is_refused_leaves_a_trace(line: Line, content: bytes, reply: str) -> None:
    """Whoever asks the log finds sender, recipients and reason."""
    line.say(HELLO + b"DATA\r\n", 4)
    assert line.say(content).startswith(reply.encode())
    (event,) = line.named("message.refused")
    assert event["reply"].startswith(reply)
    assert (event["sender"], event["recipients"], event["client"]) == ("alice@example.org", ["bob@dom.fr"], PEER.name)
    assert line.say(b"NOOP\r\n").startswith(b"250")
    assert not (line.folder / "bob").exists()


def test_a_full_disk_is_452(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("smtpmail.spool.mailbox.commit_each", full)
    line.say(HELLO + b"DATA\r\n", 4)
    assert line.say(b"x\r\n.\r\n").startswith(b"452 4.3.1")
    assert line.named("message.failed")[0]["error"] == "[Errno 28] No space left on device"
    assert line.named("message.refused")[0]["reply"].startswith("452 4.3.1")


def test_a_client_that_goes_away_in_the_middle(line: Line) -> None:
    line.say(HELLO + b"DATA\r\n", 4)
    line.sock.sendall(b"half of")
    line.sock.shutdown(socket.SHUT_WR)
    line.end()
    (event,) = line.named("message.refused")
    assert event["reply"] is None
    assert line.named("session.closed")[0]["reason"] == "closed by client"


def test_silence(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    line = Line(tmp_path, events, timeout=0.2)
    assert line.reply().startswith(b"421 4.4.2")
    line.close()


def test_stopping_lets_a_message_end(line: Line) -> None:
    line.say(HELLO + b"DATA\r\n", 4)
    line.connection.stop(float("inf"))
    assert line.say(b"x\r\n.\r\n").startswith(b"250")
    assert line.reply().startswith(b"421 4.3.2")


def test_stopping_ends_an_idle_session(line: Line) -> None:
    line.say(b"NOOP\r\n")
    line.connection.stop(float("inf"))
    assert line.reply().startswith(b"421 4.3.2")
    wait_until(lambda: line.named("session.closed"))


def test_stopping_never_ends_a_message_that_has_just_begun(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command comes while `stop` is looking whether there is a message."""
    answers: list[bytes] = []

    def transaction(session: Session) -> Envelope | None:
        found = session._envelope
        if threading.current_thread() is threading.main_thread():
            line.sock.sendall(b"MAIL FROM:<alice@example.org>\r\n")
            line.sock.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                answers.append(line.sock.recv(1000))
            line.sock.settimeout(30)
        return found

    line.say(b"EHLO client.example\r\n")
    monkeypatch.setattr(Session, "transaction", property(transaction))
    line.connection.stop(float("inf"))
    if not answers:
        answers.append(line.reply())
    if answers[0].startswith(b"250"):
        assert line.say(b"RCPT TO:<bob@dom.fr>\r\n").startswith(b"250")
    else:
        assert answers[0].startswith(b"421 4.3.2")


# -- TLS


class Encrypted:
    """The client's end, with all octets that came from the server kept as they were on the wire."""

    def __init__(self, line: Line, certificate: Certificate) -> None:
        assert line.say(b"EHLO x\r\n").startswith(b"250")
        assert line.say(b"STARTTLS\r\n").startswith(b"220")
        self._line = line
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = certificate.client_context().wrap_bio(
            self._incoming, self._outgoing, server_hostname=certificate.name
        )
        self.wire = b""
        self.text = b""
        self.notified = False
        self._until(lambda: self._try(self._tls.do_handshake))

    def _try(self, step: Callable[[], object]) -> bool:
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        finally:
            if data := self._outgoing.read():
                self._line.sock.sendall(data)
        return True

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            data = self._line.sock.recv(65536)
            if not data:
                return
            self.wire += data
            self._incoming.write(data)

    def _read(self) -> None:
        data = self._tls.read(65536)
        if not data:
            self.notified = True
            raise ssl.SSLWantReadError
        self.text += data

    def say(self, data: bytes) -> None:
        """Sends, reads to the end of a reply."""
        before = self.text.count(b"\n")
        self._tls.write(data)
        self._line.sock.sendall(self._outgoing.read())
        self._until(lambda: self._try(self._read) and self.text.count(b"\n") > before)

    def read_to_the_end(self) -> None:
        while data := self._line.sock.recv(65536):
            self.wire += data
            self._incoming.write(data)
        while not self.notified and self._try(self._read):
            pass


@pytest.fixture
def secure(tmp_path: Path, events: list[dict[str, Any]], certificate: Certificate) -> Iterator[Line]:
    made = Line(tmp_path, events, tls=tls_context(str(certificate.cert), str(certificate.key)))
    yield made
    made.close()


@pytest.mark.parametrize("how", ["QUIT", "stopping", "too many errors"])
def test_the_end_of_an_encrypted_session(secure: Line, certificate: Certificate, how: str) -> None:
    """The last reply is encrypted, close_notify follows it, and nothing in clear text ever does."""
    client = Encrypted(secure, certificate)
    client.say(b"HELO x\r\n")
    if how == "stopping":
        secure.connection.stop(float("inf"))
    elif how == "QUIT":
        client.say(b"QUIT\r\n")
    else:
        client.say(b"X\r\n" * 30)
    client.read_to_the_end()
    assert client.text.splitlines()[-1][:3] == (b"221" if how == "QUIT" else b"421")
    assert client.notified
    assert b"421" not in client.wire and b"221" not in client.wire
    secure.close()
    assert secure.named("session.error") == []


def test_stopping_does_not_wait_for_a_handshake(secure: Line) -> None:
    assert secure.say(b"EHLO x\r\n").startswith(b"250")
    assert secure.say(b"STARTTLS\r\n").startswith(b"220")
    # Whether the handshake has begun already cannot be seen from here: ask again, as the server does.

    def is_over() -> bool:
        secure.connection.stop(float("inf"))
        return not secure.thread.is_alive()

    wait_until(is_over, timeout=20)
    assert secure.named("session.error") == []


def test_who_is_gone_needs_no_farewell(line: Line) -> None:
    """A scanner that sends GET and closes at once is no fault of ours."""
    line.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    line.close()
    assert line.named("session.error") == []
    assert len(line.named("session.closed")) == 1


def test_who_talks_before_the_greeting_on_loopback(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    """A browser that was made to write to localhost does not wait for it."""
    ours, theirs = socket.socketpair()
    ours.sendall(b"EHLO x\r\n")
    peer = Peer("127.0.0.1", 1, "loopback")
    accept = Accept(Spool(str(tmp_path)), QueueStore(str(tmp_path)), "mail.dom.fr", lambda _: None)
    Connection(
        theirs,
        peer,
        Session("mail.dom.fr", peer, Limits(1, 1)),
        Gate(lambda a, _: routes(a)),
        accept,
        lambda: 5.0,
        None,
    ).run()
    assert ours.recv(1000).startswith(b"554 5.5.0")
    ours.close()
