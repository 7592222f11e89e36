"""One client: the only place of inbound socket I/O and TLS. Moves bytes between the socket and the session."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from smtpmail.accept import Accept, Incoming, log_refused, reply_to
from smtpmail.inbound.deadline import Deadline
from smtpmail.inbound.encrypted import receive_encrypted
from smtpmail.inbound.gate import Gate
from smtpmail.inbound.linger import RECEIVE_SIZE, end_encryption, linger
from smtpmail.log import log
from smtpmail.mail.envelope import Envelope, Peer
from smtpmail.smtp import replies
from smtpmail.smtp.actions import (
    Abort,
    Action,
    Authenticate,
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
from smtpmail.smtp.replies import Refusal
from smtpmail.smtp.session import Session

if TYPE_CHECKING:
    from smtpmail.inbound.guard import Submitter

HANDSHAKE_SECONDS = 60.0
"""Patience with a whole TLS handshake."""

FAREWELL_SECONDS = 2.0
"""Patience with a client that does not take the last reply."""

LINGER_SECONDS = 0.5
"""... and with what it is still sending: closed at once, the kernel would take the last reply back (RST)."""


def set_timeouts(sock: socket.socket, seconds: float) -> None:
    """Lets the kernel time out a blocking socket: that saves a poll(2) for each read. Accepted sockets inherit it."""
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


class Connection:
    """Serves one client in the thread that calls `run`. `patience` tells the timeout as it is now, in seconds.

    `inherited` is the timeout that the socket has already. With a `submitter`, TLS begins at once, and mail is taken
    from who has logged in, as themselves.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        session: Session,
        gate: Gate,
        accept: Accept,
        patience: Callable[[], float],
        tls_context: Callable[[], ssl.SSLContext] | None,
        submitter: Submitter | None = None,
        inherited: float = 0.0,
    ) -> None:
        self._sock = sock
        self._peer = peer
        self._session = session
        self._gate = gate
        self._accept = accept
        self._patience = patience
        self._tls_context = tls_context
        self._submitter = submitter
        self._deadline = Deadline(session.max_size, time.monotonic())
        self._wait_set = inherited
        self._incoming: Incoming | None = None
        self._message: Envelope | None = None
        """The message that has begun and is neither taken nor refused."""
        self._stop_at: float | None = None
        self._stopped = False
        """Whether `stop` ended the waiting for input."""
        self._at_work = threading.Lock()
        """Let go while input is waited for, and only then: so `stop` never ends a message that has just begun."""
        self._at_work.acquire()
        self._wake: int | None = None
        """An eventfd with which `stop` ends the waiting in an encrypted session."""

    def run(self) -> None:
        """The whole life of the connection; raises nothing."""
        since = time.monotonic()
        log.info("session.opened", client=self._peer.name, listener=self._peer.listener, uid=self._peer.uid)
        reason = "closed by client"
        try:
            reason = self._converse()
        except (ConnectionError, ssl.SSLError, TimeoutError, BlockingIOError) as error:
            reason = f"connection lost: {error}"
        except Exception:
            reason = "internal error"
            log.exception("session.error", client=self._peer.name)
            self._hang_up(replies.INTERNAL_ERROR.wire)
        finally:
            self._refuse_message(self._session.farewell)
            wake, self._wake = self._wake, None
            if wake is not None:
                os.close(wake)
            self._sock.close()
            log.info(
                "session.closed",
                client=self._peer.name,
                listener=self._peer.listener,
                messages=self._session.messages,
                seconds=round(time.monotonic() - since, 3),
                reason=reason,
            )

    def stop(self, deadline: float) -> None:
        """Called by another thread: ends the session now, or, when a message is under way, by `deadline`."""
        self._stop_at = deadline
        if not self._at_work.acquire(blocking=False):
            return  # it looks for itself before it waits
        try:
            if self._session.transaction is None or time.monotonic() >= deadline:
                self._stopped = True
                with contextlib.suppress(OSError):
                    # Wakes the thread that waits for input. An end of the stream below the encryption would be an
                    # attack to it, and no farewell could be said any more.
                    if self._wake is not None:
                        os.eventfd_write(self._wake, 1)
                    else:
                        socket.socket.shutdown(self._sock, socket.SHUT_RD)
        finally:
            self._at_work.release()

    # -- the loop

    def _converse(self) -> str:
        session = self._session
        if self._submitter is not None:
            self._start_tls()
        if self._peer.listener == "loopback" and self._has_input():
            session.talked_early()
        while True:
            while (action := session.step()) is not None:
                if isinstance(action, Close):
                    self._hang_up(session.take_output())
                    return self._reason()
                self._perform(action)
            if self._stop_at is not None and (session.transaction is None or time.monotonic() >= self._stop_at):
                session.close(replies.SHUTTING_DOWN)
                continue
            output = session.take_output()
            if output:
                if log.debugging:
                    said = output.decode("utf-8", "replace").splitlines()
                    log.debug("session.replied", client=self._peer.name, replies=said)
                self._sock.sendall(output)
            try:
                data = self._receive(progress=bool(output))
            except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
                session.close(
                    replies.TIMED_OUT
                    if self._deadline.time_left(time.monotonic(), self._patience()) > 0
                    else replies.TOO_SLOW
                )
                continue
            if self._stopped or (not data and self._stop_at is not None):
                session.close(replies.SHUTTING_DOWN)
            elif data:
                session.receive(data)
            else:
                return "closed by client"

    def _has_input(self) -> bool:
        """Whether something has come already."""
        with contextlib.suppress(BlockingIOError):
            return bool(self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        return False

    def _hang_up(self, output: bytes) -> None:
        """The one way to end a connection, encrypted or not: the last reply, close_notify, the end; never for long.

        Raises nothing: who has gone already needs no farewell.
        """
        sock = self._sock
        with contextlib.suppress(OSError, ValueError):
            if output := self._send_at_once(output):
                self._set_wait(FAREWELL_SECONDS)
                sock.sendall(output)
            end_encryption(sock)
            if self._session.farewell is replies.BYE and not self._session.mid_command:
                return
            linger(sock, LINGER_SECONDS, 2 * LINGER_SECONDS)

    def _send_at_once(self, output: bytes) -> bytes:
        """What the kernel did not take without waiting: as a rule nothing. Raises OSError."""
        if not isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(BlockingIOError):
                return output[self._sock.send(output, socket.MSG_DONTWAIT) :]
        return output

    def _reason(self) -> str:
        """Why the session ended, for the log."""
        farewell = self._session.farewell
        return "quit" if farewell is None or farewell is replies.BYE else farewell.text.lower()

    # -- time

    def _receive(self, *, progress: bool) -> bytes:
        """Waits for input as long as the limits allow; b"" at the end of the stream."""
        session = self._session
        wait = self._deadline.waiting(
            time.monotonic(),
            self._patience(),
            session.under_way,
            session.messages,
            content=session.awaits_content,
            progress=progress or not session.mid_command,
        )
        # Close to the last value is good enough: a call saved for each read.
        if not 0.9 * self._wait_set <= wait <= self._wait_set:
            self._set_wait(max(wait, 0.001))
        self._at_work.release()
        try:
            if self._stop_at is not None and session.transaction is None:
                return b""
            data = (
                self._sock.recv(RECEIVE_SIZE) if self._wake is None else receive_encrypted(self._sock, self._wake, wait)
            )
        finally:
            self._at_work.acquire()
        self._deadline.received(len(data))
        return data

    def _set_wait(self, seconds: float) -> None:
        self._wait_set = seconds
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.settimeout(seconds)
        else:
            set_timeouts(self._sock, seconds)

    # -- actions

    def _perform(self, action: Action) -> None:
        session = self._session
        match action:
            case Write(data):
                self._write(data)
            case Commit(_, size):
                self._commit(size)
            case CheckSender(envelope):
                try:
                    if self._submitter is not None and not self._submitter.may_send_as(envelope.sender):
                        log_refused(envelope, replies.NOT_YOUR_ADDRESS)
                        raise Refusal(replies.NOT_YOUR_ADDRESS)
                    self._accept.check_room(envelope.size or 0)
                    self._gate.check_sender(envelope)
                except Refusal as refusal:
                    session.sender_refused(refusal.reply)
                else:
                    session.sender_accepted()
            case Authenticate(name, password):
                user = self._submitter.log_in(name, password) if self._submitter is not None else None
                if user is None:
                    session.not_authenticated()
                else:
                    session.authenticated(user)
            case FindRoutes(envelope, address):
                try:
                    routes = self._gate.routes(envelope, address)
                except Refusal as refusal:
                    session.recipient_refused(refusal.reply)
                else:
                    session.recipient_accepted(routes)
            case Begin(envelope):
                self._message = envelope
                self._incoming = self._accept.begin(envelope)
            case Abort(reply):
                self._refuse_message(reply)
            case StartTLS():
                self._start_tls()
            case MoreRefused(envelope, count, reply):
                log.info("recipients.refused", id=envelope.id, count=count, client=self._peer.name, reply=str(reply))
            case SenderRefused(envelope, reply):
                log_refused(envelope, reply)
            case RecipientRefused(envelope, recipient, reply):
                log.info(
                    "recipient.refused",
                    id=envelope.id,
                    sender=str(envelope.sender),
                    recipient=str(recipient),
                    client=self._peer.name,
                    listener=self._peer.listener,
                    reply=str(reply),
                )

    def _write(self, data: bytes) -> None:
        if self._incoming is None:
            return
        try:
            self._incoming.write(data)
        except Refusal as refusal:
            self._session.message_failed(refusal.reply)
            self._refuse_message(refusal.reply)
        except OSError as error:
            self._session.message_failed(reply_to(error))
            self._fail_message(error)

    def _commit(self, size: int) -> None:
        incoming, message = self._incoming, self._message
        assert incoming is not None and message is not None
        try:
            if self._submitter is not None and not self._submitter.may_have_written(incoming.head):
                raise Refusal(replies.NOT_YOUR_FROM)
            incoming.commit(size)
        except Refusal as refusal:
            self._refuse_message(refusal.reply)
            self._session.finish(refusal.reply)
        except OSError as error:
            self._fail_message(error)
            self._session.finish(reply_to(error))
        else:
            self._message = None
            self._drop_content()
            self._session.finish(replies.queued(message.id))

    def _fail_message(self, error: OSError) -> None:
        """The disk did not take the message."""
        assert self._message is not None
        log.error("message.failed", id=self._message.id, error=str(error), reply=str(reply_to(error)))
        self._refuse_message(reply_to(error))

    def _refuse_message(self, reply: replies.Reply | None) -> None:
        """Drops the message that has begun, if there is one, and says why in the log, once."""
        self._drop_content()
        message, self._message = self._message, None
        if message is not None:
            log_refused(message, reply)

    def _drop_content(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None

    def _start_tls(self) -> None:
        """Raises ConnectionError when the handshake fails."""
        assert self._tls_context is not None
        if self._submitter is None:
            self._sock.sendall(self._session.take_output())
        self._wait_set = min(self._patience(), HANDSHAKE_SECONDS)
        try:
            # First the socket, then the handshake: `stop` must find it.
            self._sock = tls = self._tls_context().wrap_socket(
                self._sock, server_side=True, do_handshake_on_connect=False
            )
            tls.settimeout(self._wait_set)
            self._at_work.release()
            try:
                tls.do_handshake()
            finally:
                self._at_work.acquire()
        except (ssl.SSLError, OSError, ValueError) as error:
            log.info("tls.failed", client=self._peer.name, error=str(error))
            raise ConnectionError(f"TLS handshake failed: {error}") from error
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        cipher = tls.cipher()
        self._session.tls_started(f"{tls.version()} {cipher[0] if cipher else ''}".strip())
