"""The ways that mail for one recipient may take. A recipient has a list of them: one, or with aliases several.

None at all is mail that is taken and dropped, as an alias may ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpmail.mail.address import Address


@dataclass(frozen=True, slots=True)
class Local:
    """Into the mailbox of `user`."""

    user: str
    sender: Address | None = None
    """The envelope sender of this copy: the owner of a list; None for the one that the message came with."""


@dataclass(frozen=True, slots=True)
class Remote:
    """To `address`, at another server, through the queue."""

    address: Address
    sender: Address | None = None
    """As in Local."""
    forwarded: bool = False
    """An alias or a user of this host sends it on: it leaves in the name of this host."""
    keeper: str | None = None
    """Of mail that a user forwards: their mailbox, which takes what has been here before."""


Route = Local | Remote
