"""`smtpmail trace TEXT`: what happened to a message, out of the JSON log."""

from __future__ import annotations

import json
from datetime import datetime

import click

from smtpmail.admin.log_reader import read_log, when
from smtpmail.admin.stories import Tracer, Wanted
from smtpmail.admin.words import shown, tell
from smtpmail.settings.options import SettingsCommand


@click.command(cls=SettingsCommand, short_help="What happened to a message, out of the log.")
@click.argument("text")
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option("--since", callback=when, metavar="TIME", help="From then on: yesterday, '2 h ago', '2026-11-25 14:30'.")
@click.option("--until", callback=when, metavar="TIME", help="Before then.")
@click.option("--json", "as_json", is_flag=True, help="The entries of the log, one JSON object a line.")
@click.pass_context
def trace(
    ctx: click.Context, text: str, files: tuple[str, ...], since: datetime | None, until: datetime | None, as_json: bool
) -> None:
    """Tells what happened to a message, from the connection it came by to the last reply of the remote server.

    TEXT is the id of a message (in the 250 reply and in its Received field), a Message-ID, a sender's or a recipient's
    address or the part of it before the @, or the name a remote server gave it in its reply. Notifications are told
    with their message.

    Reads the JSON log of `journalctl -u smtpmail`, or, in turn, each FILE: - is standard input, .gz is unpacked.
    Exit status 1 when nothing is found.
    """
    if not any(map(str.isalnum, text)):
        raise click.UsageError("TEXT must be an id, a Message-ID or an address", ctx)
    tracer = Tracer(Wanted(text), since=since, until=until)
    found = 0
    for story in tracer.read(read_log(files, since, until)):
        found += 1
        if as_json:
            for entry in story:
                click.echo(json.dumps(entry))
        else:
            click.echo("\n".join([*([""] if found > 1 else []), *tell(story)]))
    if tracer.skipped:
        click.echo(f"smtpmail: {_lines(tracer.skipped)} skipped that are no entries of a JSON log", err=True)
    if tracer.forgotten:
        click.echo(
            f"smtpmail: {tracer.forgotten} messages under way at a time were too many to keep; a part may be missing",
            err=True,
        )
    if not found:
        names = ("standard input" if name == "-" else shown(name) for name in files)
        hint = "" if tracer.entries else ": it has no entries (is it written with --log-format json?)"
        where = ", ".join(names) or "the journal of smtpmail"
        click.echo(f"smtpmail: nothing about {shown(text)} in {where}{hint}", err=True)
        ctx.exit(1)


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
