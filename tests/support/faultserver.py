"""An SMTP server for tests of clients: correct and strict, except where its script says otherwise.

    with FaultServer({"MAIL": say("451 4.3.0 not now")}) as server:
        ...  # a client talks to server.address
    assert server.accepted == []

The script maps a *point* of the dialogue to what happens there: a Fault, which happens every time, or a list of them
(None: nothing special) for the first, second, ... time this server passes that point, and nothing special afterwards.
The points are

    connect                      a client has connected and waits for the greeting
    EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP QUIT ...    any verb: the command has been read
    RCPT bob@one.test            that recipient (before the entry for RCPT)
    handshake                    the TLS handshake should begin, after the reply to STARTTLS
    content                      the first octets of the content have been read
    .                            the content has been read whole; also after the last BDAT

It records what it was told and what it took over: every content that it read to the end is a Message, `acknowledged`
when a whole 2xx reply to it went out.  What a client must not do (RFC 5321, 1652/6152, 1870, 2920, 3030, 3461, 6531) is
noted in `violations` and never ends the session, so that a test sees all of it.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

EXTENSIONS = ("PIPELINING", "SIZE 10485760", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "ENHANCEDSTATUSCODES")
"""What is offered unless a test says otherwise; STARTTLS comes with a TLS context."""

_PARAMETERS = {
    "SIZE": "SIZE",
    "BODY": "8BITMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET": "DSN",
    "ENVID": "DSN",
    "NOTIFY": "DSN",
    "ORCPT": "DSN",
    "REQUIRETLS": "REQUIRETLS",
}
"""Parameters of MAIL and RCPT and the extension without which they are an error."""


class Then(enum.Enum):
    """What follows the reply."""

    GO_ON = enum.auto()
    CLOSE = enum.auto()
    RESET = enum.auto()
    """Close with a TCP RST."""
    HANG = enum.auto()
    """Say nothing more, read on, until the client goes."""


@dataclass(frozen=True)
class Fault:
    """What happens at a point: after `delay` seconds `reply` is said (None: the regular reply), then `then`."""

    reply: bytes | None = None
    then: Then = Then.GO_ON
    delay: float = 0.0
    pace: float = 0.0
    """Seconds between two octets of the reply."""


def _octets(text: str | bytes) -> bytes:
    """A str is one whole reply line, bytes are sent as they are."""
    return text.encode() + b"\r\n" if isinstance(text, str) else text


def say(reply: str | bytes, *, pace: float = 0.0) -> Fault:
    """Say this instead of the regular reply and go on."""
    return Fault(_octets(reply), pace=pace)


def close(said: str | bytes = b"") -> Fault:
    """Say this, nothing by default, and close the connection."""
    return Fault(_octets(said), Then.CLOSE)


def reset(said: str | bytes = b"") -> Fault:
    """Say this, nothing by default, and reset the connection."""
    return Fault(_octets(said), Then.RESET)


def hang(said: str | bytes = b"") -> Fault:
    """Say this, nothing by default, and never anything more."""
    return Fault(_octets(said), Then.HANG)


def late(seconds: float) -> Fault:
    """Give the regular reply after `seconds`."""
    return Fault(delay=seconds)


Script = Mapping[str, "Fault | Sequence[Fault | None]"]


@dataclass
class Message:
    """A content that was read to its end, with its envelope."""

    sender: str
    recipients: list[str]
    content: bytes
    """With CRLF line ends and without dot-stuffing."""
    mail_parameters: dict[str, str]
    recipient_parameters: dict[str, dict[str, str]]
    tls: bool
    acknowledged: bool = False

    @property
    def message_id(self) -> str:
        found = re.search(rb"^message-id:\s*(\S+)", self.content, re.IGNORECASE | re.MULTILINE)
        return found[1].decode() if found else ""


@dataclass
class Session:
    """One connection, as it went."""

    peer: str
    transcript: list[str] = field(default_factory=list)
    """`C: ` what the client said, `S: ` what it was told, a line each; without contents."""
    messages: list[Message] = field(default_factory=list)
    tls: bool = False
    user: str | None = None
    """Who has logged in with AUTH."""
    ended: bool = False

    @property
    def verbs(self) -> list[str]:
        return [line[3:].split(" ")[0].upper() for line in self.transcript if line.startswith("C: ")]


class FaultServer:
    """Listens from construction on; serves between start() and stop(), or as a context manager."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        listeners: Sequence[socket.socket] = (),
        extensions: Sequence[str] = EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        accounts: Mapping[str, str] | None = None,
        hostname: str = "fault.test",
    ) -> None:
        """`listeners`: listening sockets to serve, by default a new one on a free port of 127.0.0.1.

        `tls`: offer STARTTLS with it, or begin with the handshake (`implicit_tls`).  `accounts`: passwords by user;
        with them AUTH PLAIN and LOGIN are offered, over TLS only, and wanted before MAIL.
        """
        self.script = dict(script or {})
        self.extensions = list(extensions)
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.accounts = accounts
        self.hostname = hostname
        self.sessions: list[Session] = []
        self.violations: list[str] = []
        self.peak_sessions = 0
        self._listeners = list(listeners) or [socket.create_server(("127.0.0.1", 0))]
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._passed: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._stopping = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        host, port = self._listeners[0].getsockname()[:2]
        return host, port

    @property
    def messages(self) -> list[Message]:
        """Every content that was read to its end, acknowledged or not."""
        return [message for session in list(self.sessions) for message in list(session.messages)]

    @property
    def accepted(self) -> list[Message]:
        """The messages this server has taken responsibility for."""
        return [message for message in self.messages if message.acknowledged]

    @property
    def deliveries(self) -> Counter[tuple[str, str]]:
        """How often each (recipient, Message-ID) was accepted: more than once is a duplicate."""
        return Counter((recipient, message.message_id) for message in self.accepted for recipient in message.recipients)

    def wait_until(self, condition: Callable[[FaultServer], T], timeout: float = 10.0) -> T:
        """Return the first true value of condition(server); raises TimeoutError after `timeout` seconds."""
        with self._changed:
            value = self._changed.wait_for(lambda: condition(self), timeout)
        if not value:
            seen = "\n".join("\n".join(session.transcript) for session in self.sessions)
            raise TimeoutError(f"not within {timeout:g} s; the sessions were:\n{seen or '(none)'}")
        return value

    def __enter__(self) -> FaultServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        for listener in self._listeners:
            self._run(self._accept, listener)

    def stop(self) -> None:
        """Close everything and wait for all threads."""
        self._stopping = True
        for sock in [*self._listeners, *self._connections]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for listener in self._listeners:
            listener.close()
        for thread in self._threads:
            thread.join(10)

    def _run(self, function: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=function, args=(sock,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                self._connections.add(connection)
                self.peak_sessions = max(self.peak_sessions, len(self._connections))
            self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        dialogue = _Dialogue(self, connection)
        with self.noting():
            self.sessions.append(dialogue.session)
        with contextlib.suppress(OSError, _Over):
            dialogue.run()
        dialogue.close()
        with self.noting():
            dialogue.session.ended = True
            self._connections.discard(connection)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Around every change of what is recorded."""
        with self._changed:
            yield
            self._changed.notify_all()

    def fault(self, *points: str) -> Fault | None:
        """What the script has for the first of these points that it mentions; counts the passage."""
        for point in points:
            if point in self.script:
                entry = self.script[point]
                if isinstance(entry, Fault):
                    return entry
                with self._changed:
                    passed = self._passed[point]
                    self._passed[point] += 1
                return entry[passed] if passed < len(entry) else None
        return None


class _Over(Exception):
    """The connection has ended, by the client or by the script."""


class _Dialogue:
    """One connection's thread."""

    def __init__(self, server: FaultServer, connection: socket.socket) -> None:
        self.server = server
        self.session = Session(str(connection.getpeername()[0]))
        self._socket = connection
        self._buffer = b""
        self._extended = False
        self._forget()

    def _forget(self) -> None:
        """Begin a new transaction."""
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._mail_parameters: dict[str, str] = {}
        self._recipient_parameters: dict[str, dict[str, str]] = {}
        self._chunks = b""

    def run(self) -> None:
        if self.server.implicit_tls:
            self._handshake()
        self._answer("connect", f"220 {self.server.hostname} ESMTP")
        while True:
            self._command(self._line())

    def close(self) -> None:
        self._socket.close()

    # --- commands

    def _command(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "backslashreplace")
        self._note(f"C: {line}")
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        if verb == "BDAT":
            pass  # its octets follow at once (RFC 3030 2)
        elif self._buffer and not self._offered("PIPELINING"):
            self._violation(f"did not wait for the reply to {verb}, without PIPELINING")
        elif self._buffer and verb in {"EHLO", "HELO", "DATA", "STARTTLS", "QUIT", "VRFY", "NOOP"}:
            self._violation(f"did not wait for the reply to {verb}, the last of a group (RFC 2920 3.1)")
        if not raw.isascii() and "SMTPUTF8" not in self._mail_parameters and "SMTPUTF8" not in argument.upper():
            self._violation(f"not ASCII, without SMTPUTF8: {line}")
        handler = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "AUTH": self._auth,
            "DATA": self._data,
            "BDAT": self._bdat,
            "RSET": self._rset,
            "QUIT": self._quit,
        }.get(verb)
        if handler is not None:
            handler(argument)
        elif verb in {"NOOP", "VRFY", "HELP"}:
            self._answer(verb, "250 2.0.0 OK")
        else:
            self._answer(verb, "500 5.5.2 unknown command")

    def _ehlo(self, argument: str) -> None:
        if not argument:
            self._violation("EHLO without a name")
        offers = list(self.server.extensions)
        if self.session.tls:
            offers = [offer for offer in offers if offer != "STARTTLS"]
        elif self.server.tls and "STARTTLS" not in offers:
            offers.append("STARTTLS")
        if self.server.accounts and self.session.tls:
            offers.append("AUTH PLAIN LOGIN")
        lines = [self.server.hostname, *offers]
        reply = "\r\n".join(f"250{'-' if line is not lines[-1] else ' '}{line}" for line in lines)
        self._extended = self._answer("EHLO", reply)
        self._forget()

    def _helo(self, argument: str) -> None:
        self._extended = False
        self._answer("HELO", f"250 {self.server.hostname}")
        self._forget()

    def _starttls(self, argument: str) -> None:
        if self._answer("STARTTLS", "220 2.0.0 go ahead"):
            self._buffer = b""
            self._handshake()
            self._extended = False
            self._forget()

    def _handshake(self) -> None:
        fault = self.server.fault("handshake")
        if fault is not None:
            self._perform(fault, b"")
        if self.server.tls is None:
            raise _Over
        self._socket = self.server.tls.wrap_socket(self._socket, server_side=True)
        self.session.tls = True

    def _auth(self, argument: str) -> None:
        """RFC 4954 with PLAIN (RFC 4616) and LOGIN."""
        mechanism, _, initial = argument.partition(" ")
        if not self.session.tls:
            self._violation("credentials without TLS")
        if mechanism.upper() == "PLAIN":
            _, user, password = (_decoded(initial) if initial else self._challenge("")).split("\0")
        else:
            user = _decoded(initial) if initial else self._challenge("Username:")
            password = self._challenge("Password:")
        if (self.server.accounts or {}).get(user) != password:
            self._answer("AUTH", "535 5.7.8 wrong user or password")
        elif self._answer("AUTH", "235 2.7.0 welcome"):
            self.session.user = user

    def _challenge(self, question: str) -> str:
        self._perform(None, b"334 " + base64.b64encode(question.encode()) + b"\r\n")
        return _decoded(self._line().decode("ascii", "replace"))

    def _mail(self, argument: str) -> None:
        address, parameters = self._path(argument, "FROM:")
        if self.server.accounts and self.session.user is None:
            self._answer("MAIL", "530 5.7.0 log in first")
            return
        if self._sender is not None:
            self._answer("MAIL", "503 5.5.1 there is a transaction already")
            return
        limit = self._size_limit()
        if limit and int(parameters.get("SIZE") or 0) > limit:
            self._answer("MAIL", "552 5.3.4 larger than I take")
            return
        if self._answer("MAIL", "250 2.1.0 OK"):
            self._sender, self._mail_parameters = address, parameters

    def _rcpt(self, argument: str) -> None:
        address, parameters = self._path(argument, "TO:")
        if self._sender is None:
            self._answer("RCPT", "503 5.5.1 MAIL first")
            return
        if self._answer(f"RCPT {address}", "250 2.1.5 OK", "RCPT"):
            self._recipients.append(address)
            self._recipient_parameters[address] = parameters

    def _data(self, argument: str) -> None:
        if not self._recipients:
            self._answer("DATA", "554 5.5.1 no valid recipients")
            return
        if self._mail_parameters.get("BODY", "").upper() == "BINARYMIME":
            self._violation("BINARYMIME with DATA")
        if self._answer("DATA", "354 go ahead"):
            self._finish(self._content())

    def _bdat(self, argument: str) -> None:
        if not self._offered("CHUNKING"):
            self._violation("BDAT without CHUNKING")
        size, _, last = argument.partition(" ")
        self._chunks += self._exactly(int(size))
        if not self._recipients:
            self._answer("BDAT", "503 5.5.1 no valid recipients")
        elif last.upper() == "LAST":
            self._finish(self._chunks)
        else:
            self._answer("BDAT", f"250 2.0.0 {size} octets")

    def _rset(self, argument: str) -> None:
        self._answer("RSET", "250 2.0.0 OK")
        self._forget()

    def _quit(self, argument: str) -> None:
        self._answer("QUIT", "221 2.0.0 bye")
        raise _Over

    # --- content

    def _content(self) -> bytes:
        """Read to CRLF . CRLF and nothing else, undo dot-stuffing (RFC 5321 4.5.2)."""
        if self._buffer:
            self._violation("sent content before the reply to DATA")
        data = b"\r\n" + (self._buffer or self._receive())
        self._buffer = b""
        fault = self.server.fault("content")
        if fault is not None:
            self._perform(fault, b"")
        while (end := data.find(b"\r\n.\r\n")) < 0:
            data += self._receive()
        self._buffer = data[end + 5 :]
        stuffed = data[2 : end + 2]
        for line in stuffed.split(b"\r\n"):
            if line.startswith(b".") and not line.startswith(b".."):
                self._violation(f"a line that is not dot-stuffed: {line[:40]!r}")
        return re.sub(rb"(?m)^\.", b"", stuffed)

    def _finish(self, content: bytes) -> None:
        """The content is whole: record it and answer for it."""
        if re.search(rb"(?<!\r)\n|\r(?!\n)", content):
            self._violation("a bare CR or LF in the content")
        if not content.isascii() and not self._mail_parameters.keys() & {"BODY", "SMTPUTF8"}:
            self._violation("an 8-bit content without BODY=8BITMIME")
        message = Message(
            self._sender or "",
            self._recipients,
            content,
            self._mail_parameters,
            self._recipient_parameters,
            self.session.tls,
        )
        limit = self._size_limit()
        regular = b"552 5.3.4 larger than I take\r\n" if limit and len(content) > limit else b"250 2.0.0 taken\r\n"
        fault = self.server.fault(".")
        reply = regular if fault is None or fault.reply is None else fault.reply
        # Before the reply is sent: the client may act on it before this thread runs again.
        message.acknowledged = _positive(reply) and reply.startswith(b"2")
        with self.server.noting():
            self.session.messages.append(message)
        self._forget()
        self._perform(fault, regular)

    # --- replies

    def _answer(self, point: str, regular: str, fallback: str = "") -> bool:
        """Say what the script or else the protocol has to say; True when it was positive (2xx, 3xx)."""
        return self._perform(self.server.fault(point, fallback), regular.encode() + b"\r\n")

    def _perform(self, fault: Fault | None, regular: bytes) -> bool:
        fault = fault or Fault()
        if fault.delay:
            time.sleep(fault.delay)
        reply = regular if fault.reply is None else fault.reply
        for line in reply.splitlines():
            self._note(f"S: {line.decode('utf-8', 'backslashreplace')}")
        if fault.pace:
            for octet in reply:
                self._socket.sendall(bytes([octet]))
                time.sleep(fault.pace)
        else:
            self._socket.sendall(reply)
        if fault.then is Then.HANG:
            while True:
                self._receive()
        if fault.then is Then.RESET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.then is not Then.GO_ON:
            raise _Over
        return _positive(reply)

    # --- octets

    def _receive(self) -> bytes:
        octets = self._socket.recv(65536)
        if not octets:
            raise _Over
        return octets

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            self._buffer += self._receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        if not line.endswith(b"\r"):
            self._violation(f"a command that ends with a bare LF: {line!r}")
        return line.removesuffix(b"\r")

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += self._receive()
        octets, self._buffer = self._buffer[:size], self._buffer[size:]
        return octets

    # --- parsing and notes

    def _path(self, argument: str, keyword: str) -> tuple[str, dict[str, str]]:
        found = re.fullmatch(rf"{keyword}<((?:[^<>\"]|\"(?:[^\"\\]|\\.)*\")*)>((?: [^ ]+)*)", argument, re.IGNORECASE)
        if found is None:
            self._violation(f"not the syntax of RFC 5321: {keyword} {argument}")
            return argument, {}
        parameters = {}
        for word in found[2].split():
            name, _, value = word.partition("=")
            parameters[name.upper()] = value
            extension = _PARAMETERS.get(name.upper())
            if extension is None or not self._offered(extension):
                self._violation(f"the parameter {word} has not been offered")
        return found[1], parameters

    def _offered(self, extension: str) -> bool:
        return self._extended and extension in {offer.split()[0] for offer in self.server.extensions}

    def _size_limit(self) -> int:
        sizes = [offer.split()[1] for offer in self.server.extensions if offer.startswith("SIZE ")]
        return int(sizes[0]) if sizes else 0

    def _note(self, line: str) -> None:
        with self.server.noting():
            self.session.transcript.append(line)

    def _violation(self, what: str) -> None:
        with self.server.noting():
            self.server.violations.append(what)


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


def _positive(reply: bytes) -> bool:
    """Whether this is a yes for every client: whole, well-formed and 2xx or 3xx (RFC 5321 4.2)."""
    *before, last = reply.split(b"\r\n")[:-1] or [b""]
    return (
        reply.endswith(b"\r\n")
        and re.match(rb"[23]\d\d(?: |$)", last) is not None
        and all(line.startswith(last[:3] + b"-") for line in before)
    )
