"""One mail reader: moves octets between its stream and the session, and has the executor do what it asks for."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from smtpmail.imap.actions import (
    AbortAppend,
    Action,
    AppendData,
    BeginAppend,
    Close,
    CommitAppend,
    Identified,
    LogIn,
    Run,
    StartIdle,
    StopIdle,
)
from smtpmail.imap.executor import Closed, Executor
from smtpmail.imap.responses import no
from smtpmail.imap.session import Session, State
from smtpmail.inbound.streams import Stream
from smtpmail.log import log
from smtpmail.spool.reader.account import Account
from smtpmail.spool.reader.watch import POLL_SECONDS, Watch

AUTOLOGOUT = 35 * 60.0
"""Seconds of silence after which a client is sent away: at least 30 minutes (RFC 3501 5.4)."""

LOGIN_SECONDS = 60.0
"""Seconds in which a client must have said who it is."""

SEND_SIZE = 64 * 1024
"""Octets of responses that are collected before they are sent."""

SETTLE_SECONDS = 0.05
"""After a change, so long is waited for more of them: a burst of deliveries is told at once."""

MAX_IDENTITY = 300
"""Characters of a client's name in the log."""

T = TypeVar("T")


class ImapConnection:
    """Serves one client in the thread that calls `run`. `name` and `door` say in the log who and where it is.

    `user` is who it is when the door has told; otherwise `guard` is asked about name and password: it returns the user
    whose mail the client may read, None when the password is wrong.
    """

    def __init__(
        self,
        stream: Stream,
        name: str,
        door: str,
        *,
        hostname: str,
        max_size: int,
        timeout: float,
        open_account: Callable[[str], Account],
        user: str | None = None,
    ) -> None:
        self._stream = stream
        self._name = name
        self._door = door
        self._max_size = max_size
        self._timeout = timeout
        self._open_account = open_account
        self._user = user
        self.guard: Callable[[str, str], str | None] = lambda name, password: None
        self._session = Session(hostname, max_size, user=user)
        self._executor: Executor | None = None
        self._watch: Watch | None = None
        self._stopping = ""
        self._identified = False

    def run(self) -> None:
        """The whole life of the connection; raises nothing."""
        since = time.monotonic()
        log.info("imap.opened", client=self._name, door=self._door, user=self._user)
        reason = "closed by client"
        try:
            if self._user is not None:
                self._enter(self._user)
            reason = self._converse()
        except (ConnectionError, ssl.SSLError, TimeoutError, BrokenPipeError) as error:
            reason = f"connection lost: {error}"
        except Exception:
            reason = "internal error"
            log.exception("imap.error", client=self._name, user=self._user)
        finally:
            self._end_idle()
            if self._executor is not None:
                self._executor.close()
            self._stream.close()
            log.info(
                "imap.closed",
                client=self._name,
                door=self._door,
                user=self._user,
                seconds=round(time.monotonic() - since, 3),
                reason=reason,
            )

    def stop(self, reason: str = "the server is shutting down") -> None:
        """Called by another thread: ends the connection as soon as the command under way is done."""
        self._stopping = reason
        self._stream.interrupt()

    @property
    def user(self) -> str | None:
        """Whose mail it reads."""
        return self._user

    def _enter(self, user: str) -> None:
        account = self._open_account(user)
        try:
            account.prepare()
        except OSError as error:
            log.warning("imap.folders_failed", user=user, error=str(error))
        self._user = user
        self._executor = Executor(account, self._session.enabled, self._max_size)

    # -- the loop

    def _converse(self) -> str:
        session = self._session
        started = time.monotonic()
        while True:
            while (action := session.step()) is not None:
                if isinstance(action, Close):
                    self._flush()
                    self._stream.finish()
                    return session.farewell or "closed"
                self._perform(action)
            self._flush()
            if self._stopping:
                session.close(self._stopping)
                continue
            wait = self._patience(started)
            if wait <= 0 or not self._wait(wait):
                session.close("you were silent for too long")
                continue
            if self._stopping:
                continue
            data = self._stream.receive()
            if not data:
                return "closed by client"
            session.receive(data)

    def _patience(self, started: float) -> float:
        """Seconds to wait for input."""
        if self._session.state is State.NOT_AUTHENTICATED:
            return LOGIN_SECONDS - (time.monotonic() - started)
        return self._timeout if self._session.mid_command else AUTOLOGOUT

    def _wait(self, seconds: float) -> bool:
        """Waits for input; meanwhile tells what changes, to a client that idles."""
        watch = self._watch
        if watch is None:
            return self._stream.wait(seconds)
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            assert self._executor is not None
            selected = self._executor.selected
            look_soon = selected is not None and selected.folder.undecided
            if self._stream.wait(min(left, POLL_SECONDS if look_soon else watch.poll_seconds), watch.wake):
                return True
            if self._stream.wait(SETTLE_SECONDS):
                return True
            watch.clear()
            try:
                self._stream_out(self._executor.changes())
            except Closed as error:
                self._session.close(str(error))
            self._flush()
            if self._session.state is State.LOGOUT:
                return True
        return False

    def _flush(self) -> None:
        output = self._session.take_output()
        if output:
            self._stream.send(output)

    def _stream_out(self, pieces: Iterator[bytes]) -> None:
        """Sends untagged responses as they are made, at the client's pace."""
        size = 0
        for piece in pieces:
            self._session.send(piece)
            size += len(piece)
            if size >= SEND_SIZE:
                self._flush()
                size = 0

    def _result(self, running: Generator[bytes, None, T]) -> T:
        """Sends what a command yields; returns what it returns."""
        result: list[T] = []

        def pieces() -> Iterator[bytes]:
            result.append((yield from running))

        self._stream_out(pieces())
        return result[0]

    # -- actions

    def _perform(self, action: Action) -> None:
        session = self._session
        if isinstance(action, LogIn):
            self._log_in(action)
            return
        if isinstance(action, Identified):
            if not self._identified:
                log.info("imap.identified", client=self._name, user=self._user, program=_identity(action))
            self._identified = True
            return
        executor = self._executor
        assert executor is not None
        try:
            match action:
                case Run(command, tag):
                    session.finish(*self._result(executor.run(command, tag)))
                case BeginAppend(command, _):
                    refused = executor.begin_append(command)
                    if refused is None:
                        session.append_accepted()
                    else:
                        session.append_refused(refused)
                case AppendData(data):
                    executor.append_data(data)
                case CommitAppend():
                    session.finish(self._result(executor.commit_append()))
                case AbortAppend():
                    executor.abort_append()
                case StartIdle():
                    # The watch first: what changes before the look is seen by it, what changes after it wakes.
                    if executor.selected is not None:
                        self._watch = Watch(executor.selected.folder.folder)
                    self._stream_out(executor.changes())
                case StopIdle():
                    self._end_idle()
                    self._stream_out(executor.changes())
                    session.idle_done()
        except Closed as error:
            session.close(str(error))

    def _end_idle(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _log_in(self, action: LogIn) -> None:
        user = self.guard(action.user, action.password)
        if user is None:
            self._session.login_failed(no("Wrong user or password", b"AUTHENTICATIONFAILED"))
            return
        try:
            self._enter(user)
        except OSError as error:
            log.error("imap.failed", user=user, error=str(error))
            self._session.login_failed(no("The mailbox cannot be opened at the moment", b"UNAVAILABLE"))
            return
        self._session.logged_in()


def _identity(action: Identified) -> str:
    words = [
        f"{name.decode('utf-8', 'replace')}={(value or b'').decode('utf-8', 'replace')}"
        for name, value in action.fields
    ]
    return " ".join(words)[:MAX_IDENTITY]
