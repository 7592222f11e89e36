"""Making files survive a power cut, many at the price of one.

What several threads want on disk at the same moment is synced together (group commit): the first to come does it for
all who came meanwhile. One alone pays only for its own files.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Generic, TypeVar

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)

# File systems of the local disk on which syncfs(2) is known to do what fsync(2) does for each file (statfs(2)).
# Others, FUSE among them, may answer it without having written anything.
_SYNCFS_WORKS = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994})


class _Entry(Generic[T]):
    __slots__ = ("done", "error", "item", "leads")

    def __init__(self, item: T) -> None:
        self.item = item
        self.error: BaseException | None = None
        self.leads = False
        self.done = threading.Lock()
        self.done.acquire()


class GroupCommit(Generic[T]):
    """Runs `work` on batches: threads that come while a batch is at work form the next one.

    `work` gets the items of a batch and returns an error, or None, for each. There is no thread behind it: one of the
    callers leads, so that a caller alone waits for nobody.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[BaseException | None]]) -> None:
        self._work = work
        self._mutex = threading.Lock()
        self._waiting: list[_Entry[T]] = []
        self._busy = False

    def run(self, item: T) -> None:
        """Returns when `work` has been done for `item`; raises the error it gave."""
        entry = _Entry(item)
        with self._mutex:
            self._waiting.append(entry)
            entry.leads = not self._busy
            self._busy = True
        if not entry.leads:
            entry.done.acquire()
        if entry.leads:
            self._lead()
        if entry.error is not None:
            raise entry.error

    def _lead(self) -> None:
        with self._mutex:
            batch, self._waiting = self._waiting, []
        try:
            errors = self._work([entry.item for entry in batch])
            for entry, error in zip(batch, errors, strict=True):
                entry.error = error
        except BaseException as error:
            for entry in batch:
                entry.error = error
        with self._mutex:
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].done.release()
            else:
                self._busy = False
        for entry in batch:
            if not entry.leads:
                entry.done.release()


def start_writing(fd: int) -> None:
    """Lets the kernel begin to write the file's data without waiting, so that several files are written at once."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


class _FileSystem:
    """The file system that holds a folder: makes groups of its files durable."""

    def __init__(self, path: str) -> None:
        self._device = os.stat(path).st_dev
        self._syncfs = _syncfs_works(path)
        self.group = GroupCommit(self._sync_batch)

    def _sync_batch(self, batch: Sequence[Sequence[int]]) -> list[BaseException | None]:
        # One or two alone do not wait for what other programs have written to the same disk.
        if (
            sum(map(len, batch)) > 2
            and self._syncfs
            and all(os.fstat(fds[0]).st_dev == self._device for fds in batch)
            and _libc.syncfs(batch[0][0]) == 0
        ):
            return [None] * len(batch)
        return [_sync_each(fds) for fds in batch]


@cache
def _file_system(path: str) -> _FileSystem:
    return _FileSystem(path)


def sync(folder: str, fds: Sequence[int]) -> None:
    """Returns when data and inodes of the open files are on disk; raises OSError when one could not be written.

    `folder` is where they all belong, the spool or the queue: what is synced for it at one moment is synced together.
    """
    _file_system(folder).group.run(fds)


def _sync_each(fds: Sequence[int]) -> OSError | None:
    try:
        for fd in fds:
            start_writing(fd)
        for fd in fds:
            os.fsync(fd)
    except OSError as error:
        return error
    return None


def _syncfs_works(path: str) -> bool:
    """Whether syncfs(2) is as good as fsync(2) for the files under `path`."""
    # struct statfs begins with f_type, a long; the rest is not read.
    buffer = ctypes.create_string_buffer(256)
    if not hasattr(_libc, "syncfs") or _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_ulong.from_buffer(buffer).value in _SYNCFS_WORKS


def sync_folder(path: str) -> None:
    """Makes the names in a folder durable."""
    with open_folder(path) as fd:
        os.fsync(fd)


@contextlib.contextmanager
def open_folder(path: str) -> Iterator[int]:
    """A descriptor of the folder, for names relative to it and for fsync."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


class NewFile:
    """A new file in `folder` that has no name yet: if the program ends, it was never there.

    Where the file system knows no files without a name (NFS), it has one in the hidden `scratch` folder until then.
    The mode lets a default ACL of the folder decide; without one, the umask makes it the owner's alone.
    """

    __slots__ = ("_scratch_name", "fd")

    _number = itertools.count()

    def __init__(self, folder: str, scratch: str) -> None:
        self._scratch_name: str | None = None
        try:
            self.fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o660)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            os.makedirs(scratch, 0o700, exist_ok=True)
            name = f"{socket.gethostname()}.{os.getpid()}.{next(self._number)}"
            self._scratch_name = os.path.join(scratch, name)
            self.fd = os.open(self._scratch_name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o660)

    @property
    def has_scratch_name(self) -> bool:
        """Whether it can be seen in the scratch folder."""
        return self._scratch_name is not None

    def give_name(self, name: str, folder_fd: int) -> None:
        """Puts the file into the folder. Raises FileExistsError when the name is taken."""
        if self._scratch_name is None:
            # Naming a descriptor itself (AT_EMPTY_PATH) would need a privilege; /proc needs none, linkat(2).
            source = f"/proc/self/fd/{self.fd}"
            os.link(source, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd, follow_symlinks=True)
        else:
            os.link(self._scratch_name, name, dst_dir_fd=folder_fd)

    def close(self) -> None:
        """Without a name given, the file is gone."""
        os.close(self.fd)
        if self._scratch_name is not None:
            os.unlink(self._scratch_name)


def clear_scratch(scratch: str) -> int:
    """Removes what a crash of a process of this host left in the scratch folder; returns how many files."""
    removed = 0
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(scratch):
            host, _, rest = name.rpartition(".")[0].rpartition(".")
            alive = rest.isdigit() and int(rest) != os.getpid() and os.path.exists(f"/proc/{rest}")
            if host == socket.gethostname() and not alive:
                os.unlink(os.path.join(scratch, name))
                removed += 1
    return removed


def write_all(fd: int, parts: Sequence[bytes]) -> None:
    """Writes all of the parts; a disk that fills in between is an OSError."""
    missing = sum(map(len, parts)) - os.writev(fd, parts)
    if missing:
        rest = memoryview(b"".join(parts))[-missing:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def copy_content(source: int, offset: int, count: int, target: int) -> None:
    """Appends `count` octets of `source` from `offset` on to `target`, in the kernel."""
    while count:
        copied = os.sendfile(target, source, offset, min(count, 1 << 30))
        if not copied:
            raise OSError("the file became shorter while it was copied")
        offset += copied
        count -= copied
