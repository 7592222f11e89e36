"""New messages on their way from the process that took them to the one that runs the queue.

What counts stands on disk: a message that is not handed over is found there, later. Its envelope goes along only so
that nobody has to read and understand again what is known already.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from smtpmail.mail.queued import Item, decode_envelope, encode_envelope

LARGEST = 32 * 1024
"""Octets of an envelope; a larger one is read from disk."""

PATIENCE = 30.0
"""Seconds that a message waits for room: what is not handed over waits for the next look through the folder."""


class Handover:
    """Made before the server's processes part; nobody else has its sockets."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.settimeout(PATIENCE)

    def put(self, item: Item) -> None:
        """In the process that took the message. Raises nothing."""
        line = encode_envelope(item)
        with contextlib.suppress(OSError):
            self._theirs.send(line if len(line) <= LARGEST else item.id.encode())

    def run(self, submit: Callable[[Item], None], look_at: Callable[[str], None]) -> None:
        """In the process that runs the queue, in a thread of its own: hands on what comes, for ever."""
        while True:
            line = self._ours.recv(LARGEST)
            if line.startswith(b"{"):
                submit(decode_envelope(line))
            else:
                look_at(line.decode())
