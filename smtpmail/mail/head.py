"""Where a message's header ends and its body begins, found while the content comes in pieces."""

from __future__ import annotations

import re

HEAD_LIMIT = 256 * 1024
"""Octets of a header that are kept apart; a longer one goes on in what counts as the body (Postfix: 100 KiB)."""

_MESSAGE_ID = re.compile(rb"^message-id:\s*(<[^<>\s]{1,250}>)", re.IGNORECASE | re.MULTILINE)


def header_of(message: bytes) -> bytes:
    """The header of a message (LF line ends), with the empty line's line end left out."""
    if message.startswith(b"\n"):
        return b""
    end = message.find(b"\n\n")
    return message if end < 0 else message[: end + 1]


def message_id(header: bytes) -> str | None:
    """The first Message-ID of a header, with its angle brackets (RFC 5322 3.6.4)."""
    match = _MESSAGE_ID.search(header)
    return match[1].decode("utf-8", "replace") if match else None


def hops(header: bytes) -> int:
    """How many servers a message has passed: its Received fields (RFC 5321 6.3)."""
    return (b"\n" + header).lower().count(b"\nreceived:")


class HeadReader:
    """Keeps the header, hands on the body (from the empty line on, with it)."""

    __slots__ = ("_head", "done", "oversized")

    def __init__(self) -> None:
        self._head = bytearray()
        self.done = False
        """Whether the end of the header has come, or HEAD_LIMIT."""
        self.oversized = False
        """The header is longer than HEAD_LIMIT: the rest of it is taken for body."""

    @property
    def head(self) -> bytes:
        """The header so far; in the end up to the line end before the empty line."""
        return bytes(self._head)

    def feed(self, data: bytes) -> bytes:
        """Takes the next piece of the content; returns what of it belongs to the body."""
        if self.done:
            return data
        seen = max(len(self._head) - 1, 0)
        self._head += data
        headless = self._head.startswith(b"\n")
        end = 0 if headless else self._head.find(b"\n\n", seen, HEAD_LIMIT + 1) + 1
        if end or headless:
            self.done = True
        elif len(self._head) > HEAD_LIMIT:
            self.done = self.oversized = True
            end = HEAD_LIMIT
        else:
            return b""
        rest = bytes(self._head[end:])
        del self._head[end:]
        return rest
