"""The journal on a disk that keeps only what was synced, and fails whenever it likes."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpmail.spool import journal as journal_module
from smtpmail.spool.journal import Journal
from smtpmail.spool.record import HEADER_SIZE, SECTOR, Kind, Record, decode_all, decode_header
from smtpmail.spool.replay import Plan, plan
from smtpmail.spool.segment import Segment, read_records, write_kept

SEGMENT = HEADER_SIZE + 8 * SECTOR  # two sectors are for removals
SIZE = 2 * SEGMENT


def stored(number: int) -> Record:
    return Record(Kind.STORED, "bob", number, b"\\Recent\n", (b"message %d" % number,), number)


def removed(number: int) -> Record:
    return Record(Kind.REMOVED, "bob", parts=(b"%d\n" % number,), time=10_000 + number)


@dataclass
class Disk:
    """Stands between the segments and their files: knows what a power cut would leave of each.

    `watch` is called around every write and sync, where the power may fail; `fails` says whether a call does.
    """

    watch: Callable[[], None] = lambda: None
    fails: Callable[[str], bool] = lambda call: False
    durable: dict[str, bytes] = field(default_factory=dict)
    pending: dict[str, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        patch = pytest.MonkeyPatch()
        pwrite, fdatasync, fsync = os.pwrite, os.fdatasync, os.fsync

        def path(fd: int) -> str:
            return os.readlink(f"/proc/self/fd/{fd}").removesuffix(".new")

        def faulty_pwrite(fd: int, data: bytes, offset: int) -> int:
            self.watch()
            if self.fails("pwrite"):
                # A part may have gone through.
                half = bytes(data)[: len(data) // 2]
                pwrite(fd, half, offset)
                self.pending[path(fd)].append((offset, half))
                raise OSError(errno.EIO, "injected")
            self.pending[path(fd)].append((offset, bytes(data)))
            written = pwrite(fd, data, offset)
            self.watch()
            return written

        def faulty_fdatasync(fd: int) -> None:
            self.watch()
            if self.fails("fdatasync"):
                raise OSError(errno.EIO, "injected")
            fdatasync(fd)
            self.keep(path(fd), fd)
            self.watch()

        def kept_fsync(fd: int) -> None:
            fsync(fd)
            self.keep(path(fd), fd)

        patch.setattr(os, "pwrite", faulty_pwrite)
        patch.setattr(os, "fdatasync", faulty_fdatasync)
        patch.setattr(os, "fsync", kept_fsync)
        try:
            yield
        finally:
            patch.undo()

    def keep(self, path: str, fd: int) -> None:
        """What the file contains now is on disk."""
        if os.path.isfile(f"/proc/self/fd/{fd}"):
            self.durable[path] = os.pread(fd, os.fstat(fd).st_size, 0)
            self.pending[path].clear()

    def after_power_cut(self, survives: Callable[[], bool]) -> list[Record]:
        """The records that a start would find; `survives` decides for each sector that was not synced."""
        found: list[Record] = []
        for path, content in self.durable.items():
            data = bytearray(content)
            for offset, written in self.pending[path]:
                for start in range(0, len(written), SECTOR):
                    if survives():
                        piece = written[start : start + SECTOR]
                        data[offset + start : offset + start + len(piece)] = piece
            header = decode_header(bytes(data[:HEADER_SIZE]))
            if header is not None:
                found += decode_all(bytes(data[HEADER_SIZE:]), header[0])
        return found


@dataclass
class Model:
    """A mailbox whose files a power cut takes unless the file system was synced, and what was promised about it."""

    disk: Disk
    random: random.Random
    in_place: set[int] = field(default_factory=set)
    """What a reader sees now."""
    durable: set[int] = field(default_factory=set)
    """What a reader would see after a power cut, without the journal."""
    dirty: set[int] = field(default_factory=set)
    """Changed since the file system was synced."""
    promised: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    """Removals that are promised, too."""
    broken: list[str] = field(default_factory=list)

    def sync_file_system(self, fd: int) -> None:
        self.check()
        dirty, self.dirty = self.dirty, set()
        if self.disk.fails("syncfs"):
            raise OSError(errno.EIO, "injected")  # and the kernel takes the pages for clean from now on
        self.keep(dirty)
        self.check()

    def keep(self, numbers: set[int]) -> None:
        self.durable = (self.durable - numbers) | (self.in_place & numbers)

    def rewrite(self, records: Sequence[Record]) -> None:
        self.keep({r.number for r in records if r.kind is Kind.STORED})

    def after_power_cut(self, survives: Callable[[], bool]) -> set[int]:
        """What a reader sees when the journals have been replayed."""
        made: Plan = plan(self.disk.after_power_cut(survives))
        messages = made.mailboxes.get("bob")
        if messages is None:
            return self.durable
        return (self.durable | set(messages.stored)) - messages.removed

    def check(self) -> None:
        """The power may fail here: nothing, everything, or some of what was not synced reaches the disk."""
        for survives in (lambda: False, lambda: True, lambda: self.random.random() < 0.5):
            there = self.after_power_cut(survives)
            if lost := self.promised - self.gone - there:
                self.broken.append(f"lost: {sorted(lost)}")
            if back := self.gone & there:
                self.broken.append(f"came back: {sorted(back)}")
        assert not self.broken, self.broken


class Process:
    """One with a journal. Delivers and removes as the spool does."""

    def __init__(self, folder: Path, name: str, model: Model) -> None:
        self.model = model
        self.journal = Journal(str(folder), name, SIZE, [0], model.rewrite)
        self.journal.prepare()

    def deliver(self, number: int) -> None:
        model = self.model
        entry = self.journal.enter([stored(number)])
        synced = False
        if entry is not None:
            with entry:
                try:
                    entry.sync()
                    synced = True
                    self.place(number)
                except OSError:
                    self.place(number)
                    model.keep({number})
        else:
            self.place(number)
            model.keep({number})
        assert synced or number in model.durable
        model.promised.add(number)

    def place(self, number: int) -> None:
        self.model.in_place.add(number)
        self.model.dirty.add(number)

    def remove(self, number: int, *, durably: bool) -> None:
        model = self.model
        if number not in model.promised or number in model.gone:
            return
        # From here on either is right.
        model.promised.discard(number)
        entry = self.journal.remove([removed(number)])
        if entry is None:
            model.in_place.discard(number)
            model.dirty.add(number)
        else:
            with entry:
                model.in_place.discard(number)
                model.dirty.add(number)
                if durably:
                    try:
                        entry.sync()
                    except OSError:
                        return
                    model.gone.add(number)


OPS = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "deliver", "deliver", "remove", "note", "checkpoint"]),
        st.integers(0, 1),
        st.integers(0, 30),
    ),
    max_size=40,
)


def run(
    folder: Path, ops: list[tuple[str, int, int]], seed: int, fails: Callable[[str], bool] = lambda call: False
) -> tuple[Model, list[Process]]:
    chance = random.Random(seed)
    disk = Disk()
    model = Model(disk, chance)
    patch = pytest.MonkeyPatch()
    patch.setattr(journal_module, "sync_file_system", model.sync_file_system)
    try:
        with disk.at_work():
            processes = [Process(folder, name, model) for name in "01"]
            disk.watch = model.check
            disk.fails = fails
            number = 0
            for op, who, which in ops:
                process = processes[who]
                if op == "deliver":
                    number += 1
                    process.deliver(number)
                elif op == "checkpoint":
                    process.journal.checkpoint(0)
                else:
                    process.remove(which, durably=op == "remove")
                model.check()
            return model, processes
    finally:
        patch.undo()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(OPS, st.integers(0, 1000))
def test_power_cut_at_any_write_and_sync(tmp_path_factory: pytest.TempPathFactory, ops: list, seed: int) -> None:
    """Two processes deliver into one mailbox and remove what either has delivered."""
    run(tmp_path_factory.mktemp("journal"), ops, seed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(OPS, st.integers(0, 1000), st.lists(st.integers(0, 120), min_size=1, max_size=3))
def test_disk_errors_at_any_write_and_sync(
    tmp_path_factory: pytest.TempPathFactory, ops: list, seed: int, at: list[int]
) -> None:
    """Whichever call fails: what was promised stays, and deliveries go on (each file synced, if need be)."""
    calls = iter(range(10_000))
    run(tmp_path_factory.mktemp("journal"), ops, seed, lambda call: next(calls) in at)


def test_the_test_sees_a_sync_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Segment, "sync", lambda self: None)
    with pytest.raises(AssertionError, match="lost"):
        run(tmp_path, [("deliver", 0, 0)] * 3, 1)


def test_the_test_sees_a_checkpoint_that_does_not_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "_sync_files", lambda self, use: None)
    with pytest.raises(AssertionError, match="lost"):
        run(tmp_path, [("deliver", 0, 0), ("checkpoint", 0, 0)], 1)


def test_the_test_sees_removals_that_are_not_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "live_generations", lambda folder, without: frozenset())
    with pytest.raises(AssertionError, match="came back"):
        run(tmp_path, [("deliver", 0, 0), ("remove", 1, 1), ("checkpoint", 1, 0)], 1)


def test_removals_are_not_carried_for_ever(tmp_path: Path) -> None:
    """Once the journal that held the message is written out, they go."""
    ops = [("deliver", 0, 0), ("remove", 1, 1), ("checkpoint", 1, 0), ("checkpoint", 0, 0), ("checkpoint", 1, 0)]
    model, processes = run(tmp_path, ops, 1)
    assert model.disk.after_power_cut(lambda: True) == []
    assert all(process.journal.stop() for process in processes)


# -- room


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr(journal_module, "sync_file_system", lambda fd: None)
    made = Journal(str(tmp_path / "journal"), "0", SIZE, [0], lambda records: None)
    made.prepare()
    return made


def on_disk(folder: Path) -> list[Record]:
    return [r for name in sorted(os.listdir(folder)) for r in read_records(str(folder / name))]


def test_full_segments_make_nobody_wait(journal: Journal) -> None:
    entries = [journal.enter([stored(n)]) for n in range(20)]
    assert [entry is not None for entry in entries] == [True] * 12 + [False] * 8
    # Nothing has its name yet: nothing may be forgotten.
    assert not journal.checkpoint(0)
    assert journal.enter([stored(99)]) is None
    for entry in entries:
        if entry is not None:
            with entry:
                entry.sync()
    # One segment is free at once, the other with the next look.
    journal.checkpoint()
    journal.checkpoint()
    assert journal.enter([stored(100)]) is not None


def test_removals_have_room_of_their_own(journal: Journal) -> None:
    """And wait for a checkpoint when that is used up: a delivery never does."""
    while (entry := journal.enter([stored(1)])) is not None:
        with entry:
            pass
    assert [journal.enter([removed(1)], reserve=0) is not None for _ in range(3)] == [True, True, False]
    journal._active.pending = 0  # type: ignore[union-attr]
    assert journal.remove([removed(1)]) is not None


def test_too_large_a_record(journal: Journal) -> None:
    assert journal.enter([Record(Kind.STORED, "bob", 1, parts=(bytes(SEGMENT),))]) is None
    assert journal.enter([stored(1)]) is not None
    assert journal.largest < SEGMENT


def test_before_it_is_ready(tmp_path: Path) -> None:
    assert Journal(str(tmp_path / "journal"), "0", SIZE, [], lambda records: None).enter([stored(1)]) is None


def test_stop_leaves_it_empty_and_keeps_its_blocks(journal: Journal, tmp_path: Path) -> None:
    for n in range(10):
        with journal.enter([stored(n)]) as entry:  # type: ignore[union-attr]
            entry.sync()
    assert len(on_disk(tmp_path / "journal")) == 10
    assert journal.stop()
    assert on_disk(tmp_path / "journal") == []
    assert {p.stat().st_size for p in (tmp_path / "journal").iterdir()} == {SEGMENT}
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "journal").iterdir()} == {0o600}
    assert journal.enter([stored(1)]) is None


def test_another_size_makes_new_files(journal: Journal, tmp_path: Path) -> None:
    journal.stop()
    other = Journal(str(tmp_path / "journal"), "0", 4 * SIZE, [], lambda records: None)
    other.prepare()
    assert {p.stat().st_size for p in (tmp_path / "journal").iterdir()} == {2 * SIZE}
    other.stop()


def test_all_blocks_are_there_from_the_beginning(journal: Journal, tmp_path: Path) -> None:
    for path in (tmp_path / "journal").iterdir():
        assert path.stat().st_blocks * 512 >= SEGMENT


def test_records_that_are_kept(tmp_path: Path) -> None:
    records = [stored(1), removed(7)]
    for _ in range(2):
        write_kept(str(tmp_path / "kept"), records)
    assert [(r.kind, r.number, r.content) for r in read_records(str(tmp_path / "kept"))] == [
        (Kind.STORED, 1, b"message 1"), (Kind.REMOVED, 0, b"7\n"),
    ]  # fmt: skip
    assert os.listdir(tmp_path) == ["kept"]


def test_a_creation_that_was_interrupted(tmp_path: Path) -> None:
    (tmp_path / "0.0").write_bytes(b"")
    (tmp_path / "0.1").write_bytes(bytes(SEGMENT))
    (tmp_path / "0.1.new").write_bytes(b"half")
    assert read_records(str(tmp_path / "0.0")) == read_records(str(tmp_path / "0.1")) == []
    made = Journal(str(tmp_path), "0", SIZE, [], lambda records: None)
    made.prepare()
    assert made.enter([stored(1)]) is not None
    made.stop(0)


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_things_in_its_way_do_not_block_a_start(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "0.0"
    {"fifo": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("/etc/passwd"), "folder": path.mkdir}[kind]()
    with pytest.raises((OSError, ValueError)):
        read_records(str(path))


# -- threads


def test_many_threads_and_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was promised is in the journal or was in place before a checkpoint began."""
    in_place: set[int] = set()
    durable: set[int] = set()
    promised: set[int] = set()

    def sync_file_system(fd: int) -> None:
        durable.update(set(in_place))
        time.sleep(0.002)

    monkeypatch.setattr(journal_module, "sync_file_system", sync_file_system)
    monkeypatch.setattr(journal_module, "CHECKPOINT_SECONDS", 0.005)
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.001)
    journal = Journal(str(tmp_path), "0", 40 * SIZE, [0], lambda records: None)
    journal.start()
    skipped = 0

    def work(first: int) -> None:
        nonlocal skipped
        for number in range(first, first + 200):
            entry = journal.enter([stored(number)])
            if entry is None:
                skipped += 1
                time.sleep(0.001)
                continue
            with entry:
                entry.sync()
                in_place.add(number)
            promised.add(number)

    threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        before = set(promised)
        # A segment is forgotten while it is read: then what it held is durable already.
        records = {r.number for name in os.listdir(tmp_path) if not name.endswith(".new")
                   for r in read_records(str(tmp_path / name))}  # fmt: skip
        assert before <= durable | records
    for thread in threads:
        thread.join()
    assert journal.stop()
    assert promised <= durable
    assert len(promised) + skipped == 1600
    assert len(promised) > 200


def test_one_sync_for_all_who_wait(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    begun, go = threading.Event(), threading.Event()

    def slow(self: Segment) -> None:
        syncs.append(self)
        begun.set()
        go.wait(30)

    monkeypatch.setattr(Segment, "sync", slow)

    def work(number: int) -> None:
        with journal.enter([stored(number)]) as entry:  # type: ignore[union-attr]
            entry.sync()

    first = threading.Thread(target=work, args=(1,))
    first.start()
    assert begun.wait(30)
    others = [threading.Thread(target=work, args=(n,)) for n in range(2, 6)]
    for thread in others:
        thread.start()
    while journal._wanted < 5:
        time.sleep(0.001)
    go.set()
    for thread in (first, *others):
        thread.join(30)
    assert len(syncs) == 2
