"""The two ways to be durable, put together: what is answered for is recorded or synced, whatever fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.spool import deliver, visible, with_journal, with_status

from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.spool import durability, journal, restore
from smtpmail.spool.commit import commit
from smtpmail.spool.journal import Journal
from smtpmail.spool.journals import FOLDER
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueStore
from smtpmail.spool.reader.account import Account
from smtpmail.spool.record import FormatError, Kind, Record
from smtpmail.spool.segment import Segment, read_records

ID = "0660f49b352707d03dc"


class Place:
    def __init__(self, path: Path) -> None:
        os.umask(0o077)
        (path / ".queue").mkdir()
        self.path = path
        self.spool, self.queue = Spool(str(path)), QueueStore(str(path / ".queue"))
        self.journal = with_journal(self.spool, self.queue)

    def records(self) -> list[Record]:
        folder = self.path / ".queue" / FOLDER
        return [r for name in sorted(os.listdir(folder)) for r in read_records(str(folder / name))]

    def kinds(self) -> list[Kind]:
        return [record.kind for record in self.records()]

    def enqueue(self, id_: str = ID, content: bytes = b"Subject: x\n\nx\n") -> Item:
        item = Item(id_, 1.0, "a@dom.fr", [QueuedRecipient("b@example.net"), QueuedRecipient("c@example.net")])
        piece = self.queue.content()
        piece.write(content)
        commit([self.queue.prepare(piece, item, b"")])
        return item

    def after_a_power_cut(self, *lost: str) -> None:
        """Files go, or are as long as they were and empty; then the program starts."""
        for name in lost:
            (self.path / name).unlink(missing_ok=True)
        durability.recover(str(self.path), str(self.path / ".queue"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files are synced from now on."""
    seen: list[str] = []
    for name in ("fsync", "fdatasync"):
        original: Callable[[int], None] = getattr(os, name)

        def sync(fd: int, original: Callable[[int], None] = original) -> None:
            seen.append(os.readlink(f"/proc/self/fd/{fd}"))
            original(fd)

        monkeypatch.setattr(os, name, sync)
    return seen


def test_a_delivery_costs_one_sync(place: Place, syncs: list[str]) -> None:
    deliver(place.spool, "bob")
    syncs.clear()
    deliver(place.spool, "bob")
    assert [os.path.basename(name) for name in syncs] == ["0.0"]
    assert [(r.kind, r.place, r.number) for r in place.records()] == [(Kind.STORED, "bob", 1), (Kind.STORED, "bob", 2)]
    assert place.records()[1].content == (place.path / "bob/2").read_bytes()
    assert place.records()[1].state == (place.path / "bob/2.status").read_bytes()


def test_a_relayed_message_costs_one_sync(place: Place, syncs: list[str]) -> None:
    """Delivered at the first attempt: what is done with it afterwards is synced with others."""
    item = place.enqueue()
    place.queue.remove(item.id)
    assert [os.path.basename(name) for name in syncs] == ["0.0"]
    place.queue.flush()
    assert [os.path.basename(name) for name in syncs] == ["0.0"] * 2
    assert place.kinds() == [Kind.QUEUED, Kind.FINISHED]
    place.after_a_power_cut()
    assert place.queue.ids() == []


def test_a_removal_that_did_not_reach_the_disk(place: Place) -> None:
    item = place.enqueue()
    text = (place.path / f".queue/{ID}").read_bytes()
    place.queue.remove(item.id)
    (place.path / f".queue/{ID}").write_bytes(text)
    place.after_a_power_cut()
    assert place.queue.ids() == []


def test_a_removal_that_can_not_be_recorded(place: Place) -> None:
    """The journal of the process that removes it has failed, that of the one that took it has not."""
    other = QueueStore(place.queue.path)
    other.journal = Journal(str(place.path / ".queue" / FOLDER), "1", 1 << 20, [], lambda records: None)
    item = place.enqueue()
    other.remove(item.id)
    assert other.ids() == []
    place.after_a_power_cut()
    assert other.ids() == []
    assert other.repair() == 1
    assert not list((place.path / ".queue").glob(f"{item.id}*"))


def test_progress_is_recorded(place: Place) -> None:
    """Nobody gets twice what was recorded, even if the log is lost."""
    item = place.enqueue()
    place.queue.record(item, [{"recipient": 0, "state": "delivered", "reply": "250 Ok", "mx": "mx"}])
    log = (place.path / f".queue/{ID}.log").read_bytes()
    place.after_a_power_cut(f".queue/{ID}", f".queue/{ID}.log")
    assert (place.path / f".queue/{ID}.log").read_bytes() == log
    assert place.queue.load(ID).pending == [1]


def test_removed_by_another_program(place: Place) -> None:
    """`smtpmail queue remove` tells the server, which records it."""
    place.enqueue()
    QueueStore(place.queue.path).remove(ID)
    place.queue.note_removed(ID)
    place.queue.note_removed("../etc")
    place.after_a_power_cut()
    assert place.queue.ids() == []


def test_all_is_lost_and_comes_back(place: Place) -> None:
    deliver(place.spool, "bob", "carol")
    deliver(place.spool, "bob")
    place.enqueue()
    before = {str(p): p.read_bytes() for p in place.path.glob("[a-z]*/[0-9]*")}
    names = [str(p.relative_to(place.path)) for p in place.path.glob("[a-z]*/*")]
    place.after_a_power_cut(*names, "bob/.lock", f".queue/{ID}")
    assert {str(p): p.read_bytes() for p in place.path.glob("[a-z]*/[0-9]*")} == before
    assert place.queue.load(ID).recipients[0].address == "b@example.net"
    again = Spool(str(place.path))
    assert deliver(again, "bob") == [3]


@pytest.mark.parametrize("size", [200_000, 3_000_000])
def test_large_messages_are_synced_themselves(place: Place, syncs: list[str], size: int) -> None:
    deliver(place.spool, "bob", content=b"x" * size)
    assert place.records() == []
    assert len(syncs) >= 3
    assert visible(place.path / "bob") == with_status([1])


def test_a_mailbox_on_another_file_system_is_synced_itself(
    place: Place, syncs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.journal, "_devices", frozenset())
    deliver(place.spool, "bob")
    assert place.records() == []
    assert len(syncs) >= 3


def test_a_full_journal_is_no_reason_to_wait(place: Place, syncs: list[str]) -> None:
    with place.journal.enter([Record(Kind.STORED, "carol", 1, parts=(b"under way",))]):  # type: ignore[union-attr]
        for size in (10_000, 0):
            while place.journal.enter([Record(Kind.STORED, "carol", 2, parts=(bytes(size),))]) is not None:
                pass
        syncs.clear()
        assert deliver(place.spool, "bob") == [1]
        assert any(name.endswith("/bob") for name in syncs)
    assert visible(place.path / "bob") == with_status([1])


def test_a_checkpoint_on_a_slow_disk_holds_up_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries go on in the other segment while the file system is written out, however long that takes."""
    deliver(place.spool, "bob")
    begun, go_on = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(journal, "sync_file_system", slow)
    checkpoint = threading.Thread(target=place.journal.checkpoint)
    checkpoint.start()
    try:
        assert begun.wait(60)
        others = [threading.Thread(target=deliver, args=(place.spool, user)) for user in ("bob", "carol", "dora")]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join(60)
        assert [len(visible(place.path / user)) for user in ("bob", "carol", "dora")] == [4, 2, 2]
        assert checkpoint.is_alive()
        assert place.kinds() == [Kind.STORED] * 4, "the segment that is written out counts until the end"
    finally:
        go_on.set()
        checkpoint.join(60)
    assert place.kinds() == [Kind.STORED] * 3, "what came meanwhile waits for the next one"


def test_the_journal_fails(place: Place, monkeypatch: pytest.MonkeyPatch, syncs: list[str]) -> None:
    """The disk does not take it: each file is synced, in this delivery and in those that follow."""

    def fails(self: Segment) -> None:
        raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(Segment, "sync", fails)
    for number in (1, 2):
        syncs.clear()
        assert deliver(place.spool, "bob") == [number]
        assert any(name.endswith("/bob") for name in syncs)
        assert len(syncs) >= 3
    assert visible(place.path / "bob") == with_status([1, 2])


@pytest.mark.parametrize("call", ["open", "link"])
def test_what_was_refused_does_not_come_back(place: Place, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Recorded, and then it can't have its name: the client is told so, and sends again."""
    original = getattr(os, call)

    def fails(path: str, *args: object, **more: object) -> object:
        if "1.status" in (path, *args) or (call == "link" and "1" in args):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, *args, **more)

    deliver(place.spool, "carol")
    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="No space"):
        deliver(place.spool, "bob")
    monkeypatch.undo()
    assert place.kinds()[-2:] == [Kind.STORED, Kind.CANCELLED]
    place.after_a_power_cut()
    assert visible(place.path / "bob") == set()
    assert visible(place.path / "carol") == with_status([1])


def test_copies_of_a_message_that_failed_do_not_come_back(place: Place) -> None:
    """One of three mailboxes does not take it: the client sends again to all."""
    (place.path / "carol").write_text("a file in the way")
    with pytest.raises(OSError, match="irectory"):
        deliver(place.spool, "bob", "carol", "dave")
    place.after_a_power_cut()
    assert visible(place.path / "bob") == visible(place.path / "dave") == set()


def test_files_are_made_anew_when_the_disk_did_not_take_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says so once; afterwards it takes for written what it only has in memory."""
    deliver(place.spool, "bob")
    (place.path / "bob/1.status").write_text("\\Seen\n")
    place.enqueue()
    inodes = {name: (place.path / name).stat().st_ino for name in ("bob/1", "bob/1.status", f".queue/{ID}")}
    contents = {name: (place.path / name).read_bytes() for name in inodes}
    original, calls = journal.sync_file_system, []

    def fails_once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "injected")
        original(fd)

    monkeypatch.setattr(journal, "sync_file_system", fails_once)
    assert place.journal.checkpoint()
    assert all((place.path / name).stat().st_ino != inode for name, inode in inodes.items())
    assert {name: (place.path / name).read_bytes() for name in inodes} == contents
    assert place.records() == []


# -- the choice


def test_none_is_asked_for(tmp_path: Path) -> None:
    spool, queue = Spool(str(tmp_path)), QueueStore(str(tmp_path))
    assert durability.use_journal(spool, queue, 0, 0) is None
    assert spool.journal is queue.journal is None


@pytest.mark.parametrize("which", ["all", "the spool"])
def test_not_on_file_systems_of_other_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """NFS, FUSE: nobody knows what syncfs does there, and other hosts write, too."""
    place = Place.__new__(Place)
    (tmp_path / "spool").mkdir()
    (tmp_path / "queue").mkdir()
    place.spool, place.queue = Spool(str(tmp_path / "spool")), QueueStore(str(tmp_path / "queue"))

    def is_local(fd: int) -> bool:
        return which == "the spool" and os.readlink(f"/proc/self/fd/{fd}").endswith("/queue")

    monkeypatch.setattr(durability, "is_local", is_local)
    made = durability.use_journal(place.spool, place.queue, 0, 1 << 20)
    assert (made is None) == (which == "all")


def test_checkpoint_waits_until_files_are_enough(place: Place) -> None:
    deliver(place.spool, "bob")
    assert durability.has_records(place.queue.path)
    assert not durability.checkpoint(str(place.path), place.queue.path, 0.2)
    place.journal.checkpoint()
    assert durability.checkpoint(str(place.path), place.queue.path, 0.2)
    assert not durability.has_records(place.queue.path)


def test_journals_of_processes_that_are_no_more(place: Place) -> None:
    place.journal.stop()
    durability.remove_others(place.queue.path, 1)
    assert sorted(os.listdir(place.path / ".queue" / FOLDER)) == ["0.0", "0.1"]
    durability.remove_others(place.queue.path, 0)
    assert os.listdir(place.path / ".queue" / FOLDER) == []


def test_a_disk_that_is_full_when_the_journal_is_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str, size: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("smtpmail.spool.segment._make", fails)
    made = Journal(str(place.path / "other"), "0", 1 << 20, [], lambda records: None)
    made.start()
    assert made.stop()
    assert made.enter([Record(Kind.FINISHED)]) is None
    assert restore.restore(str(place.path), place.queue.path).records == 0


@pytest.mark.parametrize("folder", ["", "Junk"])
def test_what_a_reader_removed_does_not_come_back(place: Place, folder: str) -> None:
    """IMAP's EXPUNGE, of a message whose record is still in the journal; its number is not given again."""
    for _ in range(3):
        deliver(place.spool, "bob", folder=folder)
    account = Account(str(place.path), "bob", partial(place.spool.removing, "bob"))
    opened = account.open(folder or "INBOX")
    try:
        opened.refresh()
        assert opened.remove([2, 3], only_deleted=False) == [2, 3]
    finally:
        opened.close()
        account.close()
    place.after_a_power_cut(f"bob/{folder}/.lock")
    assert {n for n in visible(place.path / "bob" / folder) if n[0].isdigit()} == with_status([1])
    assert deliver(Spool(str(place.path)), "bob", folder=folder) == [4]


# -- a host that had its mailboxes alone before, or comes back from an image of that time


def test_mailboxes_that_are_shared_by_now_are_not_touched(place: Place) -> None:
    """What the journal says of a number was of another message."""
    deliver(place.spool, "bob")
    place.enqueue()
    (place.path / ".queue" / ID).unlink()
    (place.path / "bob/1").write_bytes(b"of another host\n")
    before = place.records()
    with pytest.raises(FormatError, match=r"mailboxes that one host had alone: .* --shared-spool no --queue"):
        durability.recover(str(place.path), place.queue.path, shared=True)
    assert (place.path / "bob/1").read_bytes() == b"of another host\n" and not (place.path / "bob/2").exists()
    assert place.records() == before, "nothing is forgotten"


def test_what_was_removed_then_is_not_removed_now(place: Place) -> None:
    with place.spool.removing("bob", "", [1]):
        pass
    place.enqueue()
    (place.path / ".queue" / ID).unlink()
    (place.path / "bob").mkdir()
    (place.path / "bob/1").write_bytes(b"of another host\n")
    durability.recover(str(place.path), place.queue.path, shared=True)
    assert (place.path / "bob/1").exists()
    assert (place.path / ".queue" / ID).exists() and not place.records(), "the queue is this host's"
