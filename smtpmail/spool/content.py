"""The content of one message between the socket and the disk: small ones in memory, large ones straight to a file."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Protocol

from smtpmail.spool.files import NewFile, copy_content, write_all
from smtpmail.spool.folder import Folder

MEMORY_LIMIT = 128 * 1024
"""Octets kept in memory; more goes to disk as it comes, so that a large message costs no memory."""


_owners_lock = threading.Lock()


class Source(Protocol):
    """A whole content, of which files can be made."""

    @property
    def size(self) -> int:
        """Octets."""

    def make_file(self, folder: Folder, header: bytes) -> NewFile:
        """A file of `header` and the content in an open folder; the caller closes it. Raises OSError."""

    def parts(self, header: bytes) -> Sequence[bytes | bytearray] | None:
        """What such a file contains; None when the content is not in memory."""

    def share(self) -> Source:
        """The same for another thread, which closes it; whoever has this one may close it before. Raises OSError."""

    def close(self) -> None:
        """Frees what it holds."""


class StoredContent:
    """What stands in an open file from `offset` on."""

    __slots__ = ("_fd", "_offset", "_owned", "size")

    def __init__(self, fd: int, offset: int, *, owned: bool = False) -> None:
        """`owned`: `close` closes the file."""
        self._fd = fd
        self._owned = owned
        self._offset = offset
        self.size = os.fstat(fd).st_size - offset

    def make_file(self, folder: Folder, header: bytes) -> NewFile:
        """See Source."""
        file = NewFile(folder)
        try:
            write_all(file.fd, [header])
            copy_content(self._fd, self._offset, self.size, file.fd)
        except BaseException:
            file.close()
            raise
        return file

    def parts(self, header: bytes) -> None:
        """See Source."""
        return

    def share(self) -> StoredContent:
        """See Source."""
        return StoredContent(os.dup(self._fd), self._offset, owned=True)

    def close(self) -> None:
        """See Source."""
        if self._owned:
            self._owned = False
            os.close(self._fd)


class Content:
    """Takes the content piece by piece and makes files of it.

    What is too large for memory streams into a file without a name in `folder`. What stands before it is known only
    when it is whole, so each file that is made gets a copy of it, which the kernel makes.
    """

    __slots__ = ("_buffer", "_file", "_owners", "_path", "size")

    def __init__(self, path: str) -> None:
        self._path = path
        # Pieces are joined as they come: what they cost depends on their octets, not on their number.
        self._buffer = bytearray()
        self._file: NewFile | None = None
        self._owners = 1
        self.size = 0
        """Octets."""

    def write(self, data: bytes) -> None:
        """Takes the next piece. Raises OSError when the disk does not."""
        self.size += len(data)
        self._buffer += data
        if len(self._buffer) > MEMORY_LIMIT:
            if self._file is None:
                folder = Folder(self._path, follow=True)
                try:
                    self._file = NewFile(folder)
                finally:
                    folder.close()
            write_all(self._file.fd, [self._buffer])
            self._buffer = bytearray()

    def make_file(self, folder: Folder, header: bytes) -> NewFile:
        """See Source."""
        file = NewFile(folder)
        try:
            if self._file is None:
                write_all(file.fd, [header, self._buffer])
            else:
                write_all(file.fd, [header])
                copy_content(self._file.fd, 0, self.size - len(self._buffer), file.fd)
                write_all(file.fd, [self._buffer])
        except BaseException:
            file.close()
            raise
        return file

    def parts(self, header: bytes) -> Sequence[bytes | bytearray] | None:
        """See Source."""
        return [header, self._buffer] if self._file is None else None

    def share(self) -> Content:
        """See Source."""
        with _owners_lock:
            self._owners += 1
        return self

    def close(self) -> None:
        """Frees memory and file, unless another thread has them still."""
        with _owners_lock:
            self._owners -= 1
            if self._owners > 0:
                return
        self._buffer = bytearray()
        if self._file is not None:
            self._file.close()
        self._file = None
