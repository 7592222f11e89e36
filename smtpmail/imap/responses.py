"""How answers are written: strings, lists, and the outcome of a command (RFC 3501 7, RFC 9051 7)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from smtpmail.imap.scanner import MONTHS

_PLAIN = re.compile(rb'[^"\\\r\n\x00\x80-\xff]{0,1000}')
_PLAIN_UTF8 = re.compile(rb'[^"\\\r\n\x00]{0,1000}')
_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')

MAX_TEXT = 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: the tagged response."""

    status: bytes
    """OK, NO or BAD."""
    text: str
    code: bytes = b""
    """The response code, without brackets."""

    def line(self, tag: bytes) -> bytes:
        """The response, as it travels."""
        code = b"[" + self.code + b"] " if self.code else b""
        text = "".join(c if c.isprintable() and c.isascii() else "?" for c in self.text[:MAX_TEXT])
        return b"%s %s %s%s\r\n" % (tag, self.status, code, text.encode())


def ok(text: str, code: bytes = b"") -> Outcome:
    """Done."""
    return Outcome(b"OK", text, code)


def no(text: str, code: bytes = b"") -> Outcome:
    """Not done; the same command may be right another time."""
    return Outcome(b"NO", text, code)


def bad(text: str, code: bytes = b"") -> Outcome:
    """The command makes no sense."""
    return Outcome(b"BAD", text, code)


def sentence(text: str) -> str:
    """The text with a capital at its start; the words of the protocol in it stay as they are."""
    return text[:1].upper() + text[1:]


class Refused(Exception):
    """A command that cannot be obeyed: the outcome says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


def string(data: bytes, *, utf8: bool = False) -> bytes:
    """A quoted string, or a literal where it must be one."""
    if (_PLAIN_UTF8 if utf8 and _is_utf8(data) else _PLAIN).fullmatch(data):
        return b'"' + data + b'"'
    if len(data) <= 1000 and not re.search(rb"[\r\n\x00\x80-\xff]", data):
        return b'"' + re.sub(rb'(["\\])', rb"\\\1", data) + b'"'
    # A literal may hold anything but NUL.
    data = data.replace(b"\0", b"?")
    return b"{%d}\r\n%s" % (len(data), data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def nstring(data: bytes | None, *, utf8: bool = False) -> bytes:
    """A string, or NIL for None."""
    return b"NIL" if data is None else string(data, utf8=utf8)


def astring(data: bytes, *, utf8: bool = False) -> bytes:
    """An atom if it can be one, else a string."""
    if _ATOM.fullmatch(data) and data.upper() != b"NIL":
        return data
    return string(data, utf8=utf8)


def listed(items: Iterable[bytes]) -> bytes:
    """`(a b c)`."""
    return b"(" + b" ".join(items) + b")"


def internal_date(seconds: float) -> bytes:
    """`"17-Jul-1996 02:44:25 +0000"`, in UTC; the day has two characters, the first may be a blank."""
    # Years beyond four digits cannot be written.
    seconds = min(max(int(seconds), 0), 253402300799)
    moment = time.gmtime(seconds)
    return b'"%2d-%s-%04d %02d:%02d:%02d +0000"' % (
        moment.tm_mday, MONTHS[moment.tm_mon - 1], moment.tm_year,
        moment.tm_hour, moment.tm_min, moment.tm_sec,
    )  # fmt: skip
