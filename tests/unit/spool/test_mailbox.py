"""The spool on disk, without a server: numbers, states, locks and faults."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import require
from support.server import read_mailbox
from support.spool import HEADER, deliver, locked_by_another_process, visible, with_journal, with_status

from smtpmail.spool import mailbox
from smtpmail.spool.commit import commit_each, withdraw
from smtpmail.spool.mailbox import Copy, MailboxBusy, Spool


@pytest.fixture(params=[False, True], ids=["each file synced", "journal"])
def spool(tmp_path: Path, request: pytest.FixtureRequest) -> Spool:
    """The two ways to be durable: nobody sees a difference."""
    os.umask(0o077)
    made = Spool(str(tmp_path))
    if request.param:
        with_journal(made)
    return made


def test_numbers_and_states(spool: Spool, tmp_path: Path) -> None:
    assert [deliver(spool, "bob") for _ in range(3)] == [[1], [2], [3]]
    assert visible(tmp_path / "bob") == with_status([1, 2, 3])
    assert (tmp_path / "bob/1.status").read_bytes() == b"\\Recent\n"
    assert (tmp_path / "bob/1").read_bytes() == HEADER + b"Delivered-To: bob@dom.fr\nSubject: x\n\nx\n"
    assert stat.S_IMODE((tmp_path / "bob").stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [0, 1, 100_000, 128 * 1024, 128 * 1024 + 1, 3_000_000])
@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("users", [("bob",), ("bob", "carol", "dave")])
def test_content(spool: Spool, tmp_path: Path, size: int, pieces: int, users: tuple[str, ...]) -> None:
    """Small or large, one copy or several: each has its own header and the whole content."""
    content = (bytes(range(11, 256)) * (size // 245 + 1))[:size]
    assert deliver(spool, *users, content=content, pieces=pieces) == [1] * len(users)
    for user in users:
        expected = HEADER + b"Delivered-To: %s@dom.fr\n" % user.encode() + content
        assert (tmp_path / user / "1").read_bytes() == expected
        assert visible(tmp_path / user) == with_status([1])


def test_two_copies_for_one_mailbox(spool: Spool, tmp_path: Path) -> None:
    """bob@dom.fr and bob@second.fr are one mailbox."""
    assert deliver(spool, "bob", "bob") == [1, 2]
    assert visible(tmp_path / "bob") == with_status([1, 2])


@pytest.mark.parametrize("again", [False, True], ids=["same program", "started again"])
def test_a_number_is_never_used_again(spool: Spool, tmp_path: Path, again: bool) -> None:
    """A reader that has removed the last messages, even all of them, gets no other under the same number."""
    for _ in range(3):
        deliver(spool, "bob")
    for name in with_status([1, 2, 3]):
        (tmp_path / "bob" / name).unlink()
    if again:
        spool = Spool(str(tmp_path))
        spool.repair()
    assert deliver(spool, "bob") == [4]


def test_without_the_lock_file_the_names_tell(spool: Spool, tmp_path: Path) -> None:
    deliver(spool, "bob")
    deliver(spool, "bob")
    (tmp_path / "bob/.lock").unlink()
    (tmp_path / "bob/17").write_bytes(b"")
    assert deliver(spool, "bob") == [18]
    assert deliver(spool, "bob") == [19]


def test_messages_of_other_programs_stay(spool: Spool, tmp_path: Path) -> None:
    """A mail reader may have put numbers of its own into the folder (MH: refile)."""
    deliver(spool, "bob")
    for name in ("2", "4", "notes", "5x"):
        (tmp_path / "bob" / name).write_text("foreign")
    assert [deliver(spool, "bob") for _ in range(3)] == [[3], [5], [6]]
    for name in ("2", "4", "notes", "5x"):
        assert (tmp_path / "bob" / name).read_text() == "foreign"


def test_a_folder_that_was_there(spool: Spool, tmp_path: Path) -> None:
    """Its mode is the operator's matter."""
    (tmp_path / "bob").mkdir(mode=0o750)
    (tmp_path / "bob").chmod(0o750)
    assert deliver(spool, "bob") == [1]
    assert stat.S_IMODE((tmp_path / "bob").stat().st_mode) == 0o750


# -- what a crash leaves


def test_status_without_message_is_removed_at_start(spool: Spool, tmp_path: Path) -> None:
    deliver(spool, "bob")
    (tmp_path / "bob/2.status").write_text("\\Recent\n")
    assert Spool(str(tmp_path)).repair() == 1
    assert visible(tmp_path / "bob") == with_status([1])
    assert deliver(spool, "bob") == [2]


def test_status_without_message_does_not_disturb(spool: Spool, tmp_path: Path) -> None:
    """Another host may have crashed while this one goes on."""
    deliver(spool, "bob")
    (tmp_path / "bob/2.status").write_text("half")
    assert deliver(spool, "bob") == [2]
    assert (tmp_path / "bob/2.status").read_bytes() == b"\\Recent\n"


def test_repair_keeps_what_is_whole(spool: Spool, tmp_path: Path) -> None:
    for _ in range(3):
        deliver(spool, "bob")
    (tmp_path / "bob/2.status").write_text("\\Seen\n")
    (tmp_path / "file").write_text("of the operator")
    before = {p.name: p.read_bytes() for p in (tmp_path / "bob").iterdir()}
    assert Spool(str(tmp_path)).repair() == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "bob").iterdir()} == before
    assert (tmp_path / "file").read_text() == "of the operator"


def test_crash_before_the_number_was_noted(spool: Spool, tmp_path: Path) -> None:
    """The messages are there, the number in the lock file is old: nothing is overwritten, none skipped."""
    deliver(spool, "bob")
    old = (tmp_path / "bob/.lock").read_bytes()
    deliver(spool, "bob")
    deliver(spool, "bob")
    (tmp_path / "bob/.lock").write_bytes(old)
    other = Spool(str(tmp_path))
    other.repair()
    assert deliver(other, "bob") == [4]


# -- locks


def test_waits_for_another_program(spool: Spool, tmp_path: Path) -> None:
    """lockf() on `.lock` keeps this server away as long as it is held."""
    deliver(spool, "bob")
    with ThreadPoolExecutor(1) as pool:
        with locked_by_another_process(tmp_path / "bob/.lock"):
            waiting = pool.submit(deliver, spool, "bob")
            deliver(spool, "carol")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            assert visible(tmp_path / "bob") == with_status([1])
        assert waiting.result(timeout=10) == [2]


def test_gives_up_when_the_lock_is_never_released(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes back the copies that had their place already."""
    monkeypatch.setattr(mailbox.Mailbox, "patience", 0.2)
    deliver(spool, "bob")
    with locked_by_another_process(tmp_path / "bob/.lock"), pytest.raises(MailboxBusy):
        deliver(spool, "anna", "bob", "carol")
    assert visible(tmp_path / "anna") == visible(tmp_path / "carol") == set()
    assert visible(tmp_path / "bob") == with_status([1])
    assert deliver(spool, "anna", "bob", "carol")[1] == 2


def test_threads(spool: Spool, tmp_path: Path) -> None:
    """POSIX locks do not keep the threads of one process apart; something else must."""
    count, reader_stops = 400, threading.Event()
    faults: list[str] = []

    def read() -> None:
        while not reader_stops.is_set():
            try:
                read_mailbox(tmp_path / "bob")
            except (AssertionError, FileNotFoundError) as error:
                faults.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(16) as pool:
        numbers = list(pool.map(lambda n: deliver(spool, "bob", content=b"%d" % n), range(count)))
    reader_stops.set()
    reader.join()
    assert sorted(n for (n,) in numbers) == list(range(1, count + 1))
    stored = read_mailbox(tmp_path / "bob")
    assert {stored[n].rpartition(b"\n")[2] for n in stored} == {b"%d" % n for n in range(count)}
    assert faults == []


# -- faults


def test_one_mailbox_that_fails_spoils_all_copies(spool: Spool, tmp_path: Path) -> None:
    """The client sends again to all: a copy that stayed would come twice."""
    (tmp_path / "carol").write_text("a file in the way")
    with pytest.raises(OSError, match=r"directory|exists"):
        deliver(spool, "bob", "carol")
    assert visible(tmp_path / "bob") == set()
    (tmp_path / "carol").unlink()
    deliver(spool, "bob", "carol")
    assert len(visible(tmp_path / "bob")) == len(visible(tmp_path / "carol")) == 2


@pytest.mark.parametrize("call", ["open", "writev", "fsync", "link", "mkdir"])
@pytest.mark.parametrize("users", [("bob",), ("anna", "bob")])
def test_every_call_may_fail(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, users: tuple[str, ...]
) -> None:
    """Whichever call of the delivery is told EIO: an error, nothing visible, and the next delivery succeeds."""
    faulty = True
    left = 0
    original = getattr(os, call)

    def fails(*args: object, **more: object) -> object:
        nonlocal left
        left -= 1
        if faulty and left < 0:
            raise OSError(errno.EIO, "injected")
        return original(*args, **more)

    monkeypatch.setattr(os, call, fails)
    failures = 0
    for successes in range(40):
        left = successes
        for name in users:
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        try:
            deliver(spool, *users)
        except OSError:
            failures += 1
        else:
            break
        for name in users:
            assert visible(tmp_path / name) == set(), f"{call} number {successes + 1}"
    assert failures > 0, f"{call} is not used"
    faulty = False
    assert len(deliver(spool, *users)) == len(users)
    for name in users:
        assert read_mailbox(tmp_path / name)


@pytest.mark.parametrize("keep_open", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize("replaced", [True, False])
def test_what_is_taken_out_again_is_ones_own(spool: Spool, tmp_path: Path, keep_open: bool, replaced: bool) -> None:
    """A file system may have given the number to another host's message meanwhile."""
    content = spool.content()
    content.write(b"Subject: x\n\nx\n")
    drafts = spool.prepare(content, [Copy("bob", HEADER)])
    commit_each(drafts, keep_open=keep_open)
    if replaced:
        (tmp_path / "another").write_bytes(b"another's")
        (tmp_path / "another").replace(tmp_path / "bob/1")
    withdraw(drafts)
    assert visible(tmp_path / "bob") == (with_status([1]) if replaced else set())
    for draft in drafts:
        draft.close()
    content.close()


def test_full_disk(spool: Spool, tmp_path: Path) -> None:
    """A limit on the size of files stands for it; Python is told EFBIG, not killed."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        for size in (20_000, 1_000_000):
            with pytest.raises(OSError, match="large"):
                deliver(spool, "bob", content=b"x" * size)
        assert visible(tmp_path / "bob") == set()
        assert deliver(spool, "bob", content=b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(visible(tmp_path / "bob")) == 2


def test_descriptors_are_given_back(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "carol").write_text("a file in the way")
    deliver(spool, "bob")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        deliver(spool, "bob", content=b"x" * 300_000)
        with pytest.raises(OSError, match=r"directory|exists"):
            deliver(spool, "bob", "carol", content=b"x" * 300_000)
    # A stock of status files may be open, fuller or emptier than before.
    assert len(os.listdir("/proc/self/fd")) < before + 20


def test_default_acl_decides_who_may_read(spool: Spool, tmp_path: Path) -> None:
    """A mail reader of another user: the operator's default ACL holds for new messages, whatever our umask."""
    setfacl, getfacl = require.tool("setfacl", "acl"), require.tool("getfacl", "acl")
    (tmp_path / "bob").mkdir()
    if subprocess.run([setfacl, "-m", "d:u:12345:rw", tmp_path / "bob"], check=False, capture_output=True).returncode:
        require.missing("a file system with ACLs under the temporary folder")
    deliver(spool, "bob")
    for name in ("1", "1.status"):
        shown = subprocess.run([getfacl, "-n", tmp_path / "bob" / name], check=True, capture_output=True, text=True)
        assert "user:12345:rw-\n" in shown.stdout, shown.stdout
        assert "other::---" in shown.stdout
