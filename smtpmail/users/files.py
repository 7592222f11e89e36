"""Reading the small files that say who gets what: only whole, regular ones, never for long, never without end."""

from __future__ import annotations

import codecs
import os
import stat

Signature = tuple[int, ...]
"""What changes when a file does."""


class FileUnusable(Exception):
    """A file that is there and can't be used: why, for people."""


def signature(status: os.stat_result) -> Signature:
    """Equal for two looks at a file that has not changed between them."""
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)


def decode(data: bytes) -> str:
    """Text as editors of other systems write it, too: with a byte order mark, in UTF-16. Raises UnicodeDecodeError."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def read_octets(path: str, limit: int, folder: int | None = None) -> tuple[bytes, Signature]:
    """What is in a file of at most `limit` octets. Raises OSError, FileUnusable.

    `folder` is a descriptor: then `path` is a name in it that somebody else may have put there, and no link is
    followed. Neither a FIFO nor a device holds anybody up.
    """
    foreign = os.O_NOFOLLOW if folder is not None else 0
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | foreign, dir_fd=folder)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileUnusable("it is no regular file")
        if folder is not None and status.st_nlink > 1:
            raise FileUnusable("it has another name elsewhere")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise FileUnusable(f"it is larger than {limit} octets")
    return data, signature(status)


def read_text(path: str, limit: int, folder: int | None = None) -> tuple[str, Signature]:
    """The text of a file, as `read_octets` reads it. Raises OSError, FileUnusable."""
    data, signed = read_octets(path, limit, folder)
    try:
        text = decode(data)
    except UnicodeDecodeError:
        raise FileUnusable("it is not UTF-8") from None
    if "\0" in text:
        raise FileUnusable("it is no text")
    return text, signed
