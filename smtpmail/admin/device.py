"""`smtpmail device ...`: the devices that may read and send from afar, and their passwords."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NoReturn

import click

from smtpmail.mail.address import normal_domain
from smtpmail.settings import machine, privileges
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsGroup, load_config
from smtpmail.settings.values import ConfigError, Endpoint
from smtpmail.users.devices import DeviceError, Devices, read_devices, read_uses
from smtpmail.users.users import Users, UsersUnreadable, user_named

IMAP_PORT = 993
SUBMISSION_PORT = 465


def fail(message: str) -> NoReturn:
    """Ends the command with this line for people."""
    raise click.ClickException(message)


@contextmanager
def _devices(config: Config) -> Iterator[Devices]:
    """The file of the settings. Root acts as the owner of its folder, who could mislead it with a link there."""
    if not config.devices:
        raise ConfigError("device: there is no file of devices: give --devices FILE, the same as the server's")
    machine.require_answer("--devices", config.devices)
    with privileges.acting_as(None if os.geteuid() else privileges.owner_of(os.path.dirname(config.devices) or ".")):
        yield Devices(config.devices)


@click.group("device", cls=SettingsGroup, short_help="Devices that read and send from afar: add, list, remove.")
def device() -> None:
    """The devices that may read and send from afar, each with a password of its own. The server obeys at once."""


@device.command(short_help="A new device: shows its password, once.")
@click.argument("user", metavar="USER")
@click.argument("name", metavar="NAME")
@click.option("--profile", metavar="FILE", help="Write a profile for iPhone, iPad or Mac, with the password in it.")
@click.pass_context
def add(ctx: click.Context, user: str, name: str, profile: str | None) -> None:
    """Adds a device of USER by a NAME (phone, say), and shows its password and settings. It is shown only now."""
    config = load_config(ctx)
    mail_user = _user(config, user)
    if mail_user is None:
        fail(f"device add: {user!r} is no user name")
    try:
        if Users(config.users, lambda count, complaints: None).mailbox(mail_user) is None:
            fail(f"device add: there is no user {mail_user!r} in {config.users}")
    except UsersUnreadable as error:
        fail(f"device add: {error}")
    try:
        with _devices(config) as devices:
            password = devices.add(mail_user, name)
    except DeviceError as error:
        fail(f"device add: {error}")
    address = f"{mail_user}@{config.domains[0]}"
    imap, submission = _port(config.imap_listen, IMAP_PORT), _port(config.submission_listen, SUBMISSION_PORT)
    if profile:
        from smtpmail.admin.profile import write_profile  # noqa: PLC0415

        try:
            write_profile(profile, address, mail_user, password, config.hostname, imap, submission)
        except OSError as error:
            with _devices(config) as devices:
                devices.remove(mail_user, name)
            fail(f"device add: {profile} cannot be written: {error.strerror}; no device was added")
        click.echo(f"Profile:   {profile} (it holds the password: open it on the device, then delete it)")
    click.echo(f"""\
Password:  {password}
           It is shown only now. smtpmail device remove {mail_user} {name!r} takes it back.

Address:   {address}
User name: {mail_user}
Incoming:  IMAP, server {config.hostname}, port {imap}, SSL/TLS
Outgoing:  SMTP, server {config.hostname}, port {submission}, SSL/TLS, the same user name and password

Thunderbird: Account Settings, Account Actions, Add Mail Account, Configure manually; connection security SSL/TLS,
             authentication "Normal password" for both.
iOS:         Settings, Apps, Mail, Mail Accounts, Add Account, Other; or a profile (--profile).
Android:     Thunderbird or K-9: add account, manual setup, IMAP; SSL/TLS, authentication "Normal password".""")


def _user(config: Config, name: str) -> str | None:
    return user_named(name, {normal_domain(domain) for domain in config.domains})


def _port(endpoints: tuple[Endpoint, ...], default: int) -> int:
    return next((e.port for e in endpoints if e.port), default)


@device.command("list", short_help="All devices, with their last use.")
@click.argument("user", metavar="[USER]", required=False)
@click.pass_context
def list_(ctx: click.Context, user: str | None) -> None:
    """All devices, or those of a user, with the time and the address of their last use."""
    config = load_config(ctx)
    try:
        with _devices(config) as file:
            devices = [d for d in read_devices(file.path) if user is None or d.user == _user(config, user)]
            uses = {(use.user, use.device): use for use in read_uses(file.path)}
    except DeviceError as error:
        fail(f"device list: {error}")
    if not devices:
        click.echo("There is no device.")
        return
    rows = [["USER", "DEVICE", "ADDED", "LAST USED", "FROM"]]
    for d in sorted(devices, key=lambda d: (d.user, d.device)):
        use = uses.get((d.user, d.device))
        # A use from before belongs to another device of that name.
        use = use if use is not None and use.time >= d.added else None
        rows.append([d.user, d.device, _day(d.added), _when(use.time) if use else "never", use.address if use else ""])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d")


def _when(seconds: float) -> str:
    if time.time() - seconds < 120:
        return "just now"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


@device.command(short_help="Take a device's password back.")
@click.argument("user", metavar="USER")
@click.argument("name", metavar="NAME")
@click.pass_context
def remove(ctx: click.Context, user: str, name: str) -> None:
    """Removes a device: its password is worth nothing any more, and its connections end within a second."""
    config = load_config(ctx)
    try:
        with _devices(config) as devices:
            devices.remove(_user(config, user) or user, name)
    except DeviceError as error:
        fail(f"device remove: {error}")
    click.echo(f"{name} of {user} is removed.")
