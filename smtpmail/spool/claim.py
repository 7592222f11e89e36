"""To whom a queue belongs: its server, by a lock, and where hosts share the file system, its host, by name."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time

from smtpmail.spool.files import forget_pages
from smtpmail.spool.folder import Folder

SERVER = ".server"
"""What the running server locks; it holds the server's process id and host."""

NOBODY = 0
"""In place of the process id of a server: none runs, but the queue is of that host."""

GIVEN_BACK_SECONDS = 30.0
"""How long a shared file system may take to give back the lock of a mount that is gone, or of a host that was off."""

_HOLDER = re.compile(r"([0-9]{1,10}) on ([^\s,]{1,255})\s*")


class QueueError(Exception):
    """The queue can't do what was asked: one line for people."""


class _Held(QueueError):
    """Somebody has the lock of the queue."""

    def __init__(self, text: str, holder: str) -> None:
        super().__init__(text)
        self.holder = holder


def claim(path: str, shared: bool) -> int:
    """Locks a queue for this process as its server; a descriptor that is never to be closed: that gives up the lock.

    Where hosts share the file system, the queue must be this host's; a lock that this host had before is waited for:
    its mount may be no more, or the host may have lost its power. Whether the process lives can't be asked: after a
    boot, its number may be another's. Raises QueueError.
    """
    give_up = time.monotonic() + GIVEN_BACK_SECONDS
    while True:
        try:
            fd, holder = lock(path, shared)
            break
        except _Held as error:
            if not shared or owner(error.holder) != socket.gethostname() or time.monotonic() > give_up:
                raise
            time.sleep(0.5)
    if shared and owner(holder) not in ("", socket.gethostname()):
        os.close(fd)
        raise QueueError(
            f"the queue {path} is that of the host {owner(holder)}: each host must have a --queue of its own"
            " (smtpmail queue adopt takes over the one of a host that died)"
        )
    write(fd, os.getpid(), socket.gethostname(), durably=shared)
    return fd


def lock(path: str, shared: bool) -> tuple[int, str]:
    """Locks a queue; a descriptor, and who had it last. Raises QueueError when somebody has it."""
    folder = None
    try:
        folder = Folder(path, follow=True)
        fd = folder.open_file(SERVER, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise QueueError(f"the queue can't be locked: {error}") from None
    finally:
        if folder is not None:
            folder.close()
    try:
        holder = _holder(fd)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise QueueError(f"the queue {path} can't be locked: {error.strerror}") from None
        hint = "; each host must have a --queue of its own" if shared and owner(holder) != socket.gethostname() else ""
        raise _Held(f"another server works on the queue {path}: process {holder or 'unknown'}{hint}", holder) from None
    return fd, _holder(fd)


def _holder(fd: int) -> str:
    forget_pages(fd)
    return os.pread(fd, 300, 0).decode("ascii", "replace").strip()


def owner(holder: str) -> str:
    """The host that a queue belongs to; empty when nobody has had it yet."""
    found = _HOLDER.fullmatch(holder.partition("\n")[0])
    return found[2] if found else ""


def last_owner(path: str) -> str:
    """The host that a queue belongs to, as far as can be read; nothing is locked or changed."""
    try:
        with open(os.path.join(path, SERVER), "rb") as file:
            return owner(_holder(file.fileno()))
    except OSError:
        return ""


def write(fd: int, process: int, host: str, *, durably: bool) -> None:
    """Notes whose it is. Raises OSError."""
    line = f"{process} on {host}\n".encode()
    # Never empty: then it would be nobody's.
    os.ftruncate(fd, os.pwrite(fd, line, 0))
    if durably:
        os.fsync(fd)
