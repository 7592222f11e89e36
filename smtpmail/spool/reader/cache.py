"""The index of a folder in a file of it, `.cache`: it saves looking at every message again and can be thrown away.

It is never the authority: each entry is compared with what the folder says. A file that is damaged, or made by
somebody else to mislead, is as good as none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import zlib
from array import array
from itertools import pairwise

from smtpmail.spool.files import forget_pages
from smtpmail.spool.folder import Folder
from smtpmail.spool.reader.index import Index
from smtpmail.spool.reader.states import MAX_OCTETS, parse, text_of

CACHE = ".cache"

MAX_SIZE = 256 * 1024 * 1024

# Magic and version, byte order, check sum of the rest, then: UIDVALIDITY, stamp, last, messages, octets of the states.
_HEAD = struct.Struct("=8scIQQQQQ")
_MAGIC = b"smtpmail"
_ORDER = b"<" if sys.byteorder == "little" else b">"
_ARRAYS = ("numbers", "inodes", "octets", "dates", "modseqs", "lines")


def load(folder: Folder, validity: int) -> Index | None:
    """What the file says of the folder, if it is of this UIDVALIDITY; None when it is of no use."""
    try:
        fd = folder.open_file(CACHE, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        size = os.fstat(fd).st_size
        forget_pages(fd)
        data = os.pread(fd, size, 0) if size <= MAX_SIZE else b""
    except OSError:
        return None
    finally:
        os.close(fd)
    return decode(data, validity)


def decode(data: bytes, validity: int) -> Index | None:
    """The index that `encode` made; None when it is not one, or of another UIDVALIDITY."""
    if len(data) < _HEAD.size:
        return None
    magic, order, checksum, its_validity, stamp, last, count, state_octets = _HEAD.unpack_from(data)
    body = memoryview(data)[_HEAD.size :]
    if (magic, order, its_validity) != (_MAGIC, _ORDER, validity) or zlib.crc32(body) != checksum:
        return None
    if len(body) != count * (8 * len(_ARRAYS) + 4) + state_octets:
        return None
    index = Index(stamp, stamp != 0, last)
    position = 0
    for name in _ARRAYS:
        column = array("Q", bytes(body[position : position + 8 * count]))
        setattr(index, name, column)
        position += 8 * count
    places = array("I", bytes(body[position : position + 4 * count]))
    texts = bytes(body[position + 4 * count :]).split(b"\0")
    flags = [parse(text[:MAX_OCTETS]) for text in texts]
    numbers = index.numbers
    if (count and max(places) >= len(flags)) or any(a >= b for a, b in pairwise(numbers)):
        return None
    index.flags = [flags[place] for place in places]
    return index


def encode(index: Index, validity: int) -> bytes:
    """The content of the file."""
    texts: dict[bytes, int] = {}
    by_flags: dict[frozenset[bytes], int] = {}
    places = array("I")
    for flags in index.flags:
        place = by_flags.get(flags)
        if place is None:
            place = by_flags[flags] = texts.setdefault(text_of(flags), len(texts))
        places.append(place)
    states = b"\0".join(texts)
    body = b"".join([*(getattr(index, name).tobytes() for name in _ARRAYS), places.tobytes(), states])
    head = _HEAD.pack(
        _MAGIC, _ORDER, zlib.crc32(body), validity, index.stamp if index.settled else 0,
        index.last, len(index.numbers), len(states),
    )  # fmt: skip
    return head + body


def make(folder: Folder) -> bool:
    """Makes the file if there is none: made after a look at the folder it would itself be a change that asks for
    another one. Returns whether it was made.
    """
    if folder.exists(CACHE):
        return False
    with contextlib.suppress(OSError):
        os.close(folder.open_file(CACHE, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        return True
    return False


def save(folder: Folder, index: Index, validity: int) -> None:
    """Writes the file in place (a new name would change the folder's mtime, which tells of changes); best effort."""
    try:
        fd = folder.open_file(CACHE, os.O_RDWR | os.O_CREAT)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        data = encode(index, validity)
        os.ftruncate(fd, len(data))
        rest, offset = memoryview(data), 0
        while rest:
            written = os.pwrite(fd, rest, offset)
            rest, offset = rest[written:], offset + written
    except OSError:
        pass
    finally:
        os.close(fd)
