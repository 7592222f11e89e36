"""How a connection ends, so that the last reply arrives."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

RECEIVE_SIZE = 64 * 1024


def end_encryption(sock: socket.socket) -> None:
    """Sends close_notify (RFC 8446 6.1), by which the other side knows that nothing was cut off, and waits for nothing.

    Does nothing to a connection in clear text; raises nothing.
    """
    if isinstance(sock, ssl.SSLSocket):
        sock.setblocking(False)
        with contextlib.suppress(OSError, ValueError):
            sock.unwrap()


def linger(sock: socket.socket, silence: float, in_all: float) -> None:
    """Ends our direction, and reads what the other side is still sending: closed with input that nobody has read, the
    kernel would take the last reply back (RST).

    Until the other side ends its direction, says nothing for `silence` seconds, or `in_all` are over. Raises OSError.
    """
    # Below the encryption: what comes is not read any more.
    socket.socket.shutdown(sock, socket.SHUT_WR)
    give_up = time.monotonic() + in_all
    while (left := give_up - time.monotonic()) > 0:
        socket.socket.settimeout(sock, min(silence, left))
        if not socket.socket.recv(sock, RECEIVE_SIZE):
            break
