"""Where metrics are fetched: HTTP on a Unix socket or a loopback address, one thread, one request at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable

from smtpmail.metrics.exposition import OPENMETRICS, PROMETHEUS

TIMEOUT = 5.0
"""Seconds for a request and its answer: who is slower waits for nobody."""

MAX_REQUEST = 8 * 1024


def open_socket(address: str | tuple[str, int]) -> socket.socket:
    """Listens on a path or on an address and port. Raises OSError."""
    if not isinstance(address, str):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return socket.create_server(address, family=family, backlog=16)
    with contextlib.suppress(FileNotFoundError):
        # What a server that was killed has left. Anything else is not ours to remove.
        if stat.S_ISSOCK(os.lstat(address).st_mode):
            os.unlink(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(address)
        os.chmod(address, 0o660)
        sock.listen(16)
    except BaseException:
        sock.close()
        raise
    return sock


class Endpoint:
    """Answers on a socket until the process ends. `text` makes the metrics, in OpenMetrics or not."""

    def __init__(self, sock: socket.socket, text: Callable[[bool], str]) -> None:
        self._sock = sock
        self._text = text

    def start(self) -> None:
        """In a thread of its own."""
        threading.Thread(target=self._run, daemon=True, name="metrics").start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(TIMEOUT)
                connection.sendall(self.answer(_read_request(connection)))

    def answer(self, request: bytes) -> bytes:
        """The response to an HTTP request."""
        line, _, head = request.partition(b"\r\n")
        words = line.split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", "text/plain", "This is for HTTP: GET /metrics\n")
        if words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "text/plain", "GET /metrics\n")
        if words[1].partition(b"?")[0] not in (b"/metrics", b"/"):
            return _response("404 Not Found", "text/plain", "GET /metrics\n")
        openmetrics = b"application/openmetrics-text" in head.lower()
        response = _response("200 OK", OPENMETRICS if openmetrics else PROMETHEUS, self._text(openmetrics))
        return response if words[0] == b"GET" else response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST:
        data = connection.recv(MAX_REQUEST)
        if not data:
            break
        request += data
    return request


def _response(status: str, kind: str, text: str) -> bytes:
    body = text.encode()
    fields = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(fields).encode() + body
