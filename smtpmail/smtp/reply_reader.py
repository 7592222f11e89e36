"""Reads the replies of other servers (RFC 5321 4.2), however they come: strict senders must be lenient readers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from smtpmail.mail.text import harmless

MAX_LINE = 4096
"""Octets of a reply line; RFC 5321 4.5.3.1.5 asks for 512."""

MAX_LINES = 256

LINE_SHOWN = 500
"""Characters of a line that are kept, ..."""

REPLY_SHOWN = 1000
"""... and octets of a whole reply, wherever it is written down."""

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ \t-])(.*))?", re.DOTALL)
_LINE_END = re.compile(rb"\n|\r(?=[2-5][0-9]{2}[ \t-])")
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:[\s,:;]|$)")
_RECIPIENTS = re.compile(r"\b(recipients?|rcpts?)\b", re.IGNORECASE)


class NonsenseReply(Exception):
    """What the other server sent is no reply."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """A whole reply; `lines` are the texts without codes."""

    code: int
    lines: tuple[str, ...]

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463), None when there is none that fits."""
        match = _ENHANCED.match(self.lines[0])
        return match[1] if match and match[1][0] == str(self.code)[0] else None

    @property
    def status(self) -> str:
        """The enhanced status code, or the general one of the code's class."""
        return self.enhanced or f"{self.code // 100}.0.0"

    @property
    def positive(self) -> bool:
        """A yes. A 3xx is none: it asks for more."""
        return 200 <= self.code < 300

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    @property
    def too_many_recipients(self) -> bool:
        """Whether the recipient may come in another transaction (RFC 5321 4.5.3.1.10, where 552 stands for 452)."""
        if self.enhanced:
            return self.enhanced[1:] == ".5.3" or (self.code == 452 and self._speaks_of_recipients)
        return self.code in (452, 552) and self._speaks_of_recipients

    @property
    def _speaks_of_recipients(self) -> bool:
        return "many" in str(self).lower() and _RECIPIENTS.search(str(self)) is not None

    def __str__(self) -> str:
        text = f"{self.code} {' '.join(line for line in self.lines if line)}".rstrip()
        octets = text.encode()
        return text if len(octets) <= REPLY_SHOWN else octets[:REPLY_SHOWN].decode("utf-8", "ignore") + " ..."


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
        """The next whole reply, None when it is not there yet. Raises NonsenseReply.

        The code of its last line is that of the reply (as with Postfix).
        """
        while (end := _LINE_END.search(self._buffer)) is not None:
            line, self._buffer = self._buffer[: end.start()].rstrip(b"\r"), self._buffer[end.end() :]
            if (reply := self._line(line)) is not None:
                return reply
        if len(self._buffer) > MAX_LINE:
            raise NonsenseReply(_shown(self._buffer))
        return None

    def unfinished(self) -> ServerReply | None:
        """What came so far, as a reply, when nothing more comes: its last line was not marked as the last, or ended.

        None when that is no reply. Raises NonsenseReply.
        """
        line, self._buffer = self._buffer.rstrip(b"\r"), b""
        reply = self._line(line) if line else None
        return reply or (self._take() if self._lines else None)

    def _line(self, line: bytes) -> ServerReply | None:
        """Takes in a line; the reply that it ends. Raises NonsenseReply."""
        if not line.strip() and self._lines:
            return None
        match = _LINE.fullmatch(line) if len(line) <= MAX_LINE else None
        if not match or len(self._lines) >= MAX_LINES:
            raise NonsenseReply(_shown(line))
        self._code = int(match[1])
        self._lines.append(_shown(match[3] or b""))
        return None if match[2] == b"-" else self._take()

    def _take(self) -> ServerReply:
        reply = ServerReply(self._code, tuple(self._lines))
        self._lines = []
        return reply


def _shown(line: bytes) -> str:
    """A line for people."""
    return harmless(line[: 4 * LINE_SHOWN].decode("utf-8", "replace").strip(), LINE_SHOWN)
