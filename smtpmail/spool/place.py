"""Where the mailboxes are, when other hosts deliver into them, too: which mount each lies on, and that it is there."""

from __future__ import annotations

import errno
import os
import threading
import time

from smtpmail import mounts

LOOK_SECONDS = 5.0
"""So often the mounts are looked at again."""


class Place:
    """The mounts at and below a shared spool."""

    def __init__(self, spool: str) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._below: list[str] = []
        self._looked_at = -LOOK_SECONDS
        self._shared: set[int] = set()

    def of(self, path: str) -> str:
        """What hangs together with the mailbox or folder of this path: the spool, or a mount below it."""
        with self._lock:
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                start = self._spool.rstrip("/") + "/"
                self._below = sorted((m.point for m in mounts.mounts() if m.point.startswith(start)), key=len)
                self._looked_at = time.monotonic()
            inside = [point for point in self._below if path == point or path.startswith(point + "/")]
        return inside[-1] if inside else self._spool

    def check(self, device: int, path: str) -> None:
        """Raises OSError when files of this device are on a local disk: the mount that belongs there is missing."""
        if device in self._shared:
            return
        found = next((mount for mount in mounts.mounts() if mount.device == device), None)
        if found is not None and found.kind in mounts.LOCAL:
            raise OSError(errno.ENODEV, f"is on {found.kind}, not on the shared file system: is it mounted?", path)
        self._shared.add(device)

    def check_folder(self, path: str) -> None:
        """The same for a folder in which another one is to be made. Raises OSError."""
        self.check(os.stat(path).st_dev, path)
