"""Mail of other programs, read from where it lies: mbox files, Maildir and MH folders. Nothing in them is changed."""

from __future__ import annotations

import calendar
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import IO

from smtpmail.mail.submission import fields_of, header_end
from smtpmail.spool.reader.states import RECENT, SEEN, Flags, parse

MAX_MESSAGE = 1024**3
"""Octets of a message; a larger one is passed over."""

MAILDIR_FLAGS = {
    "S": b"\\Seen", "R": b"\\Answered", "F": b"\\Flagged", "T": b"\\Deleted", "D": b"\\Draft", "P": b"$Forwarded",
}  # fmt: skip
MBOX_FLAGS = {"R": b"\\Seen", "A": b"\\Answered", "F": b"\\Flagged", "D": b"\\Deleted", "T": b"\\Draft"}
MH_SEQUENCES = {"replied": b"\\Answered", "flagged": b"\\Flagged"}
MBOX_FIELDS = ("status", "x-status", "x-keywords")
"""Fields in which a mailbox file keeps the state of a message: they are none of the message."""

_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)


class SourceError(Exception):
    """What is no mailbox: one line for people."""


@dataclass(frozen=True, slots=True)
class Found:
    """A message: its text (LF line ends), state, and when it came (Unix time)."""

    text: bytes
    flags: Flags
    date: float


def kind_of(path: str) -> str:
    """`mbox`, `maildir` or `mh`. Raises SourceError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(status.st_mode):
        return "mbox"
    if not stat.S_ISDIR(status.st_mode):
        raise SourceError(f"{path} is no mailbox: neither a file nor a folder")
    if os.path.isdir(os.path.join(path, "cur")) and os.path.isdir(os.path.join(path, "new")):
        return "maildir"
    if os.path.exists(os.path.join(path, ".mh_sequences")) or any(n.isdecimal() for n in os.listdir(path)):
        return "mh"
    raise SourceError(f"{path} is no mailbox: neither a Maildir (cur, new) nor an MH folder (1, 2, 3, ...)")


def read(path: str, kind: str) -> Iterator[Found]:
    """All messages of a mailbox, in its order. Raises SourceError, OSError."""
    match kind:
        case "mbox":
            with open(path, "rb") as file:
                yield from read_mbox(file)
        case "maildir":
            yield from _read_maildir(path)
        case _:
            yield from _read_mh(path)


def stored(text: bytes) -> bytes:
    """A text as mailboxes here have it: LF line ends, no CR, no NUL."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\0", b" ")


# -- mbox


def read_mbox(file: IO[bytes]) -> Iterator[Found]:
    """A message begins with a line `From ` at the start or behind an empty line. Raises SourceError."""
    separator = b""
    lines: list[bytes] = []
    size, empty = 0, True
    for line in file:
        if empty and line.startswith(b"From "):
            if separator and size <= MAX_MESSAGE:
                yield _of_mbox(separator, lines)
            separator, lines, size = line, [], 0
        elif not separator and line.strip():
            raise SourceError("it is no mailbox file: its first line does not begin with `From `")
        elif size <= MAX_MESSAGE:
            lines.append(line)
            size += len(line)
        empty = line in (b"\n", b"\r\n")
    if separator and size <= MAX_MESSAGE:
        yield _of_mbox(separator, lines)


def _of_mbox(separator: bytes, lines: list[bytes]) -> Found:
    # The empty line before the next `From ` belongs to the file.
    text = stored(b"".join(lines[:-1] if lines and lines[-1] in (b"\n", b"\r\n") and len(lines) > 1 else lines))
    text = _QUOTED_FROM.sub(rb"\1", text)
    end, _ = header_end(text)
    kept: list[bytes] = []
    flags: set[bytes] = set()
    old = False
    for field in fields_of(text[:end]):
        if field.name not in MBOX_FIELDS:
            kept.append(field.raw)
        elif field.name == "x-keywords":
            flags |= parse(field.body.replace(b" ", b"\n"))
        else:
            flags |= {MBOX_FLAGS[letter] for letter in field.body.decode("latin-1") if letter in MBOX_FLAGS}
            old = old or b"O" in field.body
    flags |= set() if old else {RECENT}
    return Found(b"".join(kept) + text[end:], frozenset(flags), _date_of(separator, text[:end]))


def _date_of(separator: bytes, header: bytes) -> float:
    """When a message came: as the separator says (UTC), else its Date, else now."""
    words = separator.decode("latin-1").split()
    if len(words) >= 7:
        try:
            return float(calendar.timegm(time.strptime(" ".join(words[-5:]), "%a %b %d %H:%M:%S %Y")))
        except (ValueError, OverflowError):
            pass
    for field in fields_of(header):
        if field.name == "date" and (parsed := parsedate_tz(field.body.decode("latin-1"))):
            try:
                return float(mktime_tz(parsed))
            except (ValueError, OverflowError):
                break
    return time.time()


# -- folders


def _read_maildir(path: str) -> Iterator[Found]:
    for folder in ("cur", "new"):
        for name in sorted(os.listdir(os.path.join(path, folder))):
            found = None if name.startswith(".") else _read_file(os.path.join(path, folder, name))
            if found is not None:
                letters = name.partition(":2,")[2]
                flags = {MAILDIR_FLAGS[letter] for letter in letters if letter in MAILDIR_FLAGS}
                yield Found(found[0], frozenset(flags | ({RECENT} if folder == "new" else set())), found[1])


def _read_mh(path: str) -> Iterator[Found]:
    sequences = _mh_sequences(path)
    for number in sorted(int(n) for n in os.listdir(path) if n.isascii() and n.isdecimal()):
        found = _read_file(os.path.join(path, str(number)))
        if found is None:
            continue
        state = _read_file(os.path.join(path, f"{number}.status"))
        if state is not None:
            flags = parse(state[0])
        else:
            flags = frozenset(flag for name, flag in MH_SEQUENCES.items() if number in sequences.get(name, ()))
            if number not in sequences.get("unseen", ()):
                flags |= {SEEN}
        yield Found(found[0], flags, found[1])


def _mh_sequences(path: str) -> dict[str, set[int]]:
    text = _read_file(os.path.join(path, ".mh_sequences"))
    found: dict[str, set[int]] = {}
    for line in (text[0] if text else b"").decode("latin-1").splitlines():
        name, _, numbers = line.partition(":")
        members = found.setdefault(name.strip(), set())
        for word in numbers.split():
            first, _, last = word.partition("-")
            if first.isdecimal() and (last or first).isdecimal() and int(last or first) - int(first) < 10_000_000:
                members.update(range(int(first), int(last or first) + 1))
    return found


def _read_file(path: str) -> tuple[bytes, float] | None:
    """The text and the time of a regular file, None for what is none. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError):
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MESSAGE:
            return None
        with open(fd, "rb", closefd=False) as file:
            return stored(file.read()), status.st_mtime
    finally:
        os.close(fd)
