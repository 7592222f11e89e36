"""What a reader changes, MH readers see, too: the sequences `unseen`, `replied` and `flagged` (mh-sequence(5))."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Mapping

from smtpmail.spool.files import write_all
from smtpmail.spool.folder import Folder
from smtpmail.spool.reader.states import Flags
from smtpmail.spool.sequences import SEQUENCES, dot_locked

_NEW = ".mh_sequences.new"

LIMIT = 4 * 1024 * 1024
"""Octets: a longer file is none that a reader made, and is left alone."""

BY_FLAG = {b"\\Seen": (b"unseen", False), b"\\Answered": (b"replied", True), b"\\Flagged": (b"flagged", True)}
"""For each flag the sequence, and whether a message in it has the flag: the names that mutt uses."""

_LINE = re.compile(rb"([^\s:]+)[ \t]*:[ \t]*(.*)", re.DOTALL)
_RANGE = re.compile(rb"([1-9]\d{0,9})(?:-([1-9]\d{0,9}))?")


def note_states(folder: Folder, states: Mapping[int, tuple[Flags, Flags]]) -> None:
    """Notes what changed: for each number the flags before and after. Best effort: the states are the authority."""
    changes: dict[bytes, tuple[set[int], set[int]]] = {}
    for number, (before, after) in states.items():
        for flag, (name, is_set) in BY_FLAG.items():
            if (flag in before) != (flag in after):
                added, removed = changes.setdefault(name, (set(), set()))
                (added if (flag in after) is is_set else removed).add(number)
    if changes:
        with contextlib.suppress(OSError):
            _rewrite(folder, changes)


def _rewrite(folder: Folder, changes: Mapping[bytes, tuple[set[int], set[int]]]) -> None:
    fd = folder.open_file(SEQUENCES, os.O_RDWR | os.O_CREAT)
    try:
        # The lock that nmh, mailbox.MH and deliveries take; who holds it for long keeps their own view.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(fd).st_size
        if size > LIMIT or dot_locked(folder) or not folder.is_same(SEQUENCES, fd):
            return
        old = os.pread(fd, size, 0)
        new = change_sequences(old, changes)
        if new != old:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_NEW, dir_fd=folder.fd)
            file = folder.open_file(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                write_all(file, [new])
            finally:
                os.close(file)
            os.rename(_NEW, SEQUENCES, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
    finally:
        os.close(fd)


def change_sequences(text: bytes, changes: Mapping[bytes, tuple[set[int], set[int]]]) -> bytes:
    """The file with numbers added to sequences and removed from them; other sequences stay as they are."""
    lines: list[bytes] = []
    for line in re.sub(rb"\n[ \t]+", b" ", text).split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None or match[1] not in changes:
            lines += [line] if line.strip() else []
    for name, (added, removed) in changes.items():
        numbers = sorted((_numbers_of(text, name) | added) - removed)
        if numbers:
            lines.append(name + b": " + _ranges(numbers))
    return b"".join(line + b"\n" for line in lines)


def _numbers_of(text: bytes, name: bytes) -> set[int]:
    found: set[int] = set()
    for line in re.sub(rb"\n[ \t]+", b" ", text).split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is not None and match[1] == name:
            for word in match[2].split():
                span = _RANGE.fullmatch(word)
                if span is not None:
                    first, last = int(span[1]), int(span[2] or span[1])
                    # No folder has as many messages as a hostile range could name.
                    if first <= last <= first + 1_000_000 and len(found) < 1_000_000:
                        found.update(range(first, last + 1))
    return found


def _ranges(numbers: list[int]) -> bytes:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return b" ".join(b"%d" % a if a == b else b"%d-%d" % (a, b) for a, b in spans)
