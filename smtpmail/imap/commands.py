"""The commands of IMAP: what a client may say, as values (RFC 3501 6, RFC 9051 6)."""

from __future__ import annotations

from dataclasses import dataclass

from smtpmail.imap.fetch_items import FetchModifiers, Item
from smtpmail.imap.search_keys import Key, SearchProgram
from smtpmail.imap.sequences import SequenceSet


class Command:
    """Something a client has asked for."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Simple(Command):
    """A command without arguments: CAPABILITY, NOOP, LOGOUT, CHECK, CLOSE, UNSELECT, EXPUNGE, NAMESPACE, IDLE,
    STARTTLS."""

    name: str


@dataclass(frozen=True, slots=True)
class Id(Command):
    """ID (RFC 2971): what the client says about itself."""

    fields: tuple[tuple[bytes, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Login(Command):
    user: bytes
    password: bytes


@dataclass(frozen=True, slots=True)
class Authenticate(Command):
    mechanism: str
    initial: bytes | None
    """The initial response, still in base64 (SASL-IR)."""


@dataclass(frozen=True, slots=True)
class Enable(Command):
    capabilities: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class QResync:
    """What a client knows of the mailbox it selects (RFC 7162 3.2.5)."""

    validity: int
    modseq: int
    known: SequenceSet | None = None


@dataclass(frozen=True, slots=True)
class Select(Command):
    mailbox: str
    read_only: bool = False
    condstore: bool = False
    qresync: QResync | None = None


@dataclass(frozen=True, slots=True)
class OnMailbox(Command):
    """DELETE, SUBSCRIBE, UNSUBSCRIBE."""

    name: str
    mailbox: str


@dataclass(frozen=True, slots=True)
class Create(Command):
    mailbox: str
    uses: tuple[bytes, ...] = ()
    """Special uses (RFC 6154)."""


@dataclass(frozen=True, slots=True)
class Rename(Command):
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class List(Command):
    """LIST (RFC 5258), or LSUB when `lsub`."""

    reference: str
    patterns: tuple[str, ...]
    lsub: bool = False
    selection: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    """Items of RETURN (STATUS (...)) (RFC 5819)."""
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Status(Command):
    mailbox: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Append(Command):
    """Up to its literal, whose size is told apart."""

    mailbox: str
    flags: tuple[bytes, ...] = ()
    date: int | None = None
    """Unix time."""
    utf8: bool = False
    """The message comes as `UTF8 (~{n}...)` (RFC 6855)."""


@dataclass(frozen=True, slots=True)
class Expunge(Command):
    """UID EXPUNGE (RFC 4315)."""

    numbers: SequenceSet


@dataclass(frozen=True, slots=True)
class Search(Command):
    program: SearchProgram
    uid: bool = False


@dataclass(frozen=True, slots=True)
class Sort(Command):
    """SORT (RFC 5256)."""

    criteria: tuple[tuple[str, bool], ...]
    """Keys, and whether in reverse."""
    key: Key
    uid: bool = False


@dataclass(frozen=True, slots=True)
class Thread(Command):
    """THREAD (RFC 5256)."""

    algorithm: str
    key: Key
    uid: bool = False


@dataclass(frozen=True, slots=True)
class Fetch(Command):
    numbers: SequenceSet
    items: tuple[Item, ...]
    modifiers: FetchModifiers = FetchModifiers()
    uid: bool = False


@dataclass(frozen=True, slots=True)
class Store(Command):
    numbers: SequenceSet
    action: str
    """`+`, `-`, or empty: replace."""
    flags: tuple[bytes, ...]
    silent: bool = False
    unchanged_since: int | None = None
    uid: bool = False


@dataclass(frozen=True, slots=True)
class Copy(Command):
    """COPY, or MOVE (RFC 6851)."""

    numbers: SequenceSet
    mailbox: str
    move: bool = False
    uid: bool = False
