"""sendmail(8) for the programs on this host, also as `mailq` and `newaliases`.

It hands the message to the loopback listener, as any account can. The message is read to its end first, so that a slow
caller holds no connection, and its text is still there when the server does not take it: then it goes to the caller's
`dead.letter` or to standard error, and the exit status says why. Either everybody whom the server did not refuse for
good has the message, or nobody.
"""

from __future__ import annotations

import os
import pwd
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import IO, NoReturn

import click

from smtpmail.admin import sendmail_options
from smtpmail.admin.dead_letter import keep
from smtpmail.admin.sendmail_options import OptionError, Options
from smtpmail.admin.submission import (
    EX_CONFIG,
    EX_DATAERR,
    EX_IOERR,
    EX_NOPERM,
    EX_OK,
    EX_SOFTWARE,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
    Failed,
    Submission,
    relay,
    status_of,
)
from smtpmail.mail.address import NULL_PATH, Address, AddressSyntaxError, parse_path
from smtpmail.mail.envelope import new_id
from smtpmail.mail.incoming_text import HeaderTooLarge, lines_of, rewrite_header
from smtpmail.mail.mailbox_list import find_addresses
from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.mail.submission import Origin, fix_up, from_field, recipients_of
from smtpmail.mail.text import on_the_wire
from smtpmail.mail.xtext import encode_xtext
from smtpmail.outbound.channel import SessionFailed
from smtpmail.outbound.client import MessageRefused
from smtpmail.settings import machine, sources
from smtpmail.settings.config import Config
from smtpmail.settings.options import load_config
from smtpmail.settings.values import ConfigError

BARE = "localhost"
"""Stands for no domain while an address is read."""

MEMORY_LIMIT = 1024 * 1024
"""Octets of a message kept in memory; more goes to a file without a name."""

PIECE = 64 * 1024
"""Octets of a line read at a time."""


# -- the program


class _Raw(click.Command):
    """A command whose arguments are read by somebody else."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return []

    def get_help(self, ctx: click.Context) -> str:
        formatter = ctx.make_formatter()
        formatter.write_usage("sendmail", "[OPTIONS] [RECIPIENT]...")
        formatter.write_paragraph()
        formatter.write_text(self.help or "")
        with formatter.section("Options"):
            formatter.write_dl(list(sendmail_options.OPTIONS.items()))
        return formatter.getvalue().rstrip("\n")


@click.command(cls=_Raw, short_help="Send a message as programs do it: sendmail(8).")
@click.pass_context
def sendmail(ctx: click.Context) -> None:
    """Send the message on standard input, with the command line of sendmail(8).

    It needs no privilege: the loopback listener takes the message. Exit status 0: taken; 64: the command line, 65: the
    message, 67: a recipient is wrong; 69: the server refuses it; 75: try again later. What is not taken goes to the
    file dead.letter in the caller's home, or to standard error.
    """
    if ctx.args in (["--help"], ["-?"]):
        click.echo(ctx.get_help())
        return
    sys.exit(run("sendmail", ctx.args, lambda: load_config(ctx), ctx))


def main() -> NoReturn:
    """The program under the names sendmail, mailq and newaliases."""
    name = os.path.basename(sys.argv[0])
    if sys.argv[1:] == ["--help"]:
        sendmail.main(["--help"], prog_name=name)
    sys.exit(run(name, sys.argv[1:], load_settings))


def load_settings() -> Config:
    """The settings of the server; of the environment alone where the file may not be read. Raises ConfigError."""
    try:
        return sources.load({}, os.environ)
    except ConfigError:
        if sources.FILE_VARIABLE in os.environ or os.access(sources.DEFAULT_FILE, os.R_OK):
            raise
        return sources.load({}, os.environ, os.devnull)


def run(
    name: str, arguments: Sequence[str], settings: Callable[[], Config], parent: click.Context | None = None
) -> int:
    """Does what the command line says; the exit status. `parent` knows the settings of a longer command line."""
    try:
        options = sendmail_options.parse(arguments, name)
        return _obey(options, settings(), parent)
    except OptionError as error:
        return _say(name, EX_USAGE, str(error))
    except ConfigError as error:
        return _say(name, EX_CONFIG, str(error))
    except Failed as error:
        return _say(name, error.status, *error.reasons)
    except BrokenPipeError:
        return EX_IOERR


def _say(name: str, status: int, *lines: str) -> int:
    for line in lines:
        text = " ".join(line.split())
        print(f"{name}: {''.join(c if c.isprintable() else '?' for c in text)}", file=sys.stderr)
    return status


def _obey(options: Options, settings: Config, parent: click.Context | None) -> int:
    match options.mode:
        case "smtp":
            return relay(settings)
        case "queue":
            return _queue(["list"], settings, parent)
        case "flush":
            return _queue(["retry", options.id or "--all"], settings, parent)
        case "aliases":
            return _newaliases(settings)
        case "verify":
            return _verify(options, settings)
        case _:
            return _send(options, settings)


def _queue(arguments: list[str], settings: Config, parent: click.Context | None) -> int:
    """`smtpmail queue`, for those who may. Raises Failed."""
    # Imported here: a message is sent without it.
    from smtpmail.admin.queue import queue  # noqa: PLC0415

    machine.require_answer("--queue", settings.queue)
    if not os.access(settings.queue, os.R_OK | os.X_OK):
        raise Failed(EX_NOPERM, f"the queue {settings.queue} can be read by root and the server's account only")
    try:
        status = queue.main(arguments, prog_name="smtpmail queue", standalone_mode=False, parent=parent)
    except click.ClickException as error:
        raise Failed(EX_UNAVAILABLE, error.format_message()) from None
    return EX_UNAVAILABLE if status else EX_OK


def _newaliases(settings: Config) -> int:
    """There is no database to make: the file is read when it changes. So it is judged."""
    from smtpmail.admin.aliases import aliases_findings  # noqa: PLC0415

    wrong = [finding.line for finding in aliases_findings(settings)]
    if wrong:
        raise Failed(EX_CONFIG, *wrong)
    print(f"{settings.aliases} is good" if settings.aliases else "no file of aliases is set (--aliases FILE)")
    return EX_OK


# -- a message


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    login: str
    name: str

    @classmethod
    def of_process(cls) -> Caller:
        """By the user id, which nobody can forge."""
        try:
            entry = pwd.getpwuid(os.getuid())
        except KeyError:
            return cls(f"uid{os.getuid()}", "")
        full_name = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())
        return cls(entry.pw_name, full_name)


def read_address(text: str) -> Address:
    """An address of the command line or of a field. Raises AddressSyntaxError.

    A bare one stays so: which domain it gets is known to the server alone, whose settings not every account may read.
    """
    text = text.removeprefix("\\")  # `\root`: no aliases, which is the server's business
    address, rest = parse_path(f"<{text}>", BARE)
    if rest or not address.local or any("\ud800" <= c <= "\udfff" for c in text):  # octets that were no UTF-8
        raise AddressSyntaxError(f"not an address: {text!r}")
    # One that needs quotes is seldom, and has no form without a domain.
    is_bare = str(address) == f"{text}@{BARE}"
    return Address(address.local, "") if is_bare else address


def addresses_in(arguments: Sequence[str]) -> list[Address]:
    """The recipients of a command line or of fields, each once. Raises Failed."""
    found: dict[Address, None] = {}
    for argument in arguments:
        texts = [found_.text for found_ in find_addresses(argument)]
        if not texts:
            raise Failed(EX_DATAERR, f"{argument!r} is no address")
        for text in texts:
            try:
                found[read_address(text)] = None
            except AddressSyntaxError:
                raise Failed(EX_DATAERR, f"{text!r} is no address") from None
    return list(found)


def _given(arguments: Sequence[str]) -> list[Address]:
    """The addresses of a command line, where no line ends. Raises Failed."""
    for argument in arguments:
        if any(c < " " or c == "\x7f" for c in argument):
            raise Failed(EX_DATAERR, f"{argument!r} is no address: it has control characters")
    return addresses_in(arguments)


def _sender(text: str) -> Address:
    """The argument of -f. Raises Failed."""
    if text.strip() in ("", "<>"):
        return NULL_PATH
    found = _given([text])
    if len(found) != 1:
        raise Failed(EX_DATAERR, f"-f {text!r} is not one address")
    return found[0]


class _Text:
    """The message while it is read: counts what the envelope must say."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = 0
        """Octets as they will travel."""
        self.eightbit = False

    def write(self, piece: bytes) -> None:
        """Takes the next piece."""
        self.file.write(piece)
        self.size += on_the_wire(piece)
        self.eightbit = self.eightbit or not piece.isascii()


def _send(options: Options, settings: Config) -> int:
    caller = Caller.of_process()
    sender = author = Address(caller.login, "")
    recipients: list[Address] = []
    problem = None
    try:
        if options.sender is not None:
            sender = _sender(options.sender)
        recipients = _given(options.recipients)
    except Failed as error:
        # Told when the message has been read: its text must not be lost.
        problem = error
    if not sender.is_null:
        author = sender
    name = options.name if options.name is not None else "" if options.sender else caller.name
    date = formatdate(time.time(), localtime=True)
    origin = Origin("", from_field(name, str(author)), date, f"<{new_id()}@{settings.hostname}>")
    with tempfile.SpooledTemporaryFile(MEMORY_LIMIT) as file:
        text = _Text(file)
        try:
            header = _read(options, origin, text)
            if problem:
                raise problem
            if options.from_header:
                recipients = list(dict.fromkeys([*recipients, *addresses_in(recipients_of(header))]))
            if not recipients:
                raise Failed(EX_DATAERR, "no recipient in To, Cc or Bcc")
            _submit(options, settings, sender, recipients, text)
        except Failed as error:
            raise Failed(error.status, *error.reasons, *keep(file, str(sender))) from None
        except Exception as error:
            # A fault of this program must not cost the caller their message.
            raise Failed(EX_SOFTWARE, f"internal error: {error!r}", *keep(file, str(sender))) from error
    return EX_OK


def _read(options: Options, origin: Origin, text: _Text) -> bytes:
    """Reads the message from standard input; its header as it came."""
    original = b""

    def rewrite(header: bytes) -> bytes:
        nonlocal original
        original = header
        return fix_up(header, origin)

    stdin = sys.stdin.buffer
    lines = iter(lambda: stdin.readline(PIECE), b"")
    try:
        for piece in rewrite_header(lines_of(lines, ignore_dots=options.ignore_dots), rewrite):
            text.write(piece)
    except HeaderTooLarge as error:
        raise Failed(EX_DATAERR, str(error)) from None
    except OSError as error:
        raise Failed(EX_IOERR, f"cannot take the message: {error.strerror or error}") from None
    return original


# -- the server


def _outgoing(options: Options, sender: Address, recipients: Sequence[Address], text: _Text | None) -> Item:
    return Item(
        id="",
        arrived=0.0,
        sender=str(sender),
        recipients=[QueuedRecipient(str(r), options.notify if text else ()) for r in recipients],
        size=text.size if text else 0,
        eightbit=text.eightbit if text else False,
        smtputf8=not all(a.local.isascii() for a in (sender, *recipients)),
        ret=options.ret,
        envid=encode_xtext(options.envid) if options.envid else None,
    )


def _submit(options: Options, settings: Config, sender: Address, recipients: Sequence[Address], text: _Text) -> None:
    """Hands the message over. Raises Failed."""
    connection = Submission.open(settings)
    try:
        message = _outgoing(options, sender, recipients, text)
        refused = connection.ask(message, message.recipients)
        reasons = [f"{address}: {reply}" for address, reply in refused.items()]
        later = [reply for reply in refused.values() if not reply.permanent]
        if later or len(refused) == len(recipients):
            # Nobody has it: so the caller can try again without sending it twice to others.
            raise Failed(status_of((later or list(refused.values()))[0]), *reasons)
        text.file.seek(0)
        reply = connection.give(text.file)
        if options.verbose:
            print(f"the server said: {reply}", file=sys.stderr)
        if not reply.positive:
            raise Failed(status_of(reply), f"the server said: {reply}")
        if refused:
            raise Failed(status_of(next(iter(refused.values()))), *reasons, "the other recipients have the message")
    except SessionFailed as error:
        raise Failed(EX_TEMPFAIL, str(error)) from None
    except MessageRefused as error:
        raise Failed(EX_DATAERR, str(error)) from None
    finally:
        connection.quit()


def _verify(options: Options, settings: Config) -> int:
    """-bv: asks and sends nothing."""
    recipients = _given(options.recipients)
    connection = Submission.open(settings)
    try:
        message = _outgoing(options, NULL_PATH, recipients, None)
        refused = connection.ask(message, message.recipients)
    except (SessionFailed, MessageRefused) as error:
        raise Failed(EX_TEMPFAIL, str(error)) from None
    finally:
        connection.quit()
    for address in recipients:
        print(f"{address}: {refused.get(str(address), 'deliverable')}")
    return status_of(next(iter(refused.values()))) if refused else EX_OK
