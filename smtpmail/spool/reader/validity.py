"""UIDVALIDITY: a number in a hidden file of each folder; another one says that numbers mean other messages now."""

from __future__ import annotations

import contextlib
import os
import time

from smtpmail.spool.files import write_all
from smtpmail.spool.folder import Folder

VALIDITY = ".uidvalidity"

_NEW = ".uidvalidity.new"


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
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=folder.fd)
    fd = folder.open_file(_NEW, create)
    try:
        write_all(fd, [b"%d\n" % value])
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(_NEW, VALIDITY, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
    os.fsync(folder.fd)
    return value
