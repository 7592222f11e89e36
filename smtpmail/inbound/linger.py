"""How a connection ends, so that the last reply arrives."""

from __future__ import annotations

import socket
import time

RECEIVE_SIZE = 64 * 1024


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
