"""One client's dialogue as a state machine without sockets: bytes in, replies and actions out (RFC 5321 3, 4).

The loop around it is always the same: `receive` what came; then `step` until it returns None, doing what each action
says; send `take_output` before waiting for more. Each verb is one method; `_enter` alone changes the state.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from smtpmail.mail.address import NULL_PATH, Address, AddressSyntaxError, parse_path
from smtpmail.mail.envelope import Envelope, Peer, Recipient
from smtpmail.mail.route import Route
from smtpmail.mail.sasl import MECHANISMS, Aborted, Exchange, NotAllowed
from smtpmail.smtp import replies
from smtpmail.smtp.actions import (
    CLOSE,
    START_TLS,
    Abort,
    Action,
    Authenticate,
    Begin,
    CheckSender,
    Commit,
    FindRoutes,
    MoreRefused,
    RecipientRefused,
    SenderRefused,
    Write,
)
from smtpmail.smtp.framing import BareLineFeed, DotReader, LineEnds, LineReader, LineTooLong
from smtpmail.smtp.parameters import mail_parameters, parse_parameters, rcpt_parameters
from smtpmail.smtp.replies import Refusal, Reply

MAX_ERRORS = 20
"""Errors in a row before the session is closed (Postfix: smtpd_hard_error_limit)."""

MAX_REFUSED = 1000
"""Recipients refused in one session before it is closed: more is somebody guessing addresses."""

MAX_REFUSED_TOLD = 20
"""Refused recipients of one transaction that are logged one by one; of the others only their number is."""

OCTETS_PER_RECIPIENT = 512
"""Of the addresses and parameters in an envelope, on the average: so many recipients bound its memory."""

MAX_HELO = 255
"""Octets of a client's name that are kept (RFC 5321 4.5.3.1.2)."""

MAX_IDLE_COMMANDS = 100
"""Commands that do nothing (NOOP, RSET, VRFY, HELP, EHLO) between two messages before each counts as an error."""

_USAGE_OF_MAIL = replies.bad_arguments("MAIL FROM:<address> [parameters]")
_USAGE_OF_RCPT = replies.bad_arguments("RCPT TO:<address> [parameters]")

HTTP_VERBS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PRI", "PUT", "TRACE"})
NOT_IMPLEMENTED_VERBS = frozenset(
    {"ATRN", "BURL", "ETRN", "EXPN", "SAML", "SEND", "SOML", "TURN", "XCLIENT", "XFORWARD"}
)


class State(enum.Enum):
    """Where the dialogue stands."""

    CONNECTED = enum.auto()
    """Before HELO or EHLO."""
    READY = enum.auto()
    """Greeted; no transaction."""
    MAIL = enum.auto()
    """A reverse-path, no recipient yet."""
    RCPT = enum.auto()
    """At least one recipient."""
    DATA = enum.auto()
    """Reading content up to the lone dot."""
    BDAT = enum.auto()
    """Between two chunks."""
    CHUNK = enum.auto()
    """Reading the octets of a chunk."""
    AUTH = enum.auto()
    """In the middle of logging in."""
    CLOSED = enum.auto()
    """Nothing more is read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may do."""

    max_size: int
    """Octets of a message."""
    max_recipients: int


class Session:
    """The dialogue with one client. Whatever it must ask the outside is an action that the outside answers."""

    def __init__(
        self,
        hostname: str,
        peer: Peer,
        limits: Limits,
        *,
        offer_tls: bool = False,
        origin: str | None = None,
        authenticates: bool = False,
    ) -> None:
        self._hostname = hostname
        self._peer = peer
        self._limits = limits
        self._offer_tls = offer_tls
        self._origin = origin
        self._tls: str | None = None
        self._authenticates = authenticates
        self._sasl: Exchange | None = None
        self.user: str | None = None
        """Who has logged in; without, a session that `authenticates` takes no mail."""
        self._trusted = peer.listener == "loopback"
        self._spoken = False
        """Whether a command has come."""
        self._hello_unsent = False
        """The reply to EHLO or HELO waits for what else came together with it."""
        self._data_refused = False
        """DATA was refused just now: a client that sends the content all the same is out of step."""
        self._lines = LineReader()
        self._output: list[bytes] = [replies.greeting(hostname).wire]
        self._actions: list[Action] = []
        self._helo = ""
        self._esmtp = False
        self._errors = 0
        self._refused = 0
        self._idle_commands = 0
        self.state = State.CONNECTED
        self.farewell: Reply | None = None
        """The reply that ended the dialogue."""
        self.messages = 0
        """Messages acknowledged with 250."""
        self._asked: tuple[Address, tuple[str, ...], str | None] = (NULL_PATH, (), None)
        """The recipient whose routes are being found, with its DSN parameters."""
        self._untold: MoreRefused | None = None
        self._envelope: Envelope | None
        self._verdict: Reply | None
        self._forget()

    # -- what the outside calls

    def receive(self, data: bytes) -> None:
        """Takes what came from the client."""
        lines = self._lines
        lines.buffer = lines.buffer + data if lines.buffer else data

    def step(self) -> Action | None:
        """The next thing to do, None when more input is needed (or everything is over)."""
        while not self._actions:
            state = self.state
            if state is State.CLOSED or (state is not State.CHUNK and not self._lines.buffer):
                return None  # a chunk may have no octets at all
            if state is State.DATA:
                progress = self._read_data()
            elif state is State.AUTH:
                progress = self._read_response()
            elif state is State.CHUNK:
                progress = self._read_chunk()
            else:
                progress = self._read_command()
            if not progress:
                break
        if not self._actions:
            return None
        action = self._actions.pop(0)
        if isinstance(action, Commit) and self._verdict:
            # Refused after its end had come already: all of it was there in one piece.
            return self._give_up(self._verdict)
        return action

    def _give_up(self, reply: Reply) -> Abort:
        """The whole message has come, but is not taken."""
        self._send(reply)
        self._forget()
        self._enter(State.READY)
        return Abort(reply)

    def take_output(self) -> bytes:
        """The replies to send now."""
        output = b"".join(self._output)
        self._output.clear()
        self._hello_unsent = False
        return output

    def authenticated(self, user: str) -> None:
        """An answer to Authenticate."""
        self.user = user
        self._send(replies.AUTHENTICATED)

    def not_authenticated(self) -> None:
        """An answer to Authenticate."""
        self._error(replies.AUTHENTICATION_FAILED)

    def sender_accepted(self) -> None:
        """An answer to CheckSender."""
        self._enter(State.MAIL)
        self._send(replies.SENDER_OK)

    def sender_refused(self, reply: Reply) -> None:
        """An answer to CheckSender."""
        self._forget()
        self._error(reply)

    def recipient_accepted(self, routes: tuple[Route, ...]) -> None:
        """An answer to FindRoutes."""
        address, notify, orcpt = self._asked
        # A local part is the business of its host alone (RFC 5321 2.4), a domain has no case.
        key = (address.local, address.domain.lower())
        if key not in self._seen:
            self._seen.add(key)
            self._open_envelope().recipients.append(Recipient(address, routes, notify, orcpt))
        self._enter(State.RCPT)
        self._send(replies.RECIPIENT_OK)

    def recipient_refused(self, reply: Reply) -> None:
        """An answer to FindRoutes."""
        self._refuse_recipient(self._asked[0], reply)

    def finish(self, reply: Reply) -> None:
        """The answer to a Commit."""
        if reply.accepted:
            self.messages += 1
            self._idle_commands = 0
        self._send(reply)
        self._forget()
        self._enter(State.READY)

    def message_failed(self, reply: Reply) -> None:
        """The outside cannot store what it got of the message; the rest is read and dropped, then `reply` given."""
        if self._verdict is None:
            self._verdict = reply

    def talked_early(self) -> None:
        """The client has sent something before it was greeted: on loopback, that is no mail program."""
        self._output.clear()
        self._hang_up(replies.NOT_SMTP)

    def tls_started(self, description: str) -> None:
        """The handshake is done; all that was known of the client is forgotten (RFC 3207 4.2)."""
        self._tls = description
        self._helo = ""
        self._lines = LineReader()
        self._forget()
        self._enter(State.CONNECTED)

    def close(self, reply: Reply) -> None:
        """Ends the dialogue from our side with a 421 reply."""
        if self.state is not State.CLOSED:
            if self._content_open:
                self._actions.append(Abort(reply))
            self._hang_up(reply)

    @property
    def transaction(self) -> Envelope | None:
        """The message that is under way."""
        return self._envelope

    @property
    def under_way(self) -> object:
        """What may take a bounded time only: the transaction, or else a refused chunk that is read and dropped."""
        return self._envelope or (State.CHUNK if self.state is State.CHUNK else None)

    @property
    def max_size(self) -> int:
        """Octets of a message, at most."""
        return self._limits.max_size

    @property
    def awaits_content(self) -> bool:
        """Whether what comes next is content; otherwise it is a command."""
        return self.state in (State.DATA, State.CHUNK)

    @property
    def mid_command(self) -> bool:
        """Whether a part of a command line is there."""
        return bool(self._lines.buffer)

    # -- state

    def _enter(self, state: State) -> None:
        self.state = state

    def _forget(self) -> None:
        """Drops the transaction and all that belongs to it."""
        if self._untold is not None:
            self._actions.append(self._untold)
        self._untold = None
        self._envelope = None
        self._envelope_octets = 0
        self._seen: set[tuple[str, str]] = set()
        self._refused_here = 0
        self._content_open = False
        self._verdict = None
        self._size = 0
        self._chunk_left = 0
        self._chunk_size = 0
        self._last_chunk = False

    def _hang_up(self, reply: Reply) -> None:
        self.farewell = reply
        self._send(reply)
        self._forget()
        self._enter(State.CLOSED)
        self._actions.append(CLOSE)

    def _send(self, reply: Reply) -> None:
        self._output.append(reply.wire)

    def _open_envelope(self) -> Envelope:
        assert self._envelope is not None
        return self._envelope

    # -- commands

    def _read_command(self) -> bool:
        try:
            line = self._lines.next_line()
        except LineTooLong:
            self._error(replies.LINE_TOO_LONG)
            return True
        except BareLineFeed:
            self._error(replies.BARE_LINE_FEED)
            return True
        if line is None:
            return False
        try:
            verb, _, argument = line.decode(errors="surrogateescape").partition(" ")
            verb = verb.upper()
            method = self._VERBS.get(verb)
            if self._must_be_in_step(verb) and self._is_out_of_step(verb, line):
                return True
            self._spoken = True
            if method is None:
                self._unknown(verb)
            elif not (argument.isascii() or _is_unicode(argument) or method in self._GREETINGS):
                raise Refusal(replies.SYNTAX_ERROR)
            else:
                method(self, argument.strip(" "))
                # Whether a chunk is refused is told at its end.
                if self._idle_commands <= MAX_IDLE_COMMANDS and self.state is not State.CHUNK:
                    self._errors = 0
        except Refusal as refusal:
            self._error(refusal.reply)
        return True

    def _must_be_in_step(self, verb: str) -> bool:
        """Whether it matters when the client has sent this command."""
        return not self._spoken or self._data_refused or verb in ("DATA", "BDAT")

    def _is_out_of_step(self, verb: str, line: bytes) -> bool:
        """Ends the session of who does not wait for replies where they must be waited for (RFC 2920 3.1).

        Content that comes ahead of its 354 or behind a refused DATA is never read as commands. On loopback, whoever
        sends all in one blind write is no mail program: another protocol's client was made to write here, and what it
        writes would leave for the world.
        """
        if self._trusted and not self._spoken and not (line.isascii() and line.decode().isprintable()):
            self._hang_up(replies.NOT_SMTP)
        elif (self._data_refused and verb not in self._VERBS) or (self._trusted and self._is_blind(verb)):
            self._hang_up(replies.OUT_OF_SYNC)
        else:
            self._data_refused = False
            return False
        return True

    def _is_blind(self, verb: str) -> bool:
        """Whether content comes ahead of the reply that it must wait for: 354, or what EHLO offers."""
        return (verb == "DATA" and bool(self._lines.buffer)) or (verb in ("DATA", "BDAT") and self._hello_unsent)

    def _unknown(self, verb: str) -> None:
        if verb in HTTP_VERBS:
            self._hang_up(replies.NOT_HTTP)
            return
        raise Refusal(replies.NOT_IMPLEMENTED if verb in NOT_IMPLEMENTED_VERBS else replies.SYNTAX_ERROR)

    def _error(self, reply: Reply) -> None:
        self._send(reply)
        self._count_error()

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            self._hang_up(replies.TOO_MANY_ERRORS)

    def _idle(self) -> None:
        """Counts a command that does nothing: a client may not live on these."""
        self._idle_commands += 1
        if self._idle_commands > MAX_IDLE_COMMANDS:
            self._count_error()

    def _no_argument(self, verb: str, argument: str) -> None:
        if argument:
            raise Refusal(replies.bad_arguments(verb))

    def do_helo(self, argument: str) -> None:
        self._greet("HELO", argument, esmtp=False)
        self._output.append(f"250 {self._hostname}\r\n".encode())
        self._idle()

    def do_ehlo(self, argument: str) -> None:
        self._greet("EHLO", argument, esmtp=True)
        self._output.append(replies.multiline(250, [f"{self._hostname} at your service", *self.extensions()]))
        self._idle()

    def _greet(self, verb: str, argument: str, *, esmtp: bool) -> None:
        # Names with blanks, in UTF-8 or in Latin-1 come from real machines; Postfix takes them, too. They are kept
        # as they are, and made harmless where they are written.
        if not argument:
            raise Refusal(replies.bad_arguments(f"{verb} domain"))
        self._reset()
        self._hello_unsent = True
        self._helo = argument.encode(errors="surrogateescape")[:MAX_HELO].decode(errors="replace")
        self._esmtp = esmtp
        self._enter(State.READY)

    def extensions(self) -> list[str]:
        """What EHLO offers now."""
        lines = [
            "PIPELINING",
            f"SIZE {self._limits.max_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            # Asked for by a stranger, a report of success would be written to whomever they name as sender.
            *(["DSN"] if self._trusted or self._authenticates else []),
            *(["AUTH " + " ".join(MECHANISMS)] if self._authenticates and not self.user else []),
            f"LIMITS RCPTMAX={self._limits.max_recipients}",
            "HELP",
        ]
        if self._tls:
            lines.insert(-1, "REQUIRETLS")
        elif self._offer_tls:
            lines.insert(-1, "STARTTLS")
        return lines

    def do_starttls(self, argument: str) -> None:
        if not self._offer_tls:
            raise Refusal(replies.NO_TLS)
        if self._tls:
            raise Refusal(replies.TLS_ACTIVE)
        if self._envelope:
            raise Refusal(replies.NESTED_MAIL)
        self._no_argument("STARTTLS", argument)
        # What came ahead of the handshake was not protected by it (CVE-2011-0411).
        self._lines = LineReader()
        self._send(replies.READY_FOR_TLS)
        self._actions.append(START_TLS)

    def do_auth(self, argument: str) -> None:
        if not self._authenticates:
            raise Refusal(replies.NOT_IMPLEMENTED)
        if self.state is not State.READY:
            raise Refusal(replies.NEED_HELO if self.state is State.CONNECTED else replies.NESTED_MAIL)
        if self.user:
            raise Refusal(replies.AUTHENTICATED_ALREADY)
        mechanism, _, initial = argument.partition(" ")
        if not mechanism:
            raise Refusal(replies.bad_arguments("AUTH mechanism [response]"))
        if mechanism.upper() not in MECHANISMS:
            raise Refusal(replies.UNKNOWN_MECHANISM)
        self._sasl = Exchange(mechanism.upper())
        if initial:
            self._sasl.take(b"" if initial == "=" else initial.strip(" ").encode())
        self._go_on_with_sasl()

    def _read_response(self) -> bool:
        assert self._sasl is not None
        try:
            line = self._lines.next_line()
        except (LineTooLong, BareLineFeed):
            line = b"*"
        if line is None:
            return False
        self._sasl.take(line)
        try:
            self._go_on_with_sasl()
        except Refusal as refusal:
            self._error(refusal.reply)
        return True

    def _go_on_with_sasl(self) -> None:
        """The next challenge, or the end of the exchange (RFC 4954 4). Raises Refusal."""
        assert self._sasl is not None
        self._enter(State.READY)
        try:
            challenge = self._sasl.challenge()
            if challenge is not None:
                self._output.append(b"334 " + challenge + b"\r\n")
                self._enter(State.AUTH)
                return
            user, password = (text.decode() for text in self._sasl.credentials())
        except (Aborted, UnicodeDecodeError):
            raise Refusal(replies.AUTHENTICATION_ABORTED) from None
        except NotAllowed:
            raise Refusal(replies.AUTHENTICATION_FAILED) from None
        self._actions.append(Authenticate(user, password))

    def do_mail(self, argument: str) -> None:
        if self.state is State.CONNECTED:
            raise Refusal(replies.NEED_HELO)
        if self._authenticates and not self.user:
            raise Refusal(replies.NEED_AUTHENTICATION)
        if self.state is not State.READY:
            raise Refusal(replies.NESTED_MAIL)
        if argument[:5].upper() != "FROM:":
            raise Refusal(_USAGE_OF_MAIL)
        try:
            sender, rest = parse_path(argument[5:].lstrip(" "), self._origin)
            if not sender.domain and not sender.is_null:
                raise AddressSyntaxError("a sender needs a domain")
        except AddressSyntaxError:
            raise Refusal(replies.BAD_SENDER_SYNTAX) from None
        envelope = Envelope(sender, self._peer, self._helo, self._esmtp, self._tls, user=self.user)
        if rest:
            dsn = self._trusted or self._authenticates
            parameters = self._parameters(rest, _USAGE_OF_MAIL)
            mail_parameters(envelope, parameters, dsn=dsn, authenticates=self._authenticates)
        if not sender.is_ascii and not envelope.smtputf8:
            raise Refusal(replies.NEED_SMTPUTF8)
        if envelope.size is not None and envelope.size > self._limits.max_size:
            self._actions.append(SenderRefused(envelope, replies.TOO_LARGE))
            raise Refusal(replies.TOO_LARGE)
        self._envelope = envelope
        self._actions.append(CheckSender(envelope))

    def _parameters(self, rest: str, usage: Reply) -> dict[str, str | None]:
        try:
            if not rest.startswith(" "):
                raise ValueError(rest)
            parameters = parse_parameters(rest)
        except ValueError:
            raise Refusal(usage) from None
        if parameters and not self._esmtp:
            raise Refusal(replies.unknown_parameter(next(iter(parameters))))
        return parameters

    def do_rcpt(self, argument: str) -> None:
        if self.state not in (State.MAIL, State.RCPT):
            raise Refusal(self._out_of_order())
        if argument[:3].upper() != "TO:":
            raise Refusal(_USAGE_OF_RCPT)
        envelope = self._open_envelope()
        try:
            address, rest = parse_path(argument[3:].lstrip(" "), self._origin)
            if address == NULL_PATH:
                raise AddressSyntaxError("a recipient is required")
        except AddressSyntaxError:
            raise Refusal(replies.BAD_RECIPIENT_SYNTAX) from None
        notify: tuple[str, ...] = ()
        orcpt = None
        if rest:
            parameters = self._parameters(rest, _USAGE_OF_RCPT)
            notify, orcpt = rcpt_parameters(parameters, dsn=self._trusted or self._authenticates)
        if not address.is_ascii and not envelope.smtputf8:
            raise Refusal(replies.NEED_SMTPUTF8)
        self._envelope_octets += len(argument)
        too_long = self._envelope_octets > OCTETS_PER_RECIPIENT * self._limits.max_recipients
        if too_long or len(envelope.recipients) >= self._limits.max_recipients:
            self._refuse_recipient(address, replies.TOO_MANY_RECIPIENTS)
            return
        self._asked = (address, notify, orcpt)
        self._actions.append(FindRoutes(envelope, address))

    def _refuse_recipient(self, address: Address, reply: Reply) -> None:
        self._refused += 1
        self._refused_here += 1
        if self._refused_here <= MAX_REFUSED_TOLD:
            self._actions.append(RecipientRefused(self._open_envelope(), address, reply))
        else:
            self._untold = MoreRefused(self._open_envelope(), self._refused_here - MAX_REFUSED_TOLD, reply)
        self._send(reply)
        if self._refused > MAX_REFUSED + self._limits.max_recipients:
            self._hang_up(replies.TOO_MANY_ERRORS)

    def _out_of_order(self) -> Reply:
        """The reply to a command that the state does not allow."""
        match self.state:
            case State.CONNECTED:
                return replies.NEED_HELO
            case State.BDAT:
                return replies.BDAT_IN_PROGRESS
            case State.MAIL:
                # All recipients were refused: with PIPELINING the client sends DATA all the same (RFC 2920 3.1).
                return replies.NO_VALID_RECIPIENTS if self._refused_here else replies.NEED_RCPT
            case _:
                return replies.NEED_MAIL

    def do_data(self, argument: str) -> None:
        if self.state is not State.RCPT or argument:
            if self._lines.buffer:
                # Nothing may come before the reply (RFC 2920 3.1): it is the content, whatever it looks like.
                self._hang_up(replies.OUT_OF_SYNC)
                return
            self._data_refused = True
            raise Refusal(self._out_of_order() if self.state is not State.RCPT else replies.bad_arguments("DATA"))
        self._dots = DotReader()
        self._begin_content()
        self._enter(State.DATA)
        self._send(replies.START_DATA)

    def do_bdat(self, argument: str) -> None:
        size, _, last = argument.partition(" ")
        if not size.isdecimal() or not size.isascii() or len(size) > 20 or last.strip().upper() not in ("", "LAST"):
            if self._lines.buffer:
                # A chunk, and nobody knows where it ends.
                self._hang_up(replies.OUT_OF_SYNC)
                return
            raise Refusal(replies.bad_arguments("BDAT size [LAST]"))
        self._chunk_left = self._chunk_size = int(size)
        self._last_chunk = bool(last)
        if self.state not in (State.RCPT, State.BDAT):
            # The chunk comes all the same: it is read and dropped (RFC 3030 2).
            self._verdict = self._out_of_order()
        elif self.state is State.RCPT:
            self._begin_content()
        self._state_after_chunk = self.state if self.state is not State.RCPT else State.BDAT
        self._enter(State.CHUNK)

    def do_rset(self, argument: str) -> None:
        self._no_argument("RSET", argument)
        self._reset()
        self._send(replies.OK)
        self._idle()

    def _reset(self) -> None:
        if self._content_open:
            self._actions.append(Abort(None))
        self._forget()
        if self.state is not State.CONNECTED:
            self._enter(State.READY)

    def do_noop(self, argument: str) -> None:
        self._send(replies.OK)
        self._idle()

    def do_vrfy(self, argument: str) -> None:
        if not argument:
            raise Refusal(replies.bad_arguments("VRFY address"))
        self._send(replies.CANNOT_VRFY)
        self._idle()

    def do_help(self, argument: str) -> None:
        self._send(replies.HELP)
        self._idle()

    def do_quit(self, argument: str) -> None:
        self._no_argument("QUIT", argument)
        if self._content_open:
            self._actions.append(Abort(None))
        self._hang_up(replies.BYE)

    _VERBS = {  # noqa: RUF012 - a constant
        "HELO": do_helo,
        "EHLO": do_ehlo,
        "STARTTLS": do_starttls,
        "AUTH": do_auth,
        "MAIL": do_mail,
        "RCPT": do_rcpt,
        "DATA": do_data,
        "BDAT": do_bdat,
        "RSET": do_rset,
        "NOOP": do_noop,
        "VRFY": do_vrfy,
        "HELP": do_help,
        "QUIT": do_quit,
        "EXIT": do_quit,
    }

    _GREETINGS = (do_ehlo, do_helo)
    """They take names in any letters."""

    # -- content

    def _begin_content(self) -> None:
        self._line_ends = LineEnds()
        self._content_open = True
        self._actions.append(Begin(self._open_envelope()))

    def _read_data(self) -> bool:
        data = self._lines.buffer
        if not data:
            return False
        content, self._lines.buffer = self._dots.read(data)
        self._take_content(content, last=self._dots.done)
        if self._dots.done:
            self._end_content()
        return True

    def _read_chunk(self) -> bool:
        data = self._lines.buffer[: self._chunk_left]
        if not data and self._chunk_left:
            return False
        self._lines.buffer = self._lines.buffer[len(data) :]
        self._chunk_left -= len(data)
        complete = not self._chunk_left
        if self._content_open:
            self._take_content(data, last=complete and self._last_chunk)
        if complete:
            self._end_chunk()
        return True

    def _end_chunk(self) -> None:
        if not self._content_open:
            reply = self._verdict or replies.NEED_RCPT
            self._verdict = None
            self._enter(self._state_after_chunk)
            self._error(reply)
        elif self._last_chunk:
            self._end_content()
        else:
            self._enter(self._state_after_chunk)
            self._send(self._verdict or replies.chunk_ok(self._chunk_size))

    def _take_content(self, data: bytes, *, last: bool) -> None:
        """Converts and hands on a piece of content, unless the message has been given up already."""
        self._size += len(data)
        if self._size > self._limits.max_size:
            self._verdict = self._verdict or replies.TOO_LARGE
        if self._verdict:
            return
        content = self._line_ends.convert(data, last=last)
        if content:
            self._actions.append(Write(content))

    def _end_content(self) -> None:
        self._content_open = False
        self._actions.append(Commit(self._open_envelope(), self._size))


def _is_unicode(text: str) -> bool:
    """Whether a line was UTF-8: other octets have become lone surrogates."""
    return text.isprintable() or not any("\ud800" <= c <= "\udfff" for c in text)
