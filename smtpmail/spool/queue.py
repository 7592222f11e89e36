"""The queue on disk: QUEUE/ID is one message with its envelope, QUEUE/ID.log what happened to it since.

ID: the envelope as one line of JSON, then the message, LF line ends. It is written once, before the 250.
ID.log: one JSON object a line, only ever appended to; it begins to exist when something is left to do after the first
attempt. A line that a crash cut short counts for nothing. See docs/formats.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from smtpmail.mail.queued import Item, decode_envelope, encode_envelope, replay
from smtpmail.spool import wake
from smtpmail.spool.claim import QueueError, claim
from smtpmail.spool.commit import Draft, Unlocked, commit, withdraw
from smtpmail.spool.content import Content, Source
from smtpmail.spool.files import clear_scratch, free_octets, sync_folder, write_all
from smtpmail.spool.folder import Folder
from smtpmail.spool.journal import Journal, removing
from smtpmail.spool.patience import Patience
from smtpmail.spool.record import Kind, Record
from smtpmail.spool.replay import REMOVED_LINE

STAGING = ".adopting"
"""Messages of another host's queue on their way into this one (adoption.py)."""
__all__ = ["QueueDraft", "QueueError", "QueueStore"]

STORE_PATIENCE = 60.0
"""Seconds that putting messages into a queue on a shared file system may take."""

_ID = re.compile(r"[0-9a-f]{19,}")
"""What new_id gives."""


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
        self.file = self._content.make_file(self.folder, self._header)
        journal = self._store.journal
        if journal is not None and journal.takes(self.folder.device, len(self._header) + self._content.size):
            self.parts = self._content.parts(self._header)


class _Naming:
    """Drafts for the queue, each under its id (commit.Placing)."""

    def __init__(self, drafts: Sequence[QueueDraft]) -> None:
        self.drafts = drafts

    def records(self) -> list[Record]:
        """See commit.Placing."""
        now = time.monotonic_ns()
        return [Record(Kind.QUEUED, draft.item.id, parts=draft.parts or (), time=now) for draft in self.drafts]

    def give_names(self, *, recorded: bool) -> list[Record]:
        """See commit.Placing."""
        for draft in self.drafts:
            if draft.error is None:
                assert draft.folder is not None and draft.file is not None
                try:
                    draft.file.give_name(draft.item.id, draft.folder.fd)
                    draft.placed = True
                except OSError as error:
                    draft.error = error
        missing = [draft.item.id for draft in self.drafts if not draft.placed]
        return [_finished(missing)] if recorded and missing else []


def _finished(ids: Sequence[str]) -> Record:
    return Record(Kind.FINISHED, parts=[f"{id_}\n".encode() for id_ in ids], time=time.monotonic_ns())


class QueueStore(Unlocked):
    """The folder of the queue. Any number of threads and processes may use it."""

    def __init__(self, path: str, *, shared: bool = False) -> None:
        """`shared`: other hosts can reach it. It is one host's all the same."""
        self.path = os.path.abspath(path)
        self.shared = shared
        self._patience = Patience()
        self._claim = -1
        self.journal: Journal | None = None
        """Carries the promise for what happens here, where durability.py says so."""
        self._flush_lock = threading.Lock()
        self._unsynced_names = False
        self.unflushed = False
        """Whether a removal may not be on disk yet."""

    # -- in

    def content(self) -> Content:
        """Begins the content of a message that goes only into the queue."""
        return Content(self.path)

    def prepare(self, content: Content, item: Item, header: bytes) -> QueueDraft:
        """A message, `header` before its content; commit.commit writes it and puts it into the queue."""
        line = encode_envelope(item)
        item.content_offset = len(line)
        return QueueDraft(self, content, item, line + header)

    def store(self, content: Source, drafts: Sequence[QueueDraft]) -> None:
        """Puts messages, made of `content`, into the queue, durably, all or none. Raises OSError."""
        if not self.shared:
            commit(drafts)
            return
        held = content.share()
        job = self._patience.begin(self.path, lambda: commit(drafts), lambda: withdraw(drafts), held.close)
        job.result(time.monotonic() + STORE_PATIENCE)

    @contextlib.contextmanager
    def placing(self, drafts: Sequence[QueueDraft], give_up: float, *, apart: bool) -> Iterator[_Naming]:
        """There is no lock (commit.Target)."""
        yield _Naming(drafts)

    def open_folder(self) -> Folder:
        """The folder of the queue, to whose names everything is relative. Raises OSError."""
        return Folder(self.path, follow=True)

    def withdraw(self, draft: QueueDraft) -> None:
        """Takes a draft out again if it has been placed (commit.Target)."""
        if draft.placed:
            self.remove(draft.item.id)

    def free_octets(self) -> int:
        """Octets that the file system of the queue still takes. Raises OSError."""
        return free_octets(self.path)

    # -- out

    def ids(self) -> list[str]:
        """The messages there are, oldest first. Raises QueueError when the folder can't be read."""
        try:
            return sorted(self.versions())
        except FileNotFoundError:
            raise QueueError(f"there is no queue {self.path}") from None
        except OSError as error:
            raise QueueError(f"cannot read the queue {self.path}: {error.strerror}") from None

    def has(self, id_: str) -> bool:
        """Whether there is a message of that name, be it one that can't be read."""
        return _ID.fullmatch(id_) is not None and os.path.lexists(os.path.join(self.path, id_))

    def versions(self) -> dict[str, int]:
        """The messages there are, and for each a number that changes with its log. No other name is a message.

        Raises OSError.
        """
        messages: set[str] = set()
        changed: dict[str, int] = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                id_, dot, rest = entry.name.partition(".")
                if not _ID.fullmatch(id_):
                    continue
                if not dot:
                    messages.add(id_)
                elif rest == "log":
                    with contextlib.suppress(FileNotFoundError):
                        changed[id_] = entry.stat(follow_symlinks=False).st_mtime_ns
        return {id_: changed.get(id_, 0) for id_ in messages}

    def load(self, id_: str) -> Item:
        """A message's envelope and what its log says. Raises QueueError when it is not there or can't be read."""
        try:
            with self._open(id_) as file:
                item = decode_envelope(file.readline())
            with contextlib.suppress(FileNotFoundError), self._open(id_, ".log") as log:
                replay(item, log.read())
        except FileNotFoundError:
            raise QueueError(f"there is no message {id_} in the queue {self.path}") from None
        except (OSError, ValueError) as error:
            why = error.strerror or error if isinstance(error, OSError) else error
            raise QueueError(f"the queue file {os.path.join(self.path, id_)} can't be read: {why}") from None
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
        record = Record(Kind.PROGRESS, item.id, parts=(data,), time=time.monotonic_ns())
        written = self.journal.enter([record], reserve=0) if self.journal is not None else None
        if written is None:
            self._append(item.id, data, sync=True)
        else:
            with written:
                with contextlib.suppress(OSError):
                    written.sync()
                self._append(item.id, data, sync=not written.synced)
        for entry in entries:
            item.apply(entry)

    def _append(self, id_: str, data: bytes, *, sync: bool) -> None:
        folder = self.open_folder()
        try:
            name = f"{id_}.log"
            new = not folder.exists(name)
            fd = folder.open_file(name, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                end = os.lseek(fd, 0, os.SEEK_END)
                # A line that a crash cut short must not swallow this one.
                if end and os.pread(fd, 1, end - 1) != b"\n":
                    data = b"\n" + data
                write_all(fd, [data])
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            if new and sync:
                os.fsync(folder.fd)
        finally:
            folder.close()

    def remove(self, id_: str) -> None:
        """Forgets a message. The message first: a log alone means nothing, a message alone would be sent again."""
        if not _ID.fullmatch(id_):
            raise QueueError(f"{id_!r} is no id of a message")
        with removing(self.journal, _finished([id_]), durably=False) as recorded:
            paths = [os.path.join(self.path, id_), self._log(id_)]
            if self.journal is not None and not recorded and os.path.exists(paths[0]):
                # The message may be in another journal: so its log stays until the next start, and tells.
                self._append(id_, REMOVED_LINE, sync=True)
                paths.pop()
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        self._unsynced_names = self._unsynced_names or not recorded
        self.unflushed = True

    def note_removed(self, id_: str) -> None:
        """Somebody else has removed a message: a crash does not bring it back."""
        if self.journal is not None and id_.isalnum() and not os.path.exists(os.path.join(self.path, id_)):
            with removing(self.journal, _finished([id_])):
                pass

    def flush(self) -> None:
        """Makes removals durable; called every now and then, so that many cost one fsync."""
        with self._flush_lock:
            if self.unflushed:
                self.unflushed = False
                if self._unsynced_names:
                    self._unsynced_names = False
                    sync_folder(self.path)
                if self.journal is not None:
                    self.journal.sync()

    def repair(self) -> int:
        """Removes what a crash left behind, if its name is one of ours; returns how many files. Raises OSError."""
        with contextlib.closing(Folder(self.path, follow=True)) as folder:
            removed = clear_scratch(folder)
        staged: set[str] = set()
        with contextlib.suppress(FileNotFoundError):
            staged.update(os.listdir(os.path.join(self.path, STAGING)))
        names = set(os.listdir(self.path))
        for name in names:
            id_ = name.removesuffix(".log")
            if id_ != name and _ID.fullmatch(id_) and id_ not in names | staged:
                os.unlink(os.path.join(self.path, name))
                removed += 1
        return removed

    def _open(self, id_: str, suffix: str = "") -> IO[bytes]:
        if not _ID.fullmatch(id_):
            raise QueueError(f"{id_!r} is no id of a message")
        folder = self.open_folder()
        try:
            return os.fdopen(folder.open_file(id_ + suffix, os.O_RDONLY, other_names=True), "rb")
        finally:
            folder.close()

    def _log(self, id_: str) -> str:
        return os.path.join(self.path, f"{id_}.log")

    # -- the running server

    def claim(self) -> None:
        """Makes this process the only server of the queue as long as it lives. Raises QueueError naming the other."""
        self._claim = claim(self.path, self.shared)

    def hold(self) -> None:
        """Makes sure that the queue is still this server's, before anything leaves it; on a local disk it is.

        A shared file system gives the locks of a host away that was cut off from it, and another host may have adopted
        the queue since. Raises QueueError then, OSError when it can't be told.
        """
        if not self.shared or self._claim < 0:
            return
        try:
            fcntl.lockf(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Its mount is another one by now, or what was open before does not count any more.
            held, self._claim = self._claim, claim(self.path, self.shared)
            with contextlib.suppress(OSError):
                os.close(held)

    def wake(self, id_: str, change: str = "", by: str = "") -> bool:
        """Tells the running server that a message is new, or has changed (wake.Note); whether there is a server."""
        try:
            with self._socket_name() as name:
                return wake.send(name, wake.Note(id_, change, by))
        except OSError:
            return False

    def listen(self) -> socket.socket:
        """The socket on which the running server hears of changes. Raises OSError."""
        with self._socket_name() as name:
            return wake.listen(name)

    @contextlib.contextmanager
    def _socket_name(self) -> Iterator[str]:
        """The path of the socket; through /proc, because a socket's name has room for 107 octets only."""
        folder = self.open_folder()
        try:
            yield f"/proc/self/fd/{folder.fd}/{wake.NAME}"
        finally:
            folder.close()
