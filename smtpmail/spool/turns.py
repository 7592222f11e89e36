"""Which of a server's processes is at work in a mailbox: the kernel lets the next one in at once.

The lock of a mailbox (lock.py) is taken by other programs, too, perhaps for ever: nobody may sleep until it is free, it
has to be tried again and again. Processes of one server would lose time so while they wait for each other, which they
do all the time. Before they try the mailbox's lock, they queue for an octet of a file that nobody else can open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator

FILE = ".turns"


class Turns:
    """One for each process, over the same file; or one in memory, made before the processes part."""

    def __init__(self, folder: str | None = None) -> None:
        """`folder` is the server's own, on a local disk. Raises OSError."""
        self._fd = -1
        # Open as long as this is in use: to close any descriptor of it gives up every turn of the process.
        if folder is None:
            self._fd = os.memfd_create("turns")
        else:
            self._fd = os.open(os.path.join(folder, FILE), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Waits until no other process has its turn at the place. Raises nothing: it only saves time.

        A process that ends loses its turn. To be held for as long as a commit takes, never while waiting for others.
        """
        octet = zlib.crc32(place.encode("utf-8", "surrogateescape"))
        # The kernel refuses when several processes seem to wait for each other.
        with contextlib.suppress(OSError):
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, octet)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, octet)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
