"""What a mail reader is connected by: a socket, TLS on one, or standard input and output."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from typing import Protocol

from smtpmail.inbound.linger import RECEIVE_SIZE, end_encryption, linger

FINISH_SECONDS = 1.0
"""Seconds that a client has, after the last response, to end the connection."""


class Stream(Protocol):
    """Octets in both directions. Methods raise OSError."""

    def wait(self, seconds: float | None, wake: int | None = None) -> bool:
        """Waits for input, or until the descriptor `wake` can be read; returns whether to go on: there is input, or
        `interrupt` was called.
        """

    def receive(self) -> bytes:
        """What is there, b"" at the end of the stream; to be called after `wait`."""

    def send(self, data: bytes) -> None:
        """Sends all of it. Raises TimeoutError when the other side does not read."""

    def interrupt(self) -> None:
        """Called by another thread: nobody waits for input any more."""

    def finish(self) -> None:
        """Ends our direction and gives the other side a moment to end its own; raises nothing."""

    def close(self) -> None:
        """Ends both directions."""


def _ready(fds: tuple[int, ...], seconds: float | None, wake: int | None) -> bool:
    poll = select.poll()
    for fd in fds if wake is None else (*fds, wake):
        poll.register(fd, select.POLLIN)
    found = poll.poll(None if seconds is None else max(0, int(seconds * 1000) + 1))
    return any(there in fds for there, _ in found)


class SocketStream:
    """A connected socket, in clear text or with TLS; `timeout` in seconds is how long sending may stand still."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._sock = sock
        # To end the reading side of the socket would do for clear text; TLS takes it for an attack and breaks off.
        self._interrupted = os.eventfd(0, os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        sock.settimeout(timeout)

    def wait(self, seconds: float | None, wake: int | None = None) -> bool:
        """See Stream."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        return _ready((self._sock.fileno(), self._interrupted), seconds, wake)

    def receive(self) -> bytes:
        """See Stream."""
        return self._sock.recv(RECEIVE_SIZE)

    def send(self, data: bytes) -> None:
        """See Stream."""
        self._sock.sendall(data)

    def interrupt(self) -> None:
        """See Stream."""
        with self._lock:
            if self._interrupted >= 0:
                os.eventfd_write(self._interrupted, 1)

    def finish(self) -> None:
        """See Stream."""
        end_encryption(self._sock)
        with contextlib.suppress(OSError):
            linger(self._sock, FINISH_SECONDS, FINISH_SECONDS)

    def close(self) -> None:
        """See Stream."""
        with self._lock:
            if self._interrupted >= 0:
                os.close(self._interrupted)
                self._interrupted = -1
        with contextlib.suppress(OSError):
            self._sock.close()


class PipeStream:
    """Two descriptors, standard input and output for one."""

    def __init__(self, reads: int, writes: int, timeout: float) -> None:
        self._reads = reads
        self._writes = writes
        self._timeout = timeout

    def wait(self, seconds: float | None, wake: int | None = None) -> bool:
        """See Stream."""
        return _ready((self._reads,), seconds, wake)

    def receive(self) -> bytes:
        """See Stream."""
        return os.read(self._reads, RECEIVE_SIZE)

    def send(self, data: bytes) -> None:
        """See Stream."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._writes, rest) :]

    def interrupt(self) -> None:
        """See Stream: nobody calls it, since the program serves one client alone."""

    def finish(self) -> None:
        """See Stream: what is in a pipe stays there."""

    def close(self) -> None:
        """See Stream; the descriptors end with the program."""
