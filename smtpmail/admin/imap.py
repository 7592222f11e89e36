"""`smtpmail imap`: one mail reader on standard input and output; for mutt's tunnel, mbsync's Tunnel, ssh."""

from __future__ import annotations

import os
import pwd
import socket
import threading

import click

from smtpmail.settings import machine
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsCommand, load_config
from smtpmail.settings.values import ConfigError
from smtpmail.spool.mailbox import Spool
from smtpmail.users.users import user_of

PIECE = 64 * 1024


@click.command("imap", cls=SettingsCommand, short_help="Your mail over IMAP on standard input and output.")
@click.pass_context
def imap(ctx: click.Context) -> None:
    """Your mail over IMAP on standard input and output, without a password: you are logged in already.

    For mutt (`set tunnel="ssh -q HOST smtpmail imap"`), mbsync (`Tunnel "ssh -q HOST smtpmail imap"`) and the like.
    With --imap-socket the running server does the work; without, this program reads the mailbox itself.
    """
    config = load_config(ctx)
    if config.imap_socket and (sock := _connect(config.imap_socket)) is not None:
        _relay(sock)
    else:
        _serve(config)


def _connect(path: str) -> socket.socket | None:
    """The running server, None when there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        return None
    return sock


def _relay(sock: socket.socket) -> None:
    """Moves octets in both directions until the server closes."""

    def upwards() -> None:
        while data := os.read(0, PIECE):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    threading.Thread(target=upwards, daemon=True).start()
    while data := sock.recv(PIECE):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(1, rest) :]


def own_user() -> str:
    """The mail user of the account that runs this program. Raises ConfigError."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise ConfigError(f"imap: user id {os.getuid()} has no account") from None
    user = user_of(name)
    if user is None:
        raise ConfigError(f"imap: the account {name} can be no mail user")
    return user


def _serve(config: Config) -> None:
    from smtpmail import log  # noqa: PLC0415
    from smtpmail.inbound.imap_connection import ImapConnection  # noqa: PLC0415
    from smtpmail.inbound.streams import PipeStream  # noqa: PLC0415
    from smtpmail.spool.reader.account import Account  # noqa: PLC0415

    user = own_user()
    log.configure(config.log_format, "warning" if config.log_level == "info" else config.log_level)
    os.umask(0o077)
    machine.require_answer("--spool", config.spool)
    spool = Spool(config.spool, shared=config.is_shared)
    try:
        account = Account(spool.path, user)
    except OSError as error:
        raise ConfigError(f"imap: cannot open the mailbox of {user}: {error}") from None
    ImapConnection(
        PipeStream(0, 1, config.timeout),
        "standard input",
        "stdio",
        hostname=config.hostname,
        max_size=config.max_size,
        timeout=config.timeout,
        open_account=lambda _: account,
        user=user,
    ).run()
