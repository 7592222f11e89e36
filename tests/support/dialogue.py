"""Drives the pure session as the server's loop does, without sockets and files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smtpmail.mail.address import Address
from smtpmail.mail.envelope import Envelope, Peer
from smtpmail.mail.route import Local, Route
from smtpmail.smtp import replies
from smtpmail.smtp.actions import (
    Abort,
    Action,
    Begin,
    CheckSender,
    Close,
    Commit,
    FindRoutes,
    MoreRefused,
    RecipientRefused,
    SenderRefused,
    StartTLS,
    Write,
)
from smtpmail.smtp.replies import Refusal, Reply
from smtpmail.smtp.session import Limits, Session

PEER = Peer("192.0.2.7", 4711, "network")
PROGRAM = Peer("127.0.0.1", 4711, "loopback")
"""One on this host."""


def routes(address: Address) -> tuple[Route, ...]:
    """Everybody at dom.fr and second.fr is local, but for nobody@; nothing else is taken."""
    if address.domain.lower() not in ("dom.fr", "second.fr", ""):
        raise Refusal(replies.RELAY_DENIED)
    if address.local == "nobody":
        raise Refusal(replies.NO_SUCH_USER)
    return (Local(address.local.lower()),)


@dataclass
class Message:
    """What the session handed on for storage."""

    envelope: Envelope
    content: bytes
    size: int


class Dialogue:
    """A session and what came of it so far."""

    def __init__(
        self,
        *,
        max_size: int = 1000,
        max_recipients: int = 100,
        offer_tls: bool = False,
        routes: Callable[[Address], tuple[Route, ...]] = routes,
        answer: Reply | None = None,
        peer: Peer = PEER,
        origin: str | None = None,
    ) -> None:
        limits = Limits(max_size, max_recipients)
        self.session = Session("mail.dom.fr", peer, limits, offer_tls=offer_tls, origin=origin)
        self.messages: list[Message] = []
        self.aborted = 0
        self.told: list[Action] = []
        """What the log would hear of refusals."""
        self.closed = False
        self.handshakes = 0
        self.output = b""
        self._answer = answer
        self._routes = routes
        self._open: Message | None = None
        self._run()
        self.greeting = self.take()

    def send(self, data: bytes | str) -> list[str]:
        """The replies to some input, line by line."""
        self.session.receive(data.encode() if isinstance(data, str) else data)
        self._run()
        return self.take()

    def say(self, line: bytes | str) -> list[str]:
        """The replies to one command line."""
        return self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")

    def take(self) -> list[str]:
        output, self.output = self.output, b""
        assert output == b"" or output.endswith(b"\r\n")
        return output.decode().split("\r\n")[:-1]

    def _run(self) -> None:
        while (action := self.session.step()) is not None:
            match action:
                case CheckSender():
                    self.session.sender_accepted()
                case FindRoutes(_, address):
                    try:
                        self.session.recipient_accepted(self._routes(address))
                    except Refusal as refusal:
                        self.session.recipient_refused(refusal.reply)
                case Begin(envelope):
                    assert self._open is None
                    self._open = Message(envelope, b"", 0)
                case Write(data):
                    assert self._open is not None
                    self._open.content += data
                case Commit(envelope, size):
                    assert self._open is not None and envelope is self._open.envelope
                    self._open.size = size
                    answer = self._answer or replies.queued(envelope.id)
                    if answer.accepted:
                        self.messages.append(self._open)
                    self._open = None
                    self.session.finish(answer)
                case RecipientRefused() | MoreRefused() | SenderRefused():
                    self.told.append(action)
                case Abort():
                    self.aborted += 1
                    self._open = None
                case StartTLS():
                    self.output += self.session.take_output()
                    self.handshakes += 1
                    self.session.tls_started("TLSv1.3 TLS_AES_256_GCM_SHA384")
                case Close():
                    self.closed = True
        self.output += self.session.take_output()

    @property
    def storing(self) -> bool:
        """Whether a message has begun and is neither stored nor dropped."""
        return self._open is not None
