"""The man pages: one for every command and file, and mandoc has nothing to say against them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import require

from smtpmail.cli import cli
from smtpmail.settings.config import settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("man")
    result = CliRunner().invoke(cli, ["manual", str(path)])
    assert result.exit_code == 0, result.output
    return path


def test_every_command_has_a_page(folder: Path) -> None:
    names = {p.name for p in folder.rglob("*.[158]")}
    assert {
        "smtpmail.1",
        "smtpmail-queue-list.1",
        "smtpmail-import.1",
        "sendmail.8",
        "mailq.8",
        "newaliases.8",
    } <= names
    assert {"smtpmail.toml.5", "smtpmail-aliases.5", "smtpmail-users.5"} <= names


def test_every_setting_is_a_key(folder: Path) -> None:
    text = (folder / "man5" / "smtpmail.toml.5").read_text().replace("\\-", "-")
    assert [s.key for s in settings().values() if f".B {s.key} = " not in text] == []


def test_mandoc_reads_them(folder: Path) -> None:
    mandoc = require.tool("mandoc")
    pages = sorted(folder.rglob("*.[158]"))
    ran = subprocess.run([mandoc, "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True, check=False)
    # A date is nothing that a generated page has.
    said = [line for line in ran.stdout.splitlines() if "missing date" not in line]
    assert said == []
    shown = subprocess.run([mandoc, "-T", "utf8", folder / "man8" / "sendmail.8"], capture_output=True, check=True)
    assert b"dead.letter" in shown.stdout
