"""How long clients wait: `... -m tests.bench.waits PORT RECIPIENT SESSIONS SECONDS OCTETS`.

Sends as fast as it can and prints a line for each message: when its end was sent (seconds of CLOCK_MONOTONIC, which all
processes share), and how long the 250 took to come.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

SENDER = "sender@dom.fr"


def _command(sock: socket.socket, data: bytes, code: bytes) -> None:
    """Sends it (nothing for the greeting) and expects a reply. Raises RuntimeError."""
    if data:
        sock.sendall(data)
    reply = b""
    while not reply.endswith(b"\n") or reply[reply.rfind(b"\n", 0, -1) + 1 :][3:4] == b"-":
        piece = sock.recv(4096)
        if not piece:
            raise RuntimeError(f"{data[:40]!r}: the server closed the connection")
        reply += piece
    if not reply.startswith(code):
        raise RuntimeError(f"{data[:40]!r}: {reply!r}")


def _session(port: int, recipient: str, until: float, content: bytes, waits: list[tuple[float, float]]) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _command(sock, b"", b"220")
        _command(sock, b"EHLO client.example\r\n", b"250")
        while time.monotonic() < until:
            _command(sock, f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250")
            _command(sock, f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
            _command(sock, b"DATA\r\n", b"354")
            begin = time.monotonic()
            _command(sock, content, b"250")
            waits.append((begin, time.monotonic() - begin))
        _command(sock, b"QUIT\r\n", b"221")


def main(port: int, recipient: str, sessions: int, seconds: float, octets: int) -> int:
    """The exit status: 1 when a session failed."""
    line = b"X" * 78 + b"\r\n"
    content = b"Subject: bench\r\n\r\n" + line * (octets // len(line)) + b".\r\n"
    until = time.monotonic() + seconds
    waits: list[tuple[float, float]] = []
    failures: list[str] = []

    def run() -> None:
        try:
            _session(port, recipient, until, content, waits)
        except (OSError, RuntimeError) as error:
            failures.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for begin, wait in waits:
        print(begin, wait)
    for failure in failures[:1]:
        print(failure, file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(int(words[0]), words[1], int(words[2]), float(words[3]), int(words[4])))
