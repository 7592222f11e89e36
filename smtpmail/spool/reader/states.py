"""The text of a state file: flags, one a line."""

from __future__ import annotations

import re
from collections.abc import Iterable

Flags = frozenset[bytes]

RECENT = b"\\Recent"
SEEN = b"\\Seen"
DELETED = b"\\Deleted"

SYSTEM = {
    flag.lower(): flag for flag in (b"\\Answered", b"\\Deleted", b"\\Draft", b"\\Flagged", b"\\Recent", b"\\Seen")
}

MAX_OCTETS = 16 * 1024
"""Octets of a state file that are read."""

MAX_FLAGS = 200
"""Flags of a message."""

_KEYWORD = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]{1,200}')

_known: dict[bytes, Flags] = {}


def parse(text: bytes) -> Flags:
    """The flags in a state file; lines that are none are left out. Equal texts give the same object."""
    flags = _known.get(text)
    if flags is None:
        found = (_flag(line.strip()) for line in text[:MAX_OCTETS].split(b"\n"))
        flags = frozenset(sorted({flag for flag in found if flag})[:MAX_FLAGS])
        if len(_known) < 1000:
            _known[text] = flags
    return flags


def _flag(line: bytes) -> bytes | None:
    system = SYSTEM.get(line.lower())
    if system is not None:
        return system
    return line if _KEYWORD.fullmatch(line) else None


def text_of(flags: Iterable[bytes]) -> bytes:
    """The state file of these flags."""
    return b"".join(flag + b"\n" for flag in sorted(flags))


def with_flags(flags: Flags, more: Iterable[bytes]) -> Flags:
    """`more` added; a keyword keeps the capitals in which it was first set (they have no case)."""
    present = {flag.lower() for flag in flags}
    return flags | {flag for flag in more if flag.lower() not in present}


def without_flags(flags: Flags, fewer: Iterable[bytes]) -> Flags:
    """`fewer` taken away, whatever their capitals."""
    gone = {flag.lower() for flag in fewer}
    return frozenset(flag for flag in flags if flag.lower() not in gone)
