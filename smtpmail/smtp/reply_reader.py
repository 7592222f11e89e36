"""Reads the replies of other servers (RFC 5321 4.2), however they come."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LINE = 4096
"""Octets of a reply line; RFC 5321 4.5.3.1.5 asks for 512."""

MAX_LINES = 256

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])([^\r\n]*))?\r?\n?")
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")


class NonsenseReply(Exception):
    """What the other server sent is no reply."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """A whole reply; `lines` are the texts without codes."""

    code: int
    lines: tuple[str, ...]

    @property
    def status(self) -> str:
        """The enhanced status code, or the general one of the code's class (RFC 3463)."""
        match = _ENHANCED.match(self.lines[0])
        if match and match[1][0] == str(self.code)[0]:
            return match[1]
        return f"{self.code // 100}.0.0"

    @property
    def positive(self) -> bool:
        """A yes. A 3xx is none: it asks for more."""
        return 200 <= self.code < 300

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    def __str__(self) -> str:
        return f"{self.code} {' '.join(line for line in self.lines if line)}".rstrip()


class ReplyReader:
    """Bytes in, replies out; bounded memory."""

    def __init__(self) -> None:
        self._buffer = b""
        self._code = 0
        self._lines: list[str] = []

    def feed(self, data: bytes) -> None:
        """Takes what came."""
        self._buffer += data

    @property
    def unread(self) -> bool:
        """Whether something came that no reply has been made of yet."""
        return bool(self._buffer or self._lines)

    def next_reply(self) -> ServerReply | None:
        """The next whole reply, None when it is not there yet. Raises NonsenseReply."""
        while (end := self._buffer.find(b"\n")) >= 0:
            line, self._buffer = self._buffer[: end + 1], self._buffer[end + 1 :]
            match = _LINE.fullmatch(line) if len(line) <= MAX_LINE else None
            if not match or (self._lines and int(match[1]) != self._code) or len(self._lines) >= MAX_LINES:
                raise NonsenseReply(_shown(line))
            self._code = int(match[1])
            self._lines.append(_shown(match[3] or b""))
            if match[2] != b"-":
                reply = ServerReply(self._code, tuple(self._lines))
                self._lines = []
                return reply
        if len(self._buffer) > MAX_LINE:
            raise NonsenseReply(_shown(self._buffer))
        return None


def _shown(line: bytes) -> str:
    """A line for people: no control characters, not too long."""
    text = line.decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text)[:500]
