"""UIDVALIDITY: a number in a hidden file of each folder; another one says that numbers mean other messages now."""

from __future__ import annotations

import os
import time

from smtpmail.spool.folder import Folder
from smtpmail.spool.reader.number_file import read_number, write_number

VALIDITY = ".uidvalidity"


def read_validity(folder: Folder) -> int:
    """The folder's UIDVALIDITY, 0 when it has none yet."""
    value = read_number(folder, VALIDITY)
    return value if value < 2**32 else 0


def new_validity(folder: Folder, above: int) -> int:
    """Gives the folder a UIDVALIDITY: the time, but more than `above` and than it had. The caller holds its lock.

    Raises OSError.
    """
    value = max(int(time.time()), read_validity(folder) + 1, above + 1)
    write_number(folder, VALIDITY, value)
    os.fsync(folder.fd)
    return value
