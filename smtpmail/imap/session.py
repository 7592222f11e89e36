"""One client's dialogue as a state machine without sockets and files: bytes in, responses and actions out.

The loop around it is that of the SMTP session: `receive` what came; then `step` until it returns None, doing what each
action says; send `take_output` before waiting for more (RFC 3501 3, RFC 9051 3).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from smtpmail.imap import commands, grammar
from smtpmail.imap.actions import (
    AbortAppend,
    Action,
    AppendData,
    BeginAppend,
    Close,
    CommitAppend,
    Identified,
    LogIn,
    Run,
    StartIdle,
    StopIdle,
)
from smtpmail.imap.commands import Append, Authenticate, Command, Enable, Id, Login, Select, Simple
from smtpmail.imap.framing import (
    MAX_LITERAL_COUNT,
    MAX_LITERALS,
    MAX_LITERALS_OF_STRANGERS,
    CommandReader,
    LineTooLong,
    LiteralAhead,
    Pending,
)
from smtpmail.imap.responses import Outcome, bad, no, ok, sentence
from smtpmail.imap.scanner import BadSyntax, Scanner
from smtpmail.mail.sasl import MECHANISMS, Aborted, Exchange, NotAllowed

MAX_ERRORS = 50
"""BAD commands in a row before the connection is closed."""

MAX_LOGINS = 3
"""Wrong passwords before the connection is closed."""

ALWAYS = ("IMAP4rev1", "IMAP4rev2", "LITERAL+", "SASL-IR", "ID", "ENABLE")
LOGGED_IN = (
    "IDLE", "UIDPLUS", "MOVE", "UNSELECT", "NAMESPACE", "CONDSTORE", "QRESYNC", "SPECIAL-USE", "CREATE-SPECIAL-USE",
    "LIST-EXTENDED", "LIST-STATUS", "CHILDREN", "UTF8=ACCEPT", "ESEARCH", "SEARCHRES", "STATUS=SIZE", "BINARY",
    "SORT", "THREAD=ORDEREDSUBJECT", "THREAD=REFERENCES", "WITHIN",
)  # fmt: skip


class State(enum.Enum):
    """RFC 3501 3."""

    NOT_AUTHENTICATED = enum.auto()
    AUTHENTICATED = enum.auto()
    SELECTED = enum.auto()
    LOGOUT = enum.auto()


class Mode(enum.Enum):
    """What comes next from the client."""

    COMMAND = enum.auto()
    SASL = enum.auto()
    """A response to a challenge."""
    IDLE = enum.auto()
    """DONE."""
    MESSAGE = enum.auto()
    """Octets of a message to append."""
    AFTER_MESSAGE = enum.auto()
    """The end of the line behind it."""


@dataclass(slots=True)
class Enabled:
    """What the client has enabled (RFC 5161), for the rest of the connection."""

    utf8: bool = False
    condstore: bool = False
    qresync: bool = False
    rev2: bool = False


class Session:
    """The dialogue with one client. `user` is who it is when the door has told (PREAUTH)."""

    def __init__(self, hostname: str, max_size: int, *, user: str | None = None) -> None:
        self._max_size = max_size
        self._reader = CommandReader()
        self._output: list[bytes] = []
        self._actions: list[Action] = []
        self._tag = b""
        self._mode = Mode.COMMAND
        self._sasl: Exchange | None = None
        self._left = 0
        self._utf8_append = False
        self._idle_ended = False
        self._errors = 0
        self._failed_logins = 0
        self._preauth = user is not None
        self.enabled = Enabled()
        self.state = State.NOT_AUTHENTICATED if user is None else State.AUTHENTICATED
        self.farewell: str | None = None
        """Why the dialogue has ended."""
        greeting = "OK" if user is None else "PREAUTH"
        name = f"{hostname} is ready" if user is None else f"{hostname} is ready for you"
        self._output.append(f"* {greeting} [CAPABILITY {self.capabilities()}] {name}\r\n".encode())

    # -- what the outside calls

    def receive(self, data: bytes) -> None:
        """Takes what came from the client."""
        reader = self._reader
        reader.buffer = reader.buffer + data if reader.buffer else data

    def step(self) -> Action | None:
        """The next thing to do, None when more input is needed (or everything is over)."""
        while not self._actions and self.state is not State.LOGOUT:
            try:
                if not self._MODES[self._mode](self):
                    break
            except LineTooLong as error:
                self._too_long(error.start)
        return self._actions.pop(0) if self._actions else None

    def take_output(self) -> bytes:
        """The responses to send now."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def send(self, data: bytes) -> None:
        """Adds untagged responses that the outside has made."""
        self._output.append(data)

    def finish(self, outcome: Outcome, state: State | None = None) -> None:
        """The answer to a command."""
        if state is not None:
            self.state = state
        if outcome.status != b"BAD":
            self._errors = 0
        self._output.append(outcome.line(self._tag))
        self._mode = Mode.COMMAND
        if outcome.status == b"BAD":
            self._count_error()

    def logged_in(self) -> None:
        """The answer to LogIn: the password is right."""
        self.state = State.AUTHENTICATED
        self.finish(ok("Logged in", f"CAPABILITY {self.capabilities()}".encode()))

    def login_failed(self, outcome: Outcome) -> None:
        """The answer to LogIn: it is not."""
        self._failed_logins += 1
        self.finish(outcome)
        if self._failed_logins >= MAX_LOGINS:
            self.close("too many failed logins")

    def idle_done(self) -> None:
        """The answer to StopIdle."""
        self.finish(ok("Idle no more") if self._idle_ended else bad("DONE expected"))

    def append_accepted(self) -> None:
        """The answer to BeginAppend: let the message come."""
        if self._asks:
            self._output.append(b"+ Ready for the message\r\n")
        self._reader.stream()
        self._mode = Mode.MESSAGE

    def append_refused(self, outcome: Outcome) -> None:
        """The answer to BeginAppend: the message is not taken."""
        self._reader.drop()
        self.finish(outcome)

    def close(self, reason: str) -> None:
        """Ends the dialogue from our side."""
        if self.state is State.LOGOUT:
            return
        if self._mode in (Mode.MESSAGE, Mode.AFTER_MESSAGE):
            self._actions.append(AbortAppend())
        self.farewell = reason
        self._output.append(f"* BYE {sentence(reason)}\r\n".encode())
        self._hang_up()

    @property
    def mid_command(self) -> bool:
        """Whether a part of a command is there."""
        return self._reader.line_is_open or self._mode in (Mode.MESSAGE, Mode.AFTER_MESSAGE, Mode.SASL)

    @property
    def appending(self) -> bool:
        """Whether a message is coming in."""
        return self._mode in (Mode.MESSAGE, Mode.AFTER_MESSAGE)

    def capabilities(self) -> str:
        """What is offered now."""
        words = list(ALWAYS)
        if self.state is State.NOT_AUTHENTICATED or self._preauth:
            words += ["AUTH=PLAIN", "AUTH=LOGIN"]
        if self.state is not State.NOT_AUTHENTICATED:
            words += [*LOGGED_IN, f"APPENDLIMIT={self._max_size}"]
        return " ".join(words)

    # -- commands

    def _hang_up(self) -> None:
        self.state = State.LOGOUT
        self._actions.append(Close())

    def _too_long(self, start: bytes) -> None:
        """The end of what was under way: a command, or what belongs to one."""
        mode, self._mode = self._mode, Mode.COMMAND
        match mode:
            case Mode.SASL:
                self._sasl = None
                self.finish(bad("The response is too long"))
            case Mode.IDLE:
                self._idle_ended = False
                self._actions.append(StopIdle())
            case Mode.AFTER_MESSAGE:
                self._actions.append(AbortAppend())
                self.finish(bad("One message at a time"))
            case _:
                self._complain(start, "the command is too long")

    def _complain(self, start: bytes, text: str) -> None:
        """BAD, with the tag if there is one."""
        tag = start.partition(b" ")[0]
        try:
            scanner = Scanner([tag])
            scanner.tag()
            scanner.end()
        except BadSyntax:
            tag = b"*"
        self._tag = tag
        self.finish(bad(sentence(text)))

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            self.close("too many errors")

    def _read_command(self) -> bool:
        came = self._reader.next()
        if came is None:
            return False
        if isinstance(came, LiteralAhead):
            self._literal_ahead(came)
            return True
        if came.texts == [b""]:
            self._count_error()  # an empty line
            return True
        scanner = Scanner(came.texts, came.literals, utf8=self.enabled.utf8)
        try:
            self._tag = b"*"
            self._tag = scanner.tag()
            scanner.space()
            name = scanner.atom().decode()
            if name == "APPEND":
                raise BadSyntax("a literal with the message expected")
            self._obey(grammar.parse(name, scanner))
        except BadSyntax as error:
            self.finish(bad(sentence(str(error))))
        return True

    def _literal_ahead(self, literal: LiteralAhead) -> None:
        pending = self._reader.pending
        try:
            self._tag = b"*"
            scanner = Scanner(pending.texts, pending.literals, utf8=self.enabled.utf8)
            self._tag = scanner.tag()
            scanner.space()
            name = scanner.atom()
            if name == b"APPEND" and self.state is not State.NOT_AUTHENTICATED:
                command = grammar.parse_append(scanner)
                if command is not None:
                    self._begin_append(command, literal)
                    return
        except BadSyntax as error:
            self._reader.drop()
            self.finish(bad(sentence(str(error))))
            return
        stranger = self.state is State.NOT_AUTHENTICATED
        most = MAX_LITERALS_OF_STRANGERS if stranger else MAX_LITERALS
        size = sum(len(x.data) for x in pending.literals) + literal.size
        if size > most or len(pending.literals) == MAX_LITERAL_COUNT:
            reason = "the literal is too large" if size > most else "too many literals"
            self._reader.drop()
            if stranger and not literal.asks:
                self.close(reason)
            else:
                self.finish(bad(sentence(reason), b"TOOBIG"))
            return
        if literal.asks:
            self._output.append(b"+ OK\r\n")
        self._reader.take()

    def _obey(self, command: Command) -> None:
        match command:
            case Simple("CAPABILITY"):
                self._output.append(f"* CAPABILITY {self.capabilities()}\r\n".encode())
                self.finish(ok("Capabilities listed"))
            case Simple("LOGOUT"):
                self._output.append(b"* BYE Until next time\r\n")
                self.finish(ok("Logged out"))
                self.farewell = "logout"
                self._hang_up()
            case Id(fields):
                self._output.append(b'* ID ("name" "smtpmail")\r\n')
                self._actions.append(Identified(fields))
                self.finish(ok("Nice to meet you"))
            case Simple("STARTTLS"):
                self.finish(bad("TLS begins with the connection here, or is not needed"))
            case Login(user, password):
                self._log_in(user, password)
            case Authenticate():
                self._authenticate(command)
            case Simple("NOOP") if self.state is State.NOT_AUTHENTICATED:
                self.finish(ok("Nothing done"))
            case _ if self.state is State.NOT_AUTHENTICATED:
                self.finish(bad("Log in first"))
            case Enable(names):
                self._enable(names)
            case Simple("IDLE"):
                self._output.append(b"+ idling\r\n")
                self._mode = Mode.IDLE
                self._actions.append(StartIdle())
            case _ if self.state is State.AUTHENTICATED and _needs_mailbox(command):
                self.finish(bad("No mailbox is selected"))
            case _:
                if isinstance(command, Select):
                    # What the client says here, it has enabled (RFC 7162 3.1).
                    if command.qresync and not self.enabled.qresync:
                        self.finish(bad("QRESYNC is not enabled"))
                        return
                    self.enabled.condstore |= command.condstore
                self._actions.append(Run(command, self._tag))

    def _enable(self, names: tuple[bytes, ...]) -> None:
        enabled = self.enabled
        done: list[bytes] = []
        for name in dict.fromkeys(names):
            match name:
                case b"UTF8=ACCEPT":
                    enabled.utf8 = True
                case b"CONDSTORE":
                    enabled.condstore = True
                case b"QRESYNC":
                    enabled.condstore = enabled.qresync = True
                case b"IMAP4REV2":
                    enabled.rev2 = enabled.utf8 = True
                    name = b"IMAP4rev2"  # noqa: PLW2901
                case _:
                    continue
            done.append(name)
        self._output.append(b" ".join([b"* ENABLED", *done]) + b"\r\n")
        self.finish(ok("Enabled"))

    # -- logging in

    def _log_in(self, user: bytes, password: bytes) -> None:
        if self.state is not State.NOT_AUTHENTICATED:
            self._log_in_again()
            return
        try:
            self._actions.append(LogIn(user.decode(), password.decode()))
        except UnicodeDecodeError:
            self.login_failed(no("Wrong user or password", b"AUTHENTICATIONFAILED"))

    def _log_in_again(self) -> None:
        if self._preauth and self.state is State.AUTHENTICATED:
            # The door has told who it is; clients that log in all the same are let have their way.
            self.finish(ok("Logged in", f"CAPABILITY {self.capabilities()}".encode()))
        else:
            self.finish(bad("Logged in already"))

    def _authenticate(self, command: Authenticate) -> None:
        if self.state is not State.NOT_AUTHENTICATED and not self._preauth:
            self.finish(bad("Logged in already"))
            return
        if command.mechanism not in MECHANISMS:
            self.finish(no("This mechanism is not known here: PLAIN and LOGIN are", b"CANNOT"))
            return
        self._sasl = Exchange(command.mechanism)
        if command.initial is not None:
            self._sasl.take(b"" if command.initial == b"=" else command.initial)
        self._go_on_with_sasl()

    def _read_sasl(self) -> bool:
        line = self._reader.next_line()
        if line is None:
            return False
        assert self._sasl is not None
        self._sasl.take(line)
        self._go_on_with_sasl()
        return True

    def _go_on_with_sasl(self) -> None:
        assert self._sasl is not None
        try:
            challenge = self._sasl.challenge()
        except Aborted:
            self._mode = Mode.COMMAND
            self.finish(bad("Authentication aborted"))
        except NotAllowed:
            self._mode = Mode.COMMAND
            self.login_failed(no("Nobody may act for another here", b"AUTHORIZATIONFAILED"))
        else:
            if challenge is not None:
                self._output.append(b"+ " + challenge + b"\r\n")
                self._mode = Mode.SASL
                return
            self._mode = Mode.COMMAND
            self._log_in(*self._sasl.credentials())
        self._sasl = None

    # -- idle

    def _read_done(self) -> bool:
        line = self._reader.next_line()
        if line is None:
            return False
        self._mode = Mode.COMMAND
        self._idle_ended = line.upper() == b"DONE"
        self._actions.append(StopIdle())
        return True

    # -- append

    def _begin_append(self, command: Append, literal: LiteralAhead) -> None:
        self._asks = literal.asks
        if literal.binary and command.utf8 and not self.enabled.utf8:
            self._reader.drop()
            self.finish(bad("UTF8=ACCEPT is not enabled"))
            return
        if not literal.size:
            self._reader.drop()
            self.finish(no("An empty message cannot be appended"))
            return
        if literal.size > self._max_size:
            self._reader.drop()
            self.finish(no("The message is too large", b"TOOBIG"))
            return
        self._left = literal.size
        self._utf8_append = command.utf8
        self._actions.append(BeginAppend(command, literal.size))

    def _read_message(self) -> bool:
        if self._left:
            data = self._reader.read_stream(self._left)
            if not data:
                return False
            self._left -= len(data)
            self._actions.append(AppendData(data))
        if not self._left:
            self._reader.reset()
            self._mode = Mode.AFTER_MESSAGE
        return True

    def _read_after_message(self) -> bool:
        came = self._reader.next()
        if came is None:
            return False
        self._mode = Mode.COMMAND
        if isinstance(came, Pending) and came.texts == [b")" if self._utf8_append else b""]:
            self._actions.append(CommitAppend())
            return True
        if isinstance(came, LiteralAhead):
            self._reader.drop()
        self._actions.append(AbortAppend())
        self.finish(bad("One message at a time"))
        return True

    _MODES = {  # noqa: RUF012 - a constant
        Mode.COMMAND: _read_command,
        Mode.SASL: _read_sasl,
        Mode.IDLE: _read_done,
        Mode.MESSAGE: _read_message,
        Mode.AFTER_MESSAGE: _read_after_message,
    }


def _needs_mailbox(command: Command) -> bool:
    if isinstance(command, Simple):
        return command.name in ("CHECK", "CLOSE", "UNSELECT", "EXPUNGE")
    return isinstance(
        command,
        commands.Copy | commands.Expunge | commands.Fetch | commands.Search | commands.Sort | commands.Store
        | commands.Thread,
    )  # fmt: skip
