"""`smtpmail queue ...`: looks at the mail that waits to leave, and changes its fate, whether the server runs or not.

Root becomes the owner of the queue first: what it makes is the server's, and what others put in its way leads nowhere
that the owner could not go.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NoReturn

import click

from smtpmail.admin import queue_view as view
from smtpmail.admin.queue_selection import Selection, selection_options
from smtpmail.mail.queued import FAILED, Item
from smtpmail.mail.text import harmless
from smtpmail.settings import machine, privileges
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsGroup, load_config
from smtpmail.spool import durability
from smtpmail.spool.queue import QueueError, QueueStore
from smtpmail.spool.record import FormatError


def fail(message: str) -> NoReturn:
    """One line for people, and exit status 2."""
    raise click.ClickException(message)


class Desk:
    """What a command works with: the queue of the settings, opened as its owner. Raises ConfigError."""

    def __init__(self, ctx: click.Context) -> None:
        self.ctx = ctx
        self.person = _person()
        self.config: Config = load_config(ctx)
        machine.require_answer("--queue", self.config.queue)
        os.umask(0o077)
        privileges.become_owner(self.config.queue)
        self.store = QueueStore(self.config.queue, shared=self.config.is_queue_shared)
        try:
            durability.recover_if_stopped(self.config.spool, self.config.queue, shared=self.config.is_shared)
        except (OSError, FormatError) as error:
            fail(f"the journal of the queue {self.config.queue} can't be replayed: {error}")
        self.now = time.time()
        self._failed = False
        self._heard = True

    def read(self, selection: Selection) -> tuple[list[Item], dict[str, QueueError]]:
        """The messages meant, and by id what can't be read among them. Raises click.ClickException."""
        if selection.ids and selection.every:
            fail("IDs or --all, not both")
        try:
            return selection.read(self.store, self.now)
        except QueueError as error:
            fail(str(error))

    def selected(self, selection: Selection, verb: str) -> list[Item]:
        """The messages to change; says what is wrong with others. Raises click.ClickException when nothing is said."""
        if selection.is_empty:
            fail(f"queue {verb}: which messages? IDs, --from, --to, --older or --all must be given")
        items, errors = self.read(selection)
        for error in errors.values():
            self.complain(str(error))
        if not items and not errors:
            click.echo(f"There is nothing to {verb}.")
        return items

    def complain(self, text: str) -> None:
        """One line; the command goes on with other messages, and ends with status 2."""
        self._failed = True
        click.echo(f"smtpmail: {' '.join(text.split())}", err=True)

    def change(self, item: Item, entry: dict[str, Any], change: str, said: str) -> None:
        """Writes a change down, tells the server and the person."""
        try:
            self.store.record(item, [entry])
        except OSError as error:
            self.complain(f"cannot write to the queue {self.store.path}: {error.strerror or error}")
            return
        self.tell(item.id, change, said)

    def tell(self, id_: str, change: str, said: str) -> None:
        """The running server and the person hear of it."""
        self._heard = self.store.wake(id_, change, self.person) and self._heard
        click.echo(f"{id_} {said}")

    def close(self) -> None:
        """The last word, and the exit status."""
        if not self._heard:
            click.echo("The server is not running: it will see this when it starts.")
        if self._failed:
            self.ctx.exit(2)

    @cached_property
    def bouncer(self) -> Any:
        """What tells senders; a notification that leaves by the queue is announced to the running server."""
        # Imported here: the other commands start faster without.
        from smtpmail import log  # noqa: PLC0415
        from smtpmail.wiring import MailSystem  # noqa: PLC0415

        log.configure("console" if sys.stderr.isatty() else "json", "error")
        return MailSystem(self.config, self._announce).bouncer

    def _announce(self, notification: Item) -> None:
        self.store.wake(notification.id)


def _person() -> str:
    """Who gives the command, as far as can be known: for the log."""
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@click.group("queue", cls=SettingsGroup, short_help="Mail waiting to leave: list, show, retry, hold, release, remove.")
def queue() -> None:
    """Mail waiting to leave. Works while the server runs, which obeys at once, and when it does not."""


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")


@queue.command("list", short_help="All messages in the queue, or some.")
@selection_options
@json_option
@click.pass_context
def list_(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """All messages in the queue, or those that match, oldest first."""
    desk = Desk(ctx)
    items, errors = desk.read(Selection(**given))
    if as_json:
        for item in items:
            click.echo(json.dumps(view.as_json(item)))
        for id_, error in errors.items():
            click.echo(json.dumps({"id": id_, "error": str(error)}))
        return
    if given["ids"] and errors and not items:
        fail(str(next(iter(errors.values()))))
    where = f"in the queue {harmless(desk.store.path)}"
    if not items and not errors:
        click.echo(f"There is no such message {where}." if any(given.values()) else f"Nothing is {where}: it is empty.")
        return
    rows = [view.row(item, desk.now) for item in items]
    rows += [(id_, "?", "?", "?", "?", "never", str(error)) for id_, error in errors.items()]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    head, *lines = view.table(rows, width)
    click.echo("\n".join([click.style(head, bold=True), *lines]))
    size = view.octets(sum(item.size for item in items))
    unreadable = f"; {len(errors)} can't be read" if errors else ""
    click.echo(f"{view.messages(len(rows))}, {size} {where}{unreadable}.")


@queue.command(short_help="Messages by domain and age.")
@click.option("--senders", is_flag=True, help="By the domains of the senders, instead of the recipients.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def summary(ctx: click.Context, senders: bool, as_json: bool) -> None:
    """How many recipients wait for each domain, by the minutes since their message arrived (as qshape tells it)."""
    desk = Desk(ctx)
    items, errors = desk.read(Selection())
    found = view.summarize(items, desk.now, senders=senders)
    if as_json:
        click.echo(json.dumps({"queue": desk.store.path, "minutes": view.AGES, "domains": found}, indent=2))
        return
    click.echo("\n".join(view.summary_table(found)))
    unreadable = f"; {len(errors)} can't be read" if errors else ""
    click.echo(f"{view.messages(len(items))} in the queue {harmless(desk.store.path)}{unreadable}.")


@queue.command(short_help="A message: envelope, what happened, its text.")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@click.pass_context
def show(ctx: click.Context, ids: tuple[str, ...], as_json: bool) -> None:
    """A message: its envelope, what happened to each recipient, and its text."""
    desk = Desk(ctx)
    for item in desk.selected(Selection(ids), "show"):
        if as_json:
            click.echo(json.dumps(view.as_json(item)))
            continue
        click.echo("\n".join([*view.details(item, desk.now), ""]))
        try:
            with desk.store.open_content(item) as content:
                for line in content:
                    click.echo(harmless(line.decode("utf-8", "replace").rstrip("\n").expandtabs()))
        except OSError as error:
            desk.complain(f"the message {item.id} has just left: {error.strerror}")
    desk.close()


@queue.command(short_help="Try messages now.")
@selection_options
@click.pass_context
def retry(ctx: click.Context, /, **given: Any) -> None:
    """Tries messages now; of those that are not named by their ID, the ones that are not on hold."""
    desk, selection = Desk(ctx), Selection(**given)
    items = desk.selected(selection, "retry")
    for item in items:
        if not item.hold:
            desk.change(item, {"next_attempt": 0.0}, "retried", "is tried now")
        elif selection.ids:
            desk.complain(f"{item.id} is on hold: smtpmail queue release {item.id} lets it go")
    if items and all(item.hold for item in items) and not selection.ids:
        click.echo("There is nothing to retry: all of it is on hold.")
    desk.close()


@queue.command(short_help="Keep messages until they are released.")
@selection_options
@click.pass_context
def hold(ctx: click.Context, /, **given: Any) -> None:
    """Keeps messages in the queue, untried, until they are released. An attempt under way goes on."""
    _change_all(ctx, Selection(**given), "hold", {"hold": True}, "held", "is on hold")


@queue.command(short_help="Let held messages go.")
@selection_options
@click.pass_context
def release(ctx: click.Context, /, **given: Any) -> None:
    """Lets held messages go: they are tried now."""
    entry = {"hold": False, "next_attempt": 0.0}
    _change_all(ctx, Selection(**given), "release", entry, "released", "is released")


def _change_all(
    ctx: click.Context, selection: Selection, verb: str, entry: dict[str, Any], change: str, said: str
) -> None:
    desk = Desk(ctx)
    for item in desk.selected(selection, verb):
        desk.change(item, entry, change, said)
    desk.close()


@queue.command(short_help="Take messages out of the queue.")
@selection_options
@click.option("--bounce", is_flag=True, help="Tell the senders that they were not delivered.")
@click.pass_context
def remove(ctx: click.Context, /, bounce: bool, **given: Any) -> None:
    """Takes messages out of the queue for good, unreadable ones too; with --bounce their senders are told.

    An attempt under way goes on.
    """
    desk, selection = Desk(ctx), Selection(**given)
    if selection.is_empty:
        desk.selected(selection, "remove")
    items, errors = desk.read(selection)
    for item in items:
        _remove(desk, item.id, partial(_bounce, desk, item) if bounce else None)
    for id_, error in errors.items():
        if desk.store.has(id_):
            _remove(desk, id_, (lambda: "nobody is told: it can't be read") if bounce else None)
        else:
            desk.complain(str(error))
    if not items and not errors:
        click.echo("There is nothing to remove.")
    desk.close()


@queue.command(short_help="Take over the queue of a host that died.")
@click.argument("folder", metavar="DIR")
@click.pass_context
def adopt(ctx: click.Context, folder: str) -> None:
    """Takes over DIR, the queue of a host that died: its messages go on from here, none of them twice.

    Refused while the server of that host holds it. Make sure that the host is off: one that is only cut off from the
    network may be sending at this moment. Can be repeated when it was interrupted.
    """
    from smtpmail.spool.adoption import adopting  # noqa: PLC0415

    desk = Desk(ctx)
    machine.require_answer("queue adopt", folder)
    count = 0
    try:
        with adopting(desk.store, folder) as (host, messages):
            for id_, error in messages:
                if error is not None:
                    desk.complain(f"{id_} stays in the queue {folder}, it can't be read: {error}")
                    continue
                count += 1
                desk.tell(id_, "adopted", f"is adopted from {harmless(host)}")
        click.echo(f"{view.messages(count)} of {harmless(host)} adopted into the queue {harmless(desk.store.path)}.")
    except QueueError as error:
        desk.complain(str(error))
    except OSError as error:
        desk.complain(f"cannot adopt the queue {folder}: {error}; nothing is lost: say it again")
    desk.close()


def _remove(desk: Desk, id_: str, told: Callable[[], str] | None) -> None:
    """`told` tells the sender, and says so."""
    try:
        said = f"is removed, {told()}" if told else "is removed"
        desk.store.remove(id_)
        desk.store.flush()
    except (OSError, QueueError) as error:
        desk.complain(f"{id_} stays in the queue {desk.store.path}: {getattr(error, 'strerror', None) or error}")
        return
    desk.tell(id_, "removed", said)


def _bounce(desk: Desk, item: Item) -> str:
    """Tells the sender; returns what can be said of it. Raises OSError: then nothing has changed."""
    from smtpmail.mail.notification import Kind, wanted  # noqa: PLC0415
    from smtpmail.outbound.notify import notify  # noqa: PLC0415

    numbers = [n for n in item.pending if wanted(Kind.FAILURE, item.recipients[n].notify)]
    if not item.sender:
        return "nobody is told: it has no sender"
    if not numbers:
        return "nobody is told: no notification was asked for"
    held = item.hold
    # Nobody may try it while its sender hears that nobody will.
    desk.store.record(item, [{"hold": True}])
    desk.store.wake(item.id)
    reply = "removed from the queue by the administrator"
    for n in item.pending:
        item.apply({"recipient": n, "state": FAILED, "status": "5.7.0", "reply": reply})
    try:
        told = notify(desk.store, desk.bouncer, desk.config.retry_policy, Kind.FAILURE, item, numbers)
    except OSError:
        desk.store.record(item, [{"hold": held}])
        desk.store.wake(item.id)
        raise
    return f"{harmless(item.sender)} is told" if told else f"nobody is told: {harmless(item.sender)} takes no mail here"
