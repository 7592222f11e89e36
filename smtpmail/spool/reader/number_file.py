"""A number in a hidden file of a folder."""

from __future__ import annotations

import os

from smtpmail.spool.files import replace_file
from smtpmail.spool.folder import Folder


def read_number(folder: Folder, name: str) -> int:
    """The number, 0 when there is none."""
    try:
        fd = folder.open_file(name, os.O_RDONLY)
    except OSError:
        return 0
    try:
        text = os.read(fd, 32).strip()
    finally:
        os.close(fd)
    return int(text) if text.isdigit() and len(text) <= 10 else 0


def write_number(folder: Folder, name: str, number: int) -> None:
    """Writes it down, for who holds the folder's lock. Raises OSError."""
    replace_file(folder, name, b"%d\n" % number)
