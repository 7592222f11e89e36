"""Which messages of the queue a command means: by id, sender, recipient, age, or all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from smtpmail.mail.address import AddressSyntaxError, normal_domain
from smtpmail.mail.queued import Item
from smtpmail.settings.values import read_duration
from smtpmail.spool.queue import QueueError, QueueStore


@dataclass(frozen=True, slots=True)
class Selection:
    """All conditions must hold; without any, nothing is selected unless `every`."""

    ids: tuple[str, ...] = ()
    sender: str | None = None
    recipient: str | None = None
    older: float | None = None
    """Seconds."""
    every: bool = False

    @property
    def takes_unreadable(self) -> bool:
        """Whether nothing is asked that only a readable message can answer."""
        return self.sender is None and self.recipient is None and self.older is None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said at all."""
        return self == Selection()

    def takes(self, item: Item, now: float) -> bool:
        """Whether the message is meant."""
        if self.sender is not None and not _names(self.sender, item.sender):
            return False
        if self.recipient is not None:
            waiting = (item.recipients[n].address for n in item.pending)
            if not any(_names(self.recipient, address) for address in waiting):
                return False
        return self.older is None or now - item.arrived > self.older

    def read(self, store: QueueStore, now: float) -> tuple[list[Item], dict[str, QueueError]]:
        """The messages meant, oldest first, and by id what can't be read among them.

        Raises QueueError when the queue itself can't be read.
        """
        there = store.ids()
        items: list[Item] = []
        errors: dict[str, QueueError] = {}
        for id_ in dict.fromkeys(self.ids) or there:
            try:
                item = store.load(id_)
            except QueueError as error:
                # A file that can't be read has no sender, recipient or age. And one that has just left is no error.
                if self.ids or (self.takes_unreadable and store.has(id_)):
                    errors[id_] = error
                continue
            if self.takes(item, now):
                items.append(item)
        return items, errors


def _names(wanted: str, address: str) -> bool:
    """Whether `wanted`, an address, a domain or `<>`, is the address or its domain."""
    wanted = wanted.strip().removeprefix("<").removesuffix(">").removeprefix("@")
    if "@" in wanted or not wanted:
        return wanted.casefold() == address.casefold()
    return _domain(wanted) == _domain(address.rpartition("@")[2])


def _domain(name: str) -> str:
    try:
        return normal_domain(name)
    except AddressSyntaxError:
        return name.casefold()


def _older(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else read_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


def selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for commands: IDs and options, the arguments of Selection."""
    for option in (
        click.option("--all", "every", is_flag=True, help="All messages."),
        click.option("--older", metavar="TIME", callback=_older, help="That arrived longer ago than this: 90m, 2d."),
        click.option("--to", "recipient", metavar="DOMAIN", help="That wait for this domain or address."),
        click.option("--from", "sender", metavar="ADDRESS", help="From this address or domain; <> for notifications."),
        click.argument("ids", metavar="[ID]...", nargs=-1),
    ):
        function = option(function)
    return function
