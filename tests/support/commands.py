"""How tests call a command in their own process."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner


def runner() -> CliRunner:
    """One that keeps the two outputs apart, as click does by itself since 8.2."""
    older: dict[str, Any] = {"mix_stderr": False}
    try:
        return CliRunner(**older)
    except TypeError:
        return CliRunner()
