"""The owner of a mailbox folder puts something else in place of its files: that mailbox alone has trouble."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import require
from support.spool import deliver, locked_by_another_process, visible, with_journal, with_status

from smtpmail.spool import files, mailbox
from smtpmail.spool.commit import commit, commit_each
from smtpmail.spool.files import NewFile
from smtpmail.spool.mailbox import Copy, MailboxBusy, Spool

AT_ONCE_SECONDS = 20
"""Far more than a delivery takes, far less than a wait for the owner."""


@pytest.fixture(params=[False, True], ids=["each file synced", "journal"])
def spool(tmp_path: Path, request: pytest.FixtureRequest) -> Spool:
    os.umask(0o077)
    spool = Spool(str(tmp_path))
    if request.param:
        with_journal(spool)
    deliver(spool, "bob", "carol")
    return spool


def in_time(work: Callable[[], object]) -> object:
    """Runs the work; fails when it hangs."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(AT_ONCE_SECONDS)
    finally:
        pool.shutdown(wait=False)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "in it").touch()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def circular(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_carol(path: Path) -> None:
    path.symlink_to(path.parent.parent / "carol" / path.name)


def link_to_carols_message(path: Path) -> None:
    path.symlink_to(path.parent.parent / "carol/1")


def hard_link(path: Path) -> None:
    path.hardlink_to(path.parent.parent / "carol/1")


def device(path: Path) -> None:
    require.root()
    try:
        os.mknod(path, 0o020666, os.makedev(1, 3))
    except PermissionError:
        require.missing("the right to make devices")


def socket_(path: Path) -> None:
    os.mknod(path, 0o140600)


TRICKS = [fifo, folder, dangling, circular, link_to_carol, link_to_carols_message, hard_link, device, socket_]


def snapshot(path: Path) -> dict[str, bytes | None]:
    """Everything in a folder, with its content."""
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}


def remove(path: Path) -> None:
    """rmtree would open a FIFO."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("name", [".lock", ".mh_sequences"])
def test_in_place_of_a_file(spool: Spool, tmp_path: Path, name: str, trick: Callable[[Path], None]) -> None:
    """An error that names it, nothing followed, nobody else's mail held; gone, all is well again."""
    (tmp_path / "bob" / name).unlink()
    trick(tmp_path / "bob" / name)
    carols = snapshot(tmp_path / "carol")
    with pytest.raises(OSError, match=rf"bob/{name}"):
        in_time(lambda: deliver(spool, "bob"))
    assert spool.can_deliver("bob") is not None, "it can be seen beforehand"
    assert spool.can_deliver("carol") is None
    assert visible(tmp_path / "bob") == with_status([1])
    assert snapshot(tmp_path / "carol") == carols
    assert not (tmp_path / "bob/nowhere").exists()
    assert in_time(lambda: deliver(spool, "carol")) == [2]
    in_time(Spool(str(tmp_path)).repair)
    remove(tmp_path / "bob" / name)
    assert deliver(spool, "bob") == [2]


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("name", ["2", "2.status"])
def test_in_place_of_the_next_message(spool: Spool, tmp_path: Path, name: str, trick: Callable[[Path], None]) -> None:
    """It is a number that is taken, or a status that a crash left: neither is touched through a link."""
    trick(tmp_path / "bob" / name)
    carols = snapshot(tmp_path / "carol")
    numbers: Any = in_time(lambda: deliver(spool, "bob"))
    (number,) = numbers
    assert number == (3 if name == "2" or trick is folder else 2)
    assert (tmp_path / f"bob/{number}.status").read_bytes() == b"\\Recent\n"
    assert not (tmp_path / f"bob/{number}.status").is_symlink()
    assert snapshot(tmp_path / "carol") == carols
    in_time(Spool(str(tmp_path)).repair)
    assert snapshot(tmp_path / "carol") == carols


@pytest.mark.parametrize("trick", [t for t in TRICKS if t is not folder and t is not hard_link])
def test_in_place_of_the_mailbox(spool: Spool, tmp_path: Path, trick: Callable[[Path], None]) -> None:
    shutil.rmtree(tmp_path / "bob")
    if trick is link_to_carol:
        (tmp_path / "bob").symlink_to("carol")
    else:
        trick(tmp_path / "bob")
    carols = snapshot(tmp_path / "carol")
    with pytest.raises(OSError, match="bob"):
        in_time(lambda: deliver(spool, "bob"))
    assert spool.can_deliver("bob") is not None
    assert snapshot(tmp_path / "carol") == carols
    in_time(Spool(str(tmp_path)).repair)
    assert snapshot(tmp_path / "carol") == carols
    assert deliver(spool, "carol") == [2]


@pytest.mark.parametrize("name", ["2024", "9" * 200, str(2**64), "007", "٣"])
def test_names_of_messages_that_are_none(spool: Spool, tmp_path: Path, name: str) -> None:
    """Whatever the numbers of the names, the next message has one that programs can count with."""
    (tmp_path / "bob/.lock").unlink()
    (tmp_path / "bob" / name).mkdir()
    (number,) = deliver(spool, "bob")
    assert number == {"2024": 2025, "007": 8}.get(name, 2)


@pytest.mark.parametrize(
    "text",
    [b"", b"x", b"0" * 20, b"9" * 20 + b"\n", b"9" * 40, b"-5\n", b"1 2\n", "٣\n".encode(), b"\0" * 4096, b"1" * 10**6],
)
def test_any_lock_file(spool: Spool, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "bob/.lock").write_bytes(text)
    assert deliver(spool, "bob") == [2]
    assert (tmp_path / "bob/.lock").read_bytes()[:21] == b"%020d\n" % 2
    assert deliver(spool, "bob") == [3]


def test_the_last_number_of_all(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "bob/.lock").write_bytes(b"%020d\n" % (2**32 - 2))
    assert deliver(spool, "bob") == [2**32 - 1]
    with pytest.raises(OSError, match="no number left"):
        deliver(spool, "bob")
    assert deliver(spool, "carol") == [2]


def test_numbers_taken_ahead_of_the_lock_file(spool: Spool, tmp_path: Path) -> None:
    """The cost stays bounded: the names are looked through once, apart from what others wait for."""
    for number in range(2, 5000):
        (tmp_path / f"bob/{number}").touch()
    assert deliver(spool, "bob") == [5000]
    assert deliver(spool, "bob") == [5001]


def test_rights_that_are_missing(open_folder: Path) -> None:
    """As another account than root: a folder that is closed to us, one on a file system that may not be written."""
    require.root()
    script = """
import os, sys, errno
sys.path[:0] = ["tests", "."]
os.umask(0o077)
from pathlib import Path
from support.spool import deliver
from smtpmail.spool.mailbox import Spool
root = Path(sys.argv[1])
os.chown(root, 12345, 12345)
for name in ("closed", "listed", "lock", "sequences"):
    (root / name).mkdir()
    os.chown(root / name, 12345, 12345)
(root / "lock/.lock").touch()
(root / "sequences/.mh_sequences").write_text("cur: 1\\n")
(root / "empty").mkdir()
(root / "empty/.mh_sequences").touch()
os.chown(root / "empty", 12345, 12345)
(root / "closed").chmod(0)
(root / "listed").chmod(0o500)
os.setgid(12345); os.setuid(12345)
spool = Spool(str(root))
for name in ("closed", "listed", "lock"):
    try:
        deliver(spool, name)
    except OSError as error:
        assert error.errno == errno.EACCES and name in str(error), error
    else:
        raise AssertionError(name)
assert isinstance(spool.can_deliver("closed"), OSError) and isinstance(spool.can_deliver("listed"), OSError)
assert spool.can_deliver("new") is None and not (root / "new").exists()
assert deliver(spool, "carol") == [1]
# A reader keeps its sequences to itself: the mail matters more.
assert deliver(spool, "sequences") == [1]
# Nothing is in them: they are replaced.
assert deliver(spool, "empty") == [1]
assert (root / "empty/.mh_sequences").read_text() == "unseen: 1\\n"
spool.repair()
"""
    ran = subprocess.run([sys.executable, "-c", script, open_folder], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (open_folder / "sequences/.mh_sequences").read_text() == "cur: 1\n"
    assert "mailbox.skipped" in ran.stdout
    assert "mailbox.unseen_skipped" in ran.stdout


# -- locks


def test_a_lock_that_is_never_released_holds_nobody_else(spool: Spool, tmp_path: Path) -> None:
    """Not even those whose messages come together with the ones that wait, and for no noticeable time."""
    with ThreadPoolExecutor(8) as pool, locked_by_another_process(tmp_path / "bob/.lock"):
        stuck = [pool.submit(deliver, spool, "bob") for _ in range(4)]
        time.sleep(0.2)
        began = time.monotonic()
        assert [deliver(spool, "carol") for _ in range(20)] == [[n] for n in range(2, 22)]
        assert time.monotonic() - began < AT_ONCE_SECONDS
        assert not any(s.done() for s in stuck)
    assert sorted(s.result()[0] for s in stuck) == [2, 3, 4, 5]


@pytest.mark.parametrize("name", [".lock", ".mh_sequences"])
def test_locks_of_all_kinds(spool: Spool, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox.Mailbox, "patience", 0.2)
    with locked_by_another_process(tmp_path / "bob" / name), pytest.raises(MailboxBusy, match="locked by another"):
        deliver(spool, "bob")
    assert visible(tmp_path / "bob") == with_status([1])
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what the holder of a lease is told
    with open(tmp_path / "bob" / name, "rb") as file:
        # A lease makes whoever opens the file wait for its owner, unless they say that they don't.
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINVAL):
                raise
        else:
            with pytest.raises(MailboxBusy):
                in_time(lambda: deliver(spool, "bob"))
    signal.signal(signal.SIGIO, before)
    assert deliver(spool, "bob") == [2]


def test_all_locked_mailboxes_of_a_message_together_wait_no_longer_than_one(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox.Mailbox, "patience", 1.0)
    with locked_by_another_process(tmp_path / "bob/.lock"), locked_by_another_process(tmp_path / "carol/.lock"):
        content = spool.content()
        drafts = spool.prepare(content, [Copy(user, b"X: y\n") for user in ("bob", "carol", "dave")])
        began = time.monotonic()
        commit_each(drafts)
        assert time.monotonic() - began < 1.9
    assert [type(d.error) for d in drafts] == [MailboxBusy, MailboxBusy, type(None)]
    assert visible(tmp_path / "dave") == with_status([1])


# -- swaps in the middle


@pytest.mark.parametrize("other", ["link", "folder", "nothing"])
def test_swap_between_writing_and_placing(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """The path leads elsewhere meanwhile: refused, and nothing appears there."""
    original = mailbox.MailboxDraft.write

    def write_and_swap(draft: mailbox.MailboxDraft) -> None:
        original(draft)
        (tmp_path / "bob").rename(tmp_path / "bob.aside")
        if other == "link":
            (tmp_path / "bob").symlink_to("carol")
        elif other == "folder":
            (tmp_path / "bob").mkdir()

    monkeypatch.setattr(mailbox.MailboxDraft, "write", write_and_swap)
    before = snapshot(tmp_path / "carol"), snapshot(tmp_path / "bob")
    with pytest.raises(OSError, match="bob"):
        deliver(spool, "bob")
    assert (snapshot(tmp_path / "carol"), snapshot(tmp_path / "bob.aside")) == before
    assert other != "folder" or snapshot(tmp_path / "bob") == {}


@pytest.mark.parametrize("name", [".lock", ".mh_sequences", "."])
def test_swaps_at_random(spool: Spool, tmp_path: Path, name: str) -> None:
    """The owner swaps a file, or the folder itself, for a link to carol's as fast as they can."""
    stop = False
    target = tmp_path / "bob" if name == "." else tmp_path / "bob" / name
    aside = tmp_path / "aside"
    link_to = "carol" if name == "." else f"../carol/{name}"

    def swap() -> None:
        while not stop:
            try:
                target.rename(aside)
                target.symlink_to(link_to)
                time.sleep(0.0003)
                target.unlink()
                aside.rename(target)
                time.sleep(0.0003)
            except OSError:
                if target.is_symlink():
                    target.unlink()
                if aside.exists() and not target.exists():
                    aside.rename(target)

    carols = snapshot(tmp_path / "carol")
    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        delivered = 0
        for _ in range(300):
            try:
                deliver(spool, "bob")
                delivered += 1
            except OSError:
                pass
        stop = True
        swapping.result()
    assert snapshot(tmp_path / "carol") == carols


def test_a_reader_adds_a_message_at_the_same_moment(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the link: the message gets the next number, and its status with it."""
    original = NewFile.give_name
    taken: list[str] = []

    def interrupted(self: NewFile, name: str, folder_fd: int) -> None:
        if name.isdigit() and len(taken) < 3:
            taken.append(name)
            (tmp_path / "bob" / name).write_text("of a reader")
        original(self, name, folder_fd)

    monkeypatch.setattr(NewFile, "give_name", interrupted)
    assert deliver(spool, "bob") == [5]
    assert taken == ["2", "3", "4"]
    assert visible(tmp_path / "bob") == {*with_status([1, 5]), *taken}
    assert (tmp_path / "bob/.mh_sequences").read_bytes().endswith(b"5\n")
    taken.clear()
    content = spool.content()
    content.write(b"Subject: x\n\n")
    drafts = spool.prepare(content, [Copy("bob", b"X: 1\n"), Copy("bob", b"X: 2\n")])
    commit(drafts)
    assert [draft.number for draft in drafts] == [9, 10]


# -- the scratch folder, where files need names


def without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.open

    def refuse(path: str, flags: int, *more: object, **named: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
        return original(path, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(files, "_without_nameless", set())


def test_scratch_names(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_nameless_files(monkeypatch)
    for n in range(2, 6):
        assert deliver(spool, "bob", "carol", content=b"x" * 300_000 * (n % 2)) == [n, n]
    assert [list((tmp_path / name).iterdir()) for name in (".new", "bob/.new", "carol/.new")] == [[], [], []]
    assert visible(tmp_path / "bob") == with_status(range(1, 6))


@pytest.mark.parametrize("planted", ["link", "names"])
def test_scratch_that_others_prepared(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    """A link there is not followed, a name that is taken is left alone."""
    without_nameless_files(monkeypatch)
    if planted == "link":
        (tmp_path / "bob/.new").symlink_to("../carol")
        carols = snapshot(tmp_path / "carol")
        with pytest.raises(OSError, match="new"):
            deliver(spool, "bob")
        assert snapshot(tmp_path / "carol") == carols
        return
    (tmp_path / "bob/.new").mkdir()
    following = int(repr(NewFile._number).strip("count()"))
    for number in range(following, following + 5):
        (tmp_path / f"bob/.new/{files._kernel()}.{os.getpid()}.{number}").symlink_to("../../carol/1")
    assert deliver(spool, "bob") == [2]
    assert (tmp_path / "carol/1").read_bytes().endswith(b"Subject: x\n\nx\n")


# -- start


def test_repair_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    """What has no lock file of ours is no mailbox, and gets no file of ours."""
    for name in ("Maildir", "lost+found", "backup", "with lock"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1").touch()
        (tmp_path / name / "2.status").touch()
    (tmp_path / "with lock/.lock").write_text("pid 17")
    (tmp_path / "link").symlink_to("Maildir")
    os.mkfifo(tmp_path / "fifo")
    before = snapshot(tmp_path)
    assert in_time(Spool(str(tmp_path)).repair) == 0
    assert snapshot(tmp_path) == before


def test_repair_does_not_wait_for_each_locked_mailbox(spool: Spool, tmp_path: Path) -> None:
    deliver(spool, *(f"user{n}" for n in range(6)))
    with (
        locked_by_another_process(tmp_path / "user0/.lock"),
        locked_by_another_process(tmp_path / "user1/.lock"),
        locked_by_another_process(tmp_path / "user2/.lock"),
    ):
        began = time.monotonic()
        Spool(str(tmp_path)).repair()
        assert time.monotonic() - began < 2.9 * mailbox.REPAIR_PATIENCE
