"""`smtpmail check`: whether the server would start with these settings, and what in them is likely not meant."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from smtpmail.admin import certificate
from smtpmail.cli import load_config, setting_options
from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError
from smtpmail.users.users import parse_users


@dataclass(frozen=True)
class Finding:
    """One thing wrong. `level` is `error` (the server would refuse it or lose by it) or `warning`."""

    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


@click.command()
@setting_options(hidden=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def check(ctx: click.Context, /, as_json: bool, **_: Any) -> None:
    """Check the configuration, the users file and the certificate, without opening a port.

    Takes the options of the server. Exit status 0 when it would start, 2 when it would not.
    """
    found = list(findings(load_config(ctx)))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(f"smtpmail check: {finding}", err=True)
    if any(finding.level == "error" for finding in found):
        sys.exit(2)
    if not as_json:
        click.echo("smtpmail check: the configuration is valid")


def findings(settings: Config) -> Iterator[Finding]:
    """All that is wrong with the settings, the users file and the certificate."""
    try:
        settings.check()
    except ConfigError as error:
        yield Finding("error", str(error))
        return
    yield from _users(settings.users)
    if settings.tls_cert:
        server = settings.tls_context()
        verdict = certificate.judge(certificate.in_memory(server, settings.hostname), settings.hostname)
        if verdict.level != "ok":
            # Opportunistic senders take any certificate, so the server starts with it.
            yield Finding("warning", f"--tls-cert: {settings.tls_cert}: {verdict.text}; {verdict.advice}")


def _users(path: str | None) -> Iterator[Finding]:
    if path is None:
        yield Finding("warning", "without --users every valid name is a user")
        return
    try:
        with open(path, encoding="utf-8") as file:
            users, complaints = parse_users(file.read())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        yield Finding("error", f"--users: cannot read {path}: {reason}")
        return
    for complaint in complaints:
        yield Finding("error", f"--users: {path}: {complaint}")
    if not users and not complaints:
        yield Finding("error", f"--users: {path} names nobody: all mail would be refused")
