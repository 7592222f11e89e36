"""The queue of a host that died goes on elsewhere: each message once, whatever is cut off in between."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.outbound import item, put

from smtpmail.mail.queued import DELIVERED
from smtpmail.spool import adoption, claim
from smtpmail.spool.adoption import adopting
from smtpmail.spool.claim import QueueError
from smtpmail.spool.queue import QueueStore


@pytest.fixture
def ours(tmp_path: Path) -> QueueStore:
    (tmp_path / "mx2").mkdir()
    return QueueStore(str(tmp_path / "mx2"))


@pytest.fixture
def other(tmp_path: Path) -> QueueStore:
    (tmp_path / "mx1").mkdir()
    (tmp_path / "mx1/.server").write_text("123 on mx1\n")
    return QueueStore(str(tmp_path / "mx1"))


def adopt(ours: QueueStore, other: QueueStore) -> list[str]:
    with adopting(ours, other.path) as (host, messages):
        assert host == "mx1"
        return [id_ for id_, error in messages if error is None]


def files(store: QueueStore) -> set[str]:
    return set(os.listdir(store.path))


def test_messages_and_what_became_of_them(ours: QueueStore, other: QueueStore) -> None:
    first, second = put(other, item("a@one.test", "b@two.test")), put(other, item("c@one.test"))
    other.record(first, [{"recipient": 0, "state": DELIVERED, "reply": "250"}])
    other.record(second, [{"hold": True}])
    assert adopt(ours, other) == sorted([first.id, second.id])
    loaded = ours.load(first.id)
    assert loaded.pending == [1]
    assert ours.load(second.id).hold
    with ours.open_content(loaded) as content:
        assert b"Subject" in content.read()
    assert files(other) == {".server"}
    assert (Path(other.path) / ".server").read_text() == "0 on mx1\n"
    assert not [name for name in files(ours) if name.startswith(".adopting")]
    assert adopt(ours, other) == []


@pytest.mark.parametrize("broken", ["", ".log"])
def test_what_can_not_be_read_stays_and_holds_up_nothing(ours: QueueStore, other: QueueStore, broken: str) -> None:
    """A copy that two bricks disagree on, say."""
    first, second = sorted([put(other, item("a@one.test")), put(other, item("b@one.test"))], key=lambda i: i.id)
    path = Path(other.path) / f"{first.id}{broken}"
    path.unlink(missing_ok=True)
    path.mkdir()
    with adopting(ours, other.path) as (_, messages):
        (left, why), (taken, none) = messages
    assert (left, taken, none) == (first.id, second.id, None) and why is not None and str(path) in str(why)
    assert files(ours) == {second.id} and path.is_dir()
    path.rmdir()
    assert adopt(ours, other) == ([] if not broken else [first.id])


def test_a_disk_that_is_full_ends_it(ours: QueueStore, other: QueueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        put(other, item("a@one.test"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(adoption, "copy_content", full)
        with pytest.raises(OSError, match="no room"):
            adopt(ours, other)
    assert len(adopt(ours, other)) == 2


def test_the_own_queue_under_the_name_that_the_host_had(other: QueueStore) -> None:
    message = put(other, item("a@one.test"))
    assert adopt(other, other) == [message.id]
    QueueStore(other.path, shared=True).claim()
    with pytest.raises(QueueError, match="is the queue of this host"):
        adopt(other, other)


def test_a_server_that_lives_is_not_robbed(ours: QueueStore, other: QueueStore) -> None:
    put(other, item("a@one.test"))
    script = (
        "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, os.path.join(other.path, ".server")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(QueueError, match=r"another server works on the queue .*: process 123 on mx1"):
            adopt(ours, other)
        process.kill()
    assert len(files(other)) == 2 and files(ours) == set()


@pytest.mark.parametrize("what", ["nothing", "a folder of something else", "its own"])
def test_what_is_no_queue_of_another_host(ours: QueueStore, tmp_path: Path, what: str) -> None:
    path = tmp_path / "x"
    if what != "nothing":
        path.mkdir()
    if what == "its own":
        path = Path(ours.path)
        (path / ".server").write_text(f"1 on {socket.gethostname()}\n")
    before = list(path.iterdir()) if path.exists() else None
    with (
        pytest.raises(QueueError, match=r"is no queue of a server|is the queue of this host"),
        adopting(ours, str(path)),
    ):
        pass
    assert (list(path.iterdir()) if path.exists() else None) == before


class Crash(BaseException):
    """As if the process had been killed."""


def crash_after(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ends the process after so many steps that change the disk."""
    left = [after]

    def wrap(real: Any) -> Any:
        def step(*args: Any, **keywords: Any) -> Any:
            if not left[0]:
                raise Crash
            left[0] -= 1
            return real(*args, **keywords)

        return step

    for name in ("fsync", "rename", "unlink", "rmdir"):
        monkeypatch.setattr(adoption.os, name, wrap(getattr(os, name)))
    monkeypatch.setattr(adoption, "copy_content", wrap(adoption.copy_content))


@pytest.mark.parametrize("delivered", [False, True], ids=["still here", "sent meanwhile"])
@pytest.mark.parametrize("steps", range(40))
def test_cut_off_anywhere_and_said_again(
    ours: QueueStore, other: QueueStore, monkeypatch: pytest.MonkeyPatch, steps: int, delivered: bool
) -> None:
    """What has come into our queue may have left it before the adoption goes on: then it does not come again."""
    messages = [put(other, item("a@one.test", "b@two.test")) for _ in range(2)]
    for message in messages:
        other.record(message, [{"recipient": 0, "state": DELIVERED, "reply": "250"}])
    ids = {message.id for message in messages}
    sent: list[str] = []

    def send() -> None:
        for id_ in ours.ids():
            assert ours.load(id_).pending == [1], "what the first host did is known"
            sent.append(id_)
            ours.remove(id_)

    with monkeypatch.context() as patch:
        crash_after(patch, steps)
        with contextlib.suppress(Crash):
            adopt(ours, other)
    if delivered:
        send()
    ours.repair()
    adopt(ours, other)
    send()
    assert sorted(sent) == sorted(ids), "each once"
    assert files(other) == {".server"}


def test_only_who_began_can_end_it(
    ours: QueueStore, other: QueueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(other, item("a@one.test"))
    with monkeypatch.context() as patch:
        patch.setattr(adoption._Adoption, "_take_in", lambda self, id_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            adopt(ours, other)
    (tmp_path / "mx3").mkdir()
    with pytest.raises(QueueError, match=r"half adopted by .*mx2"):
        adopt(QueueStore(str(tmp_path / "mx3")), other)
    assert len(adopt(ours, other)) == 1


# -- whose a queue is


def test_a_shared_queue_is_one_hosts(other: QueueStore) -> None:
    shared = QueueStore(other.path, shared=True)
    with pytest.raises(QueueError, match="is that of the host mx1: each host must have a --queue of its own"):
        shared.claim()
    assert (Path(other.path) / ".server").read_text() == "123 on mx1\n"
    QueueStore(other.path).claim()  # on a local disk, hosts may change their names
    assert (Path(other.path) / ".server").read_text() == f"{os.getpid()} on {socket.gethostname()}\n"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("123 on mx1\n", "mx1"),
        ("0 on mx1.dom.fr\n", "mx1.dom.fr"),
        ("1 on mx1\n45 on x\n", "mx1"),
        ("", ""),
        ("mx1", ""),
    ],
)
def test_owner(text: str, host: str) -> None:
    assert claim.owner(text) == host


@pytest.mark.parametrize("shared", [True, False])
def test_a_lock_that_outlives_its_mount_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """The file system gives it back when it has given up the mount. After a boot, its number is another's."""
    (tmp_path / ".server").write_text(f"{os.getpid()} on {socket.gethostname()}\n")
    script = (
        "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / ".server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as mount:
        assert mount.stdout
        mount.stdout.readline()
        waited = []

        def given_back(seconds: float) -> None:
            waited.append(seconds)
            mount.communicate()

        monkeypatch.setattr("smtpmail.spool.claim.time.sleep", given_back)
        if shared:
            QueueStore(str(tmp_path), shared=True).claim()
        else:
            with pytest.raises(QueueError, match="another server works"):
                QueueStore(str(tmp_path)).claim()
        assert len(waited) == shared


def test_a_claim_that_was_lost_is_taken_again_or_known(tmp_path: Path) -> None:
    store = QueueStore(str(tmp_path), shared=True)
    store.claim()
    store.hold()
    with open(tmp_path / ".server") as file:
        file.read()  # closing it gives the lock away, as a cut of the network does
    store.hold()
    script = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)"
    assert subprocess.run([sys.executable, "-c", script, tmp_path / ".server"], capture_output=True).returncode
    fcntl.lockf(store._claim, fcntl.LOCK_UN)
    script += "; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / ".server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(QueueError, match="another server works"):
            store.hold()
        process.kill()
    store.hold()
