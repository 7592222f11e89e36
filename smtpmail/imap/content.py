"""The messages of a folder, as FETCH and SEARCH read them: pieces of files, with the line ends of the wire."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from smtpmail.imap.fetch_items import Section
from smtpmail.imap.header import Header, select_fields
from smtpmail.imap.mime import Part, end_of_header, parse_message, wire_size
from smtpmail.spool.reader.index import mtime

PIECE = 64 * 1024

LARGE = 1024 * 1024
"""Octets from which on a message is read whole by one session at a time only, for the memory's sake."""

MAX_HEADER = 1024 * 1024
"""Octets of a header that are read."""

_one_large = threading.Lock()


class MessageFile:
    """An open message, as `open_message` gives it. Each thing is read when it is first asked for, or raises OSError."""

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self._fd = fd
        self.octets = status.st_size
        self.date = mtime(status)
        self._head: bytes | None = None
        self._header: Header | None = None
        self._data: bytes | None = None
        self._structure: Part | None = None
        self._held = False

    def close(self) -> None:
        """Gives descriptor and memory back."""
        os.close(self._fd)
        self._forget_large()

    def _forget_large(self) -> None:
        """Lets the next session have its turn: a client that reads slowly holds no memory."""
        if self._held:
            self._data = None
            _one_large.release()
            self._held = False

    def head(self) -> bytes:
        """The header, with its empty line."""
        if self._head is None:
            if self._data is not None:
                self._head = self._data[: end_of_header(self._data, 0, len(self._data))]
            else:
                size = 16 * 1024
                while True:
                    data = os.pread(self._fd, size, 0)
                    end = end_of_header(data, 0, len(data))
                    if end < len(data) or len(data) < size or size >= MAX_HEADER:
                        break
                    size *= 8
                self._head = data[:end]
        return self._head

    def header(self) -> Header:
        """The fields of the header."""
        if self._header is None:
            self._header = Header(self.head())
        return self._header

    def data(self) -> bytes:
        """All of it."""
        if self._data is None:
            if self.octets > LARGE and not self._held:
                _one_large.acquire()
                self._held = True
            pieces = []
            position = 0
            while position < self.octets and (piece := os.pread(self._fd, self.octets - position, position)):
                pieces.append(piece)
                position += len(piece)
            self._data = b"".join(pieces)
        return self._data

    def structure(self) -> Part:
        """Its parts."""
        if self._structure is None:
            self._structure = parse_message(self.data())
        return self._structure

    def lines(self) -> int:
        """How many LFs there are."""
        if self._data is not None:
            return self._data.count(b"\n")
        count = position = 0
        while piece := os.pread(self._fd, min(4 * PIECE, self.octets - position), position):
            count += piece.count(b"\n")
            position += len(piece)
        return count

    # -- sections

    def section(self, section: Section, wire_octets: int) -> tuple[int, Iterator[bytes]] | None:
        """Octets of a section on the wire and the section in pieces; None for a part that is not there.

        `wire_octets` is the size of the whole message.
        """
        if section.fields:
            return self._fields(section)
        if not section.parts and section.text == "":
            return self._stream(0, self.octets, wire_octets, section.partial)
        if not section.parts and section.text == "HEADER":
            return self._built(self.head(), section.partial)
        if not section.parts:
            start = len(self.head())
            head = wire_size(self.head(), 0, start)
            return self._stream(start, self.octets, wire_octets - head, section.partial)
        part = self.structure().find(section.parts)
        if part is None:
            return None
        span = _span(part, section)
        if span is None:
            return None
        start, end = span
        size = wire_size(self.data(), start, end)
        self._forget_large()
        return self._stream(start, end, size, section.partial)

    def _fields(self, section: Section) -> tuple[int, Iterator[bytes]] | None:
        header = self.head()
        if section.parts:
            part = self.structure().find(section.parts)
            inner = part.message if part is not None else None
            if inner is None:
                return None
            header = self.data()[inner.start : inner.body]
        others = section.text.endswith("NOT")
        return self._built(select_fields(header, section.fields, others=others), section.partial)

    @staticmethod
    def _built(data: bytes, partial: tuple[int, int] | None) -> tuple[int, Iterator[bytes]]:
        wire = to_wire(data)
        if partial is not None:
            wire = wire[partial[0] : partial[0] + partial[1]]
        return len(wire), iter((wire,))

    def _stream(self, start: int, end: int, size: int, partial: tuple[int, int] | None) -> tuple[int, Iterator[bytes]]:
        if partial is None:
            return size, self._pieces(start, end)
        first, count = partial
        count = max(0, min(count, size - first))
        return count, self._cut(start, end, first, count)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        if self._data is not None:
            for position in range(start, end, PIECE):
                yield to_wire(self._data[position : min(position + PIECE, end)])
            return
        while start < end and (piece := os.pread(self._fd, min(PIECE, end - start), start)):
            start += len(piece)
            yield to_wire(piece)

    def _cut(self, start: int, end: int, first: int, count: int) -> Iterator[bytes]:
        """`count` octets from the octet `first` on, counted on the wire."""
        for piece in self._pieces(start, end):
            if first >= len(piece):
                first -= len(piece)
                continue
            chosen = piece[first : first + count]
            first = 0
            count -= len(chosen)
            yield chosen
            if not count:
                return


def _span(part: Part, section: Section) -> tuple[int, int] | None:
    """Where the section of a part lies in the file."""
    match section.text:
        case "MIME":
            return part.start, part.body
        case "":
            return part.body, part.end
    if part.message is None:
        return None
    inner = part.message
    return (inner.start, inner.body) if section.text == "HEADER" else (inner.body, inner.end)


def to_wire(data: bytes) -> bytes:
    """Each LF as CRLF; a NUL, which no literal may have, as a blank."""
    if b"\0" in data:
        data = data.replace(b"\0", b" ")
    return data.replace(b"\n", b"\r\n")


@contextlib.contextmanager
def opened(fd: int, status: os.stat_result) -> Iterator[MessageFile]:
    """The message behind a descriptor, closed in the end."""
    message = MessageFile(fd, status)
    try:
        yield message
    finally:
        message.close()
