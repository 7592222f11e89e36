"""Speaks SMTP to another server: one connection, any number of messages (RFC 5321 3, 4)."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain, parse_address
from smtpmail.mail.queued import Item, QueuedRecipient, sender_address
from smtpmail.outbound.channel import (
    LAST_WORD_SECONDS,
    READ_SIZE,
    Channel,
    LoopsBack,
    OutOfStep,
    SessionFailed,
    TLSFailed,
)
from smtpmail.outbound.content import Content, Form, SignedContent
from smtpmail.outbound.mailhost import MailHost
from smtpmail.outbound.tls import Protection, Reached, Use
from smtpmail.smtp.reply_reader import ServerReply

EACH_RECIPIENT_SECONDS = 5.0
"""The replies to a transaction's recipients may take twice the patience with one, and this long for each of them."""

CONTENT_PATIENCES = 4
"""A content may take this many times the patience with a reply, ..."""

SLOWEST = 8 * 1024
"""... and a second more for so many octets."""

QUIT_SECONDS = 2.0
"""Patience with the reply to QUIT: nothing depends on it."""


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


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    connect: float
    reply: float
    """For each reply; the one after the content gets twice as long (RFC 5321 4.5.3.2.6)."""
    greeting: float = 0.0
    """For the greeting; 0: as for any reply."""


class Client:
    """A connection after EHLO. `connect` makes one; `send` uses it; `quit` ends it."""

    def __init__(self, host: MailHost, hostname: str, timeouts: Timeouts) -> None:
        self.host = host
        self.hostname = hostname
        self.extensions: dict[str, str] = {}
        self.messages = 0
        """Transactions that came to their end."""
        self.room: int | None = None
        """Recipients that a transaction has room for, if that is known."""
        self.usable = True
        """Whether another transaction may follow."""
        self.sending = False
        """Content is on its way, or the answer to it not written down: to break off now leaves doubt."""
        self.offers_tls = False
        self._timeouts = timeouts
        self._channel = Channel(host, timeouts.reply)
        self._unfinished = False
        """A transaction was left open on the server: RSET comes before the next one."""

    @property
    def reached(self) -> Reached | None:
        """How the connection is protected; None is clear text."""
        return self._channel.reached

    # -- connection

    @classmethod
    def connect(
        cls,
        host: MailHost,
        hostname: str,
        timeouts: Timeouts,
        protection: Protection,
        *,
        source: str | None = None,
        implicit_tls: bool = False,
        credentials: Credentials | None = None,
    ) -> Client:
        """Connects, greets, protects the connection as demanded, logs in. Raises SessionFailed, TLSFailed."""
        client = cls(host, hostname, timeouts)
        client._channel.connect(timeouts.connect, source)
        try:
            if implicit_tls:
                client._channel.handshake(protection)
            client._greet()
            client._hello()
            if client.reached is None and protection.use is not Use.NEVER:
                client._start_tls(protection)
            if credentials:
                client._authenticate(credentials)
        except BaseException:
            client.close()
            raise
        return client

    def _greet(self) -> None:
        greeting = self._channel.reply("greeting", self._timeouts.greeting or self._timeouts.reply)
        name = self.host.name
        if greeting.code != 220:
            # A whole host that takes nothing now says nothing about a message.
            raise SessionFailed(f"{name} greeted with: {greeting}", status=greeting.status)
        self._not_ourselves(greeting)

    def _not_ourselves(self, greeting: ServerReply) -> None:
        if greeting.lines[0].partition(" ")[0].lower() == self.hostname and "smtpmail" in greeting.lines[0]:
            name, address = self.host.name, self.host.address
            raise LoopsBack(f"{name} [{address}] is this very server: mail loops back", status="4.4.6")

    def _hello(self) -> None:
        self._channel.quiet("EHLO")
        reply = self._command(f"EHLO {self.hostname}", "EHLO")
        self.extensions = {}
        if reply.permanent:
            # RFC 5321 3.2: a server that does not know EHLO.
            reply = self._command(f"HELO {self.hostname}", "HELO")
            if reply.code == 250:
                return
        if reply.code != 250:
            raise SessionFailed(f"{self.host.name} said to EHLO: {reply}", status=reply.status)
        for line in reply.lines[1:]:
            words = (line.replace("=", " ", 1) if line[:5].upper() == "AUTH=" else line).split(None, 1)
            keyword, value = words[0].upper() if words else "", words[1] if len(words) > 1 else ""
            # Some name each mechanism of AUTH in a line of its own.
            self.extensions[keyword] = f"{self.extensions[keyword]} {value}" if keyword in self.extensions else value
        self.offers_tls = self.offers_tls or "STARTTLS" in self.extensions
        for word in self.extensions.get("LIMITS", "").upper().split():  # RFC 9422
            name, _, number = word.partition("=")
            if name == "RCPTMAX" and number.isdecimal() and int(number[:6]) > 0:
                self.room = int(number[:6])

    def _start_tls(self, protection: Protection) -> None:
        if "STARTTLS" not in self.extensions:
            if protection.required:
                raise TLSFailed(f"{self.host.name} offers no TLS", lasting=True)
            return
        try:
            reply = self._command("STARTTLS", "STARTTLS")
            if reply.code != 220:
                raise TLSFailed(f"{self.host.name} said to STARTTLS: {reply}")
            self._channel.handshake(protection)
            self._hello()
        except TLSFailed:
            raise
        except SessionFailed as error:
            # A server that breaks here may well take mail in clear text.
            raise TLSFailed(str(error)) from None

    def _authenticate(self, credentials: Credentials) -> None:
        reached = self.reached
        if reached is None or not reached.verified:
            raise SessionFailed(f"{self.host.name} has no TLS that verifies: no password is sent", status="4.7.0")
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
            raise SessionFailed(f"{self.host.name} offers neither AUTH PLAIN nor LOGIN", status="4.7.0")
        if reply.code != 235:
            # Wrong today is not wrong for ever: the password may be changed back, the mail is kept (Postfix does so).
            raise SessionFailed(f"{self.host.name} said to AUTH: {reply}", status="4.7.8")

    def quit(self) -> None:
        """Says good-bye and closes; raises nothing."""
        with contextlib.suppress(OSError, SessionFailed):
            self._channel.patience = QUIT_SECONDS
            self._command("QUIT", "QUIT")
        self.close()

    def close(self) -> None:
        """Closes at once."""
        self._channel.close()

    def _command(self, line: str, what: str) -> ServerReply:
        self._channel.send(f"{line}\r\n".encode(), what)
        return self._channel.reply(what)

    # -- messages

    def send(self, item: Item, recipients: Sequence[QueuedRecipient], content: Content) -> list[ServerReply]:
        """One transaction; returns the server's word on each recipient: its refusal, or the reply to the content.

        Raises MessageRefused when the message is beyond what the server can do, SessionFailed when the connection is
        lost: then nothing is known to be delivered.
        """
        refusals: dict[int, ServerReply] = {}
        self.sending = False
        try:
            return self._transaction(item, recipients, content, refusals)
        except SessionFailed as error:
            error.connected = True
            error.refusals = {} if isinstance(error, OutOfStep) or error.silent else refusals
            raise

    def _transaction(
        self, item: Item, recipients: Sequence[QueuedRecipient], content: Content, refusals: dict[int, ServerReply]
    ) -> list[ServerReply]:
        """See `send`; notes each refusal in `refusals` as it comes.

        Content follows only a 354, and a 354 only recipients that were taken: no reply but one to DATA can be a 354,
        so that what is out of step is found before anything is sent that might be read as commands.
        """
        form = self._form(item, content)
        mail = self._mail_command(item, recipients, form)
        rcpts = [self._rcpt_command(item, recipient) for recipient in recipients]
        if self._unfinished:
            self._reset()
        self._channel.quiet("MAIL")
        if "PIPELINING" in self.extensions:
            self._channel.send(b"".join([mail, *rcpts, b"DATA\r\n"]), "MAIL, RCPT and DATA")
            go_ahead: ServerReply | None = self._recipients(rcpts, refusals, pipelined=True)
        else:
            self._channel.send(mail, "MAIL")
            go_ahead = self._recipients(rcpts, refusals, pipelined=False)
        final = self._content(form, go_ahead, accepted=len(refusals) < len(rcpts))
        self.messages += 1
        return [refusals[n] if n in refusals or final is None else final for n in range(len(rcpts))]

    def _recipients(
        self, rcpts: Sequence[bytes], refusals: dict[int, ServerReply], *, pipelined: bool
    ) -> ServerReply | None:
        """Reads the replies up to that to DATA, which is not sent without PIPELINING when nobody was taken (None)."""
        patience = self._timeouts.reply
        give_up = time.monotonic() + 2 * patience + EACH_RECIPIENT_SECONDS * len(rcpts)
        sender_reply = self._channel.reply("MAIL")
        if not sender_reply.positive:
            refusals.update(dict.fromkeys(range(len(rcpts)), sender_reply))
        for number, rcpt in enumerate(rcpts):
            if not pipelined:
                if not sender_reply.positive:
                    break
                self._channel.quiet("RCPT")
                self._channel.send(rcpt, "RCPT")
            reply = self._channel.reply("RCPT", max(0.001, min(patience, give_up - time.monotonic())))
            if not reply.positive:
                refusals.setdefault(number, reply)
        if not pipelined:
            if len(refusals) == len(rcpts):
                return None
            self._channel.quiet("DATA")
            self._channel.send(b"DATA\r\n", "DATA")
        return self._channel.reply("DATA")

    def _content(self, form: Form, go_ahead: ServerReply | None, *, accepted: bool) -> ServerReply | None:
        """Sends the content if it may be sent; the reply to it, None when no recipient was accepted."""
        self._unfinished = True
        if go_ahead is None:
            return None
        if go_ahead.code == 354:
            if not accepted:
                # Only an end of data would get us out of here: it might be taken for a message. Hanging up never is.
                self.usable = False
                return None
            self._channel.quiet("the message")
            self._unfinished = False
            return self._deliver(form)
        if go_ahead.code < 400:
            raise self._channel.out_of_step("DATA", str(go_ahead))
        if not accepted:
            return None
        try:
            # Were it a belated reply to another command, the one to DATA would still be to come.
            self._reset()
        except OutOfStep:
            raise
        except SessionFailed:
            self.usable = False  # refused and hung up
        return go_ahead

    def _deliver(self, form: Form) -> ServerReply:
        """The content, and the reply to it. Raises SessionFailed, `uncertain` when all of it may have arrived."""
        self.sending = True
        whole = False
        give_up = time.monotonic() + CONTENT_PATIENCES * self._timeouts.reply + form.size / SLOWEST
        try:
            held: bytes | None = None
            for piece in dot_stuff(form.pieces(READ_SIZE)):
                if held is not None:
                    if (reply := self._channel.early_reply("the message")) is not None:
                        return self._broken_off(reply)
                    if time.monotonic() > give_up:
                        raise SessionFailed(f"{self.host.name} takes the message too slowly")
                    self._channel.send(held, "the message")
                held = piece
            whole = True
            self._channel.send(held or b"", "the message")
            return self._channel.reply("the message", 2 * self._timeouts.reply)
        except SessionFailed as error:
            error.uncertain = whole and error.reply is None
            if not whole and error.reply is None:
                # The server may have said why before it stopped reading.
                with contextlib.suppress(SessionFailed):
                    if (reply := self._channel.early_reply("the message", LAST_WORD_SECONDS)) is not None:
                        return self._broken_off(reply)
            raise

    def _broken_off(self, reply: ServerReply) -> ServerReply:
        """The server has refused a message before it had all of it."""
        self.usable = False
        if reply.positive:
            raise self._channel.out_of_step("the message", str(reply))
        return reply

    def _reset(self) -> None:
        """Ends what is left of a transaction. Raises SessionFailed."""
        self._channel.quiet("RSET")
        reply = self._command("RSET", "RSET")
        if not reply.positive:
            raise self._channel.out_of_step("RSET", str(reply))
        self._unfinished = False

    # -- what the server can take

    def _form(self, item: Item, content: Content) -> Form:
        """The content as this server takes it. Raises MessageRefused."""
        eightbit = "8BITMIME" in self.extensions or (item.smtputf8 and "SMTPUTF8" in self.extensions)
        try:
            return content.form(eightbit=eightbit)
        except SignedContent:
            raise MessageRefused(
                "5.6.3", f"the message has signed 8-bit text, {self.host.name} takes 7-bit only"
            ) from None

    def _mail_command(self, item: Item, recipients: Iterable[QueuedRecipient], form: Form) -> bytes:
        offered = self.extensions
        parameters = ""
        sender = sender_address(item)
        name = self.host.name
        if item.requiretls:
            if self.reached is None or not self.reached.verified or "REQUIRETLS" not in offered:
                raise MessageRefused("5.7.30", f"REQUIRETLS: {name} cannot promise to keep to verified TLS")
            parameters += " REQUIRETLS"
        if "SIZE" in offered:
            limit = offered["SIZE"].strip()
            if limit.isascii() and limit.isdigit() and 0 < int(limit[:20]) < form.size:
                raise MessageRefused("5.3.4", f"the message has {form.size} octets, {name} takes {limit[:20]}")
            parameters += f" SIZE={form.size}"
        if item.smtputf8 or any(not a.local.isascii() for a in (sender, *(_address(r.address) for r in recipients))):
            if "SMTPUTF8" not in offered:
                raise MessageRefused("5.6.7", f"{name} does not take internationalised mail (SMTPUTF8)")
            parameters += " SMTPUTF8"
        if form.eightbit and "8BITMIME" in offered:
            parameters += " BODY=8BITMIME"
        if "DSN" in offered:
            parameters += f" RET={item.ret}" if item.ret else ""
            parameters += f" ENVID={item.envid}" if item.envid else ""
        return f"MAIL FROM:<{_path(sender, item)}>{parameters}\r\n".encode()

    def _rcpt_command(self, item: Item, recipient: QueuedRecipient) -> bytes:
        parameters = ""
        if "DSN" in self.extensions:
            parameters += f" NOTIFY={','.join(recipient.notify)}" if recipient.notify else ""
            if recipient.orcpt and recipient.orcpt.isascii():
                parameters += f" ORCPT={recipient.orcpt}"
        return f"RCPT TO:<{_path(_address(recipient.address), item)}>{parameters}\r\n".encode()


def _address(text: str) -> Address:
    """An address from the queue. Raises MessageRefused."""
    try:
        return parse_address(text)
    except AddressSyntaxError as error:
        raise MessageRefused("5.1.3", str(error)) from None


def _path(address: Address, item: Item) -> str:
    """A domain in its own letters only where all else is in them, too. Raises MessageRefused."""
    if item.smtputf8 or address.is_ascii:
        return str(address)
    try:
        return str(Address(address.local, normal_domain(address.domain)))
    except AddressSyntaxError as error:
        raise MessageRefused("5.1.3", str(error)) from None


def _to_wire(data: bytes) -> bytes:
    """Content as it travels: the stored form has no CR, so that none is ever sent alone."""
    return data.replace(b"\r", b" ").replace(b"\n", b"\r\n")


def dot_stuff(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Stored content as DATA takes it, the end with the last piece: CRLF, dots doubled (RFC 5321 4.5.2)."""
    at_line_start = True
    held = b""
    for piece in pieces:
        if not piece:
            continue
        if held:
            yield held
        stuffed = b"." + piece if at_line_start and piece.startswith(b".") else piece
        at_line_start = piece.endswith(b"\n")
        held = _to_wire(stuffed.replace(b"\n.", b"\n.."))
    yield held + (b".\r\n" if at_line_start else b"\r\n.\r\n")
