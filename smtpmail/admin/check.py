"""`smtpmail check`: whether the server would start with these settings, and what in them is likely not meant."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import click

from smtpmail.admin import cluster
from smtpmail.admin.aliases import aliases_findings
from smtpmail.auth import exempt
from smtpmail.auth.dkim_keys import KeyFileError, KeyFolder, those_that_sign
from smtpmail.auth.lookup import is_or_below
from smtpmail.mail.address import Address
from smtpmail.settings import judgement, privileges
from smtpmail.settings.config import Config
from smtpmail.settings.finding import Finding
from smtpmail.settings.options import SettingsCommand, load_config
from smtpmail.users.blocked import BlockedFile
from smtpmail.users.users import parse_users


@click.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Check the configuration, users, aliases and the certificate; no port is opened, nothing is made or changed.

    Takes the options of the server, and judges as its start does. Exit status 0: it would start. 1: it would, but the
    users, the aliases or the keys are wrong, and mail is refused or unsigned by it, or what hosts share can't keep its
    promises. 2: it would not start.
    """
    settings = load_config(ctx)
    judgement.require_answers(settings)
    with privileges.acting_as(privileges.server_account(settings)):
        judged = list(judgement.judge(settings, os.environ))
        users = [
            *users_findings(settings.users),
            *aliases_findings(settings),
            *blocked_findings(settings.blocked),
            *keys_findings(settings),
            *exempt_findings(settings.verify_exempt),
        ]
    if not any(finding.level == "error" for finding in judged):
        judged += cluster.ownership(settings)
    # Whoever could not look at the spool would wait here, too. What gluster says it says to root alone.
    shared = [] if any(finding.level == "error" for finding in judged) else list(cluster.findings(settings))
    found = [*judged, *users, *shared]
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(f"smtpmail check: {finding.level}: {finding.line}", err=True)
    if any(finding.level == "error" for finding in judged):
        ctx.exit(2)
    if any(finding.level == "error" for finding in (*users, *shared)):
        ctx.exit(1)
    if not as_json:
        click.echo("smtpmail check: the configuration is valid")


def blocked_findings(path: str | None) -> Iterator[Finding]:
    """What is wrong with the file of blocked senders: such a line blocks nobody."""
    if path is None:
        return
    complaints: list[str] = []
    BlockedFile(path, lambda count, found: complaints.extend(found)).has(Address("a", "example.org"))
    for complaint in complaints:
        yield Finding("blocked", "--blocked", "error", f"{path}: {complaint}")


def keys_findings(settings: Config) -> Iterator[Finding]:
    """What is wrong with the keys that sign: the server starts all the same; mail leaves unsigned, or is refused."""
    if settings.dkim_keys is None:
        return
    folder = KeyFolder(settings.dkim_keys)
    signing: set[str] = set()
    try:
        for domain in folder.domains():
            keys, complaints = folder.readable(domain)
            if those_that_sign(keys):
                signing.add(domain)
            for complaint in complaints:
                yield Finding("dkim", "--dkim-keys", "error", complaint)
    except KeyFileError as error:
        yield Finding("dkim", "--dkim-keys", "error", str(error))
        return
    for domain in settings.domains:
        if not any(is_or_below(domain, known) for known in signing):
            yield Finding(
                "dkim", "--dkim-keys", "warning", f"there is no key that signs mail of {domain}",
                f"smtpmail dkim new {domain} makes one",
            )  # fmt: skip


def exempt_findings(path: str | None) -> Iterator[Finding]:
    """What is wrong with the file of exemptions: such a line lets nobody through."""
    if path is None:
        return
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            _, complaints = exempt.parse(file)
    except OSError:
        return  # the judgement has said it
    for complaint in complaints:
        yield Finding("exempt", "--verify-exempt", "error", f"{path}: {complaint}")


def users_findings(path: str | None) -> Iterator[Finding]:
    """What is wrong with the users file: the server starts all the same, and reads it again when it changes."""
    if path is None:
        yield Finding("users", "--users", "warning", "without it every valid name is a user")
        return
    try:
        with open(path, encoding="utf-8") as file:
            users, complaints = parse_users(file.read())
    except OSError as error:
        yield Finding("users", "--users", "error", f"cannot read {path}: {error.strerror}")
        return
    except UnicodeDecodeError:
        yield Finding("users", "--users", "error", f"cannot read {path}: it is not UTF-8")
        return
    for complaint in complaints:
        yield Finding("users", "--users", "error", f"{path}: {complaint}")
    if not users and not complaints:
        yield Finding("users", "--users", "error", f"{path} names nobody: all mail would be refused")
