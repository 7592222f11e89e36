"""Waking those who wait for a change in a folder: inotify(7) where there is one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading

from smtpmail.spool.files import is_local
from smtpmail.spool.folder import Folder

POLL_SECONDS = 1.0
"""So often a folder is looked at that nothing tells about: a shared one, which other hosts change."""

LONG_POLL_SECONDS = 30.0
"""The same, of a folder of this host, lest an event was lost."""

_MASK = 0x00000008 | 0x00000040 | 0x00000080 | 0x00000100 | 0x00000200 | 0x00000400 | 0x00000800
"""IN_CLOSE_WRITE (nmh writes its sequences in place), IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE,
IN_DELETE_SELF, IN_MOVE_SELF."""

_EVENT = struct.Struct("iIII")


class _Watcher:
    """One inotify instance and its thread for all folders of the process: instances are few on a host."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """In a child process, which has no thread that reads."""
        self._lock = threading.Lock()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        self._waiting: dict[int, set[int]] = {}

    def add(self, folder: Folder, wake: int) -> int | None:
        """Has the eventfd `wake` written to when the folder changes; None when there is no way."""
        with self._lock:
            if self._fd < 0 and not self._start():
                return None
            path = f"/proc/self/fd/{folder.fd}/.".encode()
            watch: int = self._libc.inotify_add_watch(self._fd, path, _MASK)
            if watch < 0:
                return None
            self._waiting.setdefault(watch, set()).add(wake)
            return watch

    def _start(self) -> bool:
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC)
        if self._fd >= 0:
            threading.Thread(target=self._read, name="inotify", daemon=True).start()
        return self._fd >= 0

    def remove(self, watch: int, wake: int) -> None:
        """Ends what `add` began."""
        with self._lock:
            waiting = self._waiting.get(watch)
            if waiting is not None:
                waiting.discard(wake)
                if not waiting:
                    del self._waiting[watch]
                    self._libc.inotify_rm_watch(self._fd, watch)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 64 * 1024)
            except OSError:
                return
            watches, position = set(), 0
            while position < len(data):
                watch, _, _, length = _EVENT.unpack_from(data, position)
                watches.add(watch)
                position += _EVENT.size + length
            with self._lock:
                # -1: events were lost, so anybody may be concerned.
                concerned = self._waiting.values() if -1 in watches else map(self._of, watches)
                for wake in {wake for waiting in concerned for wake in waiting}:
                    os.eventfd_write(wake, 1)

    def _of(self, watch: int) -> set[int]:
        return self._waiting.get(watch, set())


_watcher = _Watcher()
os.register_at_fork(after_in_child=_watcher.start_anew)


class Watch:
    """Tells of changes in a folder while it is open; `close` ends it."""

    def __init__(self, folder: Folder) -> None:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Can be read when the folder may have changed."""
        self._watch = _watcher.add(folder, self.wake)
        told = self._watch is not None and is_local(folder.fd)
        self.poll_seconds = LONG_POLL_SECONDS if told else POLL_SECONDS
        """Seconds after which to look even if nothing was told."""

    def clear(self) -> None:
        """Forgets what was told so far."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake)

    def close(self) -> None:
        if self._watch is not None:
            _watcher.remove(self._watch, self.wake)
        os.close(self.wake)
