"""Waiting for input of an encrypted session, which another thread may end without harm to the encryption."""

from __future__ import annotations

import select
import socket
import ssl
import time

from smtpmail.inbound.linger import RECEIVE_SIZE


def receive_encrypted(sock: socket.socket, wake: int, seconds: float) -> bytes:
    """What comes within so many seconds; b"" at the end of the stream, or as soon as the eventfd `wake` can be read.

    Raises TimeoutError, OSError, ssl.SSLError.
    """
    assert isinstance(sock, ssl.SSLSocket)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(wake, select.POLLIN)
    give_up = time.monotonic() + seconds
    timeout = sock.gettimeout()
    while True:
        if not sock.pending():
            left = give_up - time.monotonic()
            ready = poll.poll(1000 * left) if left > 0 else []
            if not ready:
                raise TimeoutError
            if any(fd == wake for fd, _ in ready):
                return b""
        sock.settimeout(0)
        try:
            return sock.recv(RECEIVE_SIZE)
        except ssl.SSLWantReadError:
            continue  # a part of a record
        finally:
            sock.settimeout(timeout)
