"""Where things end in a stream of bytes: command lines, message content, line ends.

Each reader takes bytes in any chunking and holds back only what it cannot decide yet: a few octets, never more.
"""

from __future__ import annotations

MAX_LINE = 2048
"""Octets in a command line with its CRLF. RFC 5321 4.5.3.1.4 asks for 512, extensions add to it; Postfix takes 2048."""

END_OF_DATA = b"\r\n.\r\n"


class LineTooLong(Exception):
    """A command line that is longer than MAX_LINE; it has been dropped up to its line end."""


class BareLineFeed(Exception):
    """A command line that ended in LF without CR (RFC 5321 2.3.8); it has been dropped."""


class LineReader:
    """Takes command lines out of the input (RFC 5321 2.3.8: a line ends in CRLF and in nothing else).

    `buffer` holds the input not yet used; content readers take theirs from the same buffer.
    """

    __slots__ = ("_dropping", "buffer")

    def __init__(self) -> None:
        self.buffer = b""
        self._dropping = False

    def next_line(self) -> bytes | None:
        """The next line without its CRLF, or None when it is not there yet.

        Raises LineTooLong or BareLineFeed once for such a line; the reader then stands behind it. Memory stays
        bounded: of a line too long, what came is dropped at once.
        """
        buffer = self.buffer
        end = buffer.find(b"\n")
        if end < 0:
            if len(buffer) > MAX_LINE:
                self._dropping = True
                # A CR may be the first half of the line end.
                self.buffer = b"\r" if buffer.endswith(b"\r") else b""
            return None
        self.buffer = buffer[end + 1 :]
        if self._dropping or end >= MAX_LINE:
            self._dropping = False
            raise LineTooLong
        if end == 0 or buffer[end - 1] != 0x0D:
            raise BareLineFeed
        return buffer[: end - 1]


class DotReader:
    """Takes the content of DATA out of the input and undoes dot-stuffing (RFC 5321 4.5.2).

    The end is CRLF . CRLF and nothing else (4.1.1.4); any other mix of CR, LF and dot is content. So nothing that
    another server takes for content can begin a second message here (CVE-2023-51764).
    """

    __slots__ = ("_not_content", "_pending", "done")

    def __init__(self) -> None:
        # The CRLF behind the DATA command is the one that a dot at the very start follows.
        self._pending = b"\r\n"
        self._not_content = 2
        self.done = False

    def read(self, data: bytes) -> tuple[bytes, bytes]:
        """Returns (content, rest): content still has its CRLFs; rest is what follows the end, empty until `done`."""
        data = self._pending + data
        rest = b""
        end = data.find(END_OF_DATA)
        if end >= 0:
            self.done = True
            rest = data[end + 5 :]
            data = data[: end + 2]
        elif keep := self._undecided(data):
            self._pending = data[-keep:]
            data = data[:-keep]
        else:
            self._pending = b""
        content = data.replace(b"\r\n.", b"\r\n")
        if self._not_content and content:
            content = content[self._not_content :]
            self._not_content = 0
        return content, rest

    @staticmethod
    def _undecided(data: bytes) -> int:
        """How many octets at the end may begin an end of data or a stuffed dot."""
        for length in (4, 3, 2, 1):
            if data.endswith(END_OF_DATA[:length]):
                return length
        return 0


class LineEnds:
    """Turns content as it travels (CRLF) into content as it is stored (LF).

    A bare LF is a line end too. A bare CR and a NUL, which no message may hold (RFC 5322 2.2, 2.3), become spaces, as
    in Postfix.
    """

    __slots__ = ("_cr",)

    def __init__(self) -> None:
        self._cr = False

    def convert(self, data: bytes, *, last: bool = False) -> bytes:
        """The stored form of `data`; a CR at its end waits for what follows unless this is the `last` call."""
        if self._cr:
            data = b"\r" + data
            self._cr = False
        if not last and data.endswith(b"\r"):
            self._cr = True
            data = data[:-1]
        data = data.replace(b"\r\n", b"\n")
        if b"\r" in data:
            data = data.replace(b"\r", b" ")
        if b"\0" in data:
            data = data.replace(b"\0", b" ")
        return data
