"""A file system that hangs: who waits gives up, what comes too late is undone, others notice nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.server import wait_until

from smtpmail import mounts
from smtpmail.spool import mailbox
from smtpmail.spool.commit import commit_each
from smtpmail.spool.content import Content, Source, StoredContent
from smtpmail.spool.folder import Folder
from smtpmail.spool.mailbox import Copy, Spool
from smtpmail.spool.patience import Patience, Unresponsive
from smtpmail.spool.reader.index import is_settled


@pytest.fixture(autouse=True)
def the_disk_passes_for_a_shared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "LOCAL", frozenset())


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """What does not answer until it is set."""
    event = threading.Event()
    yield event
    event.set()


def test_results_and_errors_come_through() -> None:
    patience = Patience()
    assert patience.run("here", 10, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        patience.run("here", 10, lambda: 1 // 0)


def test_one_place_does_not_hold_another(hang: threading.Event) -> None:
    patience, undone = Patience(), threading.Event()
    with pytest.raises(Unresponsive, match="does not answer"):
        patience.run("here", 0.05, hang.wait, undone.set)
    started = time.monotonic()
    with pytest.raises(Unresponsive):  # at once: who waits there has not come back
        patience.run("here", 60, lambda: 1)
    assert patience.run("there", 60, lambda: 2) == 2
    assert time.monotonic() - started < 30
    assert not undone.is_set()
    hang.set()
    assert undone.wait(30)
    wait_until(lambda: _works(patience))


def _works(patience: Patience) -> bool:
    try:
        return patience.run("here", 60, lambda: True)
    except Unresponsive:
        return False


def stored(spool: Spool, *users: str, content: bytes = b"Subject: x\n\nx\n") -> dict[str, OSError | None]:
    message = spool.content()
    try:
        message.write(content)
        drafts = spool.store(message, [Copy(user, b"X: y\n") for user in users])
        return {draft.user: draft.error for draft in drafts}
    finally:
        message.close()


@pytest.mark.parametrize("content", [b"Subject: x\n\nx\n", b"Subject: x\n\n" + b"x\n" * 200_000])
def test_a_message_that_comes_too_late_is_taken_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: threading.Event, content: bytes
) -> None:
    """Its sender was told to send it again."""
    spool = Spool(str(tmp_path), shared=True)
    assert stored(spool, "anna") == {"anna": None}
    came = threading.Event()
    real = mailbox.commit_each

    def slow(drafts: Any, **options: Any) -> None:
        hang.wait()
        commit_each(drafts, **options)
        came.set()

    monkeypatch.setattr(mailbox, "commit_each", slow)
    monkeypatch.setattr(mailbox, "STORE_PATIENCE", 0.05)
    assert isinstance(stored(spool, "bob", content=content)["bob"], Unresponsive)
    monkeypatch.setattr(mailbox, "commit_each", real)
    monkeypatch.setattr(mailbox, "STORE_PATIENCE", 60.0)
    hang.set()
    assert came.wait(30)
    wait_until(lambda: not [p for p in (tmp_path / "bob").iterdir() if not p.name.startswith(".")])
    wait_until(lambda: stored(spool, "bob") == {"bob": None})
    assert (tmp_path / "bob/2").read_bytes() == b"X: y\nSubject: x\n\nx\n"
    assert not (tmp_path / "bob/1").exists(), "its number is not given again"


def test_a_mount_below_the_spool_hangs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: threading.Event
) -> None:
    spool = Spool(str(tmp_path), shared=True)
    assert spool._place is not None
    monkeypatch.setattr(spool._place, "of", lambda path: "bob's" if "/bob" in path else "all others'")

    def slow(drafts: Any, **options: Any) -> None:
        if drafts[0].user == "bob":
            hang.wait()
        commit_each(drafts, **options)

    monkeypatch.setattr(mailbox, "commit_each", slow)
    monkeypatch.setattr(mailbox, "STORE_PATIENCE", 5.0)
    found = stored(spool, "anna", "bob", "carol")
    assert list(found) == ["anna", "bob", "carol"]
    assert isinstance(found["bob"], Unresponsive)
    assert found["anna"] is None and found["carol"] is None
    assert stored(spool, "anna") == {"anna": None}
    assert isinstance(stored(spool, "bob")["bob"], Unresponsive)


def test_a_missing_mount_is_no_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unmounted while the server runs: below the mount point is a local disk, where nobody would find mail."""
    spool = Spool(str(tmp_path), shared=True)
    assert spool._place is not None
    monkeypatch.setattr(mounts, "LOCAL", frozenset(mount.kind for mount in mounts.mounts()))
    error = stored(spool, "bob")["bob"]
    assert error is not None and "is it mounted?" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_shared_content_outlives_who_made_it(tmp_path: Path) -> None:
    content = Content(str(tmp_path))
    content.write(b"the content")
    (tmp_path / "file").write_bytes(b"headerthe content")
    with open(tmp_path / "file", "rb") as file:
        shared: list[Source] = [content.share(), StoredContent(file.fileno(), 6).share()]
    content.close()
    folder = Folder(str(tmp_path))
    for source in shared:
        new = source.make_file(folder, b"X: y\n")
        source.close()
        assert os.pread(new.fd, 100, 0) == b"X: y\nthe content"
        new.close()
    folder.close()


@pytest.mark.parametrize(
    ("age", "local", "settled"),
    [(0.0, True, False), (0.1, True, True), (-1.0, True, True), (1.0, False, False), (-1.0, False, False),
     (6.0, False, True), (-6.0, False, True)],
)  # fmt: skip
def test_clocks_of_other_hosts_may_differ(age: float, local: bool, settled: bool) -> None:
    now = 1_795_453_552_000_000_000
    assert is_settled(now - int(age * 1e9), now, local=local) is settled
