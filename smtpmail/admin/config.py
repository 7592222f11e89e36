"""`smtpmail config`: every setting in effect, and where it comes from."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from smtpmail.settings import sources
from smtpmail.settings.config import Config, settings
from smtpmail.settings.options import SettingsCommand, load_config, load_sources
from smtpmail.settings.values import (
    read_duration,
    read_durations,
    read_journal_size,
    read_size,
    read_timeout,
    show_duration,
    show_size,
)

UNSET = {
    "suffix": "domains",
    "loopback": ("127.0.0.1", "[::1]"),
    "listen": ("0.0.0.0", "[::]"),
}
"""What holds instead of an empty list: a property of Config, or values."""


@click.command(cls=SettingsCommand, short_help="Every setting in effect, and where it comes from.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def config(ctx: click.Context, as_json: bool) -> None:
    """Show every setting in effect, and where it comes from, as lines of a configuration file.

    Takes the options of the server. What has no value is behind a `#`.
    """
    loaded, origin = load_config(ctx), load_sources(ctx)
    rows = [(setting.key, in_effect(loaded, name), origin.get(name)) for name, setting in settings().items()]
    for name, text in sources.unknown_variables(os.environ):
        click.echo(f"smtpmail config: warning: {name}: {text}", err=True)
    if as_json:
        shown = {key: {"value": value, "source": source or "default"} for key, value, source in rows}
        click.echo(json.dumps(shown, indent=2))
        return
    lines = [f"# {key} =" if value is None else f"{key} = {toml(value)}" for key, value, _ in rows]
    width = min(max(map(len, lines)), 50)
    for line, (_, _, source) in zip(lines, rows, strict=True):
        click.echo(f"{line:{width}}  # {source or 'default'}")


def in_effect(loaded: Config, name: str) -> Any:
    """The value that holds, as it stands in the file; None when there is none."""
    setting, value = settings()[name], getattr(loaded, name)
    if name.startswith("given_"):
        value = getattr(loaded, name.removeprefix("given_"))
    elif value == () and name in UNSET:
        unset = UNSET[name]
        value = getattr(loaded, unset) if isinstance(unset, str) else unset
    if value is None or value == ():
        return None
    if setting.read in (read_size, read_journal_size):
        return show_size(value)
    if setting.read in (read_duration, read_timeout):
        return show_duration(value)
    if setting.read is read_durations:
        return " ".join(map(show_duration, value))
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value if isinstance(value, bool | int) else str(value)


def toml(value: Any) -> str:
    """A value in the syntax of TOML, which for these is that of JSON."""
    return json.dumps(value, ensure_ascii=False)
