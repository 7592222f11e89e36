"""New files that have no name yet, and what makes files and names durable."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import re
import socket
import time
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from smtpmail.spool.folder import SAFELY, Folder

_libc = ctypes.CDLL(None, use_errno=True)


# File systems of the local disk on which syncfs(2) is known to do what fsync(2) does for each file (statfs(2)).
# Others, FUSE among them, may answer it without having written anything.
_SYNCFS_WORKS = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994})


FEW = 2
"""So many files are synced one by one; for more, syncfs(2) costs less, though it writes what others have left, too."""


class Open(Protocol):
    """An open file or folder."""

    @property
    def fd(self) -> int:
        """Its descriptor."""


def sync_files(files: Sequence[Open]) -> list[OSError | None]:
    """Makes data and inodes of files, or names in folders, durable; returns what went wrong with each."""
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
        works = _syncfs_by_device[device] = hasattr(_libc, "syncfs") and _file_system(fd) in _SYNCFS_WORKS
    return works


def _file_system(fd: int) -> int:
    """The type of the file system of an open file, as statfs(2) names it; 0 when it can't be had."""
    # struct statfs begins with f_type, a long; the rest is not read.
    buffer = ctypes.create_string_buffer(256)
    return ctypes.c_ulong.from_buffer(buffer).value if _libc.fstatfs(fd, buffer) == 0 else 0


_FUSE = 0x65735546

_fuse: dict[int, bool] = {}
"""By device. That of a mount that is gone may be another's later: what is done for nothing does no harm."""


def forget_pages(fd: int) -> None:
    """Lets what is read next of an open file come from its file system, where another host may have written it.

    For files that are changed in place, once they are locked: of a file in FUSE (GlusterFS) that is still as long as it
    was, the kernel goes on showing the pages that it has, whoever has written it since and under whichever lock. Other
    shared file systems look themselves when a lock is taken. On a local disk it does nothing.
    """
    device = os.fstat(fd).st_dev
    if os.major(device):
        return  # a disk
    is_fuse = _fuse.get(device)
    if is_fuse is None:
        # What can't be asked in this moment, since the network is cut, may be FUSE.
        kind = _file_system(fd)
        is_fuse = kind in (_FUSE, 0)
        if kind:
            _fuse[device] = is_fuse
    if is_fuse:
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_file_system(fd: int) -> None:
    """Writes out the whole file system of an open file (syncfs). Raises OSError, also for what failed since `fd` was
    opened."""
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_through(fd: int, device: int) -> None:
    """Returns when data that overwrites older data has left for the disk: with the next sync of anything it is durable.

    `device`: the st_dev of its file system. Raises OSError.
    """
    # SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER; it flushes no cache of the disk, which costs the most of a sync.
    if not _syncfs_works(device, fd) or _libc.sync_file_range(fd, _zero, _zero, 7) != 0:
        os.fdatasync(fd)


_zero = ctypes.c_int64(0)


def is_local(fd: int) -> bool:
    """Whether a file lies on a local disk, which no other host changes, and syncfs(2) is as good as fsync(2)."""
    return _syncfs_works(os.fstat(fd).st_dev, fd)


def sync_folder(path: str) -> None:
    """Makes the names in a folder durable."""
    folder = Folder(path, follow=True)
    try:
        os.fsync(folder.fd)
    finally:
        folder.close()


def free_octets(path: str) -> int:
    """Octets that the file system of a folder still takes; 0 when no more files can be made. Raises OSError."""
    status = os.statvfs(path)
    if status.f_files and not status.f_favail:
        return 0
    return status.f_bavail * status.f_frsize


class NewFile:
    """A new file for an open folder that has no name yet: if the program ends, it was never there.

    Where the file system knows no files without a name (NFS, GlusterFS), it has one in the folder's own hidden SCRATCH
    until then. The mode lets a default ACL of the folder decide; without one, the umask makes it the owner's alone.
    """

    __slots__ = ("_scratch", "_scratch_name", "fd")

    _number = itertools.count()

    def __init__(self, folder: Folder) -> None:
        """Raises OSError."""
        self._scratch = -1
        self._scratch_name = ""
        if folder.device in _without_nameless:
            self._open_scratch(folder)
            return
        try:
            self.fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o660, dir_fd=folder.fd)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            _without_nameless.add(folder.device)
            self._open_scratch(folder)

    def _open_scratch(self, folder: Folder) -> None:
        self._scratch = os.dup(folder.scratch())
        try:
            while True:
                self._scratch_name = f"{_kernel()}.{os.getpid()}.{next(self._number)}"
                flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | SAFELY
                with contextlib.suppress(FileExistsError):  # of a process before us that had our number
                    self.fd = os.open(self._scratch_name, flags, 0o660, dir_fd=self._scratch)
                    return
        except BaseException:
            os.close(self._scratch)
            raise

    @property
    def has_scratch_name(self) -> bool:
        """Whether it can be seen in the scratch folder."""
        return self._scratch_name != ""

    def give_name(self, name: str, folder_fd: int, *, replace: bool = False) -> None:
        """Puts the file into the folder. Raises FileExistsError when the name is taken.

        `replace`: a file of that name may be lost; whether it is depends on what costs less.
        """
        if not self._scratch_name:
            # Naming a descriptor itself (AT_EMPTY_PATH) would need a privilege; /proc needs none, linkat(2).
            source = f"/proc/self/fd/{self.fd}"
            os.link(source, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd, follow_symlinks=True)
        elif replace:
            os.rename(self._scratch_name, name, src_dir_fd=self._scratch, dst_dir_fd=folder_fd)
            self._scratch_name = ""
        else:
            os.link(self._scratch_name, name, src_dir_fd=self._scratch, dst_dir_fd=folder_fd, follow_symlinks=False)

    def close(self) -> None:
        """Without a name given, the file is gone."""
        os.close(self.fd)
        if self._scratch >= 0:
            if self._scratch_name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._scratch_name, dir_fd=self._scratch)
            os.close(self._scratch)


_without_nameless: set[int] = set()
"""File systems (st_dev) that know no files without a name: asking costs a round trip each time."""


SCRATCH_SECONDS = 24 * 3600.0
"""A file in the scratch folder that is older belongs to nobody any more, whichever host made it."""


_WRITTEN_BY = re.compile(r"(.+-[0-9a-f]*-[0-9]*)\.([0-9]+)\.[0-9]+")


@cache
def _kernel() -> str:
    """Where process ids mean what they mean here: this host, this boot, this namespace of processes."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read()[:8]
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{socket.gethostname()}-{boot}-{namespace}"


def clear_scratch(folder: Folder, *, at_work: bool = False) -> int:
    """Removes what a crash left in a folder's SCRATCH; returns how many files. Raises OSError.

    What another host is writing there is left alone: whether its process lives can be told only of one of this kernel.
    `at_work`: this process may be writing, too; else a file that has its number was another one's before.
    """
    try:
        scratch = folder.scratch(make=False)
    except FileNotFoundError:
        return 0
    removed = 0
    for name in os.listdir(scratch):
        written_by = _WRITTEN_BY.fullmatch(name)
        if written_by is None:
            continue  # not one of this program's
        kernel, process = written_by.groups()
        if kernel != _kernel():
            useless = _is_needless(scratch, name)
        else:
            own = int(process) == os.getpid()
            useless = not at_work if own else not os.path.exists(f"/proc/{process}")
        if useless:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=scratch)
                removed += 1
    return removed


def _is_needless(folder: int, name: str) -> bool:
    """Whether a file of another host has its real name, or is old. With two names no reader would open it."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return status.st_nlink > 1 or time.time() - status.st_mtime > SCRATCH_SECONDS


def replace_file(folder: Folder, name: str, content: bytes) -> None:
    """Puts a file in place of the one of that name, whole and durable; its name is durable when the folder is synced.

    The caller sees to it that nobody else does the same: NAME.new was left by a crash. Raises OSError.
    """
    new = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder.fd)
    fd = folder.open_file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        write_all(fd, [content])
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(new, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)


def write_all(fd: int, parts: Sequence[bytes | bytearray]) -> None:
    """Writes a few parts, all of them; a disk that fills in between is an OSError."""
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
