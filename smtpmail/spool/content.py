"""The content of one message between the socket and the disk: small ones in memory, large ones straight to a file."""

from __future__ import annotations

from smtpmail.spool.files import NewFile, copy_content, write_all

MEMORY_LIMIT = 128 * 1024
"""Octets kept in memory; more goes to disk as it comes, so that a large message costs no memory."""


class Content:
    """Takes the content piece by piece and makes files of it, each with a header of its own.

    What is too large for memory streams into a file without a name in `folder`; whatever comes before it is known only
    when it is whole, so each file that is made gets a copy of it, which the kernel makes.
    """

    __slots__ = ("_file", "_folder", "_pieces", "_scratch", "size")

    def __init__(self, folder: str, scratch: str) -> None:
        self._folder = folder
        self._scratch = scratch
        self._pieces: list[bytes] = []
        self._file: NewFile | None = None
        self.size = 0
        """Octets."""

    def write(self, data: bytes) -> None:
        """Takes the next piece. Raises OSError when the disk does not."""
        self.size += len(data)
        self._pieces.append(data)
        if self.size > MEMORY_LIMIT:
            if self._file is None:
                self._file = NewFile(self._folder, self._scratch)
            write_all(self._file.fd, self._pieces)
            self._pieces = []

    def make_file(self, folder: str, scratch: str, header: bytes) -> NewFile:
        """A file of `header` and the content; the caller closes it. Raises OSError."""
        file = NewFile(folder, scratch)
        try:
            write_all(file.fd, [header, *self._pieces])
            if self._file is not None:
                copy_content(self._file.fd, 0, self.size, file.fd)
        except BaseException:
            file.close()
            raise
        return file

    def close(self) -> None:
        """Frees the memory and the file."""
        self._pieces = []
        if self._file is not None:
            self._file.close()
        self._file = None
