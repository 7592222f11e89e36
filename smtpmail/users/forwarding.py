"""In whose name forwarded mail leaves this host, and the way back of bounces: SRS with a key of the host's own."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Callable
from functools import cached_property

from smtpmail.mail import srs
from smtpmail.mail.address import Address, AddressSyntaxError

KEY_FILE = ".srs-key"
"""In the folder of the queue, which nobody but the server's account can read, or of a spool that hosts share."""


class Forwarding:
    """`domain` is the local one in rewritten addresses; `is_local` knows them all."""

    def __init__(
        self, folder: str, domain: str, is_local: Callable[[str], bool], clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._domain = domain
        self._is_local = is_local
        self._clock = clock

    @cached_property
    def _key(self) -> bytes:
        """The key, made with the first use; the same for all processes. Raises OSError."""
        path = os.path.join(self._folder, KEY_FILE)
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
        new = f"{path}.{secrets.token_hex(8)}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(secrets.token_hex(32).encode() + b"\n")
                file.flush()
                os.fsync(fd)
            # Of several processes one is the first, and all use its key.
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
        finally:
            os.unlink(new)
        return _read(path)

    def rewrite(self, sender: Address) -> Address:
        """The envelope sender of forwarded mail: an address here, unless it is one already. Raises OSError."""
        if sender.is_null:
            return sender
        with contextlib.suppress(AddressSyntaxError):
            if self._is_local(sender.domain):
                return sender
        return srs.rewrite(sender, self._domain, self._key, self._clock())

    def reverse(self, local_part: str) -> Address | None:
        """To whom mail for a rewritten address goes; None for an address of another kind.

        Raises srs.SRSError for one that was not made here, or too long ago; OSError.
        """
        if not srs.is_rewritten(local_part):
            return None
        return srs.reverse(local_part, self._key, self._clock())


def _read(path: str) -> bytes:
    """Raises OSError; also for a file of somebody else, who would know the key."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, "is no file of this account's own", path)
        return os.read(fd, 1024).strip()
    finally:
        os.close(fd)
