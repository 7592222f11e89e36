"""`smtpmail dkim new | list | show | rotate`: the keys that sign mail, and the records that receivers verify it by."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

import click

from smtpmail.admin.dkim_rotation import Rotation, Step
from smtpmail.admin.dns_records import Record, absolute, quoted
from smtpmail.admin.dns_update import Publisher, UpdateFailed, lacking, parse_key
from smtpmail.auth.dkim_keys import NEXT, RETIRED, SIGNING, Key, KeyFileError, KeyFolder
from smtpmail.auth.lookup import is_or_below
from smtpmail.dns.errors import DNSError
from smtpmail.dns.resolver import Resolver
from smtpmail.mail.address import AddressSyntaxError, normal_domain
from smtpmail.settings import machine
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsGroup, load_config
from smtpmail.settings.values import ConfigError

STATES = {SIGNING: "signs", NEXT: "next", RETIRED: "retired"}
DAY = 86400.0

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


def _domain(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    try:
        return value and normal_domain(value)
    except AddressSyntaxError as error:
        raise click.BadParameter(str(error)) from None


@click.group(cls=SettingsGroup)
def dkim() -> None:
    """The keys that sign mail of the local domains (DKIM), in the folder of --dkim-keys."""


@dkim.command()
@click.argument("domain", callback=_domain)
@click.option("--selector", metavar="NAME", help="The name of the key. Default: the date.")
@click.option(
    "--algorithm",
    type=click.Choice(["rsa", "ed25519"]),
    default="rsa",
    show_default=True,
    help="Ed25519 is for beside RSA: many receivers can't verify it.",
)
@json_option
@click.pass_context
def new(ctx: click.Context, /, domain: str, selector: str | None, algorithm: str, as_json: bool) -> None:
    """Make a key for a domain, and print the record to publish, in zone-file form. It signs from the next reload on."""
    folder = key_folder(load_config(ctx), make=True)
    with _failures("new"):
        present = [key for key in folder.signing(domain) if key.algorithm == algorithm]
        if present:
            raise KeyFileError(
                f"{domain} has a key already, {present[0].selector}; smtpmail dkim rotate {domain} replaces it"
            )
        key = folder.create(domain, algorithm, selector)
    _show([key], as_json)


@dkim.command(name="list")
@click.argument("domain", callback=_domain, required=False)
@json_option
@click.pass_context
def list_(ctx: click.Context, /, domain: str | None, as_json: bool) -> None:
    """List the keys: which sign, which come next, which sign no more."""
    folder = key_folder(load_config(ctx))
    with _failures("list"):
        found = [folder.readable(name) for name in ([domain] if domain else folder.domains())]
    keys = [key for readable, _ in found for key in readable]
    complaints = [complaint for _, wrong in found for complaint in wrong]
    if as_json:
        click.echo(json.dumps([describe(key) for key in keys], indent=2))
    else:
        for key in keys:
            since = datetime.fromtimestamp(key.changed, UTC).strftime("%Y-%m-%d")
            click.echo(f"{key.domain:30} {key.selector:20} {key.algorithm:8} {STATES[key.state]:8} since {since}")
        if not keys and not complaints:
            click.echo("there is no key; smtpmail dkim new DOMAIN makes one")
    for complaint in complaints:
        click.echo(f"smtpmail dkim list: {complaint}", err=True)
    sys.exit(bool(complaints))


@dkim.command()
@click.argument("domain", callback=_domain, required=False)
@click.argument("selector", required=False)
@json_option
@click.pass_context
def show(ctx: click.Context, /, domain: str | None, selector: str | None, as_json: bool) -> None:
    """Print the records to publish, in zone-file form: of the keys that sign, and of those that come next."""
    folder = key_folder(load_config(ctx))
    with _failures("show"):
        keys = [
            key
            for name in ([domain] if domain else folder.domains())
            for key in folder.keys(name)
            if (key.selector == selector if selector else key.state != RETIRED)
        ]
        if not keys:
            raise KeyFileError(f"there is no such key in {folder.path}")
    _show(keys, as_json)


@dkim.command()
@click.argument("domain", callback=_domain, required=False)
@click.option(
    "--key-file", type=click.File(), metavar="FILE", help="The TSIG key for dynamic updates; - for standard input."
)
@click.option("--server", metavar="HOST", help="The primary server. Default: the one that the zone's SOA record names.")
@click.option(
    "--wait", type=float, default=60, show_default=True, metavar="SECONDS", help="For all servers of the zone."
)
@click.option(
    "--older-than", type=float, default=0, metavar="DAYS", help="Begin only when the key that signs is older."
)
@json_option
@click.pass_context
def rotate(
    ctx: click.Context,
    /,
    domain: str | None,
    key_file: TextIO | None,
    server: str | None,
    wait: float,
    older_than: float,
    as_json: bool,
) -> None:
    """Replace the key of a domain, or of all, step by step: to be called again, by a timer, while anything is left.

    A next key is made and its record published (with --key-file) or shown; when all servers of the zone have it, it
    signs (a running server sees that within seconds), and the old one is withdrawn after the lifetime of the queue and
    two days. Exit status 1 when a domain failed; the others go on.
    """
    config = load_config(ctx)
    folder = key_folder(config)
    resolver = Resolver(config.resolver)
    with _failures("rotate"):
        publisher = Publisher(resolver, parse_key(key_file.read()), server) if key_file else None

        def lacks(record: Record) -> str:
            try:
                return lacking(resolver, [record], silent_is_missing=False)
            except DNSError:
                return ""  # the resolver has it, and nobody says that it is not there

        rotation = Rotation(
            folder,
            resolver.lookup,
            publisher,
            wait=wait,
            keep=config.queue_lifetime + 2 * DAY,
            younger_stays=older_than * DAY,
            now=time.time(),
            lacking=lacks,
        )
        domains = [domain] if domain else folder.domains()
        if domain and not any(is_or_below(domain, known) for known in folder.domains()):
            raise KeyFileError(f"{domain} has no key; smtpmail dkim new {domain} makes one")
    steps: list[Step] = []
    failed = False
    for name in domains:
        try:
            with folder.locked():
                for step in rotation.go_on(name):
                    steps.append(step)
                    if not as_json:
                        click.echo(str(step))
        except (KeyFileError, DNSError, UpdateFailed) as error:
            # What was done stands, and other domains have other servers.
            failed = True
            click.echo(f"smtpmail dkim rotate: {name}: {error}", err=True)
    if as_json:
        click.echo(json.dumps([step.as_dict() for step in steps], indent=2))
    elif not steps and not failed:
        click.echo("nothing is due")
    sys.exit(failed)


def key_folder(config: Config, *, make: bool = False) -> KeyFolder:
    """The folder of the settings. Raises ConfigError."""
    if not config.dkim_keys:
        raise ConfigError("--dkim-keys: give the folder of the keys")
    machine.require_answer("--dkim-keys", config.dkim_keys)
    if make:
        try:
            os.makedirs(config.dkim_keys, 0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--dkim-keys: cannot make the folder {config.dkim_keys}: {error.strerror}") from None
    return KeyFolder(config.dkim_keys)


def record_of(key: Key) -> Record:
    """The record of a key."""
    return Record(absolute(key.record_name), "TXT", quoted(key.record), f"verifies mail of {key.domain} (DKIM)")


def describe(key: Key) -> dict[str, Any]:
    """A key for programs."""
    return {
        "domain": key.domain,
        "selector": key.selector,
        "algorithm": key.algorithm,
        "state": STATES[key.state],
        "since": datetime.fromtimestamp(key.changed, UTC).isoformat(timespec="seconds"),
        "name": absolute(key.record_name),
        "value": quoted(key.record),
    }


def _show(keys: list[Key], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([describe(key) for key in keys], indent=2))
    else:
        for key in keys:
            click.echo(str(record_of(key)))


class _failures:
    """What goes wrong is one line, and exit status 1."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, KeyFileError | DNSError | UpdateFailed):
            click.echo(f"smtpmail dkim {self._command}: {error}", err=True)
            sys.exit(1)
