"""The content of a message in the form that a server can take: as it is, or converted (mail/mime.py)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cached_property
from typing import IO

from smtpmail.log import log
from smtpmail.mail import mime
from smtpmail.mail.head import header_of
from smtpmail.mail.mime import SignedContent
from smtpmail.mail.queued import Item

LONGEST_PIECE = 64 * 1024
"""Octets of a line that are converted at a time."""

IN_MEMORY = 128 * 1024
"""Octets of a content that are held in memory; a larger one is read again for each host."""

__all__ = ["Content", "Form", "SignedContent"]


class Form:
    """A content as it can be sent, LF line ends."""

    def __init__(self, file: IO[bytes] | None, begin: int, data: bytes, size: int, *, eightbit: bool) -> None:
        self._file = file
        self._begin = begin
        self._data = data
        self.size = size
        """Octets as they travel, with CRLF."""
        self.eightbit = eightbit

    def pieces(self, size: int) -> Iterator[bytes]:
        """The content from its beginning, `size` octets at a time."""
        if self._file is None:
            yield self._data
            return
        self._file.seek(self._begin)
        while data := self._file.read(size):
            yield data


class Content:
    """The content of a queued message; `file` stands at its beginning."""

    def __init__(self, file: IO[bytes], item: Item) -> None:
        self._file = file
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
                if not hard and b"\ndkim-signature:" in b"\n" + header_of(self._start).lower():
                    raise SignedContent  # long lines are taken nearly everywhere, broken signatures are not
                self._converted[eightbit] = self._convert(eightbit=eightbit)
            except SignedContent:
                if hard:
                    raise
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

    def _lines(self) -> Iterator[bytes]:
        if self._is_small:
            yield from self._start.splitlines(keepends=True)
            return
        self._file.seek(self._begin)
        while line := self._file.readline(LONGEST_PIECE):
            yield line

    def _convert(self, *, eightbit: bool) -> Form:
        size = 0
        if self._is_small:
            lines: list[bytes] = list(mime.convert(self._lines, eightbit=eightbit))
            data = b"".join(lines)
            return Form(None, 0, data, len(data) + data.count(b"\n"), eightbit=eightbit and self._item.eightbit)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this content
        for line in mime.convert(self._lines, eightbit=eightbit):
            file.write(line)
            size += len(line) + line.count(b"\n")
        return Form(file, 0, b"", size, eightbit=eightbit and self._item.eightbit)
