"""The content of a message in the form that a server can take: as it is, or converted (mail/mime.py)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import IO

from smtpmail.auth.fields import split_header
from smtpmail.log import log
from smtpmail.mail import mime
from smtpmail.mail.head import header_of
from smtpmail.mail.mime import SignedContent
from smtpmail.mail.queued import Item
from smtpmail.mail.text import on_the_wire

LONGEST_PIECE = 64 * 1024
"""Octets of a line that are converted at a time."""

IN_MEMORY = 128 * 1024
"""Octets of a content that are held in memory; a larger one is read again for each host."""

Sign = Callable[[str, Iterable[bytes]], bytes]
"""The signatures (DKIM) of a message of this host in a new form: of its id and the pieces of it."""

__all__ = ["Content", "Form", "Sign", "SignedContent"]


class Form:
    """A content as it can be sent, LF line ends."""

    def __init__(self, file: IO[bytes] | None, begin: int, data: bytes, size: int, *, eightbit: bool) -> None:
        """`data`: all of it, or with a file what stands before that."""
        self._file = file
        self._begin = begin
        self._data = data
        self.size = size
        """Octets as they travel, with CRLF."""
        self.eightbit = eightbit

    def pieces(self, size: int) -> Iterator[bytes]:
        """The content from its beginning, `size` octets at a time."""
        if self._data or self._file is None:
            yield self._data
        if self._file is None:
            return
        self._file.seek(self._begin)
        while data := self._file.read(size):
            yield data


class Content:
    """The content of a queued message; `file` stands at its beginning.

    What others have signed (DKIM) is not converted: that would make their signature false. Our own signatures give way
    to new ones, by `sign`.
    """

    def __init__(self, file: IO[bytes], item: Item, sign: Sign | None = None) -> None:
        self._file = file
        self._sign = sign
        self._begin = file.tell()
        self._item = item
        self._converted: dict[bool, Form] = {}
        self._warned = False

    def form(self, *, eightbit: bool) -> Form:
        """As a server takes it that can, or can't, take 8-bit content. Raises SignedContent."""
        hard = self._item.eightbit and not eightbit
        if not hard and not self._has_long_line:
            return self._as_it_is
        if eightbit not in self._converted:
            try:
                if b"dkim-signature" in self._names[1]:
                    raise SignedContent
                self._converted[eightbit] = self._convert(eightbit=eightbit)
            except SignedContent:
                if hard:
                    raise
                # Long lines are taken nearly everywhere, broken signatures are not.
                if not self._warned:
                    log.warning("delivery.long_lines", id=self._item.id)
                self._warned = True
                return self._as_it_is
        return self._converted[eightbit]

    @cached_property
    def _start(self) -> bytes:
        """All of a small content, the beginning of a large one."""
        self._file.seek(self._begin)
        return self._file.read(IN_MEMORY)

    @property
    def _is_small(self) -> bool:
        return len(self._start) < IN_MEMORY

    @cached_property
    def _as_it_is(self) -> Form:
        item = self._item
        if self._is_small:
            return Form(None, 0, self._start, item.size, eightbit=item.eightbit)
        return Form(self._file, self._begin, b"", item.size, eightbit=item.eightbit)

    @cached_property
    def _has_long_line(self) -> bool:
        if self._is_small:
            return mime.has_long_line(self._start)
        left = b""
        for piece in self._as_it_is.pieces(IN_MEMORY):
            data = left + piece
            if mime.has_long_line(data):
                return True
            left = data[data.rfind(b"\n") + 1 :]
        return False

    @cached_property
    def _names(self) -> tuple[list[bytes], list[bytes]]:
        """The names of the fields that this server has put above its Received field, and of those from there on."""
        names = [field.name for field in split_header(header_of(self._start))]
        ours = names.index(b"received") if b"received" in names else 0
        return names[:ours], names[ours:]

    def _unsigned_lines(self) -> Iterator[bytes]:
        """The lines without our own signatures."""
        lines = self._lines()
        if b"dkim-signature" not in self._names[0]:
            yield from lines
            return
        skip = False
        for line in lines:
            if line[:1] not in (b" ", b"\t"):
                name = line.partition(b":")[0].strip().lower()
                skip = name == b"dkim-signature"
                if name == b"received":
                    yield line
                    break
            if not skip:
                yield line
        yield from lines

    def _signatures(self, pieces: Iterable[bytes]) -> bytes:
        """New ones in the place of those that we had made."""
        if self._sign is None or b"dkim-signature" not in self._names[0]:
            return b""
        return self._sign(self._item.id, pieces)

    def _lines(self) -> Iterator[bytes]:
        if self._is_small:
            yield from self._start.splitlines(keepends=True)
            return
        self._file.seek(self._begin)
        while line := self._file.readline(LONGEST_PIECE):
            yield line

    def _convert(self, *, eightbit: bool) -> Form:
        lines = mime.convert(self._unsigned_lines, eightbit=eightbit)
        eightbit = eightbit and self._item.eightbit
        if self._is_small:
            data = b"".join(lines)
            data = self._signatures([data]) + data
            return Form(None, 0, data, on_the_wire(data), eightbit=eightbit)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this content
        size = 0
        for line in lines:
            file.write(line)
            size += on_the_wire(line)
        whole = Form(file, 0, b"", size, eightbit=eightbit)
        head = self._signatures(whole.pieces(IN_MEMORY))
        return Form(file, 0, head, size + on_the_wire(head), eightbit=eightbit)
