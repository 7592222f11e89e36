"""What a journal consists of: a header, then records. Pure: bytes in, bytes out. See docs/formats.md.

A segment of a journal is a file of fixed size. Its header names its generation, 16 random octets that change with each
use; a record counts only if it names the same one and its check sum is right. So what an earlier use has left, or a
power cut has torn, ends the reading; and nobody who sends a message can put a record into it, since the generation
can't be guessed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

SECTOR = 512
"""Records begin at multiples of it: a disk writes so much whole or not at all, and never has to write anew a sector
that holds a record which was promised already."""

HEADER_SIZE = 4096

_MAGIC = b"smtpmail journal 1\n".ljust(24, b"\0")
"""With the version of the format."""

_ANY_VERSION = b"smtpmail journal "

_HEADER = struct.Struct("<24s16sQI")
"""Magic, generation, size of the segment, check sum."""

_RECORD = struct.Struct("<II16sBBHHHQQ")
"""Check sum of all that follows; octets of content; generation; kind; three lengths; number; time."""

_CHECKED_FROM = 4


class FormatError(ValueError):
    """What was read is whole, but this version of the program does not understand it."""


class Kind(IntEnum):
    """What a record tells."""

    STORED = 1
    """A message in a mailbox: `place` is the folder below the spool, `number` its name, `state` its status."""
    REMOVED = 2
    """Messages that have left a mailbox: their numbers, one a line, in `content`."""
    QUEUED = 3
    """A message in the queue: `place` is its id, `content` the whole file."""
    PROGRESS = 4
    """Lines for the log of a queued message."""
    FINISHED = 5
    """Messages that have left the queue: their ids, one a line, in `content`."""
    CANCELLED = 6
    """Numbers, as with REMOVED, of what was recorded as stored and then was not: something else may have the name."""


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that must be on disk after a crash."""

    kind: Kind
    place: str = ""
    number: int = 0
    state: bytes = b""
    parts: Sequence[bytes | bytearray] = ()
    """The content, in pieces."""
    time: int = 0
    """Nanoseconds of a clock that all processes share (CLOCK_MONOTONIC): puts records of several journals in order."""

    @property
    def content(self) -> bytes:
        """All pieces."""
        return b"".join(self.parts)

    def encode(self, generation: bytes) -> list[bytes | bytearray]:
        """The record in pieces, padded to whole sectors."""
        place = os.fsencode(self.place)
        size = sum(map(len, self.parts))
        head = (
            _RECORD.pack(0, size, generation, self.kind, 0, len(place), len(self.state), 0, self.number, self.time)
            + place
            + self.state
        )
        check = zlib.crc32(memoryview(head)[_CHECKED_FROM:])
        for part in self.parts:
            check = zlib.crc32(part, check)
        padding = -(len(head) + size) % SECTOR
        return [check.to_bytes(4, "little") + head[_CHECKED_FROM:], *self.parts, bytes(padding)]


def encode_header(generation: bytes, size: int) -> bytes:
    """The header of a segment of `size` octets."""
    head = _HEADER.pack(_MAGIC, generation, size, 0)
    check = zlib.crc32(head)
    return _HEADER.pack(_MAGIC, generation, size, check).ljust(HEADER_SIZE, b"\0")


def decode_header(data: bytes) -> tuple[bytes, int] | None:
    """Generation and size; None when this is no whole header. Raises FormatError for one of another version."""
    if len(data) < _HEADER.size:
        return None
    magic, generation, size, check = _HEADER.unpack_from(data)
    if magic != _MAGIC and magic.startswith(_ANY_VERSION):
        raise FormatError("its format is that of another version of smtpmail")
    if magic != _MAGIC or check != zlib.crc32(_HEADER.pack(magic, generation, size, 0)):
        return None
    return generation, size


def decode_all(data: bytes | memoryview, generation: bytes) -> Iterator[Record]:
    """The records of a generation, in the order of writing, up to the first that is not whole. Raises FormatError."""
    view = memoryview(data)
    position = 0
    while (found := _decode(view[position:], generation)) is not None:
        record, size = found
        yield record
        position += size


def begins_with_record(data: bytes, generation: bytes) -> bool:
    """Whether a record of the generation seems to stand here; not whether it is whole."""
    return len(data) >= _RECORD.size and _RECORD.unpack_from(data)[2] == generation


RECORD_HEAD = _RECORD.size


def _decode(view: memoryview, generation: bytes) -> tuple[Record, int] | None:
    """The record at the beginning, and how many octets it takes up."""
    if len(view) < _RECORD.size:
        return None
    check, size, found, kind, _, place_size, state_size, _, number, time = _RECORD.unpack_from(view)
    state_at = _RECORD.size + place_size
    content_at = state_at + state_size
    end = content_at + size
    if found != generation or end > len(view) or zlib.crc32(view[_CHECKED_FROM:end]) != check:
        return None
    try:
        known = Kind(kind)
    except ValueError:
        raise FormatError(f"a record of the unknown kind {kind}") from None
    record = Record(
        known,
        os.fsdecode(bytes(view[_RECORD.size : state_at])),
        number,
        bytes(view[state_at:content_at]),
        (bytes(view[content_at:end]),),
        time,
    )
    return record, end + -end % SECTOR
