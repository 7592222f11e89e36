"""Where sendmail(8) finds the server, for accounts that may not read its configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smtpmail.admin.sendmail import load_settings
from smtpmail.settings import sources
from smtpmail.settings.values import ConfigError


@pytest.fixture
def unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that this account may not read; root could."""
    file = tmp_path / "smtpmail.toml"
    file.write_text("port = 2526\n")
    monkeypatch.setattr(sources, "DEFAULT_FILE", str(file))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    read = sources.read_file

    def refuse(path: str) -> dict[str, object]:
        if path == str(file):
            raise ConfigError(f"--config: cannot read {path}: Permission denied")
        return read(path)

    monkeypatch.setattr(sources, "read_file", refuse)
    return file


@pytest.mark.parametrize(("environment", "port"), [({}, 25), ({"SMTPMAIL_PORT": "2525"}, 2525)])
def test_the_environment_says_it(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], port: int
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == port


def test_a_file_that_was_named_must_be_readable(unreadable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sources.FILE_VARIABLE, str(unreadable))
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings()
