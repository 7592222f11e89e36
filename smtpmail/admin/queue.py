"""`smtpmail queue ...`: looks at the mail that waits to leave, and changes its fate, whether the server runs or not."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, NoReturn

import click

from smtpmail.mail.queued import FAILED, Item
from smtpmail.mail.text import harmless, rfc3339
from smtpmail.settings.options import SettingsGroup, load_config
from smtpmail.spool.queue import QueueError, QueueStore


def fail(message: str) -> NoReturn:
    """One line for people, and exit status 2."""
    raise click.ClickException(message)


def _store(ctx: click.Context) -> QueueStore:
    return QueueStore(load_config(ctx).queue)


def _load(store: QueueStore, id_: str) -> Item:
    try:
        return store.load(id_)
    except QueueError as error:
        fail(str(error))


def _state(item: Item, now: float) -> str:
    if item.hold:
        return "on hold"
    if not item.attempts or item.next_attempt <= now:
        return "now"
    return f"in {_span(item.next_attempt - now)}"


def _span(seconds: float) -> str:
    """A time span for people: its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _as_json(item: Item) -> dict[str, Any]:
    return {
        "id": item.id,
        "arrived": rfc3339(item.arrived),
        "sender": item.sender,
        "size": item.size,
        "attempts": item.attempts,
        "next_attempt": None if item.hold else rfc3339(item.next_attempt or item.arrived),
        "hold": item.hold,
        "bounce_of": item.bounce_of,
        "recipients": [
            {"address": r.address, "state": r.state, "reply": r.reply or None, "mx": r.mx or None}
            for r in item.recipients
        ],
    }


@click.group("queue", cls=SettingsGroup, short_help="Mail waiting to leave: list, show, retry, hold, release, remove.")
def queue() -> None:
    """Mail waiting to leave. Works while the server runs, which obeys at once, and when it does not."""


@queue.command("list", short_help="All messages in the queue.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@click.pass_context
def list_(ctx: click.Context, /, as_json: bool) -> None:
    """All messages in the queue, oldest first."""
    store = _store(ctx)
    now = time.time()
    rows = []
    for item in store.load_all():
        if as_json:
            click.echo(json.dumps(_as_json(item)))
            continue
        waiting = [item.recipients[n] for n in item.pending]
        first = waiting[0] if waiting else item.recipients[0]
        more = f" +{len(waiting) - 1}" if len(waiting) > 1 else ""
        rows.append(
            [item.id, _span(now - item.arrived), f"<{item.sender}>", f"{first.address}{more}",
             str(item.attempts), _state(item, now), first.reply]
        )  # fmt: skip
    if as_json:
        return
    if not rows:
        click.echo(f"The queue {store.path} is empty.")
        return
    head = ["ID", "AGE", "FROM", "TO", "TRIES", "NEXT", "LAST REPLY"]
    widths = [min(max(len(row[n]) for row in [head, *rows]), 40) for n in range(len(head) - 1)]
    for row in [head, *rows]:
        cells = [harmless(cell).ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        line = "  ".join([*cells, harmless(row[-1])])
        click.echo(click.style(line, bold=True) if row is head else line)


@queue.command(short_help="One message: envelope, what happened, its text.")
@click.argument("id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="The envelope as JSON, for programs.")
@click.pass_context
def show(ctx: click.Context, /, id: str, as_json: bool) -> None:
    """One message: its envelope, what happened to each recipient, and its text."""
    store = _store(ctx)
    item = _load(store, id)
    if as_json:
        click.echo(json.dumps(_as_json(item)))
        return
    click.echo(f"id:       {item.id}")
    click.echo(f"arrived:  {rfc3339(item.arrived)} ({_span(time.time() - item.arrived)} ago)")
    click.echo(f"sender:   <{item.sender}>" + (f" (a bounce of {item.bounce_of})" if item.bounce_of else ""))
    click.echo(f"attempts: {item.attempts}, next: {_state(item, time.time())}")
    for recipient in item.recipients:
        click.echo(f"to:       <{recipient.address}> {recipient.state}")
        if recipient.reply:
            click.echo(f"          {recipient.mx}: {harmless(recipient.reply)}")
    click.echo()
    try:
        with store.open_content(item) as content:
            for line in content:
                click.echo(harmless(line.decode("utf-8", "replace").rstrip("\n")))
    except OSError as error:
        fail(f"the message {id} has just left: {error.strerror}")


def _change(store: QueueStore, item: Item, entry: dict[str, Any], said: str) -> None:
    try:
        store.record(item, [entry])
    except OSError as error:
        fail(f"cannot write to the queue {store.path}: {error.strerror or error}")
    running = store.wake(item.id)
    click.echo(f"{item.id} {said}" + ("" if running else " (the server is not running: it will see it when it starts)"))


@queue.command(short_help="Try a message, or all, now.")
@click.argument("id", metavar="ID", required=False)
@click.option("--all", "every", is_flag=True, help="All messages that are not on hold.")
@click.pass_context
def retry(ctx: click.Context, /, id: str | None, every: bool) -> None:
    """Tries a message, or with --all every one that is not on hold, now."""
    if every == bool(id):
        fail("queue retry: an ID or --all is wanted")
    store = _store(ctx)
    items = [item for item in store.load_all() if not item.hold] if every else [_load(store, id or "")]
    for item in items:
        if item.hold:
            fail(f"{id} is on hold: smtpmail queue release {id} lets it go")
        _change(store, item, {"next_attempt": 0.0}, "is tried now")
    if not items:
        click.echo("There is nothing to try.")


@queue.command(short_help="Keep a message until it is released.")
@click.argument("id", metavar="ID")
@click.pass_context
def hold(ctx: click.Context, /, id: str) -> None:
    """Keeps a message in the queue, untried, until it is released. An attempt under way goes on."""
    store = _store(ctx)
    _change(store, _load(store, id), {"hold": True}, "is on hold")


@queue.command(short_help="Let a held message go.")
@click.argument("id", metavar="ID")
@click.pass_context
def release(ctx: click.Context, /, id: str) -> None:
    """Lets a held message go: it is tried now."""
    store = _store(ctx)
    _change(store, _load(store, id), {"hold": False, "next_attempt": 0.0}, "is released")


@queue.command(short_help="Take a message out of the queue.")
@click.argument("id", metavar="ID")
@click.option("--bounce", is_flag=True, help="Tell the sender that it was not delivered.")
@click.pass_context
def remove(ctx: click.Context, /, id: str, bounce: bool) -> None:
    """Takes a message out of the queue for good; with --bounce its sender is told."""
    store = _store(ctx)
    item = _load(store, id)
    try:
        if bounce:
            _bounce(ctx, store, item)
        store.remove(id)
        store.flush()
    except OSError as error:
        fail(f"cannot change the queue {store.path}: {error.strerror or error}")
    store.wake(id)
    click.echo(f"{id} is removed" + (", its sender is told" if bounce and item.sender else ""))


def _bounce(ctx: click.Context, store: QueueStore, item: Item) -> None:
    # Imported here: the other commands start faster without.
    from smtpmail import log  # noqa: PLC0415
    from smtpmail.mail.notification import Kind, wanted  # noqa: PLC0415
    from smtpmail.outbound.notify import notify  # noqa: PLC0415
    from smtpmail.wiring import MailSystem  # noqa: PLC0415

    config = load_config(ctx)
    log.configure("console" if sys.stderr.isatty() else "json", "warning")
    numbers = [n for n in item.pending if wanted(Kind.FAILURE, item.recipients[n].notify)]
    reply = "removed from the queue by the administrator"
    store.record(item, [{"recipient": n, "state": FAILED, "status": "5.7.0", "reply": reply} for n in item.pending])
    if item.sender and numbers:
        system = MailSystem(config, lambda new: _announce(store, new))
        notify(store, system.bouncer, config.retry_policy, Kind.FAILURE, item, numbers)


def _announce(store: QueueStore, item: Item) -> None:
    """A notification that leaves by the queue: the running server sends it at once."""
    store.wake(item.id)
