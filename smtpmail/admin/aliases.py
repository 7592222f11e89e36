"""`smtpmail aliases [ADDRESS]`: where an address leads, and why; without one, whether the file of aliases is good."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import click

from smtpmail.mail.address import Address, AddressSyntaxError, parse_address
from smtpmail.mail.route import Local
from smtpmail.settings.config import Config
from smtpmail.settings.finding import Finding
from smtpmail.settings.options import SettingsCommand, load_config
from smtpmail.smtp.replies import Refusal
from smtpmail.users.alias_syntax import show_key
from smtpmail.users.aliases import Aliases, AliasesUnreadable
from smtpmail.users.routing import Router
from smtpmail.users.users import Users, UsersUnreadable
from smtpmail.wiring import local_domains, own_of


@click.command(cls=SettingsCommand, short_help="Where an address leads, and why.")
@click.argument("address", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def aliases(ctx: click.Context, address: str | None, as_json: bool) -> None:
    """Show where ADDRESS leads: through the aliases, to mailboxes, and on by a user's own .forward.

    Without ADDRESS the file of aliases is judged, as `smtpmail check` does. Exit status 0: mail is taken; 1: it is
    refused, or must wait; or something is wrong with the file.
    """
    settings = load_config(ctx)
    if address is None:
        found = list(aliases_findings(settings))
        for finding in found:
            click.echo(f"smtpmail aliases: {finding.level}: {finding.line}", err=True)
        if any(finding.level == "error" for finding in found):
            ctx.exit(1)
        click.echo(f"{settings.aliases} is good" if settings.aliases else "no file of aliases is set (--aliases FILE)")
        return
    try:
        told = explain(settings, parse_address(address) if "@" in address else Address(address, ""))
    except AddressSyntaxError as error:
        raise click.UsageError(str(error), ctx) from None
    except (UsersUnreadable, AliasesUnreadable) as error:
        raise click.ClickException(f"cannot read {error}") from None
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(address)
        for step in told["steps"]:
            click.echo(f"  {step}")
    if told["reply"]:
        ctx.exit(1)


def explain(settings: Config, address: Address) -> dict[str, Any]:
    """The way of an address in steps, its ends, and the reply if mail is not taken now.

    Raises UsersUnreadable, AliasesUnreadable.
    """
    router = _router(settings)
    reply, mailboxes, remote = None, [], []
    try:
        for route in router.routes(address):
            if isinstance(route, Local):
                mailboxes.append(os.path.join(settings.spool, route.user))
            else:
                remote.append(str(route.address))
    except Refusal as refusal:
        reply = str(refusal.reply)
    steps = []
    if local_domains(settings)(address.domain):
        found = router.expand(address)
        steps = ["  " * depth + text for depth, text in found.steps]
        for user in found.mailboxes:
            forward = own_of(settings, user).forward if user not in found.final else None
            if forward is not None:
                steps.append(f".forward of {user}: {', '.join(map(str, forward.targets)) or 'nobody'}")
                steps += [f".forward of {user}: {complaint}" for complaint in forward.complaints]
    steps += [f"-> the mailbox {path}" for path in mailboxes]
    steps += [f"-> {target}, elsewhere" for target in remote]
    if reply:
        steps.append(f"-> {reply}")
    elif not (mailboxes or remote):
        steps.append("-> taken and dropped")
    return {"address": str(address), "steps": steps, "mailboxes": mailboxes, "elsewhere": remote, "reply": reply}


def _router(settings: Config) -> Router:
    users = Users(settings.users, lambda count, complaints: None)
    known = Aliases(settings.aliases) if settings.aliases else None
    return Router(
        local_domains(settings), users, may_relay=True, aliases=known, own=lambda user: own_of(settings, user)
    )


def aliases_findings(settings: Config) -> Iterator[Finding]:
    """What is wrong with the file of aliases, and with each line in it. The server starts all the same."""
    if settings.aliases is None:
        return
    complaints: list[str] = []
    known = Aliases(settings.aliases, lambda count, found: complaints.extend(found))
    try:
        table = known.table()
    except AliasesUnreadable:
        yield _wrong(f"{settings.aliases}: {complaints[0]}")
        return
    yield from (_wrong(f"{settings.aliases}: {complaint}") for complaint in complaints)
    router = _router(settings)
    is_local = local_domains(settings)
    for key, entry in table.entries.items():
        local, domain = key
        if entry.complaint:
            continue
        if domain and not is_local(domain):
            yield _wrong(f"{settings.aliases}: line {entry.line}: {domain} is no local domain (--suffix)")
            continue
        try:
            found = router.expand(Address(local or "any-other-address", domain))
        except UsersUnreadable:
            return  # told by the check of the users
        where = f"{settings.aliases}: line {entry.line}: {show_key(key)}"
        yield from (_wrong(f"{settings.aliases}: line {entry.line}: {problem}") for problem in found.problems)
        yield from (_wrong(f"{where}: {name}: no such user") for name, text in found.failures if not text)
        yield from (_wrong(f"{where}: {text}") for _, text in found.steps if text.endswith("(left out)"))


def _wrong(text: str) -> Finding:
    return Finding("aliases", "--aliases", "error", text)
