"""An SMTP client on a raw socket: sends what it is told to, octet for octet, and reads replies."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

Address = tuple[str, int]


@dataclass(frozen=True)
class Answer:
    """A reply as it came: all lines without their CRLF."""

    lines: tuple[str, ...]

    @property
    def code(self) -> int:
        return int(self.lines[-1][:3])

    @property
    def enhanced(self) -> str:
        """The enhanced status code, empty without one."""
        word = self.lines[-1][4:].partition(" ")[0]
        return word if word.count(".") == 2 and word.replace(".", "").isdigit() else ""

    @property
    def text(self) -> str:
        return self.lines[-1][4:].removeprefix(self.enhanced).strip()

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Closed(Exception):
    """The server closed the connection."""


class Client:
    """One connection. Its greeting is read unless `greet` is false."""

    def __init__(self, address: Address, *, greet: bool = True, timeout: float = 60) -> None:
        self.sock = socket.create_connection(address, timeout=timeout)
        self._file = self.sock.makefile("rb")
        if greet:
            assert self.read().code == 220

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def read(self) -> Answer:
        """The next reply. Raises Closed at the end of the stream, ConnectionError when it was reset."""
        lines = []
        while True:
            line = self._file.readline()
            if not line:
                raise Closed
            assert line.endswith(b"\r\n"), line
            lines.append(line.decode().rstrip("\r\n"))
            if line[3:4] != b"-":
                return Answer(tuple(lines))

    def command(self, line: bytes | str) -> Answer:
        """Sends a line, reads its reply."""
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self.read()

    def expect(self, line: bytes | str, code: int, enhanced: str | None = None) -> Answer:
        """Sends a line; its reply must have this code."""
        answer = self.command(line)
        assert answer.code == code, f"{line!r}: {answer}"
        assert enhanced is None or answer.enhanced == enhanced, f"{line!r}: {answer}"
        return answer

    def ehlo(self) -> Answer:
        return self.expect("EHLO client.example", 250)

    def begin(self, *recipients: str, sender: str = "alice@example.org", parameters: str = "") -> None:
        """EHLO, MAIL and RCPTs that all must be accepted."""
        self.ehlo()
        self.transaction(*recipients, sender=sender, parameters=parameters)

    def transaction(self, *recipients: str, sender: str = "alice@example.org", parameters: str = "") -> None:
        """MAIL and RCPTs that all must be accepted."""
        self.expect(f"MAIL FROM:<{sender}>{parameters}", 250)
        for recipient in recipients or ("bob@dom.fr",):
            self.expect(f"RCPT TO:<{recipient}>", 250)

    def data(self, content: bytes) -> Answer:
        """DATA with content that is already as it travels, without the final dot; the reply to it."""
        self.expect("DATA", 354)
        self.send(content + b".\r\n")
        return self.read()

    def deliver(self, content: bytes = b"Subject: test\r\n\r\nHello\r\n", *recipients: str) -> Answer:
        """A whole message in one transaction; the final reply."""
        self.transaction(*recipients)
        return self.data(content)

    def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """The handshake, after STARTTLS was answered."""
        self.sock = context.wrap_socket(self.sock, server_hostname=name)
        self._file = self.sock.makefile("rb")

    def at_end(self) -> bool:
        """Whether nothing more comes and the server has closed."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True
