"""What the IMAP session asks the outside to do."""

from __future__ import annotations

from dataclasses import dataclass

from smtpmail.imap.commands import Append, Command


class Action:
    """Something the outside has to do."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class LogIn(Action):
    """Look whether the password is right; answer with `logged_in` or `login_failed`."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Run(Action):
    """Obey a command, then answer with `finish`."""

    command: Command
    tag: bytes


@dataclass(frozen=True, slots=True)
class BeginAppend(Action):
    """A message of `size` octets follows: answer with `append_accepted` or `append_refused`."""

    command: Append
    size: int


@dataclass(frozen=True, slots=True)
class AppendData(Action):
    """A piece of it, as it came."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CommitAppend(Action):
    """It is whole: put it into the mailbox, then answer with `finish`."""


@dataclass(frozen=True, slots=True)
class AbortAppend(Action):
    """It is dropped."""


@dataclass(frozen=True, slots=True)
class StartIdle(Action):
    """From here on, tell what changes without being asked, until StopIdle."""


@dataclass(frozen=True, slots=True)
class StopIdle(Action):
    """The client has had enough: answer with `idle_done`."""


@dataclass(frozen=True, slots=True)
class Identified(Action):
    """The client has told its name (for the log)."""

    fields: tuple[tuple[bytes, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Close(Action):
    """Send the output, then close."""
