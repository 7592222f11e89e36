"""What `smtpmail status` says of a file system whose servers are away."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtpmail import mounts
from smtpmail.admin import status
from smtpmail.settings import machine
from smtpmail.settings.config import Config


def test_a_file_system_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, nobody looks at it, and all the rest is told."""
    queue = tmp_path / "queue"
    queue.mkdir()
    silent = str(tmp_path / "mail")
    monkeypatch.setattr(mounts, "is_shared", lambda path: path.startswith(silent))
    monkeypatch.setattr(machine, "answers", lambda path, seconds: False)
    monkeypatch.setattr(status, "_listeners", lambda settings: status.Row("listeners", status.OK, "1 answers"))
    config = Config(spool=silent, given_queue=str(queue), dkim_keys=f"{silent}/.dkim")
    rows = {row.name: row for row in status.look(config)}
    for name in ("mailboxes", "dkim"):
        assert rows[name].level == status.CRITICAL and "does not answer" in rows[name].text
    assert rows["queue"].text == "empty"
    assert "disk spool" not in rows and "disk queue" in rows
