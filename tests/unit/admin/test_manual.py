"""The man pages: one for every command and file, and mandoc has nothing to say against them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support import require

from smtpmail.admin.manual_files import ALIASES, BLOCKED, FORWARD
from smtpmail.cli import cli
from smtpmail.settings.config import settings
from smtpmail.users.alias_syntax import parse_aliases
from smtpmail.users.blocked import parse_blocked
from smtpmail.users.own import parse_forward


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("man")
    result = CliRunner().invoke(cli, ["manual", str(path)])
    assert result.exit_code == 0, result.output
    return path


def commands(command: click.Command, name: str = "smtpmail") -> Iterator[str]:
    yield name
    if isinstance(command, click.Group):
        context = click.Context(command)
        for sub_name in command.list_commands(context):
            sub = command.get_command(context, sub_name)
            assert sub
            yield from commands(sub, f"{name}-{sub_name}")


def test_every_command_and_file_has_a_page(folder: Path) -> None:
    names = {p.name for p in folder.rglob("*.[158]")}
    expected = {f"{name}.1" for name in commands(cli)} | {"sendmail.8", "mailq.8", "newaliases.8"}
    assert len(expected) > 30
    files = ("smtpmail.toml", "smtpmail-aliases", "smtpmail-users", "smtpmail-forward", "smtpmail-blocked")
    assert names == expected | {f"{name}.5" for name in files}


def examples(text: str) -> list[str]:
    return [block.strip("\n") for block in re.findall(r"\n\x08\n(.*?)\n\n", text, re.DOTALL)]


def test_the_examples_of_files_are_those_of_the_docs_and_good() -> None:
    docs = (Path(__file__).parents[3] / "docs" / "addresses.md").read_text()
    (aliases,), (forward,), (blocked,) = (examples(text) for text in (ALIASES, FORWARD, BLOCKED))
    for example in (aliases, forward, blocked):
        assert example in docs
    assert parse_aliases(aliases).complaints == []
    assert parse_forward(forward).complaints == ()
    assert parse_blocked(blocked).complaints == ()


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


def test_man_shows_them(folder: Path) -> None:
    """man-db's, which is what Debian has; groff says nothing against them."""
    man = require.tool("man", "man-db")
    for name in ("man5/smtpmail-forward.5", "man1/smtpmail-queue-list.1", "man8/sendmail.8"):
        command = [man, "--warnings", "-E", "UTF-8", "-l", str(folder / name)]
        environment = os.environ | {"MANPAGER": "cat", "MANWIDTH": "80", "MANPATH": str(folder)}
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=folder)
        assert "DESCRIPTION" in re.sub(".\x08", "", ran.stdout)
        assert not ran.stderr, name
