"""What mutt and nmh mark in `.mh_sequences` and what IMAP changes in the states: each side sees the other's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.spool import deliver

from smtpmail.spool.files import write_all
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.reader import mh_readers
from smtpmail.spool.reader.account import Account
from smtpmail.spool.reader.mailfolder import Gone, MailFolder, NewMessage
from smtpmail.spool.reader.mh_readers import KNOWN
from smtpmail.spool.reader.sequences import change_sequences, members

SEEN, ANSWERED, FLAGGED = b"\\Seen", b"\\Answered", b"\\Flagged"


class Box:
    """bob's mailbox with five messages, as IMAP and as mutt have it."""

    def __init__(self, path: Path) -> None:
        self.spool = Spool(str(path))
        self.path = path / "bob"
        for _ in range(5):
            deliver(self.spool, "bob")
        self.account = Account(str(path), "bob")

    def open(self) -> MailFolder:
        return self.account.open("INBOX")

    def flags(self) -> dict[int, str]:
        """The first letters of the flags that mutt knows, as IMAP shows them."""
        folder = self.open()
        index = folder.refresh()
        folder.close()
        letters = {SEEN: "S", ANSWERED: "A", FLAGGED: "F"}
        return {
            number: "".join(letter for flag, letter in letters.items() if flag in flags)
            for number, flags in zip(index.numbers, index.flags, strict=True)
        }

    def store(self, number: int, add: Iterable[bytes] = (), remove: Iterable[bytes] = ()) -> None:
        folder = self.open()
        folder.change_flags([number], lambda flags: flags.union(add).difference(remove))
        folder.close()

    def mutt(self, text: str, *, age: float = -1.0) -> None:
        """Writes the sequences as mutt does: a new file renamed over the old one, `age` seconds ago."""
        new = self.path / ".mutt"
        new.write_text(text)
        os.utime(new, (time.time() - age,) * 2)
        new.rename(self.path / ".mh_sequences")

    def sequences(self) -> str:
        return (self.path / ".mh_sequences").read_text()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.account.close()


def test_new_mail_is_unseen(box: Box) -> None:
    assert box.flags() == {1: "", 2: "", 3: "", 4: "", 5: ""}
    assert box.sequences() == "unseen: 1-5\n"
    assert not (box.path / KNOWN).exists()


def test_what_mutt_marks(box: Box) -> None:
    """The very first look takes it over, and later ones what is taken back."""
    box.mutt("unseen: 4-5\nflagged: 2 5\nreplied: 1\nwork: 3\n")
    assert box.flags() == {1: "SA", 2: "SF", 3: "S", 4: "", 5: "F"}
    assert (box.path / "5.status").read_text().split() == ["\\Flagged", "\\Recent"]
    box.mutt("unseen: 1 4-5\nflagged: 5\nwork: 3\n")
    assert box.flags() == {1: "", 2: "S", 3: "S", 4: "", 5: "F"}
    box.mutt("")
    assert box.flags() == {1: "S", 2: "S", 3: "S", 4: "S", 5: "S"}


def test_what_imap_marks(box: Box) -> None:
    box.store(2, frozenset({SEEN, FLAGGED}))
    box.store(3, frozenset({SEEN, ANSWERED}))
    box.store(3, remove=frozenset({SEEN}))
    assert set(box.sequences().splitlines()) == {"unseen: 1 3-5", "flagged: 2", "replied: 3"}
    assert box.flags() == {1: "", 2: "SF", 3: "A", 4: "", 5: ""}


def test_both_in_turn(box: Box) -> None:
    box.store(1, frozenset({SEEN, FLAGGED}))
    box.mutt("unseen: 3-5\nflagged: 1\n")
    assert box.flags() == {1: "SF", 2: "S", 3: "", 4: "", 5: ""}
    box.store(2, remove=frozenset({SEEN}))
    box.mutt("unseen: 2-5\n")
    assert box.flags() == {1: "S", 2: "", 3: "", 4: "", 5: ""}
    deliver(box.spool, "bob")
    assert box.flags() == {1: "S", 2: "", 3: "", 4: "", 5: "", 6: ""}
    assert box.sequences() == "unseen: 2-6\n"


def test_an_open_folder_sees_it_too(box: Box) -> None:
    folder = box.open()
    assert SEEN not in folder.refresh().flags[0]
    box.mutt("unseen: 2-5\n")
    assert SEEN in folder.refresh().flags[0]
    folder.close()


def test_who_looks_with_an_older_index_changes_nothing_back(box: Box) -> None:
    """Readers of another process mark and expunge between the look at the folder and the hold of its lock."""
    box.store(1, {SEEN})
    box.store(4, {FLAGGED})
    folder = box.open()
    index = folder.refresh()
    box.store(1, remove={SEEN})
    box.store(2, {SEEN})
    box.store(4, remove={FLAGGED})
    (box.path / "3").unlink()
    for _ in range(2):
        found = mh_readers.MhReaders().differences(folder.folder, index, locked=True)
        assert not found.states
        assert not found.sequences
    folder.close()
    assert box.flags() == {1: "", 2: "S", 4: "", 5: ""}
    assert box.sequences() == "unseen: 1 3-5\n"


def test_new_mail_that_a_reader_did_not_know_stays_unseen(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """mutt listed the folder before the message came: deliveries put the number back."""
    monkeypatch.setattr(mh_readers, "LOST_SECONDS", 60.0)
    box.mutt("unseen: 1-4\n", age=20)
    folder = box.open()
    assert SEEN not in folder.refresh().flags[4]
    assert folder.undecided
    box.mutt("unseen: 1-5\n", age=20)
    assert SEEN not in folder.refresh().flags[4]
    assert not folder.undecided
    # Nobody has put it back: it was read indeed.
    box.mutt("unseen: 1-4\n", age=100)
    assert SEEN in folder.refresh().flags[4]
    folder.close()


def test_nmh_removes_an_empty_file(box: Box) -> None:
    box.store(1, frozenset({FLAGGED, SEEN}))
    box.mutt("unseen: 2-3\nflagged: 1\n")
    assert box.flags() == {1: "SF", 2: "", 3: "", 4: "S", 5: "S"}
    (box.path / ".mh_sequences").unlink()
    os.utime(box.path, (time.time() + 1,) * 2)
    assert box.flags() == {1: "SF", 2: "S", 3: "S", 4: "S", 5: "S"}


def test_a_folder_that_no_mh_reader_knows_stays_as_it_is(box: Box) -> None:
    (box.path / ".mh_sequences").unlink()
    assert set(box.flags().values()) == {""}


def test_the_first_change_in_a_folder_without_sequences(box: Box) -> None:
    """What was put there by hand stays unseen when one message of it is changed."""
    (box.path / ".mh_sequences").unlink()
    box.store(2, frozenset({FLAGGED}))
    assert box.flags() == {1: "", 2: "F", 3: "", 4: "", 5: ""}
    assert set(box.sequences().splitlines()) == {"unseen: 1-5", "flagged: 2"}
    box.store(3, frozenset({SEEN}))
    assert box.flags() == {1: "", 2: "F", 3: "S", 4: "", 5: ""}
    box.mutt("unseen: 2 4-5\n")
    assert box.flags() == {1: "S", 2: "", 3: "S", 4: "", 5: ""}


def test_a_message_that_mutt_saves(box: Box) -> None:
    """Without a state: what the sequences say of it counts."""
    for number in (6, 7):
        (box.path / str(number)).write_text("Subject: saved\n\nx\n")
    box.mutt("unseen: 1-5 7\nflagged: 6\n")
    assert (box.flags()[6], box.flags()[7]) == ("SF", "")
    assert "\\Recent" in (box.path / "6.status").read_text()


def test_what_could_not_be_told_is_told_later(box: Box) -> None:
    """A reader held its lock meanwhile: what IMAP has acknowledged stays, and the sequences follow."""
    (box.path / ".mh_sequences.lock").touch()
    box.store(1, frozenset({SEEN, FLAGGED}))
    assert box.sequences() == "unseen: 1-5\n"
    assert box.flags()[1] == "SF"
    (box.path / ".mh_sequences.lock").unlink()
    assert box.flags()[1] == "SF"
    assert set(box.sequences().splitlines()) == {"unseen: 2-5", "flagged: 1"}


def test_seen_from_the_start_and_then_not(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put here as seen, marked, and marked as unseen while a reader holds its lock: no reader has taken that back."""
    monkeypatch.setattr(mh_readers, "LOST_SECONDS", -1.0)  # it was long ago
    folder = box.open()
    file = folder.new_file()
    write_all(file.fd, [b"Subject: x\n\nx\n"])
    folder.add([NewMessage(file, frozenset({SEEN}))])
    file.close()
    folder.close()
    box.store(6, {FLAGGED})
    assert box.flags() == {1: "", 2: "", 3: "", 4: "", 5: "", 6: "SF"}
    (box.path / ".mh_sequences.lock").touch()
    box.store(6, remove={SEEN})
    (box.path / ".mh_sequences.lock").unlink()
    assert box.flags()[6] == "F"
    assert box.flags()[6] == "F"
    assert set(box.sequences().splitlines()) == {"unseen: 1-6", "flagged: 6"}


@pytest.mark.parametrize(
    "content",
    [b"\0\xff\n", b"unseen: 9999999999999999999\n", b"unseen: 1-4000000000\n", b"unseen\n", b"unseen: 1-5\n" * 10_000],
)
def test_strange_files(box: Box, content: bytes) -> None:
    box.store(1, frozenset({SEEN}))
    (box.path / ".mh_sequences").write_bytes(content)
    assert len(box.flags()) == 5
    (box.path / KNOWN).write_bytes(content)
    assert len(box.flags()) == 5


def test_files_that_are_none(box: Box) -> None:
    for name in (".mh_sequences", KNOWN):
        (box.path / name).unlink(missing_ok=True)
        os.mkfifo(box.path / name)
    box.store(1, frozenset({SEEN}))
    assert box.flags()[1] == "S"


def test_flags_go_with_messages_that_are_packed(box: Box) -> None:
    """nmh's `folder -pack` gives numbers anew and knows nothing of states."""
    box.store(1, frozenset({b"\\Deleted", SEEN}))
    box.store(4, frozenset({b"\\Flagged", b"$Work"}))
    box.store(5, frozenset({SEEN}))
    folder = box.open()
    folder.refresh()
    folder.remove([2], only_deleted=False)
    folder.refresh()
    folder.close()
    for old, new in ((3, 2), (4, 3), (5, 4)):
        (box.path / str(old)).rename(box.path / str(new))
    box.mutt("unseen: 2-3\nflagged: 3\n")
    with pytest.raises(Gone):
        box.flags()
    assert box.flags() == {1: "S", 2: "", 3: "F", 4: "S"}
    assert set((box.path / "3.status").read_text().split()) >= {"\\Flagged", "$Work"}
    assert "\\Deleted" in (box.path / "1.status").read_text()


def test_many(box: Box) -> None:
    for number in range(6, 1300):
        (box.path / str(number)).write_text("x")
        (box.path / f"{number}.status").write_text("\\Recent\n")
    box.mutt("unseen: 1-9\nflagged: 10-1299\n")
    flags = box.flags()
    assert {flags[n] for n in range(10, 1300)} == {"SF"}
    assert {flags[n] for n in range(1, 10)} == {""}


NUMBERS = st.sets(st.integers(1, 60))


@given(NUMBERS, NUMBERS, NUMBERS)
def test_change_sequences(before: set[int], added: set[int], removed: set[int]) -> None:
    text = b"other: 7\n" + change_sequences(b"", {b"unseen": (before, set())})
    after = change_sequences(text, {b"unseen": (added, removed)})
    everything = range(1, 100)
    assert members(after, b"unseen", everything) == (before | added) - removed
    assert members(after, b"other", everything) == {7}
