"""The ways that mail for one recipient may take. A recipient has a list of them: one, or with aliases several."""

from __future__ import annotations

from dataclasses import dataclass

from smtpmail.mail.address import Address


@dataclass(frozen=True, slots=True)
class Local:
    """Into the mailbox of `user`."""

    user: str


@dataclass(frozen=True, slots=True)
class Remote:
    """To `address`, at another server, through the queue."""

    address: Address


Route = Local | Remote
