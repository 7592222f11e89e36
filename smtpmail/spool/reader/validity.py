"""UIDVALIDITY: a number in a hidden file of each folder; another one says that numbers mean other messages now."""

from __future__ import annotations

import os
import time

from smtpmail.spool.files import replace_file
from smtpmail.spool.folder import Folder

VALIDITY = ".uidvalidity"


def read_validity(folder: Folder) -> int:
    """The folder's UIDVALIDITY, 0 when it has none yet."""
    try:
        fd = folder.open_file(VALIDITY, os.O_RDONLY)
    except OSError:
        return 0
    try:
        text = os.read(fd, 32).strip()
    finally:
        os.close(fd)
    value = int(text) if text.isdigit() and len(text) <= 10 else 0
    return value if value < 2**32 else 0


def new_validity(folder: Folder, above: int) -> int:
    """Gives the folder a UIDVALIDITY: the time, but more than `above` and than it had. The caller holds its lock.

    Raises OSError.
    """
    value = max(int(time.time()), read_validity(folder) + 1, above + 1)
    replace_file(folder, VALIDITY, b"%d\n" % value)
    os.fsync(folder.fd)
    return value
