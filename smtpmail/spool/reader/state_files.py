"""Writes the states of messages: a new file under a hidden name first, renamed over the old one when it is on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from smtpmail.spool.files import sync_files, write_all
from smtpmail.spool.folder import Folder
from smtpmail.spool.reader.states import Flags, text_of


class _Opened(NamedTuple):
    """A descriptor, for `sync_files`."""

    fd: int


def write_state(folder: Folder, number: int, flags: Flags) -> str:
    """A new state under a hidden name; we hold the lock, so one that is there was left by a crash. Raises OSError."""
    name = f".{number}.status"
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        file = folder.open_file(name, create)
    except FileExistsError:
        os.unlink(name, dir_fd=folder.fd)
        file = folder.open_file(name, create)
    try:
        write_all(file, [text_of(flags)])
    finally:
        os.close(file)
    return name


def sync_states(folder: Folder, names: Sequence[str]) -> None:
    """Returns when they are on disk. Raises OSError."""
    files = [_Opened(folder.open_file(name, os.O_RDONLY)) for name in names]
    try:
        for error in sync_files(files):
            if error is not None:
                raise error
    finally:
        for file in files:
            os.close(file.fd)
