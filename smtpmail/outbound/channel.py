"""A connection to another server: octets out, replies in, TLS. Knows when what it reads can't be trusted any more."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import time

from smtpmail.mail.text import harmless
from smtpmail.outbound.mailhost import MailHost
from smtpmail.outbound.tls import Protection, Reached, context
from smtpmail.smtp.reply_reader import NonsenseReply, ReplyReader, ServerReply

READ_SIZE = 64 * 1024

UNFINISHED_SECONDS = 10.0
"""A reply whose last line is not marked as such, or has no end, is taken as it is when nothing more comes in this."""

LAST_WORD_SECONDS = 1.0
"""Patience with what a server may have said before it stopped reading."""


class SessionFailed(Exception):
    """The connection is of no more use: why, as one line for people. Never the last word about a message."""

    def __init__(self, text: str, *, status: str = "4.4.2") -> None:
        super().__init__(text)
        self.status = f"4{status[1:]}" if status[0] in "45" else "4.5.0"
        self.connected = False
        """It had come as far as to a mail transaction: the fault may be that of this message alone."""
        self.silent = False
        """A reply that had to come did not: what came before may have been said to something else."""
        self.no_route = False
        """This host has no way to the address at all: it cost nothing to find that out."""
        self.uncertain = False
        """The whole message had been sent: the server may have taken it."""
        self.reply: ServerReply | None = None
        """The 421 with which the server ended the session."""
        self.refusals: dict[int, ServerReply] = {}
        """What the server had said before about recipients (by their place) that it does not take."""


class LoopsBack(SessionFailed):
    """The host is this very server."""


class OutOfStep(SessionFailed):
    """What came can't be the reply to what was sent: nothing that was said in this transaction can be relied on."""


class TLSFailed(SessionFailed):
    """No TLS as it was required; `lasting` when the connection was not at fault: it would fail again."""

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text, status="4.7.5")
        self.lasting = lasting


class Channel:
    """`patience`: seconds for each reply."""

    def __init__(self, host: MailHost, patience: float) -> None:
        self.host = host
        self.patience = patience
        self.reached: Reached | None = None
        """None: clear text."""
        self._sock: socket.socket
        self._reader = ReplyReader()

    def connect(self, seconds: float, source: str | None) -> None:
        """Connects, from the address `source` if there is one. Raises SessionFailed."""
        try:
            self._sock = socket.create_connection(
                (self.host.address, self.host.port), seconds, source_address=(source, 0) if source else None
            )
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            text = "connection timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            origin = f" from {source}" if source else ""
            failed = SessionFailed(f"cannot connect to {self.host}{origin}: {text}", status="4.4.1")
            failed.no_route = error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
            raise failed from None

    def handshake(self, protection: Protection) -> None:
        """Starts TLS. Raises TLSFailed."""
        if self._reader.unread:
            raise TLSFailed(f"{self.host.name} sent something between STARTTLS and the handshake")
        name = self.host.address if self.host.name.startswith("[") else self.host.name
        try:
            self._sock.settimeout(self.patience)
            wrapped = context(protection).wrap_socket(self._sock, server_hostname=protection.name or name)
        except (ssl.SSLError, OSError, ValueError) as error:
            lasting = isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
            raise TLSFailed(f"TLS with {self.host.name} failed: {error}", lasting=lasting) from None
        self._sock = wrapped
        cipher = wrapped.cipher()
        self.reached = Reached(wrapped.version() or "TLS", cipher[0] if cipher else "", protection.verify)

    def close(self) -> None:
        """Closes at once."""
        with contextlib.suppress(OSError, AttributeError):
            self._sock.close()

    # -- octets out

    def send(self, data: bytes, what: str) -> None:
        """Raises SessionFailed."""
        try:
            self._sock.settimeout(self.patience)
            self._sock.sendall(data)
        except OSError as error:
            raise self._lost(f"while {what} was sent", error) from None

    # -- replies in

    def reply(self, what: str, seconds: float | None = None) -> ServerReply:
        """The reply to `what`. Raises SessionFailed: closed, silent, 421, nonsense or not a reply to that."""
        reply = self._next_reply(what, seconds or self.patience)
        if reply.code == 421:
            failed = SessionFailed(f"{self.host.name} said to {what}: {reply}", status=reply.status)
            failed.reply = reply
            raise failed
        if 300 <= reply.code < 400 and what not in ("DATA", "AUTH"):
            raise self.out_of_step(what, str(reply))
        return reply

    def _next_reply(self, what: str, seconds: float) -> ServerReply:
        """Waits for all of a reply, not for each piece of it: who drips may not hold us. Raises SessionFailed."""
        give_up = time.monotonic() + seconds
        try:
            while (reply := self._reader.next_reply()) is None:
                left = give_up - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                pause = min(UNFINISHED_SECONDS, seconds / 2)
                stalled = self._reader.unread and pause < left
                self._sock.settimeout(pause if stalled else left)
                try:
                    data = self._sock.recv(READ_SIZE)
                except TimeoutError:
                    if stalled and (reply := self._reader.unfinished()) is not None:
                        return reply
                    raise
                if not data:
                    raise self._lost(f"instead of the reply to {what}", None)
                self._reader.feed(data)
        except NonsenseReply as error:
            raise self.nonsense(what, str(error)) from None
        except OSError as error:
            raise self._lost(f"before the reply to {what}", error) from None
        return reply

    def early_reply(self, what: str, seconds: float = 0.0) -> ServerReply | None:
        """What the server has said before it was its turn; None for nothing. Raises SessionFailed."""
        if not self._reader.unread and not self._readable(seconds):
            return None
        return self.reply(what, max(seconds, LAST_WORD_SECONDS))

    def quiet(self, what: str) -> None:
        """Sees to it that the next reply will be one to what is sent next. Raises OutOfStep, SessionFailed."""
        if self._reader.unread:
            raise self.out_of_step(what, "more than one reply")
        try:
            data = self._read_at_once()
        except OSError as error:
            raise self._lost(f"before {what}", error) from None
        if data:
            raise self.out_of_step(what, harmless(data[:200].decode("utf-8", "replace")))
        if data is not None:
            raise self._lost(f"before {what}", None)

    def _read_at_once(self) -> bytes | None:
        """What can be read without waiting, None for nothing. Raises OSError."""
        if not isinstance(self._sock, ssl.SSLSocket):
            if self._sock.gettimeout() is None:
                return None
            with contextlib.suppress(BlockingIOError):
                return os.read(self._sock.fileno(), READ_SIZE)  # a socket with a time-out does not block
            return None
        self._sock.settimeout(0.0)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            # Session tickets make the socket readable, too: only TLS itself knows.
            return self._sock.recv(READ_SIZE)
        return None

    def _readable(self, seconds: float) -> bool:
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    # -- what is the matter

    def nonsense(self, what: str, said: str) -> SessionFailed:
        """What came is no reply at all."""
        return SessionFailed(f"{self.host.name} answered {what} with nonsense: {said}", status="4.5.0")

    def out_of_step(self, what: str, said: str) -> OutOfStep:
        """What came is a reply to something else."""
        return OutOfStep(f"{self.host.name} answered {what} with nonsense: {said}", status="4.5.0")

    def _lost(self, when: str, error: OSError | None) -> SessionFailed:
        name = self.host.name
        if isinstance(error, TimeoutError):
            silence = SessionFailed(f"{name} was silent for too long {when}")
            silence.silent = True
            return silence
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            # TLS 1.3: what the server thinks of the handshake comes with the first reply.
            return TLSFailed(f"TLS with {name} failed {when}: {error}")
        reason = f" ({error.strerror or error})" if error else ""
        return SessionFailed(f"{name} closed the connection {when}{reason}")
