"""Drives the IMAP session and its executor as the server's loop does, without sockets, on a spool of a test."""

from __future__ import annotations

import re
from pathlib import Path

from smtpmail.imap.actions import (
    AbortAppend,
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
from smtpmail.imap.session import Session
from smtpmail.spool.reader.account import Account

PASSWORD = "secret"


class ImapDialogue:
    """One connection of `user`: logged in by its door unless `preauth` is false."""

    def __init__(self, spool: Path, user: str = "bob", *, preauth: bool = True, max_size: int = 1_000_000) -> None:
        self._spool = spool
        self._user = user
        self._max_size = max_size
        self.session = Session("mail.dom.fr", max_size, user=user if preauth else None)
        self.executor: Executor | None = None
        self.closed = False
        self.idle = False
        self._tags = 0
        if preauth:
            self._open()
        self.greeting = self._run()

    def __enter__(self) -> ImapDialogue:
        return self

    def __exit__(self, *_: object) -> None:
        if self.executor is not None:
            self.executor.close()

    def _open(self) -> None:
        self.executor = Executor(Account(str(self._spool), self._user), self.session.enabled, self._max_size)

    def send(self, data: bytes | str) -> bytes:
        """What is answered to some input."""
        self.session.receive(data.encode() if isinstance(data, str) else data)
        return self._run()

    def say(self, command: bytes | str) -> list[bytes]:
        """Sends a command with a tag of its own; the response lines, literals as they stand, the tagged one last."""
        command = command.encode() if isinstance(command, str) else command
        self._tags += 1
        tag = b"t%d" % self._tags
        answer = self.send(tag + b" " + command + b"\r\n")
        lines = split(answer)
        assert lines and (lines[-1].startswith(tag + b" ") or lines[-1].startswith(b"+ ")), (command, answer)
        return [*lines[:-1], lines[-1].removeprefix(tag + b" ")]

    def ok(self, command: bytes | str) -> list[bytes]:
        """The untagged responses to a command that must succeed."""
        *untagged, tagged = self.say(command)
        assert tagged.startswith(b"OK"), (command, tagged)
        return untagged

    def append(self, mailbox: str, content: bytes, more: str = "") -> bytes:
        """Appends a message; the tagged response."""
        self._tags += 1
        tag = f"t{self._tags}"
        answer = self.send(f"{tag} APPEND {mailbox} {more}{{{len(content)}+}}\r\n".encode() + content + b"\r\n")
        return split(answer)[-1].removeprefix(tag.encode() + b" ")

    def changes(self) -> list[bytes]:
        """What a client that idles is told."""
        assert self.executor is not None and self.idle
        return split(b"".join(self.executor.changes()))

    def _run(self) -> bytes:
        output = b""
        session = self.session
        while (action := session.step()) is not None:
            output += session.take_output()
            match action:
                case LogIn(user, password):
                    if password == PASSWORD:
                        self._user = user
                        self._open()
                        session.logged_in()
                    else:
                        session.login_failed(no("Wrong user or password", b"AUTHENTICATIONFAILED"))
                case Run(command, tag):
                    assert self.executor is not None
                    try:
                        running = self.executor.run(command, tag)
                        while True:
                            try:
                                output += next(running)
                            except StopIteration as stop:
                                session.finish(*stop.value)
                                break
                    except Closed as error:
                        session.close(str(error))
                case BeginAppend(command, _):
                    assert self.executor is not None
                    refused = self.executor.begin_append(command)
                    if refused is None:
                        session.append_accepted()
                    else:
                        session.append_refused(refused)
                case AppendData(data):
                    assert self.executor is not None
                    self.executor.append_data(data)
                case CommitAppend():
                    assert self.executor is not None
                    running2 = self.executor.commit_append()
                    while True:
                        try:
                            output += next(running2)
                        except StopIteration as stop:
                            session.finish(stop.value)
                            break
                case AbortAppend():
                    assert self.executor is not None
                    self.executor.abort_append()
                case StartIdle():
                    self.idle = True
                case StopIdle():
                    assert self.executor is not None
                    self.idle = False
                    output += b"".join(self.executor.changes())
                    session.idle_done()
                case Identified():
                    pass
                case Close():
                    self.closed = True
                case _:
                    raise AssertionError(action)
            output += session.take_output()
        return output + session.take_output()


def split(data: bytes) -> list[bytes]:
    """Response lines, each with the literals in it."""
    lines, position = [], 0
    while position < len(data):
        start = position
        while True:
            end = data.index(b"\r\n", position)
            literal = re.search(rb"\{(\d+)\}$", data[start:end])
            position = end + 2
            if literal is None:
                break
            position += int(literal[1])
        lines.append(data[start:end])
    return lines
