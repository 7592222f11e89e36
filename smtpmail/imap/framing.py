"""Where commands end: lines, and the literals in them (RFC 3501 4.3, RFC 7888)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from smtpmail.imap.scanner import Literal

MAX_LINE = 64 * 1024
"""Octets of the lines of one command, its literals not counted: sets of numbers may be long."""

MAX_LITERALS = 64 * 1024
"""Octets of the literals of one command, other than a message."""

MAX_LITERALS_OF_STRANGERS = 1024
"""The same before the client has said who it is."""

MAX_LITERAL_COUNT = 200
"""Literals of one command: at each of them it is looked through from its start."""

MAX_DROPPED = 2**32
"""Octets of a literal that comes without being asked for and is too large: so many are read and dropped."""

_LITERAL = re.compile(rb"(~?)\{(\d{1,10})(\+?)\}$")


@dataclass(slots=True)
class Pending:
    """A command that has come in part, or whole."""

    texts: list[bytes] = field(default_factory=list)
    literals: list[Literal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LiteralAhead:
    """A literal follows, which the reader waits to be told about (`take`, `drop` or `stream`)."""

    size: int
    binary: bool
    asks: bool
    """Whether the client waits for `+` before it sends it."""


class LineTooLong(Exception):
    """More than MAX_LINE; the rest of the line is dropped. `start` is how the command begins."""

    def __init__(self, start: bytes) -> None:
        super().__init__("the command is too long")
        self.start = start


class CommandReader:
    """Collects what came until a command is whole."""

    def __init__(self) -> None:
        self.buffer = b""
        self.pending = Pending()
        self._wanted: LiteralAhead | None = None
        self._left = 0
        self._dropping = False
        self._dropping_line = False

    def reset(self) -> None:
        """The next line begins another command."""
        self.pending = Pending()

    def next(self) -> Pending | LiteralAhead | None:
        """A whole command, or a literal ahead; None when more input is needed. Raises LineTooLong."""
        while True:
            if self._left and not self._read_literal():
                return None
            line = self._read_line()
            if line is None:
                return None
            match = _LITERAL.search(line)
            if match is None:
                self.pending.texts.append(line)
                command, self.pending = self.pending, Pending()
                return command
            self.pending.texts.append(line[: match.start()])
            self._wanted = LiteralAhead(int(match[2]), bool(match[1]), not match[3])
            return self._wanted

    def next_line(self) -> bytes | None:
        """A line that is no command: a response of SASL, DONE. Raises LineTooLong."""
        return self._read_line()

    def take(self) -> None:
        """The literal ahead becomes a part of the command."""
        assert self._wanted is not None
        self._dropping = False
        self._left = self._wanted.size
        if not self._left:
            self._end_literal(b"")

    def drop(self) -> None:
        """The command is given up: its literal, if it comes, and what follows are dropped."""
        assert self._wanted is not None
        self._dropping_line = False
        if not self._wanted.asks:
            self._left = self._wanted.size
            self._dropping = True
            # The line behind the literal belongs to the command that is given up.
            self._dropping_line = True
        self.pending = Pending()
        self._wanted = None

    def stream(self) -> None:
        """The literal is read with `read_stream`, piece by piece; the command goes on behind it."""
        assert self._wanted is not None
        self._left = 0
        self._wanted = None

    def read_stream(self, count: int) -> bytes:
        """At most `count` octets of what is there."""
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    @property
    def line_is_open(self) -> bool:
        """Whether a part of a command is there."""
        return bool(self.buffer or self.pending.texts or self._left)

    def _read_literal(self) -> bool:
        if self._dropping:
            dropped = min(self._left, len(self.buffer))
            self.buffer = self.buffer[dropped:]
            self._left -= dropped
            return not self._left
        if len(self.buffer) < self._left:
            return False
        data, self.buffer = self.buffer[: self._left], self.buffer[self._left :]
        self._left = 0
        self._end_literal(data)
        return True

    def _end_literal(self, data: bytes) -> None:
        assert self._wanted is not None
        self.pending.literals.append(Literal(data, self._wanted.binary))
        self._wanted = None

    def _read_line(self) -> bytes | None:
        while True:
            end = self.buffer.find(b"\n")
            if end < 0:
                if len(self.buffer) > MAX_LINE:
                    start = (self.pending.texts or [self.buffer])[0][:100]
                    self.buffer = b""
                    if not self._dropping_line:
                        self._dropping_line = True
                        self.pending = Pending()
                        raise LineTooLong(start)
                return None
            line, self.buffer = self.buffer[:end], self.buffer[end + 1 :]
            line = line.removesuffix(b"\r")
            if self._dropping_line:
                self._dropping_line = False
                match = _LITERAL.search(line)
                if match is not None and match[3]:
                    # What is given up goes on with one more literal that nobody can stop.
                    self._left, self._dropping, self._dropping_line = int(match[2]), True, True
                    if not self._read_literal():
                        return None
                continue
            if sum(map(len, self.pending.texts)) + len(line) > MAX_LINE:
                start = (self.pending.texts or [line])[0][:100]
                self.pending = Pending()
                raise LineTooLong(start)
            return line
