"""The settings as options of the command line, declared once and shared by all commands.

`smtpmail --spool S queue list` and `smtpmail queue list --spool S` say the same; where both are given, the later one
holds. Only the help of `smtpmail` itself lists them.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import click

from smtpmail.settings import sources
from smtpmail.settings.config import Config, default, settings
from smtpmail.settings.values import show_size

_GIVEN = "smtpmail.options"
"""The key of click's `meta` (common to a command and its sub-commands) that holds what was given."""
FILE = "config_file"
_PREFIX = "setting_"
"""Before the name of a setting's parameter: a command may have one of its own by that name."""


class SettingsCommand(click.Command):
    """A command that takes the options of all settings, and --config."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The shared ones, then its own."""
        return [*_options(hidden=ctx.parent is not None), *super().get_params(ctx)]


class SettingsGroup(SettingsCommand, click.Group):
    """The same for a command with sub-commands, which take them, too."""

    command_class = SettingsCommand
    group_class = type

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Alone, a group that needs a sub-command prints its help."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)


def load_config(ctx: click.Context) -> Config:
    """The settings from options, environment and file. Raises ConfigError."""
    options, file = _given(ctx)
    return sources.load(options, os.environ, file)


def load_sources(ctx: click.Context) -> dict[str, str]:
    """Where each setting that is set comes from. Raises ConfigError."""
    options, file = _given(ctx)
    return sources.sources(options, os.environ, file)


def _given(ctx: click.Context) -> tuple[dict[str, Any], str | None]:
    given = dict(ctx.meta.get(_GIVEN, {}))
    return given, given.pop(FILE, None)


def _remember(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    name = option.name or ""
    if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
        ctx.meta.setdefault(_GIVEN, {})[name.removeprefix(_PREFIX)] = value


@cache
def _options(*, hidden: bool) -> tuple[click.Option, ...]:
    shared: dict[str, Any] = {"expose_value": False, "callback": _remember, "hidden": hidden, "default": None}
    options = []
    for name, setting in settings().items():
        arguments = dict(shared, help=setting.help + _default_of(name))
        if setting.read is bool:
            arguments |= {"is_flag": True}
        elif setting.choices:
            arguments |= {"type": click.Choice(setting.choices)}
        else:
            arguments |= {"metavar": setting.metavar, "multiple": setting.repeatable}
        options.append(click.Option([*setting.names, _PREFIX + name], **arguments))
    file_help = f"TOML file with settings.  [default: {sources.DEFAULT_FILE}, if it is there]"
    options.append(click.Option(["--config", FILE], metavar="FILE", help=file_help, **shared))
    return tuple(options)


def _default_of(name: str) -> str:
    """The default, for settings whose help leaves it to be shown."""
    setting, value = settings()[name], default(name)
    if setting.read is bool or value in (None, ()) or "Default:" in setting.help:
        return ""
    if name in ("max_size", "journal_size"):
        return f"  [default: {show_size(value)}]"
    return f"  [default: {value:g}]" if isinstance(value, float) else f"  [default: {value}]"
