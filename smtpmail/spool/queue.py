"""The queue on disk: QUEUE/ID is one message with its envelope, QUEUE/ID.log what happened to it since.

ID: the envelope as one line of JSON, then the message, LF line ends. It is written once, before the 250.
ID.log: one JSON object a line, only ever appended to; it begins to exist when something is left to do after the first
attempt. A line that a crash cut short counts for nothing. See docs/formats.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from smtpmail.mail.queued import Item, decode_envelope, encode_envelope, replay
from smtpmail.spool.commit import Draft
from smtpmail.spool.content import Content
from smtpmail.spool.files import clear_scratch, sync_folder, write_all
from smtpmail.spool.folder import Folder

SCRATCH = ".new"
WAKE = ".wake"
"""A datagram socket: names of messages that have changed on disk."""


class QueueError(Exception):
    """The queue can't do what was asked: one line for people."""


class QueueDraft(Draft):
    """A message on its way into the queue."""

    __slots__ = ("_content", "_header", "_store", "item", "placed")

    def __init__(self, store: QueueStore, content: Content, item: Item, header: bytes) -> None:
        super().__init__(store)
        self._store = store
        self._content = content
        self._header = header
        self.item = item
        self.placed = False

    def write(self) -> None:
        self.folder = self._store.open_folder()
        self.file = self._content.make_file(self.folder.fd, self._store.scratch, self._header)


class QueueStore:
    """The folder of the queue. Any number of threads and processes may use it."""

    patience = 0.0  # it has no lock

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.scratch = os.path.join(self.path, SCRATCH)
        self._flush_lock = threading.Lock()
        self.unflushed = False
        """Whether a removal may not be on disk yet."""

    # -- in

    def content(self) -> Content:
        """Begins the content of a message that goes only into the queue."""
        return Content(self.path, self.scratch)

    def prepare(self, content: Content, item: Item, header: bytes) -> QueueDraft:
        """A message, `header` before its content; commit.commit writes it and puts it into the queue."""
        line = encode_envelope(item)
        item.content_offset = len(line)
        return QueueDraft(self, content, item, line + header)

    def place(self, drafts: Sequence[QueueDraft], give_up: float, *, apart: bool) -> None:
        """Gives the drafts their names (commit.Target)."""
        for draft in drafts:
            assert draft.folder is not None and draft.file is not None
            try:
                draft.file.give_name(draft.item.id, draft.folder.fd)
                draft.placed = True
            except OSError as error:
                draft.error = error

    def open_folder(self) -> Folder:
        """The folder of the queue, to whose names everything is relative. Raises OSError."""
        return Folder(self.path, follow=True)

    def withdraw(self, draft: QueueDraft) -> None:
        """Takes a draft out again if it has been placed (commit.Target)."""
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
        removed = clear_scratch(self.scratch)
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
    opened = Folder(folder, follow=True)
    try:
        yield f"/proc/self/fd/{opened.fd}/{WAKE}"
    finally:
        opened.close()
