"""The content of one message between the socket and the disk: small ones in memory, large ones straight to a file."""

from __future__ import annotations

from collections.abc import Callable

from smtpmail.spool.files import NewFile, copy_content, write_all

MEMORY_LIMIT = 128 * 1024
"""Octets kept in memory; more goes to disk as it comes, so that a large message costs no memory."""


class Content:
    """Takes the content piece by piece and makes files of it.

    `header` is what the first file will begin with: so the file that a large message streams into needs no copy.
    `make_folder` is called before the first file is made.
    """

    __slots__ = ("_file", "_folder", "_given", "_header", "_make_folder", "_pieces", "_scratch", "size")

    def __init__(
        self, folder: str, scratch: str, header: bytes, make_folder: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = folder
        self._scratch = scratch
        self._header = header
        self._make_folder = make_folder
        self._pieces: list[bytes] = []
        self._file: NewFile | None = None
        self._given = False
        self.size = 0
        """Octets, without the header."""

    def write(self, data: bytes) -> None:
        """Takes the next piece. Raises OSError when the disk does not."""
        self.size += len(data)
        self._pieces.append(data)
        if self.size > MEMORY_LIMIT:
            if self._file is None:
                self._make_folder()
                self._file = NewFile(self._folder, self._scratch)
                self._pieces.insert(0, self._header)
            write_all(self._file.fd, self._pieces)
            self._pieces = []

    def make_file(self, folder: str, scratch: str, header: bytes) -> NewFile:
        """A file of `header` and the content; the caller closes it. Raises OSError."""
        if self._file and not self._given and (folder, header) == (self._folder, self._header):
            self._given = True
            return self._file
        file = NewFile(folder, scratch)
        try:
            write_all(file.fd, [header, *self._pieces] if self._file is None else [header])
            if self._file is not None:
                copy_content(self._file.fd, len(self._header), self.size, file.fd)
        except BaseException:
            file.close()
            raise
        return file

    def close(self) -> None:
        """Frees the memory, and the file if it was given to nobody."""
        self._pieces = []
        if self._file is not None and not self._given:
            self._file.close()
        self._file = None
