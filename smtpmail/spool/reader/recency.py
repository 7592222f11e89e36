r"""\Recent of many messages at once: a number in a hidden file, up to which no message is recent any more.

To write ten thousand states anew would make the first look at an old mailbox wait for seconds; theirs lose the line
with their next change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from smtpmail.spool.files import replace_file
from smtpmail.spool.folder import Folder
from smtpmail.spool.reader.states import RECENT, Flags

MARK = ".recent"


def read_mark(folder: Folder) -> int:
    """The number, 0 when there is none."""
    try:
        fd = folder.open_file(MARK, os.O_RDONLY)
    except OSError:
        return 0
    try:
        text = os.read(fd, 32).strip()
    finally:
        os.close(fd)
    return int(text) if text.isdigit() and len(text) <= 10 else 0


def write_mark(folder: Folder, number: int) -> None:
    """Writes it down; the caller holds the folder's lock. Raises OSError."""
    replace_file(folder, MARK, b"%d\n" % number)


def not_recent(flags: Iterable[Flags]) -> list[Flags]:
    r"""The same flags without \Recent; equal ones are one object."""
    known: dict[Flags, Flags] = {}
    return [known.get(some) or known.setdefault(some, some - {RECENT}) for some in flags]
