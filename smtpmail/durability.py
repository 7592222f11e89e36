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
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

_libc = ctypes.CDLL(None, use_errno=True)

# File systems of the local disk on which syncfs(2) is known to do what fsync(2) does for each file (statfs(2)).
# Others, FUSE among them, may answer it without having written anything.
_SYNCFS_WORKS = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994})

FEW = 2
"""So many files are synced one by one; for more, syncfs(2) costs less, though it writes what others have left, too."""

GROUP_PATIENCE = 0.05
"""Seconds that a group waits for a folder that another program has locked; then those concerned wait alone."""


class Busy(OSError):
    """Another program holds the lock of a folder."""


class Target(Protocol):
    """A folder that messages are put into."""

    patience: float
    """Seconds to wait for its lock."""

    def place(self, drafts: Sequence[Any], patience: float) -> None:
        """Gives the drafts their names in the folder, sets `error` of those that can't have one; syncs the folder.

        Raises Busy, OSError: then none of them is in.
        """

    def withdraw(self, draft: Any) -> None:
        """Takes a draft out again, if it is in. Raises OSError."""


class Draft:
    """A file that has been written, on its way into a folder."""

    __slots__ = ("error", "file", "target")

    def __init__(self, target: Target, file: NewFile) -> None:
        self.target = target
        self.file = file
        self.error: OSError | None = None

    def close(self) -> None:
        """Closes the file; what was not placed is gone."""
        self.file.close()


class _Entry:
    """The drafts of one caller."""

    __slots__ = ("done", "drafts", "leads")

    def __init__(self, drafts: Sequence[Draft]) -> None:
        self.drafts = drafts
        self.leads = False
        self.done = threading.Lock()
        self.done.acquire()


class _GroupCommit:
    """Threads that come while a batch is at work form the next one.

    There is no thread behind it: one of the callers leads, so that a caller alone waits for nobody.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: list[_Entry] = []
        self._busy = False

    def run(self, drafts: Sequence[Draft]) -> None:
        """Returns when the drafts are synced and placed, or have their `error` set."""
        entry = _Entry(drafts)
        with self._mutex:
            self._waiting.append(entry)
            entry.leads = not self._busy
            self._busy = True
        if not entry.leads:
            entry.done.acquire()
        if entry.leads:
            self._lead()

    def _lead(self) -> None:
        with self._mutex:
            batch, self._waiting = self._waiting, []
        try:
            _commit_batch([draft for entry in batch for draft in entry.drafts])
        finally:
            with self._mutex:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].done.release()
                else:
                    self._busy = False
            for entry in batch:
                if not entry.leads:
                    entry.done.release()


_group = _GroupCommit()


def commit(drafts: Sequence[Draft]) -> None:
    """Puts all drafts into their folders, or none: returns when contents and names are on disk.

    Raises OSError, Busy among them.
    """
    _group.run(drafts)
    for draft in drafts:
        if isinstance(draft.error, Busy):
            draft.error = None
            _place(draft.target, [draft], draft.target.patience)
    error = next((draft.error for draft in drafts if draft.error is not None), None)
    if error is not None:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.target.withdraw(draft)
        raise error


def _commit_batch(drafts: Sequence[Draft]) -> None:
    for draft, error in zip(drafts, sync_files([draft.file for draft in drafts]), strict=True):
        draft.error = error
    by_target: dict[Target, list[Draft]] = {}
    for draft in drafts:
        if draft.error is None:
            by_target.setdefault(draft.target, []).append(draft)
    for target, group in by_target.items():
        _place(target, group, GROUP_PATIENCE)


def _place(target: Target, drafts: Sequence[Draft], patience: float) -> None:
    try:
        target.place(drafts, patience)
    except Exception as error:
        # The thread of one may not fail for what befell the draft of another.
        for draft in drafts:
            draft.error = error if isinstance(error, OSError) else OSError(errno.EIO, f"internal error: {error!r}")


def sync_files(files: Sequence[NewFile]) -> list[OSError | None]:
    """Makes data and inodes of the files durable; returns what went wrong with each."""
    if len(files) > FEW:
        first, *others = {os.fstat(file.fd).st_dev for file in files}
        if not others and _syncfs_works(first, files[0].fd) and _libc.syncfs(files[0].fd) == 0:
            return [None] * len(files)
    if len(files) > 1:
        for file in files:
            start_writing(file.fd)
    return [_fsync(file.fd) for file in files]


def start_writing(fd: int) -> None:
    """Lets the kernel begin to write the file's data without waiting, so that several files are written at once."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _fsync(fd: int) -> OSError | None:
    try:
        os.fsync(fd)
    except OSError as error:
        return error
    return None


_syncfs_by_device: dict[int, bool] = {}


def _syncfs_works(device: int, fd: int) -> bool:
    """Whether syncfs(2) is as good as fsync(2) on the device, one of whose files is open as `fd`."""
    works = _syncfs_by_device.get(device)
    if works is None:
        # struct statfs begins with f_type, a long; the rest is not read.
        buffer = ctypes.create_string_buffer(256)
        works = hasattr(_libc, "syncfs") and _libc.fstatfs(fd, buffer) == 0
        works = works and ctypes.c_ulong.from_buffer(buffer).value in _SYNCFS_WORKS
        _syncfs_by_device[device] = works
    return works


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
