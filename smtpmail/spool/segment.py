"""One file of a journal: of fixed size, its blocks written once in advance, so that to sync it costs one write."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Sequence

from smtpmail.spool.files import sync_folder, write_all
from smtpmail.spool.record import (
    HEADER_SIZE,
    RECORD_HEAD,
    FormatError,
    Record,
    begins_with_record,
    decode_all,
    decode_header,
    encode_header,
)

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_ZEROS = bytes(256 * 1024)


class Segment:
    """A segment open for writing. Not safe for threads: its journal sees to that."""

    def __init__(self, path: str, size: int) -> None:
        """Opens the file, or makes it; what it contained is forgotten. Raises OSError."""
        self.path = path
        self.size = size
        self._fd = -1
        try:
            self._fd = os.open(path, _FLAGS)
        except FileNotFoundError:
            self._fd = _make(path, size)
        else:
            if os.fstat(self._fd).st_size != size:
                self.close()
                self._fd = _make(path, size)
        self.generation = b""
        self.end = HEADER_SIZE
        """Where the next record goes."""
        try:
            self.renew()
        except BaseException:
            self.close()
            raise

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been written since it was made or renewed."""
        return self.end == HEADER_SIZE

    def write(self, records: Sequence[Record], reserve: int = 0) -> bool:
        """Appends the records, which last when `sync` has returned. Raises OSError.

        False when there is no room, `reserve` octets kept free.
        """
        data = b"".join([piece for record in records for piece in record.encode(self.generation)])
        if self.end + len(data) > self.size - reserve:
            return False
        _pwrite_all(self._fd, data, self.end)
        self.end += len(data)
        return True

    def sync(self) -> None:
        """Returns when everything written is on disk. Raises OSError."""
        os.fdatasync(self._fd)

    def records(self) -> list[Record]:
        """Reads back what has been written. Raises OSError."""
        return list(decode_all(os.pread(self._fd, self.end - HEADER_SIZE, HEADER_SIZE), self.generation))

    def renew(self) -> None:
        """Forgets all records for good. Raises OSError."""
        generation = secrets.token_bytes(16)
        _pwrite_all(self._fd, encode_header(generation, self.size), 0)
        os.fdatasync(self._fd)
        self.generation = generation
        self.end = HEADER_SIZE

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    __del__ = close


def make(path: str, size: int) -> None:
    """Sees to it that there is a file of this size, which may have records. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path, follow_symlinks=False).st_size == size:
            return
    os.close(_make(path, size))


def clear(path: str) -> None:
    """Forgets the records of a segment that nobody has open; its blocks stay. Raises OSError."""
    fd = os.open(path, _FLAGS)
    try:
        _pwrite_all(fd, encode_header(secrets.token_bytes(16), os.fstat(fd).st_size), 0)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _make(path: str, size: int) -> int:
    """A new file of zeros, all its blocks in use. Raises OSError."""
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # Zeros that are written, not a hole nor blocks only reserved: those cost the file system a transaction when
        # they are first used.
        for start in range(0, size, len(_ZEROS)):
            write_all(fd, [_ZEROS[: size - start]])
        os.fsync(fd)
        os.rename(new, path)
        sync_folder(os.path.dirname(path))
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    return fd


def _pwrite_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def write_kept(path: str, records: Sequence[Record]) -> None:
    """Writes a file that only `read_records` will read: records that could not be used now. Raises OSError."""
    generation = secrets.token_bytes(16)
    pieces = [piece for record in records for piece in record.encode(generation)]
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(fd, [b"".join([encode_header(generation, HEADER_SIZE + sum(map(len, pieces))), *pieces])])
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(new, path)
    sync_folder(os.path.dirname(path))


def read_records(path: str) -> list[Record]:
    """What a segment tells that nobody has open any more. Raises OSError, FormatError."""
    with _open_regular(path) as fd:
        found = decode_header(os.pread(fd, HEADER_SIZE, 0))
        if found is None:
            return []  # its making was interrupted, or its renewal: it told nothing that was still needed
        generation, size = found
        try:
            return list(decode_all(os.pread(fd, size - HEADER_SIZE, HEADER_SIZE), generation))
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None


def live_generation(path: str) -> bytes | None:
    """The generation of a segment that holds records, None of an empty one. Raises OSError, FormatError."""
    with _open_regular(path) as fd:
        found = decode_header(os.pread(fd, HEADER_SIZE, 0))
        if found is not None and begins_with_record(os.pread(fd, RECORD_HEAD, HEADER_SIZE), found[0]):
            return found[0]
    return None


@contextlib.contextmanager
def _open_regular(path: str):  # type: ignore[no-untyped-def]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FormatError(f"{path} is not a regular file")
        yield fd
    finally:
        os.close(fd)
