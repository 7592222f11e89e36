"""Where settings come from: the command line wins over the environment, that over the TOML file."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smtpmail.settings.config import Config, settings
from smtpmail.settings.values import ConfigError

DEFAULT_FILE = "/etc/smtpmail/smtpmail.toml"
FILE_VARIABLE = "SMTPMAIL_CONFIG"
PREFIX = "SMTPMAIL_"


def load(options: Mapping[str, Any], environment: Mapping[str, str], file: str | None = None) -> Config:
    """The settings: `options` (by field, only those given) before the environment before the file.

    Raises ConfigError. `file` is an explicit --config; otherwise SMTPMAIL_CONFIG, then DEFAULT_FILE if it exists.
    """
    return Config(**{name: value for name, value, _ in _given(options, environment, file)})


def sources(options: Mapping[str, Any], environment: Mapping[str, str], file: str | None = None) -> dict[str, str]:
    """Who says it, for each field that is set: an option, a variable, or the file and its key. Raises ConfigError."""
    return {name: source for name, _, source in _given(options, environment, file)}


def _given(
    options: Mapping[str, Any], environment: Mapping[str, str], file: str | None
) -> Iterator[tuple[str, Any, str]]:
    path = file or environment.get(FILE_VARIABLE) or None
    if path is None and os.path.exists(DEFAULT_FILE):
        path = DEFAULT_FILE
    from_file = read_file(path) if path else {}
    for name, setting in settings().items():
        if name in options:
            source, value = setting.names[-1], options[name]
        elif setting.variable in environment:
            source, value = setting.variable, environment[setting.variable]
            if setting.repeatable:
                value = value.split()
        elif setting.key in from_file:
            source, value = f"{path}: {setting.key}", from_file[setting.key]
        else:
            continue
        yield name, setting.parse(value, source), source


def read_file(path: str) -> dict[str, Any]:
    """The keys of the TOML file, dashes between words (underscores are taken too). Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    known = {setting.key for setting in settings().values()}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("_", "-")
        if name not in known:
            raise ConfigError(f"{path}: unknown key {key!r}{_nearest(name, known)}")
        if name in values:
            raise ConfigError(f"{path}: {name!r} is there twice")
        values[name] = value
    return values


def unknown_variables(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is likely a misspelt setting in the environment: each name, and what to say of it, with the nearest name."""
    known = {FILE_VARIABLE, *(setting.variable for setting in settings().values())}
    ends = [name.removeprefix(PREFIX) for name in known]
    return [
        (name, f"there is no such setting{_nearest(name.removeprefix(PREFIX), ends, PREFIX)}")
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known
    ]


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else "; smtpmail --help lists the settings"
