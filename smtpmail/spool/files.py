"""New files that have no name yet, and what makes files and names durable."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import socket
from collections.abc import Iterator, Sequence

_libc = ctypes.CDLL(None, use_errno=True)


# File systems of the local disk on which syncfs(2) is known to do what fsync(2) does for each file (statfs(2)).
# Others, FUSE among them, may answer it without having written anything.
_SYNCFS_WORKS = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994})


FEW = 2
"""So many files are synced one by one; for more, syncfs(2) costs less, though it writes what others have left, too."""


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


def sync_file_system(fd: int) -> None:
    """Writes out the whole file system of an open file (syncfs). Raises OSError, also for what failed since `fd` was
    opened."""
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


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
