"""What a session asks of the outside: everything that touches disk, sockets, the log, or takes time."""

from __future__ import annotations

from dataclasses import dataclass

from smtpmail.mail.address import Address
from smtpmail.mail.envelope import Envelope
from smtpmail.smtp.replies import Reply


class Action:
    """Something the outside has to do."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class CheckSender(Action):
    """MAIL was understood: whether it is taken now. Answered by `sender_accepted` or `sender_refused`."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Authenticate(Action):
    """Whether the password is right. Answered by `authenticated` or `not_authenticated`."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class FindRoutes(Action):
    """RCPT was understood: where its mail goes. Answered by `recipient_accepted` or `recipient_refused`."""

    envelope: Envelope
    address: Address


@dataclass(frozen=True, slots=True)
class Begin(Action):
    """The content of a message follows."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Write(Action):
    """A piece of the content, in its stored form (LF line ends)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Commit(Action):
    """The content is whole: make it durable, then answer with `finish`."""

    envelope: Envelope
    size: int
    """Octets as they came over the wire."""


@dataclass(frozen=True, slots=True)
class Abort(Action):
    """The message that began is dropped: `reply` says why, None when the client gave it up."""

    reply: Reply | None


@dataclass(frozen=True, slots=True)
class StartTLS(Action):
    """Send the output, then do the handshake, then tell `tls_started`."""


@dataclass(frozen=True, slots=True)
class RecipientRefused(Action):
    """A recipient was refused (for the log; nothing else is to be done)."""

    envelope: Envelope
    recipient: Address
    reply: Reply


@dataclass(frozen=True, slots=True)
class MoreRefused(Action):
    """So many more recipients of a transaction were refused, the last one with this reply (for the log)."""

    envelope: Envelope
    count: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class SenderRefused(Action):
    """A transaction was refused at MAIL for what it announced (for the log)."""

    envelope: Envelope
    reply: Reply


@dataclass(frozen=True, slots=True)
class Close(Action):
    """Send the output, then close."""


CLOSE = Close()
START_TLS = StartTLS()
