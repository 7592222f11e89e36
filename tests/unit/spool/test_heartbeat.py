"""The watchdog is fed by proof that a delivery could be committed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.server import wait_until

from smtpmail.spool.mailbox import Spool


def test_it_beats(tmp_path: Path) -> None:
    heart = Spool(str(tmp_path)).heartbeat()
    for _ in range(3):
        wait_until(heart.beats)
    assert [p.name for p in tmp_path.iterdir() if p.name != ".new"] == []


def test_not_while_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def sync(files: list[object]) -> list[None]:
        hangs.set()
        goes_on.wait(60)
        return [None] * len(files)

    monkeypatch.setattr("smtpmail.spool.commit.sync_files", sync)
    heart = Spool(str(tmp_path)).heartbeat()
    assert heart.beats()
    assert hangs.wait(60)
    assert not heart.beats()
    goes_on.set()
    wait_until(heart.beats)


def test_a_disk_that_refuses_is_no_hanging_one(tmp_path: Path) -> None:
    heart = Spool(str(tmp_path / "gone")).heartbeat()
    for _ in range(3):
        wait_until(heart.beats)
