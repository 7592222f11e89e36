"""`smtpmail import` and `smtpmail export`: mail of other programs into a mailbox, and out of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from smtpmail.admin.mail_sources import (
    MAILDIR_FLAGS,
    MBOX_FIELDS,
    MBOX_FLAGS,
    Found,
    SourceError,
    kind_of,
    read,
)  # fmt: skip
from smtpmail.mail.submission import fields_of, header_end
from smtpmail.settings import machine
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsCommand, load_config
from smtpmail.spool.files import write_all
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.reader.account import Account, FolderExists, NoSuchFolder
from smtpmail.spool.reader.mailfolder import MailFolder, NewMessage
from smtpmail.spool.reader.states import RECENT, Flags
from smtpmail.users.users import Users, UsersUnreadable, user_of

BATCH = 100
BATCH_OCTETS = 16 * 1024**2
"""Messages made durable together, at most."""

MAX_BLANK = 3
"""Empty lines at the end of a message by which two may differ and be the same."""

FOLDER_HELP = "The folder of the mailbox.  [default: INBOX]"


@click.command("import", cls=SettingsCommand, short_help="Mail of other programs into a mailbox.")
@click.argument("user")
@click.argument("source", type=click.Path())
@click.option("--folder", default="INBOX", metavar="NAME", help=FOLDER_HELP)
@click.pass_context
def import_(ctx: click.Context, user: str, source: str, folder: str) -> None:
    """Put the messages of SOURCE, an mbox file, a Maildir or an MH folder, into the mailbox of USER.

    With their states (read, answered, flagged, ...) and dates. What is in the folder already, octet for octet, is left
    out: run twice, it changes nothing. The server may run. SOURCE is only read.
    """
    settings = load_config(ctx)
    known = 0
    added = 0
    with _open(settings, user, folder, create=True) as (target, as_owner):
        copier = Copier(target)
        try:
            kind = kind_of(source)
            for found in read(source, kind):
                with as_owner():
                    copier.take(found)
                known, added = copier.known, copier.added
                _progress(f"{known + added} messages, {added} new")
            with as_owner():
                copier.flush()
        except (SourceError, OSError) as error:
            _progress("")
            text = error if isinstance(error, SourceError) else f"{error.filename or source}: {error.strerror or error}"
            raise click.ClickException(f"{text} ({copier.added} messages were imported before)") from None
    _progress("")
    click.echo(f"{copier.added} messages imported, {copier.known} were there already")


@click.command(cls=SettingsCommand, short_help="A mailbox as an mbox file or a Maildir.")
@click.argument("user")
@click.argument("target", type=click.Path())
@click.option("--format", "form", type=click.Choice(["mbox", "maildir"]), default="mbox", show_default=True)
@click.option("--folder", default="INBOX", metavar="NAME", help=FOLDER_HELP)
@click.pass_context
def export(ctx: click.Context, user: str, target: str, form: str, folder: str) -> None:
    """Write the messages of USER's mailbox to TARGET, with their states and dates. The mailbox is only read.

    An mbox file must not be there yet. Of a Maildir, what an export before has put there is not put there again.
    """
    settings = load_config(ctx)
    if form == "mbox" and os.path.lexists(target):
        raise click.ClickException(f"{target} is there already: name another file, or remove it")
    count = 0
    with _open(settings, user, folder, create=False) as (source, _):
        write = _write_mbox if form == "mbox" else _write_maildir
        try:
            for count in write(target, user_of(user) or user, source):
                _progress(f"{count} messages")
        except OSError as error:
            _progress("")
            raise click.ClickException(f"{error.filename or target}: {error.strerror or error}") from None
    _progress("")
    click.echo(f"{count} messages exported to {target}")


@contextlib.contextmanager
def _open(settings: Config, name: str, folder: str, *, create: bool) -> Iterator[tuple[MailFolder, Owner]]:
    """The folder of a user, and who acts as its owner. Raises click.ClickException."""
    user = user_of(name)
    try:
        exists = user is not None and Users(settings.users, lambda count, complaints: None).mailbox(user) == user
    except UsersUnreadable as error:
        raise click.ClickException(f"cannot read the users: {error}") from None
    if user is None or not exists:
        raise click.ClickException(f"there is no user {name!r}")
    machine.require_answer("--spool", settings.spool)
    spool = Spool(settings.spool, shared=settings.is_shared)
    path = os.path.join(spool.path, user)
    if not create and not os.path.isdir(path):
        raise click.ClickException(f"{user} has no mailbox yet: {path}")
    os.umask(0o077)
    owner = Owner(path if os.path.isdir(path) else spool.path)
    try:
        with owner():
            account = Account(spool.path, user)
            try:
                if create and folder.upper() != "INBOX" and not account.exists(folder):
                    with contextlib.suppress(FolderExists):
                        account.create(folder)
                opened = account.open(folder)
            finally:
                account.close()
    except NoSuchFolder:
        raise click.ClickException(f"{user} has no folder {folder!r}") from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or path}: {error.strerror or error}") from None
    try:
        yield opened, owner
    finally:
        opened.folder.close()


class Owner:
    """Root acts as the owner of a folder while it writes there: so that the owner can read what it wrote."""

    def __init__(self, path: str) -> None:
        self._status = os.stat(path)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """While in this context; for anybody but root nothing changes."""
        if os.getuid() or not self._status.st_uid:
            yield
            return
        os.setegid(self._status.st_gid)
        os.seteuid(self._status.st_uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)


class Copier:
    """Puts messages into a folder, those that it does not have."""

    def __init__(self, folder: MailFolder) -> None:
        self._folder = folder
        self._by_size: dict[int, list[int]] | None = None
        self._digests: dict[int, set[bytes]] = {}
        self._waiting: list[NewMessage] = []
        self._octets = 0
        self.known = 0
        self.added = 0

    def take(self, found: Found) -> None:
        """Puts a message into the folder, perhaps later: `flush` is the end. Raises OSError."""
        if self._is_known(found.text):
            self.known += 1
            return
        self._digests[len(found.text.rstrip(b"\n"))].add(_digest(found.text))
        file = self._folder.new_file()
        self._waiting.append(NewMessage(file, found.flags))
        write_all(file.fd, [found.text])
        nanoseconds = int(max(found.date, 0.0) * 1e9)
        os.utime(file.fd, ns=(nanoseconds, nanoseconds))
        self._octets += len(found.text)
        self.added += 1
        if len(self._waiting) >= BATCH or self._octets >= BATCH_OCTETS:
            self.flush()

    def flush(self) -> None:
        """Makes durable what waits. Raises OSError; then none of it is there."""
        waiting, self._waiting, self._octets = self._waiting, [], 0
        try:
            if waiting:
                self._folder.add(waiting)
        except OSError:
            self.added -= len(waiting)
            raise
        finally:
            for message in waiting:
                message.file.close()

    def _is_known(self, text: bytes) -> bool:
        """Whether the folder has this text. Only messages of about its size are read.

        Empty lines at the end do not count: mbox files cannot tell them.
        """
        if self._by_size is None:
            index = self._folder.refresh()
            self._by_size = {}
            for number, octets in zip(index.numbers, index.octets, strict=True):
                self._by_size.setdefault(octets, []).append(number)
        length = len(text.rstrip(b"\n"))
        if length not in self._digests:
            near = [n for size in range(length, length + MAX_BLANK + 1) for n in self._by_size.get(size, ())]
            self._digests[length] = {_digest(_text_of(self._folder, number)) for number in near}
        return _digest(text) in self._digests[length]


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text.rstrip(b"\n")).digest()


def _text_of(folder: MailFolder, number: int) -> bytes:
    fd, status = folder.open_message(number)
    with open(fd, "rb") as file:
        return file.read(status.st_size)


def _messages(folder: MailFolder) -> Iterator[tuple[int, Flags, float, bytes]]:
    """Number, flags, date, text. One that is removed meanwhile is left out."""
    index = folder.refresh()
    for number, date, flags in zip(index.numbers, index.dates, index.flags, strict=True):
        with contextlib.suppress(FileNotFoundError):
            yield number, flags, date / 1e9, _text_of(folder, number)


def _write_mbox(target: str, user: str, folder: MailFolder) -> Iterator[int]:
    part = f"{target}.part"
    with open(part, "xb") as file:
        try:
            count = 0
            for count, (_, flags, date, text) in enumerate(_messages(folder), 1):
                _append_mbox(file, flags, date, text)
                yield count
            file.flush()
            os.fsync(file.fileno())
            os.link(part, target)
        finally:
            os.unlink(part)


def _append_mbox(file: IO[bytes], flags: Flags, date: float, text: bytes) -> None:
    end, _ = header_end(text)
    fields = [f for f in fields_of(text[:end]) if f.name not in MBOX_FIELDS]
    path = next((f.body.strip(b" <>\t") for f in fields if f.name == "return-path"), b"").split()
    moment = time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(date)).encode()
    letters = {flag: letter for letter, flag in MBOX_FLAGS.items()}
    status = ("R" if b"\\Seen" in flags else "") + ("" if RECENT in flags else "O")
    more = "".join(sorted(letters[flag] for flag in flags if flag in letters and letters[flag] != "R"))
    keywords = b" ".join(sorted(flag for flag in flags if not flag.startswith(b"\\")))
    state = b"".join(
        b"%s: %s\n" % (name, value)
        for name, value in ((b"Status", status.encode()), (b"X-Status", more.encode()), (b"X-Keywords", keywords))
        if value
    )
    body = text[end:]
    header = b"".join(f.raw for f in fields) + state
    quoted = re.sub(rb"^(>*From )", rb">\1", header + body, flags=re.MULTILINE)
    file.write(b"From %s %s\n" % (path[0] if path else b"MAILER-DAEMON", moment))
    file.write(quoted if quoted.endswith(b"\n") else quoted + b"\n")
    file.write(b"\n")


def _write_maildir(target: str, user: str, folder: MailFolder) -> Iterator[int]:
    root = Path(target)
    for name in ("tmp", "new", "cur"):
        (root / name).mkdir(parents=True, exist_ok=True)
    present = {p.name.partition(":")[0] for name in ("new", "cur") for p in (root / name).iterdir()}
    letters = {flag: letter for letter, flag in MAILDIR_FLAGS.items()}
    validity = folder.know_validity()
    for count, (number, flags, date, text) in enumerate(_messages(folder), 1):
        base = f"{int(date)}.{user}_{validity}_{number}.smtpmail"
        if base not in present:
            temporary = root / "tmp" / base
            temporary.write_bytes(text)
            os.utime(temporary, (date, date))
            info = "".join(sorted(letters[flag] for flag in flags if flag in letters))
            is_new = RECENT in flags and not info
            temporary.rename(root / "new" / base if is_new else root / "cur" / f"{base}:2,{info}")
        yield count


_told = 0.0


def _progress(text: str) -> None:
    """On a terminal, how far it is; an empty text at the end."""
    global _told  # noqa: PLW0603
    if not sys.stderr.isatty() or (text and time.monotonic() - _told < 0.1):
        return
    _told = time.monotonic()
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
