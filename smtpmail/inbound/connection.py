"""One client: the only place of inbound socket I/O and TLS. Moves bytes between the socket and the session."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable

from smtpmail.accept import Incoming, Intake, reply_to
from smtpmail.log import log
from smtpmail.mail.envelope import Client
from smtpmail.smtp import replies
from smtpmail.smtp.session import (
    Abort,
    Action,
    Begin,
    Close,
    Commit,
    Content,
    RecipientRefused,
    Session,
    StartTLS,
)

RECEIVE_SIZE = 64 * 1024

TRANSACTION_TIMEOUTS = 4
"""One message may take this many times the timeout, and besides ..."""

MIN_RATE = 1024
"""... a second for so many octets: a client that drips is not allowed to hold a thread for long."""


def set_timeouts(sock: socket.socket, seconds: float) -> None:
    """Lets the kernel time out a blocking socket: that saves a poll(2) for each read. Accepted sockets inherit it."""
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


class Connection:
    """Serves one client in the thread that calls `run`. The socket comes with `timeout` set on it."""

    def __init__(
        self,
        sock: socket.socket,
        client: Client,
        session: Session,
        intake: Intake,
        timeout: float,
        tls_context: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self._sock = sock
        self._client = client
        self._session = session
        self._intake = intake
        self._timeout = timeout
        self._tls_context = tls_context
        self._wait_set = timeout
        self._incoming: Incoming | None = None
        self._stop_at: float | None = None
        self._line_since = 0.0
        self._under_way: object = None
        self._under_way_since = 0.0
        self._under_way_octets = 0

    def run(self) -> None:
        """The whole life of the connection; raises nothing."""
        since = time.monotonic()
        log.info("session.opened", client=self._client.name, listener=self._client.listener)
        reason = "closed by client"
        try:
            reason = self._converse()
        except (ConnectionError, ssl.SSLError, TimeoutError, BlockingIOError) as error:
            reason = f"connection lost: {error}"
        except Exception:
            reason = "internal error"
            log.exception("session.error", client=self._client.name)
            with contextlib.suppress(OSError):
                self._sock.sendall(replies.INTERNAL_ERROR.wire)
        finally:
            self._drop_message()
            self._sock.close()
            log.info(
                "session.closed",
                client=self._client.name,
                listener=self._client.listener,
                messages=self._session.messages,
                seconds=round(time.monotonic() - since, 3),
                reason=reason,
            )

    def stop(self, deadline: float) -> None:
        """Called by another thread: ends the session now, or, when a message is under way, by `deadline`."""
        self._stop_at = deadline
        if self._session.transaction is None or time.monotonic() >= deadline:
            with contextlib.suppress(OSError):
                # Wakes the thread that waits for input.
                self._sock.shutdown(socket.SHUT_RD)

    # -- the loop

    def _converse(self) -> str:
        session = self._session
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
                self._sock.sendall(output)
            try:
                data = self._receive(progress=bool(output))
            except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
                session.close(replies.TIMED_OUT if self._time_left() > 0 else replies.TOO_SLOW)
                continue
            if data:
                session.receive(data)
            elif self._stop_at is None:
                return "closed by client"
            else:
                # It has closed, or `stop` woke us.
                session.close(replies.SHUTTING_DOWN)

    def _hang_up(self, output: bytes) -> None:
        """Sends the last reply so that it arrives even if the client is still sending."""
        self._sock.sendall(output)
        if self._session.farewell is replies.BYE and not self._session.mid_command:
            return
        self._sock.shutdown(socket.SHUT_WR)
        set_timeouts(self._sock, 0.5)
        with contextlib.suppress(OSError):
            for _ in range(16):
                if not self._sock.recv(RECEIVE_SIZE):
                    break

    def _reason(self) -> str:
        """Why the session ended, for the log."""
        farewell = self._session.farewell
        return "quit" if farewell is None or farewell is replies.BYE else farewell.text.lower()

    # -- time

    def _receive(self, *, progress: bool) -> bytes:
        """Waits for input as long as the limits allow; b"" at the end of the stream."""
        session = self._session
        under_way = session.under_way
        now = time.monotonic()
        if under_way is not self._under_way:
            self._under_way, self._under_way_since, self._under_way_octets = under_way, now, 0
        wait = self._timeout
        if not session.awaits_content:
            if progress or not session.mid_command:
                self._line_since = now
            wait -= now - self._line_since
        if under_way is not None:
            wait = min(wait, self._time_left())
        # Close to the last value is good enough: a call saved for each read.
        if not 0.9 * self._wait_set <= wait <= self._wait_set:
            self._set_wait(max(wait, 0.001))
        data = self._sock.recv(RECEIVE_SIZE)
        self._under_way_octets += len(data)
        return data

    def _time_left(self) -> float:
        """Seconds that the message under way may still take."""
        if self._under_way is None:
            return self._timeout
        # What comes beyond the size that is taken buys no more time.
        octets = min(self._under_way_octets, 2 * self._session.max_size)
        allowed = TRANSACTION_TIMEOUTS * self._timeout + octets / MIN_RATE
        return self._under_way_since + allowed - time.monotonic()

    def _set_wait(self, seconds: float) -> None:
        self._wait_set = seconds
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.settimeout(seconds)
        else:
            set_timeouts(self._sock, seconds)

    # -- actions

    def _perform(self, action: Action) -> None:
        match action:
            case Content(data):
                self._write(data)
            case Commit(_, size):
                incoming, self._incoming = self._incoming, None
                assert incoming is not None
                try:
                    self._session.finish(incoming.commit(size))
                finally:
                    incoming.close()
            case Begin(envelope):
                try:
                    self._incoming = self._intake.begin(envelope)
                except OSError as error:
                    log.error("message.failed", id=envelope.id, error=str(error))
                    self._session.message_failed(reply_to(error))
            case Abort():
                self._drop_message()
            case StartTLS():
                self._start_tls()
            case RecipientRefused(envelope, recipient, reply):
                log.info(
                    "recipient.refused",
                    id=envelope.id,
                    sender=str(envelope.sender),
                    recipient=str(recipient),
                    client=self._client.name,
                    listener=self._client.listener,
                    reply=str(reply),
                )

    def _write(self, data: bytes) -> None:
        if self._incoming is None:
            return
        try:
            self._incoming.write(data)
        except OSError as error:
            self._session.message_failed(self._incoming.failed(error))
            self._drop_message()

    def _drop_message(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None

    def _start_tls(self) -> None:
        assert self._tls_context is not None
        self._sock.sendall(self._session.take_output())
        self._sock.settimeout(self._timeout)
        self._wait_set = self._timeout
        try:
            self._sock = tls = self._tls_context().wrap_socket(self._sock, server_side=True)
        except (ssl.SSLError, OSError) as error:
            log.info("tls.failed", client=self._client.name, error=str(error))
            raise ConnectionError(f"TLS handshake failed: {error}") from error
        cipher = tls.cipher()
        self._session.tls_started(f"{tls.version()} {cipher[0] if cipher else ''}".strip())
