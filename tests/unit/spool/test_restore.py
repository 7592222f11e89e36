"""What a start makes of the journals and of what a crash has left of the files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpmail.spool import restore as module
from smtpmail.spool.journal import Journal
from smtpmail.spool.journals import FOLDER
from smtpmail.spool.record import FormatError, Kind, Record
from smtpmail.spool.restore import restore
from smtpmail.spool.segment import read_records

STATE = b"\\Recent\n"
SIZE = 64 * 1024


def content(number: int, size: int = 900) -> bytes:
    return b"Subject: %d\n\n" % number + b"%d." % number * size


def stored(place: str, number: int, text: bytes | None = None) -> Record:
    return Record(Kind.STORED, place, number, STATE, (text if text is not None else content(number),), number)


def removed(place: str, *numbers: int) -> Record:
    return Record(Kind.REMOVED, place, parts=tuple(b"%d\n" % n for n in numbers))


class Killed(BaseException):
    """The replay ends here."""


class Place:
    """A spool with its queue, and the journal of a process that was killed."""

    def __init__(self, path: Path) -> None:
        self.spool, self.queue = path / "spool", path / "queue"
        for folder in (self.spool, self.queue):
            folder.mkdir()

    def journal(self, *records: Record, name: str = "0") -> None:
        journal = Journal(str(self.queue / FOLDER), name, SIZE, [], lambda records: None)
        journal.prepare()
        for record in records:
            assert journal.enter([record]) is not None

    def mailbox(self, user: str = "bob", noted: int | None = None) -> Path:
        folder = self.spool / user
        folder.mkdir(exist_ok=True)
        if noted is not None:
            (folder / ".lock").write_text(f"{noted:020d}\n")
        return folder

    def put(self, number: int, text: bytes | None = None, state: bytes = STATE, user: str = "bob") -> None:
        folder = self.mailbox(user)
        (folder / str(number)).write_bytes(content(number) if text is None else text)
        (folder / f"{number}.status").write_bytes(state)

    def restore(self) -> module.Restored:
        return restore(str(self.spool), str(self.queue))

    def seen(self, user: str = "bob") -> dict[str, bytes]:
        folder = self.spool / user
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")}

    def last(self, user: str = "bob") -> int:
        return int((self.spool / user / ".lock").read_text())

    def left(self) -> list[Record]:
        folder = self.queue / FOLDER
        return [r for name in os.listdir(folder) for r in read_records(str(folder / name))]


def whole(*numbers: int, state: bytes = STATE) -> dict[str, bytes]:
    return {name: data for n in numbers for name, data in ((str(n), content(n)), (f"{n}.status", state))}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    os.umask(0o077)
    return Place(tmp_path)


def test_nothing_to_do(place: Place) -> None:
    assert place.restore().records == 0
    place.journal()
    assert place.restore().records == 0
    assert sorted(os.listdir(place.queue / FOLDER)) == ["0.0", "0.1"]  # its blocks stay


def test_everything_was_lost(place: Place) -> None:
    """Even the folder: it was made a moment before."""
    place.journal(stored("bob", 1), stored("bob", 2), stored("anna", 1))
    done = place.restore()
    assert (done.records, done.files) == (3, 6)
    assert place.seen() == whole(1, 2)
    assert place.seen("anna") == whole(1)
    assert place.last() == 2
    assert place.left() == []
    assert (place.spool / "bob").stat().st_mode & 0o777 == 0o700
    assert (place.spool / "bob/1").stat().st_mode & 0o777 == 0o600
    assert b"unseen: 1-2" in (place.spool / "bob/.mh_sequences").read_bytes()


def test_what_is_whole_stays(place: Place) -> None:
    """SIGKILL takes nothing that was written: not even the time of a file changes, nor what a reader has made of it."""
    place.put(1)
    place.put(2, state=b"\\Seen\n$Forwarded\n")
    place.mailbox(noted=2)
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in place.mailbox().iterdir()}
    place.journal(stored("bob", 1), stored("bob", 2))
    assert place.restore().files == 0
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in place.mailbox().iterdir()} == before


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[:700],
    "zeros": lambda data: bytes(len(data)),
    "a hole": lambda data: data[:512] + bytes(512) + data[1024:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_torn_is_made_anew_under_its_number(place: Place, damage: Callable[[bytes], bytes]) -> None:
    place.put(7, damage(content(7)), b"")
    place.mailbox(noted=6)
    place.journal(stored("bob", 7))
    place.restore()
    assert place.seen() == whole(7)
    assert place.last() == 7


def test_a_message_that_somebody_else_has_put_there(place: Place) -> None:
    """Between the crash and the start another program took the number: neither may be lost, nor stored twice."""
    place.put(5, b"of another program, and longer than ours: " + bytes(5000))
    place.mailbox(noted=5)
    place.journal(stored("bob", 5), stored("bob", 6))
    journals = shutil.copytree(place.queue / FOLDER, place.queue / "copy")
    place.restore()
    expected = whole(6) | {"7": content(5), "7.status": STATE}
    assert {n: d for n, d in place.seen().items() if not n.startswith("5")} == expected
    assert place.seen()["5"].startswith(b"of another program")
    assert place.last() == 7
    # Once more, as if the power had failed before the journal was emptied.
    shutil.rmtree(place.queue / FOLDER)
    shutil.move(journals, place.queue / FOLDER)
    assert place.restore().files == 0


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_things_in_the_place_of_a_message(place: Place, kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content(3))
    path = place.mailbox(noted=2) / "3"
    {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(secret)}[kind]()
    place.journal(stored("bob", 3))
    place.restore()
    assert place.seen()["4"] == content(3)
    assert secret.read_bytes() == content(3)


def test_a_message_with_two_names_is_no_other(place: Place) -> None:
    """Backups make hard links."""
    place.put(1)
    os.link(place.spool / "bob/1", place.spool / "backup")
    place.mailbox(noted=1)
    place.journal(stored("bob", 1))
    assert place.restore().files == 0


def test_removed_messages_stay_away_and_their_numbers_used(place: Place) -> None:
    """Whichever of the journals tells of it, and whether or not the removal had reached the disk."""
    place.put(1)
    place.put(3)
    place.journal(removed("bob", 1, 2), name="0")
    place.journal(stored("bob", 1), stored("bob", 2), stored("bob", 3), removed("bob", 9), name="1")
    place.restore()
    assert place.seen() == whole(3)
    assert place.last() == 9


def test_a_removal_alone_makes_no_mailbox(place: Place) -> None:
    place.journal(removed("bob", 1))
    place.restore()
    assert not (place.spool / "bob").exists()


def test_cancelled_messages(place: Place) -> None:
    """Refused after all, or stored under another number since a program had taken this one, whose message stays."""
    place.put(1)
    place.put(2, b"of another program")
    cancelled = Record(Kind.CANCELLED, "bob", parts=(b"1\n2\n3\n",))
    place.journal(stored("bob", 1), stored("bob", 2), stored("bob", 3), cancelled)
    place.restore()
    assert place.seen() == {"2": b"of another program", "2.status": STATE}
    assert place.last() == 3
    # The record of what was cancelled may be gone already.
    place.journal(Record(Kind.CANCELLED, "bob", parts=(b"2\n",)))
    place.restore()
    assert place.seen() == {"2": b"of another program", "2.status": STATE}


def test_a_state_that_is_not_ours_to_read_is_its_readers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader renames a file of its own over ours."""
    place.put(1, state=b"\\Seen\n")
    place.mailbox(noted=1)
    place.journal(stored("bob", 1))
    original = os.open

    def opens(path: str, *args: object, **more: object) -> int:
        if path == "1.status":
            raise PermissionError(13, "Permission denied", path)
        return original(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opens)
    assert place.restore().files == 0
    assert place.seen()["1.status"] == b"\\Seen\n"


def test_the_lock_file_is_lost(place: Place) -> None:
    place.put(4)
    place.journal(stored("bob", 5))
    place.restore()
    assert place.last() == 5
    assert place.seen() == whole(4, 5)


def test_folders_in_a_folder(place: Place) -> None:
    place.journal(stored("bob/Sent/2024", 1))
    place.restore()
    assert place.seen("bob/Sent/2024") == whole(1)


@pytest.mark.parametrize("name", ["bob", "bob/Sent"])
def test_one_broken_mailbox_does_not_keep_the_others_waiting(place: Place, name: str, tmp_path: Path) -> None:
    """And its mail is not lost: when it is a folder again, the next start puts it there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = place.spool / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    place.journal(stored(f"{name}", 1), stored("anna", 1))
    done = place.restore()
    assert [record.place for record in done.kept] == [name]
    assert place.seen("anna") == whole(1)
    assert list(elsewhere.iterdir()) == []
    assert len(place.restore().kept) == 1
    link.unlink()
    assert place.restore().kept == []
    assert place.seen(name) == whole(1)
    assert not place.left()


# -- the queue


def test_queue(place: Place) -> None:
    texts = {name: f'{{"id": "{name}"}}\n'.encode() * 100 for name in ("lost", "torn", "whole", "done")}
    (place.queue / "torn").write_bytes(texts["torn"][:512])
    for name in ("whole", "done"):
        (place.queue / name).write_bytes(texts[name])
    (place.queue / "done.log").write_text("x\n")
    (place.queue / "whole.log").write_text('{"recipient": 0}\n{"half')
    place.journal(
        *(Record(Kind.QUEUED, name, parts=(text,)) for name, text in texts.items()),
        Record(Kind.PROGRESS, "whole", parts=(b'{"recipient": 0}\n',), time=1),
        Record(Kind.PROGRESS, "whole", parts=(b'{"recipient": 1}\n',), time=2),
        Record(Kind.PROGRESS, "done", parts=(b"x\n",)),
        Record(Kind.FINISHED, parts=(b"done\n", b"earlier\n")),
    )
    place.restore()
    found = {p.name: p.read_bytes() for p in place.queue.iterdir() if p.is_file()}
    assert found == {name: texts[name] for name in ("lost", "torn", "whole")} | {
        "whole.log": b'{"recipient": 0}\n{"half\n{"recipient": 1}\n'
    }


def test_progress_of_a_message_that_is_gone_makes_no_log(place: Place) -> None:
    place.journal(Record(Kind.PROGRESS, "gone", parts=(b"x\n",)))
    place.restore()
    assert [p.name for p in place.queue.iterdir()] == [FOLDER]


def test_cut_off_while_the_journals_are_emptied(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other: the removal in the first must hold for the message in the second."""

    def killed(path: str) -> None:
        module_clear(path)
        raise Killed

    module_clear = module.clear
    for name in ("0", "1"):
        place.journal(removed("bob", 1), name=name)
        place.journal(stored("bob", 1), stored("bob", 2), name=str(1 - int(name)))
        monkeypatch.setattr(module, "clear", killed)
        with pytest.raises(Killed):
            place.restore()
        monkeypatch.undo()
        place.restore()
        assert place.seen() == whole(2)
        assert not place.left()


# -- what stops a start


def test_a_journal_of_a_later_version(place: Place) -> None:
    place.journal(stored("bob", 1))
    path = place.queue / FOLDER / "0.0"
    path.write_bytes(path.read_bytes().replace(b"smtpmail journal 1", b"smtpmail journal 9"))
    with pytest.raises(FormatError, match="another version"):
        place.restore()
    assert not (place.spool / "bob").exists()


def test_a_sync_that_fails_leaves_the_journal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(5, "injected")

    place.journal(stored("bob", 1))
    monkeypatch.setattr(module, "sync_file_system", fails)
    with pytest.raises(OSError, match="injected"):
        place.restore()
    assert len(place.left()) == 1
    monkeypatch.undo()
    place.restore()
    assert place.seen() == whole(1)


# -- whatever a crash leaves, and whenever the replay itself is cut off

LEFT = st.sampled_from(["lost", "whole", "empty", "cut short", "zeros", "a hole"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(LEFT, LEFT), min_size=1, max_size=6),
    st.sets(st.integers(1, 6), max_size=2),
    st.integers(0, 6),
    st.integers(0, 120),
    st.booleans(),
)
def test_any_crash(
    tmp_path_factory: pytest.TempPathFactory,
    left: list[tuple[str, str]],
    gone: set[int],
    noted: int,
    killed_at: int,
    foreign: bool,
) -> None:
    """What was acknowledged is there and whole, under its number; what was removed is not; however often replayed."""
    os.umask(0o077)
    place = Place(tmp_path_factory.mktemp("place"))
    numbers = range(1, len(left) + 1)
    folder = place.mailbox(noted=noted)
    for number, states in zip(numbers, left, strict=True):
        for name, data, state in ((f"{number}", content(number), states[0]), (f"{number}.status", STATE, states[1])):
            if state == "whole":
                (folder / name).write_bytes(data)
            elif state != "lost":
                (folder / name).write_bytes(DAMAGE[state](data))
    if foreign:
        place.put(len(left) + 1, b"foreign")
    half = len(left) // 2
    records = [stored("bob", n) for n in numbers]
    place.journal(*records[:half], removed("bob", *gone), name="0")
    place.journal(*records[half:], name="1")

    patch = pytest.MonkeyPatch()
    left_calls = killed_at

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            nonlocal left_calls
            left_calls -= 1
            if left_calls < 0:
                raise Killed
            return function(*args, **more)

        return call

    for name in ("open", "link", "rename", "unlink", "writev", "pwrite", "mkdir"):
        patch.setattr(os, name, counted(getattr(os, name)))
    try:
        place.restore()
    except Killed:
        pass
    finally:
        patch.undo()
    for _ in range(2):
        place.restore()
        expected = whole(*(set(numbers) - gone))
        if foreign and len(left) + 1 not in gone:
            expected |= {str(len(left) + 1): b"foreign", f"{len(left) + 1}.status": STATE}
        assert place.seen() == expected
        assert place.last() >= max((*numbers, *gone))
        assert not [p for p in folder.iterdir() if p.name.endswith(".restored")]
