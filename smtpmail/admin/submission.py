"""The way of a program on this host to the server, the loopback listener; what the answers mean as exit statuses."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import IO

from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.outbound import tls
from smtpmail.outbound.channel import SessionFailed
from smtpmail.outbound.client import Client, Timeouts
from smtpmail.outbound.content import Form
from smtpmail.outbound.mailhost import MailHost
from smtpmail.settings.config import Config
from smtpmail.settings.values import Endpoint
from smtpmail.smtp.reply_reader import ServerReply

# sysexits.h
EX_OK, EX_USAGE, EX_DATAERR, EX_NOUSER, EX_NOHOST, EX_UNAVAILABLE = 0, 64, 65, 67, 68, 69
EX_SOFTWARE, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 70, 74, 75, 77, 78

TIMEOUTS = Timeouts(connect=10.0, reply=300.0)
PIECE = 64 * 1024


class Failed(Exception):
    """Nobody, or not everybody, has the message: the exit status, and a line for each reason."""

    def __init__(self, status: int, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.status = status
        self.reasons = reasons


def listeners(settings: Config) -> Iterator[MailHost]:
    """Where the loopback listener is."""
    for endpoint in settings.loopback or (Endpoint("127.0.0.1"), Endpoint("::1")):
        yield MailHost("the local server", endpoint.host, settings.port if endpoint.port is None else endpoint.port)


class Submission(Client):
    """A connection to the server of this very host."""

    def _not_ourselves(self, greeting: ServerReply) -> None:
        pass

    @classmethod
    def open(cls, settings: Config) -> Submission:
        """Connects to the first listener that answers. Raises Failed."""
        reasons = []
        for target in listeners(settings):
            try:
                connection = cls.connect(target, f"[{_literal(target.address)}]", TIMEOUTS, tls.NONE)
                assert isinstance(connection, cls)
                return connection
            except SessionFailed as error:
                reasons.append(str(error))
        raise Failed(EX_TEMPFAIL, *reasons, "the mail server of this host does not answer: is it running?")

    def ask(self, item: Item, recipients: Sequence[QueuedRecipient]) -> dict[str, ServerReply]:
        """MAIL and RCPT; who was refused, and why. Raises Failed when nobody can have the message."""
        # The addresses may be bare, which only this server takes, and it takes every extension.
        parameters = f" SIZE={item.size}" if item.size else ""
        parameters += " BODY=8BITMIME" if item.eightbit else ""
        parameters += " SMTPUTF8" if item.smtputf8 else ""
        parameters += f" RET={item.ret}" if item.ret else ""
        parameters += f" ENVID={item.envid}" if item.envid else ""
        reply = self._command(f"MAIL FROM:<{item.sender}>{parameters}", "MAIL")
        if not reply.positive:
            raise Failed(status_of(reply), f"the server said to MAIL: {reply}")
        refused = {}
        for recipient in recipients:
            notify = f" NOTIFY={','.join(recipient.notify)}" if recipient.notify else ""
            reply = self._command(f"RCPT TO:<{recipient.address}>{notify}", "RCPT")
            if not reply.positive:
                refused[recipient.address] = reply
        return refused

    def give(self, content: IO[bytes]) -> ServerReply:
        """DATA and the content; the reply to it."""
        reply = self._command("DATA", "DATA")
        if reply.code != 354:
            raise Failed(status_of(reply), f"the server said to DATA: {reply}")
        return self._deliver(Form(content, content.tell(), b"", 0, eightbit=True))


def _literal(address: str) -> str:
    return f"IPv6:{address}" if ":" in address else address


def status_of(reply: ServerReply) -> int:
    """The exit status for a refusal."""
    if not reply.permanent:
        return EX_TEMPFAIL
    match reply.status.split(".", 2)[1:]:
        case ["1", "2"] | ["4", _]:
            return EX_NOHOST
        case ["1", "7" | "8"]:
            return EX_DATAERR
        case ["1", _] | ["2", _]:
            return EX_NOUSER
        case ["3", "4"] | ["6", _]:
            return EX_DATAERR
    return EX_UNAVAILABLE


def relay(settings: Config) -> int:
    """Standard input and output become a connection to the server."""
    for target in listeners(settings):
        with contextlib.suppress(OSError):
            with socket.create_connection((target.address, target.port), TIMEOUTS.connect) as sock:
                sock.settimeout(None)
                _converse(sock)
            return EX_OK
    print("421 4.3.2 The mail server of this host does not answer", end="\r\n", flush=True)
    return EX_TEMPFAIL


def _converse(sock: socket.socket) -> None:
    """A command, then its reply: whoever writes all at once would be taken for another protocol's client by the server.

    Lines may end in LF alone, as local programs write them.
    """
    source = sys.stdin.buffer
    with sock.makefile("rb") as replies:
        code = _pass_reply(replies)
        while code[:1] in b"2345" and code not in (b"221", b"421") and (line := source.readline(PIECE)):
            verb, _, argument = line.strip().partition(b" ")
            sock.sendall(_crlf(line))
            if verb.upper() == b"BDAT":
                sock.sendall(source.read(_octets(argument)))
            code = _pass_reply(replies)
            if code == b"354":
                while content := source.readline(PIECE):
                    sock.sendall(_crlf(content))
                    if content.rstrip(b"\r\n") == b".":
                        break
                code = _pass_reply(replies)


def _pass_reply(replies: IO[bytes]) -> bytes:
    """Writes a reply to standard output as it comes; its code, `-` when the server has gone."""
    while line := replies.readline(PIECE):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        if line[3:4] != b"-":
            return line[:3]
    return b"-"


def _crlf(line: bytes) -> bytes:
    return line[:-1].removesuffix(b"\r") + b"\r\n" if line.endswith(b"\n") else line


def _octets(argument: bytes) -> int:
    """The size in a BDAT; the server refuses one that makes no sense."""
    size = argument.split(b" ")[0]
    return int(size) if size.isdigit() else 0
