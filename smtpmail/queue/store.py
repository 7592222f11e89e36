"""The queue on disk: QUEUE/ID is one message with its envelope, QUEUE/ID.log what happened to it since.

ID: the envelope as one line of JSON, then the message, LF line ends. It is written once, before the 250.
ID.log: one JSON object a line, only ever appended to; it begins to exist when something is left to do after the first
attempt. A line that a crash cut short counts for nothing. See docs/formats.md.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from smtpmail.content import Content
from smtpmail.durability import Draft, NewFile, clear_scratch, open_folder, sync_folder, write_all
from smtpmail.envelope import Envelope
from smtpmail.smtp.grammar import NULL_PATH, Address, AddressSyntaxError, parse_address

SCRATCH = ".new"
WAKE = ".wake"
"""A datagram socket: names of messages that have changed on disk."""

DELIVERED, FAILED, DEFERRED = "delivered", "failed", "deferred"


class QueueError(Exception):
    """The queue can't do what was asked: one line for people."""


@dataclass(slots=True)
class QueuedRecipient:
    """One recipient elsewhere."""

    address: str
    notify: tuple[str, ...] = ()
    orcpt: str | None = None
    state: str = DEFERRED
    """DEFERRED until it is DELIVERED or FAILED."""
    reply: str = ""
    """What the other side said last, or why it could not be asked."""
    mx: str = ""
    """Who said it."""


@dataclass(slots=True)
class Item:
    """One queued message without its content."""

    id: str
    arrived: float
    """Unix time."""
    sender: str
    recipients: list[QueuedRecipient]
    size: int = 0
    body: str | None = None
    eightbit: bool = False
    """The content has octets above 127."""
    smtputf8: bool = False
    """It can go only to servers that offer SMTPUTF8 (RFC 6531)."""
    requiretls: bool = False
    ret: str | None = None
    envid: str | None = None
    bounce_of: str | None = None
    """The id of the message this one reports about."""
    content_offset: int = 0
    """Where in the file the message begins."""
    attempts: int = 0
    next_attempt: float = 0.0
    """Unix time; 0 is at once."""
    hold: bool = False
    delay_notified: bool = False

    @property
    def pending(self) -> list[int]:
        """Indexes of the recipients that still wait."""
        return [n for n, r in enumerate(self.recipients) if r.state == DEFERRED]

    def apply(self, entry: dict[str, Any]) -> None:
        """Takes in one line of the log, all of it or nothing. Unknown keys are left alone; nonsense is a ValueError."""
        _check(entry, _LOG_TYPES)
        number = entry.get("recipient")
        if number is not None:
            if not 0 <= number < len(self.recipients) or entry.get("state") not in (DELIVERED, FAILED, DEFERRED):
                raise ValueError("no such recipient, or no state of one")
            recipient = self.recipients[number]
            recipient.state = entry["state"]
            recipient.reply = entry.get("reply", "")
            recipient.mx = entry.get("mx", "")
        self.attempts = entry.get("attempts", self.attempts)
        self.next_attempt = entry.get("next_attempt", self.next_attempt)
        self.hold = entry.get("hold", self.hold)
        self.delay_notified = entry.get("delay_notified", self.delay_notified)


_TEXT = (str, type(None))
_ENVELOPE_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,), "arrived": (int, float), "sender": (str,), "size": (int,), "body": _TEXT, "eightbit": (bool,),
    "smtputf8": (bool,), "requiretls": (bool,), "ret": _TEXT, "envid": _TEXT, "bounce_of": _TEXT,
}  # fmt: skip
_RECIPIENT_TYPES: dict[str, tuple[type, ...]] = {"address": (str,), "notify": (list,), "orcpt": _TEXT}
_LOG_TYPES: dict[str, tuple[type, ...]] = {
    "recipient": (int,), "state": (str,), "reply": (str,), "mx": (str,), "attempts": (int,),
    "next_attempt": (int, float), "hold": (bool,), "delay_notified": (bool,),
}  # fmt: skip


def _check(fields: Any, types: dict[str, tuple[type, ...]]) -> None:
    """Raises ValueError when the JSON is no object, or a key in it has a value of another type."""
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    for key, wanted in types.items():
        if key in fields and (
            not isinstance(value := fields[key], wanted)
            or (isinstance(value, bool) and bool not in wanted)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise ValueError(f"{key} is {value!r}")


def _decode_json(text: bytes) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON of nothing but brackets") from None


def encode_envelope(item: Item) -> bytes:
    """The first line of a queue file."""
    fields: dict[str, Any] = {key: getattr(item, key) for key in _ENVELOPE_TYPES}
    fields["recipients"] = [{"address": r.address, "notify": list(r.notify), "orcpt": r.orcpt} for r in item.recipients]
    return json.dumps(fields).encode() + b"\n"


def decode_envelope(line: bytes) -> Item:
    """The opposite of encode_envelope. Raises ValueError."""
    fields = _decode_json(line)
    _check(fields, _ENVELOPE_TYPES)
    if missing := {"id", "arrived", "sender", "recipients"} - fields.keys():
        raise ValueError(f"not an envelope: without {', '.join(sorted(missing))}")
    if not isinstance(fields["recipients"], list) or not fields["recipients"]:
        raise ValueError("not an envelope: without recipients")
    recipients = []
    for recipient in fields["recipients"]:
        _check(recipient, _RECIPIENT_TYPES)
        if "address" not in recipient:
            raise ValueError("not an envelope: a recipient without an address")
        notify = tuple(str(word) for word in recipient.get("notify", ()))
        recipients.append(QueuedRecipient(recipient["address"], notify, recipient.get("orcpt")))
    return Item(
        recipients=recipients,
        content_offset=len(line),
        **{key: fields[key] for key in _ENVELOPE_TYPES if key in fields},
    )


def replay(item: Item, log: bytes) -> None:
    """Takes in the log of an item; a last line without its end is left out, as is a line that makes no sense."""
    for line in log[: log.rfind(b"\n") + 1].split(b"\n"):
        with contextlib.suppress(ValueError):
            item.apply(_decode_json(line))


def item_of(envelope: Envelope, size: int, *, eightbit: bool, utf8_header: bool, now: float) -> Item:
    """The queue's view of a transaction: its recipients elsewhere."""
    recipients = [QueuedRecipient(str(r.address), r.notify, r.orcpt) for r in envelope.remote]
    needs_utf8 = envelope.smtputf8 and (
        utf8_header or not envelope.sender.is_ascii or any(not r.address.local.isascii() for r in envelope.remote)
    )
    return Item(
        envelope.id, now, str(envelope.sender), recipients, size, envelope.body, eightbit, needs_utf8,
        envelope.requiretls, envelope.ret, envelope.envid,
    )  # fmt: skip


def sender_address(item: Item) -> Address:
    """The reverse-path; the null one for a bounce (or for what can't be read)."""
    try:
        return parse_address(item.sender) if item.sender else NULL_PATH
    except AddressSyntaxError:
        return NULL_PATH


class QueueDraft(Draft):
    """A message on its way into the queue."""

    __slots__ = ("item", "placed")

    def __init__(self, store: QueueStore, item: Item, file: NewFile) -> None:
        super().__init__(store, file)
        self.item = item
        self.placed = False


class QueueStore:
    """The folder of the queue. Any number of threads and processes may use it."""

    patience = 0.0  # it has no lock

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._scratch = os.path.join(self.path, SCRATCH)
        self._flush_lock = threading.Lock()
        self.unflushed = False
        """Whether a removal may not be on disk yet."""

    # -- in

    def content(self) -> Content:
        """Begins the content of a message that goes only into the queue."""
        return Content(self.path, self._scratch, b"")

    def prepare(self, content: Content, item: Item, header: bytes) -> QueueDraft:
        """Writes a message, `header` before its content; durability.commit puts it into the queue. Raises OSError."""
        line = encode_envelope(item)
        item.content_offset = len(line)
        return QueueDraft(self, item, content.make_file(self.path, self._scratch, line + header))

    def place(self, drafts: Sequence[QueueDraft], patience: float) -> None:
        """Gives the drafts their names; returns when these are on disk (durability.Target)."""
        with open_folder(self.path) as folder:
            for draft in drafts:
                try:
                    draft.file.give_name(draft.item.id, folder)
                    draft.placed = True
                except OSError as error:
                    draft.error = error
            os.fsync(folder)

    def withdraw(self, draft: QueueDraft) -> None:
        """Takes a draft out again if it has been placed (durability.Target)."""
        if draft.placed:
            self.remove(draft.item.id)

    # -- out

    def ids(self) -> list[str]:
        """The messages there are, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(n for n in os.listdir(self.path) if not n.startswith(".") and not n.endswith(".log"))
        return []

    def load(self, id_: str) -> Item:
        """A message's envelope and what its log says. Raises QueueError when it is not there or can't be read."""
        try:
            with self._open(id_) as file:
                item = decode_envelope(file.readline())
            with contextlib.suppress(FileNotFoundError), open(self._log(id_), "rb") as log:
                replay(item, log.read())
        except FileNotFoundError:
            raise QueueError(f"there is no message {id_} in the queue {self.path}") from None
        except (OSError, ValueError) as error:
            raise QueueError(f"the queue file {os.path.join(self.path, id_)} can't be read: {error}") from None
        if item.id != id_:
            raise QueueError(f"the queue file {os.path.join(self.path, id_)} says it is {item.id}")
        return item

    def load_all(self) -> Iterator[Item]:
        """All messages that can be read, oldest first."""
        for id_ in self.ids():
            with contextlib.suppress(QueueError):
                yield self.load(id_)

    @contextlib.contextmanager
    def open_content(self, item: Item) -> Iterator[IO[bytes]]:
        """The message itself, from its first header field on. Raises OSError."""
        with self._open(item.id) as file:
            file.seek(item.content_offset)
            yield file

    def record(self, item: Item, entries: Sequence[dict[str, Any]]) -> None:
        """Appends to the log of a message, durably, and takes the entries into `item`. Raises OSError.

        A message that was removed meanwhile gets no new log.
        """
        now = round(time.time(), 3)
        data = b"".join(json.dumps({"time": now, **entry}).encode() + b"\n" for entry in entries)
        if not os.path.exists(os.path.join(self.path, item.id)):
            return
        new = not os.path.exists(self._log(item.id))
        fd = os.open(self._log(item.id), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            end = os.lseek(fd, 0, os.SEEK_END)
            # A line that a crash cut short must not swallow this one.
            if end and not self._ends_line(item.id):
                data = b"\n" + data
            write_all(fd, [data])
            os.fsync(fd)
        finally:
            os.close(fd)
        if new:
            sync_folder(self.path)
        for entry in entries:
            item.apply(entry)

    def _ends_line(self, id_: str) -> bool:
        with open(self._log(id_), "rb") as log:
            log.seek(-1, os.SEEK_END)
            return log.read() == b"\n"

    def remove(self, id_: str) -> None:
        """Forgets a message. The message first: a log alone means nothing, a message alone would be sent again."""
        for path in (os.path.join(self.path, id_), self._log(id_)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self.unflushed = True

    def flush(self) -> None:
        """Makes removals durable; called every now and then, so that many cost one fsync."""
        with self._flush_lock:
            if self.unflushed:
                self.unflushed = False
                sync_folder(self.path)

    def repair(self) -> int:
        """Removes what a crash left behind; returns how many files."""
        removed = clear_scratch(self._scratch)
        for name in os.listdir(self.path):
            if name.endswith(".log") and not os.path.exists(os.path.join(self.path, name.removesuffix(".log"))):
                os.unlink(os.path.join(self.path, name))
                removed += 1
        return removed

    def _open(self, id_: str) -> IO[bytes]:
        if not id_.isalnum():
            raise QueueError(f"{id_!r} is no id of a message")
        return open(os.path.join(self.path, id_), "rb")

    def _log(self, id_: str) -> str:
        return os.path.join(self.path, f"{id_}.log")

    # -- the running server

    def wake(self, id_: str) -> bool:
        """Tells the running server that a message has changed; returns whether there is a server."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, _socket_name(self.path) as name:
                sock.sendto(id_.encode(), name)
        except OSError:
            return False
        return True

    def listen(self) -> socket.socket:
        """The socket on which the running server hears of changes. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with _socket_name(self.path) as name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            sock.bind(name)
        return sock


@contextlib.contextmanager
def _socket_name(folder: str) -> Iterator[str]:
    """The path of the socket in a folder; through /proc, because a socket's name has room for 107 octets only."""
    with open_folder(folder) as fd:
        yield f"/proc/self/fd/{fd}/{WAKE}"
