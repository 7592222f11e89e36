"""Numbers that were given anew (`folder -pack` of nmh): states stay where they are, flags must be carried over."""

from __future__ import annotations

import os
import stat

from smtpmail.spool.folder import Folder
from smtpmail.spool.reader.index import Index, mtime
from smtpmail.spool.reader.states import Flags


def moved(folder: Folder, known: Index) -> dict[int, Flags]:
    """The messages that have another number than in `known`, each with the flags it had there. Raises OSError."""
    files = zip(known.inodes, known.octets, known.dates, strict=True)
    before = dict(zip(files, zip(known.numbers, known.flags, strict=True), strict=True))
    found = {}
    with os.scandir(folder.fd) as entries:
        for entry in entries:
            if not (entry.name.isascii() and entry.name.isdigit() and len(entry.name) <= 10):
                continue
            status = entry.stat(follow_symlinks=False)
            number, flags = before.get((status.st_ino, status.st_size, mtime(status)), (0, frozenset()))
            if number and number != int(entry.name) and stat.S_ISREG(status.st_mode):
                found[int(entry.name)] = flags
    return found
