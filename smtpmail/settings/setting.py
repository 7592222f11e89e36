"""What one setting is: its option, its environment variable, its key in the file, and how text becomes its value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from smtpmail.settings.values import ConfigError


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field of Config is set."""

    names: tuple[str, ...]
    """Its options; the long one without dashes is its key in the file."""
    help: str
    metavar: str
    read: Callable[[str], Any]
    repeatable: bool = False
    choices: tuple[str, ...] = ()
    group: str = "Mail"

    @property
    def key(self) -> str:
        """Its name in the TOML file."""
        return self.names[-1].removeprefix("--")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "SMTPMAIL_" + self.key.upper().replace("-", "_")

    def parse(self, value: Any, source: str) -> Any:
        """The value of the setting from text, or from what TOML has. Raises ConfigError naming `source`."""
        if self.repeatable:
            values = value if isinstance(value, list | tuple) else [value]
            return tuple(self._parse_one(v, source) for v in values)
        return self._parse_one(value, source)

    def _parse_one(self, value: Any, source: str) -> Any:
        if self.read is bool:
            if isinstance(value, bool):
                return value
            if str(value).lower() in ("1", "true", "yes", "on"):
                return True
            if str(value).lower() in ("0", "false", "no", "off", ""):
                return False
            raise ConfigError(f"{source}: {value!r} must be true or false")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{source}: {value!r} must be {self.metavar}")
        if self.choices:
            if value in self.choices:
                return value
            raise ConfigError(f"{source}: {value!r} must be one of {', '.join(self.choices)}")
        try:
            return self.read(str(value))
        except ValueError as error:
            raise ConfigError(f"{source}: {str(value)!r} {error}") from None


def setting(
    *names: str,
    help: str,
    metavar: str = "",
    read: Callable[[str], Any] = str,
    default: Any = None,
    repeatable: bool = False,
    choices: tuple[str, ...] = (),
    group: str = "Mail",
) -> Any:
    """A field of Config: the arguments are those of Setting, and the value when nobody sets it."""
    described = Setting(names, help, metavar, read, repeatable, choices, group)
    return field(default=() if repeatable and default is None else default, metadata={"setting": described})
