"""What another host has changed in place is read, although the kernel of this one still shows what it has in memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.spool import deliver

from smtpmail.spool import files
from smtpmail.spool.claim import NOBODY, last_owner
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueStore
from smtpmail.spool.reader.account import Account


class Pages:
    """As FUSE reads and writes for one host: a file that is as long as it was is not read again."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._kept: dict[int, bytes] = {}
        self._pread, self._pwrite = os.pread, os.pwrite
        patch.setattr(os, "pread", self.pread)
        patch.setattr(os, "pwrite", self.pwrite)
        patch.setattr(os, "posix_fadvise", lambda fd, *_: self._kept.pop(os.fstat(fd).st_ino, None))
        patch.setattr(os, "major", lambda _: 0)
        patch.setattr(files, "_file_system", lambda _: files._FUSE)
        patch.setattr(files, "_fuse", {})

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        status = os.fstat(fd)
        kept = self._kept.get(status.st_ino)
        if kept is None or len(kept) != status.st_size:
            kept = self._kept[status.st_ino] = self._pread(fd, status.st_size, 0)
        return kept[offset : offset + count]

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        kept = self.pread(fd, os.fstat(fd).st_size, 0).ljust(offset, b"\0")
        self._kept[os.fstat(fd).st_ino] = kept[:offset] + data + kept[offset + len(data) :]
        return self._pwrite(fd, data, offset)


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    return Pages(monkeypatch)


def elsewhere(path: Path, before: str, after: str) -> None:
    """Another host changes the file, under its lock."""
    assert path.read_text() == before
    assert len(after) == len(before)
    with path.open("r+") as file:
        file.write(after)
    # What is known of the file is not newer.
    os.utime(path, (time.time() + 1,) * 2)


def test_a_number_that_was_given_elsewhere_is_not_given_again(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    deliver(spool, "bob")
    # Number 2 came there, and its user has removed it.
    elsewhere(tmp_path / "bob/.lock", f"{1:020d}\n", f"{2:020d}\n")
    assert deliver(spool, "bob") == [3]


def test_what_is_new_elsewhere_stays_new(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    assert deliver(spool, "bob") + deliver(spool, "bob") == [1, 2]
    elsewhere(tmp_path / "bob/.mh_sequences", "unseen: 1-2\n", "unseen: 1-3\n")
    elsewhere(tmp_path / "bob/.lock", f"{2:020d}\n", f"{3:020d}\n")
    assert deliver(spool, "bob") == [4]
    assert (tmp_path / "bob/.mh_sequences").read_text() == "unseen: 1-4\n"


def test_imap_has_what_a_reader_elsewhere_has_marked(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    assert deliver(spool, "bob") + deliver(spool, "bob") == [1, 2]
    account = Account(str(tmp_path), "bob")
    folder = account.open("INBOX")
    assert [b"\\Seen" in flags for flags in folder.refresh().flags] == [False, False]
    elsewhere(tmp_path / "bob/.mh_sequences", "unseen: 1-2\n", "unseen: 2  \n")
    assert [b"\\Seen" in flags for flags in folder.refresh().flags] == [True, False]
    folder.close()


def test_whose_a_queue_is_by_now(tmp_path: Path) -> None:
    path = str(tmp_path)
    (tmp_path / ".server").write_text(f"{NOBODY} on mx1\n")
    assert last_owner(path) == "mx1"
    elsewhere(tmp_path / ".server", f"{NOBODY} on mx1\n", f"{NOBODY} on mx2\n")
    assert last_owner(path) == "mx2"
    with pytest.raises(Exception, match="mx2"):
        QueueStore(path, shared=True).claim()


def test_a_local_disk_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the file would be written out, and no pages are wrong."""
    monkeypatch.setattr(os, "major", lambda _: 8)
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: pytest.fail("its pages were forgotten"))
    with (tmp_path / "file").open("w") as file:
        files.forget_pages(file.fileno())


def test_a_file_system_that_does_not_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network may be cut in that moment."""
    kinds = iter([0, files._FUSE])
    monkeypatch.setattr(files, "_file_system", lambda _: next(kinds))
    spool = Spool(str(tmp_path))
    deliver(spool, "bob")
    elsewhere(tmp_path / "bob/.lock", f"{1:020d}\n", f"{2:020d}\n")
    assert deliver(spool, "bob") == [3]
    assert next(kinds, None) is None, "and then no more"
