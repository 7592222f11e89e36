"""Taking over the queue of a host that died: each message exactly once, whatever is cut off in between.

What is staged beside our own queue is complete. The message is taken when its name in the other queue changes, which
is atomic; from then on it is sent from here, or has been: that tells whether it is staged still.

    OTHER/ID         ->  OTHER/ID.adopted              taken
    OURS/.adopting/ID, ID.log  ->  OURS/ID, ID.log     ours
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from smtpmail import mounts
from smtpmail.spool import claim, restore
from smtpmail.spool.claim import QueueError
from smtpmail.spool.files import copy_content, forget_pages
from smtpmail.spool.folder import Folder
from smtpmail.spool.queue import STAGING, QueueStore
from smtpmail.spool.record import FormatError

TAKEN = ".adopted"
"""Behind the name of a message that was taken."""

Taken = tuple[str, OSError | None]
"""A message, and why it could not be taken: it stays where it is."""

_HOPELESS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE,
})  # fmt: skip
"""What befalls one message befalls all others, too."""

ADOPTER = ".adopter"
"""In the other queue: who takes it over. Nobody else can bring to an end what was begun."""


@contextlib.contextmanager
def adopting(ours: QueueStore, path: str) -> Iterator[tuple[str, Iterator[Taken]]]:
    """Holds the queue of another host; gives the host's name, and its messages, each when it is ours.

    Our own folder counts as another host's when that host had it last: one that has another name now, say.
    Raises QueueError when its server lives, or it is none that can be adopted; OSError.
    """
    path = os.path.abspath(path)
    if not os.path.isfile(os.path.join(path, claim.SERVER)):
        raise QueueError(f"{path} is no queue of a server: there is no file {claim.SERVER} in it")
    own = os.path.samefile(path, ours.path)
    if own and claim.last_owner(path) in ("", socket.gethostname()):
        raise QueueError(f"{path} is the queue of this host")
    fd, holder = claim.lock(path, mounts.is_shared(path))
    host = claim.owner(holder) or "unknown"
    try:
        if own:
            yield host, ((id_, None) for id_ in ours.ids())
            claim.write(fd, claim.NOBODY, socket.gethostname(), durably=True)
            return
        adoption = _Adoption(ours, path)
        try:
            adoption.replay()
            yield host, adoption.messages()
            adoption.end()
            claim.write(fd, claim.NOBODY, host, durably=True)
        finally:
            adoption.close()
    finally:
        os.close(fd)


class _Adoption:
    def __init__(self, ours: QueueStore, path: str) -> None:
        """Raises QueueError, OSError."""
        self._ours = ours.open_folder()
        self._other = Folder(path)
        self._store = QueueStore(path)
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(ours.path, STAGING), 0o700)
            os.fsync(self._ours.fd)
        self._staging = Folder(os.path.join(ours.path, STAGING))
        self._note(f"{ours.path} on {socket.gethostname()}")

    def close(self) -> None:
        for folder in (self._ours, self._other, self._staging):
            folder.close()

    def replay(self) -> None:
        """What its journal tells of the queue is made so. Raises QueueError, OSError."""
        try:
            restore.restore_queue(self._store.path)
        except FormatError as error:
            raise QueueError(f"the journal of the queue {self._store.path} can't be replayed: {error}") from None

    def _note(self, adopter: str) -> None:
        """Raises QueueError when another one has begun with it."""
        fd = self._other.open_file(ADOPTER, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            forget_pages(fd)
            before = os.pread(fd, 8192, 0).decode("utf-8", "replace").strip()
            if before not in ("", adopter) and self._taken():
                raise QueueError(
                    f"the queue {self._other.path} is half adopted by {before}: only there can it be brought to its end"
                )
            os.ftruncate(fd, os.pwrite(fd, adopter.encode() + b"\n", 0))
            os.fsync(fd)
        finally:
            os.close(fd)

    def _taken(self) -> list[str]:
        return sorted(name.removesuffix(TAKEN) for name in os.listdir(self._other.fd) if name.endswith(TAKEN))

    def messages(self) -> Iterator[Taken]:
        """Takes one after the other. Raises QueueError, OSError."""
        for id_ in self._taken():
            if self._staging.exists(id_):
                self._take_in(id_)
                yield id_, None
            else:
                self._clear(id_)
        for id_ in self._store.ids():
            if self._ours.exists(id_):
                raise QueueError(f"there is a message {id_} in both queues: remove the one that is not to be sent")
            try:
                self._stage(f"{id_}.log", missing_ok=True)
                self._stage(id_)
            except OSError as error:
                if error.errno in _HOPELESS:
                    raise
                self._unstage(f"{id_}.log", id_)
                yield id_, error
                continue
            os.fsync(self._staging.fd)
            os.rename(id_, id_ + TAKEN, src_dir_fd=self._other.fd, dst_dir_fd=self._other.fd)
            os.fsync(self._other.fd)
            self._take_in(id_)
            yield id_, None

    def _unstage(self, *names: str) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._staging.fd)

    def _stage(self, name: str, *, missing_ok: bool = False) -> None:
        """A durable copy beside our queue; what an attempt before has left is replaced."""
        self._unstage(name)
        try:
            source = self._other.open_file(name, os.O_RDONLY, other_names=True)
        except OSError as error:
            if missing_ok and error.errno == errno.ENOENT:
                return
            raise
        try:
            copy = self._staging.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                copy_content(source, 0, os.fstat(source).st_size, copy)
                os.fsync(copy)
            finally:
                os.close(copy)
        finally:
            os.close(source)

    def _take_in(self, id_: str) -> None:
        """The log first: a message without it would be sent to those who have it."""
        for name in (f"{id_}.log", id_):
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, name, src_dir_fd=self._staging.fd, dst_dir_fd=self._ours.fd)
        os.fsync(self._ours.fd)
        os.fsync(self._staging.fd)
        self._clear(id_)

    def _clear(self, id_: str) -> None:
        for name in (f"{id_}.log", id_ + TAKEN):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._other.fd)

    def end(self) -> None:
        """Nothing is under way any more."""
        os.unlink(ADOPTER, dir_fd=self._other.fd)
        os.fsync(self._other.fd)
        with contextlib.suppress(OSError):
            os.rmdir(self._staging.path)
