r"""\Recent of many messages at once: a number in a hidden file, up to which no message is recent any more.

To write ten thousand states anew would make the first look at an old mailbox wait for seconds; theirs lose the line
with their next change.
"""

from __future__ import annotations

from collections.abc import Iterable

from smtpmail.spool.folder import Folder
from smtpmail.spool.reader.number_file import read_number, write_number
from smtpmail.spool.reader.states import RECENT, Flags

MARK = ".recent"


def read_mark(folder: Folder) -> int:
    """The number, 0 when there is none."""
    return read_number(folder, MARK)


def write_mark(folder: Folder, number: int) -> None:
    """Writes it down; the caller holds the folder's lock. Raises OSError."""
    write_number(folder, MARK, number)


def not_recent(flags: Iterable[Flags]) -> list[Flags]:
    r"""The same flags without \Recent; equal ones are one object."""
    known: dict[Flags, Flags] = {}
    return [known.get(some) or known.setdefault(some, some - {RECENT}) for some in flags]
