"""Commands that would look at a file system whose servers are away say so, instead of hanging."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smtpmail import mounts
from smtpmail.admin.device import device
from smtpmail.admin.dkim import dkim
from smtpmail.admin.dns import dns
from smtpmail.admin.imap import imap
from smtpmail.admin.queue import queue
from smtpmail.admin.sendmail import run
from smtpmail.admin.transfer import export, import_
from smtpmail.settings import machine
from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is a mount of a volume that answers nobody; whoever asks is told at once."""
    folder = tmp_path / "mail"
    (folder / ".queue").mkdir(parents=True)
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / {folder} rw - fuse.glusterfs localhost:/mail rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", str(table))
    monkeypatch.setattr(machine, "answers", lambda path, seconds: not path.startswith(str(folder)))
    return folder


@pytest.mark.parametrize(
    ("command", "arguments", "subject"),
    [
        (queue, ["list"], "--queue"),
        (queue, ["retry", "--all"], "--queue"),
        (dkim, ["list"], "--dkim-keys"),
        (dkim, ["show", "dom.fr"], "--dkim-keys"),
        (dkim, ["new", "dom.fr"], "--dkim-keys"),
        (dns, ["records", "--address", "192.0.2.11"], "--dkim-keys"),
        (device, ["list"], "--devices"),
        (device, ["add", "bob", "phone"], "--devices"),
        (export, ["bob", "bob.mbox"], "--spool"),
        (import_, ["bob", "bob.mbox"], "--spool"),
        (imap, [], "--spool"),
    ],
)
def test_it_is_said(silent: Path, tmp_path: Path, command: click.Command, arguments: list[str], subject: str) -> None:
    users = tmp_path / "users"
    users.write_text("bob\n")
    options = {
        "--spool": silent, "--queue": silent / ".queue", "--dkim-keys": silent / ".dkim",
        "--devices": silent / ".devices", "--users": users, "-s": "dom.fr", "-H": "mx1.dom.fr",
    }  # fmt: skip
    given = [word for option, value in options.items() for word in (option, str(value))]
    result = CliRunner().invoke(command, [*arguments, *given])
    assert isinstance(result.exception, ConfigError), result.output
    assert str(result.exception).startswith(f"{subject}: the file system of {silent}")
    assert str(result.exception).endswith(" does not answer (localhost:/mail)")


def test_mailq_says_it(silent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(spool=str(silent), given_queue=str(silent / ".queue"))
    assert run("mailq", [], lambda: config) == 78
    assert capsys.readouterr().err.startswith(f"mailq: --queue: the file system of {silent}/.queue does not answer")


def test_a_queue_on_a_local_disk_is_listed_meanwhile(silent: Path, tmp_path: Path) -> None:
    (tmp_path / "queue").mkdir()
    result = CliRunner().invoke(queue, ["list", "--spool", str(silent), "--queue", str(tmp_path / "queue")])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(
        queue, ["adopt", str(silent / ".queue"), "--spool", str(silent), "--queue", str(tmp_path / "queue")]
    )
    assert "does not answer" in str(result.exception)
