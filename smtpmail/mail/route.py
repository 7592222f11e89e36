"""The ways that mail for a recipient may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Local:
    """Into the mailbox of `user`."""

    user: str


@dataclass(frozen=True, slots=True)
class Remote:
    """To another server, through the queue."""


Route = Local | Remote
