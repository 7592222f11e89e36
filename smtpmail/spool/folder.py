"""A folder that another account may own, and change at any moment while we work in it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

Identity = tuple[int, int]
"""What a file or folder is, by whichever name: st_dev and st_ino."""

SCRATCH = ".new"
"""In a folder: files that are being written, where the file system knows none without a name."""

SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""No link is followed, and neither a FIFO, a device nor a lease of its owner makes us wait."""


class Folder:
    """An open folder. It is looked up once; names are relative to it from then on, whatever becomes of its path.

    Raises OSError, with the path, when it is no folder; a link to one only counts with `follow`.
    """

    __slots__ = ("_identity", "_scratch", "fd", "path")

    def __init__(self, path: str, *, follow: bool = False) -> None:
        self.path = path
        self.fd = -1
        self._identity: Identity | None = None
        self._scratch = -1
        flags = os.O_RDONLY | os.O_DIRECTORY | SAFELY
        self.fd = os.open(path, flags & ~os.O_NOFOLLOW if follow else flags)

    @property
    def identity(self) -> Identity:
        """Its own."""
        if self._identity is None:
            self._identity = identity_of(os.fstat(self.fd))
        return self._identity

    @property
    def device(self) -> int:
        """Of the file system that it lies on (st_dev)."""
        return self.identity[0]

    def close(self) -> None:
        """Gives the descriptors back; a second time does nothing."""
        if self._scratch >= 0:
            os.close(self._scratch)
            self._scratch = -1
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close

    def scratch(self, *, make: bool = True) -> int:
        """The descriptor of its folder SCRATCH, which is closed with this one. Raises OSError, FileNotFoundError.

        What is made in there has the rights that the folder gives: a default ACL is handed down.
        """
        if self._scratch < 0:
            try:
                self._scratch = self._open_scratch(make=make)
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.path.join(self.path, SCRATCH)) from None
        return self._scratch

    def _open_scratch(self, *, make: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | SAFELY
        try:
            return os.open(SCRATCH, flags, dir_fd=self.fd)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(SCRATCH, 0o770, dir_fd=self.fd)
        return os.open(SCRATCH, flags, dir_fd=self.fd)

    def is_in_place(self) -> bool:
        """Whether the path still leads to this folder."""
        try:
            return identity_of(os.stat(self.path, follow_symlinks=False)) == self.identity
        except FileNotFoundError:
            return False

    def open_file(self, name: str, flags: int, mode: int = 0o660, *, other_names: bool = False) -> int:
        """A descriptor of a regular file. Raises OSError with the whole path.

        Without `other_names` it has one name only, for a hard link may lead to what belongs to somebody else. Who owns
        it does not matter: a mail reader that renames a new file over the old one makes it its user's.
        """
        try:
            fd = os.open(name, flags | SAFELY, mode, dir_fd=self.fd)
        except OSError as error:
            why = "is a link" if error.errno == errno.ELOOP else error.strerror
            raise OSError(error.errno, why, os.path.join(self.path, name)) from None
        try:
            status = os.fstat(fd)
            if not is_plain(status):
                _check_plain(status, os.path.join(self.path, name), other_names=other_names)
        except OSError:
            os.close(fd)
            raise
        return fd

    def check_file(self, name: str) -> None:
        """Raises OSError when there is something of that name that `open_file` would not open; opens nothing."""
        try:
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        _check_plain(status, os.path.join(self.path, name))

    def exists(self, name: str) -> bool:
        """Whether there is anything of that name, be it a dangling link."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def identity_of(self, name: str) -> Identity | None:
        """That of what has this name; None when nothing has. Raises OSError."""
        try:
            return identity_of(os.stat(name, dir_fd=self.fd, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def is_same(self, name: str, fd: int) -> bool:
        """Whether the name is still that of the open file. Raises OSError."""
        return self.identity_of(name) == identity_of(os.fstat(fd))


class OfFolders(Generic[T]):
    """What the threads of this process have together of a folder: one object for all who have it open.

    Folders are told apart by what they are, not by their paths. An object lives as long as somebody holds it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._objects: weakref.WeakValueDictionary[Identity, T] = weakref.WeakValueDictionary()

    def get(self, folder: Folder) -> T:
        """The object of a folder, made if nobody has it."""
        with self._lock:
            found = self._objects.get(folder.identity)
            if found is None:
                found = self._objects[folder.identity] = self._make()
            return found


def is_plain(status: os.stat_result) -> bool:
    """Whether it is that of a regular file with one name."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


def identity_of(status: os.stat_result) -> Identity:
    """That of the file or folder whose status it is."""
    return status.st_dev, status.st_ino


def _check_plain(status: os.stat_result, path: str, *, other_names: bool = False) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "is a link", path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", path)
    if status.st_nlink > 1 and not other_names:
        raise OSError(errno.EINVAL, "has other names, too", path)
