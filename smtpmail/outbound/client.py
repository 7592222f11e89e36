"""Speaks SMTP to another server: one connection, any number of messages (RFC 5321 3, 4)."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain, parse_address
from smtpmail.outbound.target import Target
from smtpmail.outbound.tls import Level, context
from smtpmail.smtp.reply_reader import NonsenseReply, ReplyReader, ServerReply

READ_SIZE = 64 * 1024
ONE_CHUNK = 128 * 1024
"""Content up to this size goes out together with its envelope (RFC 3030 4.2), more only when a recipient was taken."""

QUIT_SECONDS = 2.0
"""Patience with the reply to QUIT: nothing depends on it."""


class SessionFailed(Exception):
    """The connection is of no more use: why, as text for people, and whether the server meant it for good."""

    def __init__(self, text: str, *, permanent: bool = False, status: str = "4.4.2") -> None:
        super().__init__(text)
        self.permanent = permanent
        self.status = status if status[0] in "45" else "4.5.0"
        self.connected = False
        """It had come as far as to a mail transaction: the fault may be that of this message alone."""
        self.uncertain = False
        """The whole message had been sent: the server may have taken it."""
        self.reply: ServerReply | None = None
        """The 421 with which the server ended the session."""
        self.refusals: dict[int, ServerReply] = {}
        """What the server had said before about recipients (by their place) that it does not take."""


class TLSFailed(SessionFailed):
    """The handshake failed; the certificate alone was wrong if `only_unverified`."""

    only_unverified = False


class MessageRefused(Exception):
    """This server cannot take this message, ever: the status (RFC 3463) and why."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Credentials:
    """For a smarthost."""

    user: str
    password: str


@dataclass(slots=True)
class Timeouts:
    """Seconds."""

    connect: float
    reply: float
    """For each reply; the one after the content gets twice as long (RFC 5321 4.5.3.2.6)."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as the client needs it."""

    sender: Address
    size: int
    eightbit: bool
    smtputf8: bool
    requiretls: bool
    ret: str | None
    envid: str | None


@dataclass(frozen=True, slots=True)
class OutgoingRecipient:
    """A recipient with its DSN parameters."""

    address: Address
    notify: tuple[str, ...]
    orcpt: str | None


@dataclass(slots=True)
class Client:
    """A connection after EHLO. `connect` makes one; `send` uses it; `quit` ends it."""

    target: Target
    hostname: str
    timeouts: Timeouts
    sock: socket.socket = field(init=False)
    extensions: dict[str, str] = field(default_factory=dict)
    tls: str | None = None
    """Version and cipher, and whether the certificate was verified."""
    verified: bool = False
    messages: int = 0
    _unfinished: bool = False
    """A transaction was left open on the server: RSET comes before the next one."""
    _reader: ReplyReader = field(default_factory=ReplyReader)

    # -- connection

    @classmethod
    def connect(
        cls,
        target: Target,
        hostname: str,
        timeouts: Timeouts,
        level: Level,
        *,
        implicit_tls: bool = False,
        credentials: Credentials | None = None,
    ) -> Client:
        """Connects, greets, starts TLS if it can be had and `level` allows it. Raises SessionFailed, TLSFailed."""
        client = cls(target, hostname, timeouts)
        try:
            client.sock = socket.create_connection((target.address, target.port), timeouts.connect)
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            text = "connection timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise SessionFailed(
                f"cannot connect to {target.host} [{target.address}]:{target.port}: {text}", status="4.4.1"
            ) from None
        try:
            client.sock.settimeout(timeouts.reply)
            if implicit_tls:
                client._handshake(level)
            client._greet()
            client._hello()
            if not client.tls and level is not Level.CLEAR and "STARTTLS" in client.extensions:
                client._start_tls(level)
            if credentials:
                client._authenticate(credentials)
        except BaseException:
            client.close()
            raise
        return client

    def _greet(self) -> None:
        greeting = self._reply("greeting")
        if greeting.code != 220:
            raise SessionFailed(
                f"{self.target.host} greeted with: {greeting}", permanent=greeting.permanent, status=greeting.status
            )
        self._not_ourselves(greeting)

    def _not_ourselves(self, greeting: ServerReply) -> None:
        name = greeting.lines[0].partition(" ")[0].lower()
        if name == self.hostname and "smtpmail" in greeting.lines[0]:
            raise SessionFailed(
                f"{self.target.host} [{self.target.address}] is this very server: mail loops back",
                permanent=True,
                status="5.4.6",
            )

    def _hello(self) -> None:
        reply = self._command(f"EHLO {self.hostname}", "EHLO")
        self.extensions = {}
        if reply.code == 250:
            for line in reply.lines[1:]:
                keyword, _, value = (
                    line.replace("=", " ", 1).partition(" ") if line[:5].upper() == "AUTH=" else line.partition(" ")
                )
                self.extensions[keyword.upper()] = value
            return
        # RFC 5321 3.2: a server that does not know EHLO.
        reply = self._command(f"HELO {self.hostname}", "HELO")
        if reply.code != 250:
            raise SessionFailed(
                f"{self.target.host} said to HELO: {reply}", permanent=reply.permanent, status=reply.status
            )

    def _start_tls(self, level: Level) -> None:
        try:
            reply = self._command("STARTTLS", "STARTTLS")
        except SessionFailed as error:
            # A server that breaks here may well take mail in clear text.
            raise TLSFailed(str(error), status="4.7.5") from None
        if reply.code != 220:
            raise TLSFailed(f"{self.target.host} said to STARTTLS: {reply}", status="4.7.5")
        if self._reader.unread:
            raise TLSFailed(f"{self.target.host} sent something between STARTTLS and the handshake", status="4.7.5")
        self._handshake(level)
        self._hello()

    def _handshake(self, level: Level) -> None:
        try:
            wrapped = context(level).wrap_socket(self.sock, server_hostname=self._tls_name())
        except (ssl.SSLError, OSError, ValueError) as error:
            failed = TLSFailed(f"TLS with {self.target.host} failed: {error}", status="4.7.5")
            failed.only_unverified = isinstance(error, ssl.SSLCertVerificationError)
            raise failed from None
        self.sock = wrapped
        self.verified = level is Level.VERIFIED
        cipher = wrapped.cipher()
        self.tls = f"{wrapped.version()} {cipher[0] if cipher else ''}{' verified' if self.verified else ''}"

    def _tls_name(self) -> str:
        host = self.target.host
        return self.target.address if host.startswith("[") else host

    def _authenticate(self, credentials: Credentials) -> None:
        if not self.verified:
            raise SessionFailed(
                f"{self.target.host} offers no TLS with a certificate that verifies: no password is sent",
                status="4.7.0",
            )
        mechanisms = self.extensions.get("AUTH", "").upper().split()
        if "PLAIN" in mechanisms:
            secret = base64.b64encode(f"\0{credentials.user}\0{credentials.password}".encode()).decode()
            reply = self._command(f"AUTH PLAIN {secret}", "AUTH")
        elif "LOGIN" in mechanisms:
            reply = self._command("AUTH LOGIN", "AUTH")
            for word in (credentials.user, credentials.password):
                if reply.code == 334:
                    reply = self._command(base64.b64encode(word.encode()).decode(), "AUTH")
        else:
            raise SessionFailed(f"{self.target.host} offers neither AUTH PLAIN nor LOGIN", status="4.7.0")
        if reply.code != 235:
            # Wrong today is not wrong for ever: the password may be changed back, the mail is kept (Postfix does so).
            raise SessionFailed(f"{self.target.host} said to AUTH: {reply}", status="4.7.8")

    def quit(self) -> None:
        """Says good-bye and closes; raises nothing."""
        with contextlib.suppress(OSError, SessionFailed):
            self.sock.settimeout(QUIT_SECONDS)
            self.sock.sendall(b"QUIT\r\n")
            self._reply("QUIT", QUIT_SECONDS)
        self.close()

    def close(self) -> None:
        """Closes at once."""
        with contextlib.suppress(OSError, AttributeError):
            self.sock.close()

    # -- commands

    def _send(self, data: bytes, what: str) -> None:
        try:
            self.sock.settimeout(self.timeouts.reply)
            self.sock.sendall(data)
        except OSError as error:
            raise self._lost(f"while {what} was sent", error) from None

    def _reply(self, what: str, seconds: float | None = None) -> ServerReply:
        """The next reply. Raises SessionFailed: closed, silent, 421 or nonsense."""
        reply = self._next_reply(what, seconds or self.timeouts.reply)
        if reply.code == 421:
            failed = SessionFailed(f"{self.target.host} said to {what}: {reply}", status=reply.status)
            failed.reply = reply
            raise failed
        if 300 <= reply.code < 400 and what not in ("DATA", "AUTH"):
            raise self._nonsense(what, str(reply))
        return reply

    def _next_reply(self, what: str, seconds: float) -> ServerReply:
        """Waits for all of a reply, not for each piece of it: who drips may not hold us. Raises SessionFailed."""
        give_up = time.monotonic() + seconds
        try:
            while (reply := self._reader.next_reply()) is None:
                left = give_up - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self.sock.settimeout(left)
                data = self.sock.recv(READ_SIZE)
                if not data:
                    raise self._lost(f"instead of the reply to {what}", None)
                self._reader.feed(data)
        except NonsenseReply as error:
            raise self._nonsense(what, str(error)) from None
        except OSError as error:
            raise self._lost(f"before the reply to {what}", error) from None
        return reply

    def _verdict(self) -> ServerReply:
        """The reply to the whole message."""
        try:
            return self._reply("the message", 2 * self.timeouts.reply)
        except SessionFailed as error:
            error.uncertain = error.reply is None
            raise

    def _nonsense(self, what: str, said: str) -> SessionFailed:
        return SessionFailed(f"{self.target.host} answered {what} with nonsense: {said}", status="4.5.0")

    def _lost(self, when: str, error: OSError | None) -> SessionFailed:
        if isinstance(error, TimeoutError):
            return SessionFailed(f"{self.target.host} was silent for too long {when}")
        if isinstance(error, ssl.SSLError):
            # TLS 1.3: what the server thinks of the handshake comes with the first reply.
            return TLSFailed(f"TLS with {self.target.host} failed {when}: {error}", status="4.7.5")
        reason = f" ({error.strerror or error})" if error else ""
        return SessionFailed(f"{self.target.host} closed the connection {when}{reason}")

    def _command(self, line: str, what: str) -> ServerReply:
        self._send(f"{line}\r\n".encode(), what)
        return self._reply(what)

    # -- messages

    def send(self, message: Outgoing, recipients: Sequence[OutgoingRecipient], content: IO[bytes]) -> list[ServerReply]:
        """One transaction; returns the server's word on each recipient: its refusal, or the reply to the content.

        Raises MessageRefused when the message is beyond what the server can do, SessionFailed when the connection is
        lost: then nothing is known to be delivered.
        """
        refusals: dict[int, ServerReply] = {}
        try:
            return self._transaction(message, recipients, content, refusals)
        except SessionFailed as error:
            error.connected = True
            error.refusals = refusals
            raise

    def _transaction(
        self,
        message: Outgoing,
        recipients: Sequence[OutgoingRecipient],
        content: IO[bytes],
        refusals: dict[int, ServerReply],
    ) -> list[ServerReply]:
        """See `send`; notes each refusal in `refusals` as it comes."""
        mail = self._mail_command(message, recipients)
        rcpts = [self._rcpt_command(message, recipient) for recipient in recipients]
        if self._unfinished:
            self._command("RSET", "RSET")
            self._unfinished = False
        chunking = "CHUNKING" in self.extensions
        pipelining = "PIPELINING" in self.extensions
        together = pipelining and chunking and message.size <= ONE_CHUNK
        if together:
            data = _with_line_end(_to_wire(content.read()))
            self._send(mail + b"".join(rcpts) + b"BDAT %d LAST\r\n" % len(data) + data, "MAIL, RCPT and BDAT")
        elif pipelining:
            self._send(mail + b"".join(rcpts) + (b"" if chunking else b"DATA\r\n"), "MAIL and RCPT")
        else:
            self._send(mail, "MAIL")
        sender_reply = self._reply("MAIL")
        if not sender_reply.positive:
            refusals.update(dict.fromkeys(range(len(rcpts)), sender_reply))
        for number, rcpt in enumerate(rcpts):
            if not pipelining:
                if not sender_reply.positive:
                    break
                self._send(rcpt, "RCPT")
            reply = self._reply("RCPT")
            if not reply.positive:
                refusals.setdefault(number, reply)
        accepted = len(refusals) < len(rcpts)
        final = self._content(content, accepted, together=together, chunking=chunking, pipelining=pipelining)
        self.messages += 1
        return [refusals[n] if n in refusals or final is None else final for n in range(len(rcpts))]

    def _content(
        self, content: IO[bytes], accepted: bool, *, together: bool, chunking: bool, pipelining: bool
    ) -> ServerReply | None:
        """Sends the content as far as it is not sent yet; the reply to it, None when no recipient was accepted."""
        if together:
            reply = self._verdict()
            if not accepted and reply.positive:
                raise SessionFailed(f"{self.target.host} took a message without recipients", status="4.5.0")
            self._unfinished = not reply.positive
            return reply if accepted else None
        if not accepted and (chunking or not pipelining):
            self._unfinished = True
            return None
        if chunking:
            return self._chunks(content)
        if not pipelining:
            self._send(b"DATA\r\n", "DATA")
        go_ahead = self._reply("DATA")
        if go_ahead.code == 354:
            if not accepted:
                # RFC 2920 3.1: only an end of data gets us out of here.
                self._send(b".\r\n", "the end of data")
                self._reply("the end of data")
                return None
            self._dot_stuffed(content)
            return self._verdict()
        if go_ahead.code < 400:
            raise self._nonsense("DATA", str(go_ahead))
        self._unfinished = True
        return go_ahead if accepted else None

    def _chunks(self, content: IO[bytes]) -> ServerReply:
        """BDAT, a chunk at a time (RFC 3030)."""
        ahead = content.read(READ_SIZE)
        while True:
            data, ahead = _to_wire(ahead), content.read(READ_SIZE)
            last = b" LAST" if not ahead else b""
            if last:
                data = _with_line_end(data)
            self._send(b"BDAT %d%s\r\n" % (len(data), last) + data, "BDAT")
            reply = self._verdict() if last else self._reply("BDAT")
            if last or not reply.positive:
                self._unfinished = not reply.positive
                return reply

    def _dot_stuffed(self, content: IO[bytes]) -> None:
        for data in dot_stuff(iter(lambda: content.read(READ_SIZE), b"")):
            self._send(data, "the message")

    def _mail_command(self, message: Outgoing, recipients: Iterable[OutgoingRecipient]) -> bytes:
        offered = self.extensions
        parameters = ""
        addresses = [message.sender, *(r.address for r in recipients)]
        if message.requiretls:
            if not self.verified or "REQUIRETLS" not in offered:
                raise MessageRefused("5.7.30", f"REQUIRETLS: {self.target.host} cannot promise to keep to verified TLS")
            parameters += " REQUIRETLS"
        if "SIZE" in offered:
            limit = offered["SIZE"].strip()
            if limit.isdigit() and 0 < int(limit) < message.size:
                raise MessageRefused(
                    "5.3.4", f"the message has {message.size} octets, {self.target.host} takes {limit}"
                )
            parameters += f" SIZE={message.size}"
        if message.smtputf8 or any(not a.local.isascii() for a in addresses):
            if "SMTPUTF8" not in offered:
                raise MessageRefused("5.6.7", f"{self.target.host} does not take internationalised mail (SMTPUTF8)")
            parameters += " SMTPUTF8"
        if message.eightbit:
            if "8BITMIME" not in offered:
                raise MessageRefused("5.6.3", f"the message has 8-bit text, {self.target.host} takes 7-bit only")
            parameters += " BODY=8BITMIME"
        if "DSN" in offered:
            parameters += f" RET={message.ret}" if message.ret else ""
            parameters += f" ENVID={message.envid}" if message.envid else ""
        return f"MAIL FROM:<{self._path(message.sender, message)}>{parameters}\r\n".encode()

    def _rcpt_command(self, message: Outgoing, recipient: OutgoingRecipient) -> bytes:
        parameters = ""
        if "DSN" in self.extensions:
            parameters += f" NOTIFY={','.join(recipient.notify)}" if recipient.notify else ""
            if recipient.orcpt and recipient.orcpt.isascii():
                parameters += f" ORCPT={recipient.orcpt}"
        return f"RCPT TO:<{self._path(recipient.address, message)}>{parameters}\r\n".encode()

    @staticmethod
    def _path(address: Address, message: Outgoing) -> str:
        """A domain in its own letters only where all else is in them, too."""
        if message.smtputf8 or address.is_ascii:
            return str(address)
        return str(Address(address.local, normal_domain(address.domain)))


def _to_wire(data: bytes) -> bytes:
    """Content as it travels: the stored form has no CR, so that none is ever sent alone."""
    return data.replace(b"\r", b" ").replace(b"\n", b"\r\n")


def _with_line_end(data: bytes) -> bytes:
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def dot_stuff(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Stored content as DATA wants it: CRLF, dots doubled at line starts, and the end (RFC 5321 4.5.2)."""
    at_line_start = True
    for piece in pieces:
        if not piece:
            continue
        stuffed = b"." + piece if at_line_start and piece.startswith(b".") else piece
        at_line_start = piece.endswith(b"\n")
        yield _to_wire(stuffed.replace(b"\n.", b"\n.."))
    yield b".\r\n" if at_line_start else b"\r\n.\r\n"


def outgoing_address(text: str) -> Address:
    """An address from the queue. Raises MessageRefused."""
    try:
        return parse_address(text)
    except AddressSyntaxError as error:
        raise MessageRefused("5.1.3", str(error)) from None
