"""`smtpmail checkpoint`: everything accepted so far stands in the files of mailboxes and queue, and is on disk."""

from __future__ import annotations

import click

from smtpmail.settings import judgement
from smtpmail.settings.options import SettingsCommand, load_config
from smtpmail.spool import durability
from smtpmail.spool.record import FormatError

PATIENCE = 60.0
"""Seconds that it waits for a running server."""


@click.command("checkpoint", cls=SettingsCommand, short_help="Have the journal written out, before a backup say.")
@click.pass_context
def checkpoint(ctx: click.Context) -> None:
    """Return when everything that was accepted so far is on disk in mailboxes and queue, without the journal.

    Takes the options of the server, which may run or not. It takes some seconds; mail goes on meanwhile.
    """
    config = load_config(ctx)
    judgement.require_answers(config)
    try:
        durability.recover_if_stopped(config.spool, config.queue, shared=config.is_shared)
        if not durability.checkpoint(config.spool, config.queue, PATIENCE):
            raise click.ClickException(f"the journal in {config.queue} still has records after {PATIENCE:g} s")
    except (OSError, FormatError) as error:
        raise click.ClickException(f"no checkpoint: {error}") from None
