"""New mail in the sequence `unseen` of `.mh_sequences`: any file, any reader, nothing lost."""

from __future__ import annotations

import mailbox as python_mailbox
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import require
from support.spool import deliver

from smtpmail.spool import sequences
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.sequences import with_unseen


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    os.umask(0o077)
    return Spool(str(tmp_path))


def changed(text: bytes, numbers: Sequence[int]) -> bytes:
    """The file afterwards."""
    offset, data = with_unseen(text, numbers)
    return text[:offset] + data + text[offset + len(data) :]


@pytest.mark.parametrize(
    ("text", "numbers", "after"),
    [
        (b"", [1], b"unseen: 1\n"),
        (b"", [1, 2, 3], b"unseen: 1-3\n"),
        (b"", [1, 3, 4, 9], b"unseen: 1 3-4 9\n"),
        (b"unseen: 1\n", [2], b"unseen: 1-2\n"),
        (b"unseen: 1-9\n", [10, 11], b"unseen: 1-11\n"),
        (b"unseen: 1-9\n", [11], b"unseen: 1-9 11\n"),
        (b"unseen: 3 5-9\n", [10], b"unseen: 3 5-10\n"),
        (b"unseen:\n", [4], b"unseen: 4\n"),
        (b"unseen:", [4], b"unseen: 4\n"),
        (b"unseen:7\n", [8], b"unseen:7-8\n"),
        (b"unseen: 7 \n", [8], b"unseen: 7 8\n"),
        (b"unseen: 7", [8], b"unseen: 7-8\n"),
        (b"cur: 3\n", [4], b"cur: 3\nunseen: 4\n"),
        (b"cur: 3", [4], b"cur: 3\nunseen: 4\n"),
        (b"unseen: 1-3\ncur: 3\nflagged: 1\n", [4], b"cur: 3\nflagged: 1\nunseen: 1-4\n"),
        (b"unseen: 1-3\ncur: 3", [4], b"cur: 3\nunseen: 1-4\n"),
        (b"unseen: 1\n 2\n\t3-5\ncur: 2\n", [6], b"cur: 2\nunseen: 1\n 2\n\t3-6\n"),
        (b"unseen: 5-5\n", [6], b"unseen: 5-6\n"),
        (b"unseen: 9-1\n", [2], b"unseen: 9-1 2\n"),
        (b"unseen: 007\n", [8], b"unseen: 007 8\n"),
        (b"unseen: x\n", [8], b"unseen: x 8\n"),
        (b"unseenish: 1\nmy-unseen: 2\n", [8], b"unseenish: 1\nmy-unseen: 2\nunseen: 8\n"),
        (b"\0\xff\n:\n\n", [8], b"\0\xff\n:\n\nunseen: 8\n"),
    ],
)
def test_what_is_written(text: bytes, numbers: list[int], after: bytes) -> None:
    assert changed(text, numbers) == after


ranges = st.one_of(
    st.integers(0, 300).map(str), st.tuples(st.integers(0, 99), st.integers(0, 300)).map("{0[0]}-{0[1]}".format)
)
names = st.sampled_from([b"unseen: ", b"unseen:", b"cur: ", b" ", b"x: "])
lines = st.binary(max_size=20) | st.builds(
    lambda name, listed: name + " ".join(listed).encode(), names, st.lists(ranges, max_size=5)
)


@given(st.lists(lines).map(b"\n".join), st.sets(st.integers(1, 500), min_size=1).map(sorted))
def test_any_file(text: bytes, numbers: list[int]) -> None:
    """It grows, every other line stays, and who reads it finds the numbers."""
    after = changed(text, numbers)
    assert len(after) >= len(text)
    others = [line for line in re.sub(rb"(?m)^unseen[ \t]*:.*(\n[ \t].*)*", b"", text).split(b"\n") if line]
    for line in others:
        assert line in after.split(b"\n")
    unseen = re.findall(rb"(?m)^unseen[ \t]*:(.*(?:\n[ \t].*)*)", after)[-1]
    found: set[int] = set()
    for spec in unseen.split():
        if match := re.fullmatch(rb"([0-9]+)(?:-([0-9]+))?", spec):
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    assert set(numbers) <= found


def test_every_new_message_is_unseen(spool: Spool, tmp_path: Path) -> None:
    for _ in range(3):
        deliver(spool, "bob")
    assert (tmp_path / "bob/.mh_sequences").read_bytes() == b"unseen: 1-3\n"
    folder = python_mailbox.MH(tmp_path / "bob", create=False)
    assert folder.get_sequences() == {"unseen": [1, 2, 3]}
    folder.set_sequences({"unseen": [2], "flagged": [1, 3]})
    deliver(spool, "bob")
    assert folder.get_sequences() == {"unseen": [2, 4], "flagged": [1, 3]}


def test_a_file_of_no_reader(spool: Spool, tmp_path: Path) -> None:
    """It is too large to be looked through for each message: left as it is, and the mail comes all the same."""
    deliver(spool, "bob")
    with open(tmp_path / "bob/.mh_sequences", "wb") as file:
        file.truncate(10**12)
    assert deliver(spool, "bob") == [2]
    assert (tmp_path / "bob/.mh_sequences").stat().st_size == 10**12
    (tmp_path / "bob/.mh_sequences").write_bytes(b"x: 1\n" * (sequences.LIMIT // 5))
    assert deliver(spool, "bob") == [3]
    assert (tmp_path / "bob/.mh_sequences").read_bytes().endswith(b"x: 1\nunseen: 3\n")


def test_a_reader_rewrites_it_meanwhile(spool: Spool, tmp_path: Path) -> None:
    """In place under its lock, as mailbox.MH and nmh do: neither loses what the other has written."""
    deliver(spool, "bob")
    folder = python_mailbox.MH(tmp_path / "bob", create=False)
    marked: list[int] = []
    done = threading.Event()

    def read() -> None:
        script = (
            "import mailbox, sys\n"
            "folder = mailbox.MH(sys.argv[1], create=False)\n"
            "for line in sys.stdin:\n"
            "    while True:\n"
            "        try:\n"
            "            folder.lock()\n"
            "            break\n"
            "        except mailbox.ExternalClashError:\n"
            "            pass\n"
            "    s = folder.get_sequences()\n"
            "    s.setdefault('flagged', []).append(int(line))\n"
            "    folder.set_sequences(s)\n"
            "    folder.unlock()\n"
            "    print(flush=True)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / "bob"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdin and reader.stdout
            number = 1
            while not done.is_set():
                number += 1
                # mailbox.MH leaves out of a sequence what is no message.
                (tmp_path / f"bob/{number}").touch()
                print(number, file=reader.stdin, flush=True)
                reader.stdout.readline()
                marked.append(number)
            reader.stdin.close()

    (tmp_path / "bob/.lock").write_bytes(b"%020d\n" % 100_000)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read)
        numbers = [deliver(spool, "bob")[0] for _ in range(150)]
        done.set()
        reading.result(60)
    found = folder.get_sequences()
    assert found["flagged"] == marked
    assert set(numbers) <= set(found["unseen"])


@pytest.mark.parametrize("program", ["mutt", "nmh"])
def test_a_reader_that_did_not_know_of_the_message(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """mutt renames another file over it, nmh has listed the folder before: both write what they know."""
    deliver(spool, "bob")
    original = sequences.add_unseen
    renamed = False

    def rename(*args: object) -> object:
        nonlocal renamed
        result = original(*args)  # type: ignore[arg-type]
        if not renamed:
            renamed = True
            (tmp_path / "bob/mutt").write_text("cur: 1\n" if program == "mutt" else "cur: 1\nunseen: 1\n")
            if program == "mutt":
                (tmp_path / "bob/mutt").rename(tmp_path / "bob/.mh_sequences")
            else:
                (tmp_path / "bob/.mh_sequences").write_bytes((tmp_path / "bob/mutt").read_bytes())
        return result

    monkeypatch.setattr("smtpmail.spool.mailbox.add_unseen", rename)
    assert deliver(spool, "bob") == [2]
    seen = "cur: 1\nunseen: 2\n" if program == "mutt" else "cur: 1\nunseen: 1-2\n"
    assert (tmp_path / "bob/.mh_sequences").read_text() == seen
    # Later than we look: it is found with the next message, if that comes soon.
    (tmp_path / "bob/.mh_sequences").write_text("cur: 1\n")
    assert deliver(spool, "bob") == [3]
    assert (tmp_path / "bob/.mh_sequences").read_text() == "cur: 1\nunseen: 2-3\n"
    # A reader that has read the message knew of it.
    (tmp_path / "bob/.mh_sequences").write_text("cur: 3\nunseen: 2\n")
    assert deliver(spool, "bob") == [4]
    assert (tmp_path / "bob/.mh_sequences").read_text() == "cur: 3\nunseen: 2 4\n"


# -- foreign programs


def nmh(tmp_path: Path, program: str, *arguments: str) -> str:
    """Runs a program of nmh with the spool as its path."""
    tool = shutil.which(program, path=f"{os.environ['PATH']}:/usr/bin/mh") or require.tool(program, "nmh")
    (tmp_path / ".mh_profile").write_text(f"Path: {tmp_path}\nWelcome: disable\nUnseen-Sequence: unseen\n")
    environment = {**os.environ, "HOME": str(tmp_path), "MH": str(tmp_path / ".mh_profile")}
    ran = subprocess.run([tool, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_nmh_sees_new_mail(spool: Spool, tmp_path: Path) -> None:
    for n in range(3):
        deliver(spool, "bob", content=b"Subject: number %d\n\nx\n" % n)
    assert len(nmh(tmp_path, "scan", "+bob", "unseen").splitlines()) == 3
    nmh(tmp_path, "mark", "+bob", "2", "-sequence", "unseen", "-delete")
    nmh(tmp_path, "mark", "+bob", "1", "-sequence", "mine", "-add")
    deliver(spool, "bob", content=b"Subject: number 3\n\nx\n")
    shown = nmh(tmp_path, "scan", "+bob", "unseen")
    assert [line.split()[0].rstrip("+") for line in shown.splitlines()] == ["1", "3", "4"]
    assert len(nmh(tmp_path, "scan", "+bob", "mine").splitlines()) == 1


def test_nmh_marks_while_mail_comes(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists the folder before it takes the lock: what came in between is found with the next message."""
    monkeypatch.setattr(sequences, "RECENTLY", 600.0)  # however slow the machine is
    deliver(spool, "bob")
    with ThreadPoolExecutor(1) as pool:
        marking = pool.submit(
            lambda: [nmh(tmp_path, "mark", "+bob", "1", "-sequence", f"s{n}", "-add") for n in range(25)]
        )
        numbers = [1]
        while not marking.done():
            numbers += deliver(spool, "bob")
        marking.result()
    numbers += deliver(spool, "bob")
    found = python_mailbox.MH(tmp_path / "bob", create=False).get_sequences()
    assert found["unseen"] == numbers
    assert all(found[f"s{n}"] == [1] for n in range(25))


def test_mutt_sees_new_mail(spool: Spool, tmp_path: Path) -> None:
    """`mutt -Z` opens a mailbox only if there is new mail in it; it asks `.mh_sequences`."""
    mutt, script = require.tool("mutt"), require.tool("script", "bsdutils")
    (tmp_path / "muttrc").write_text(
        f"set folder={tmp_path}\nmailboxes {tmp_path}/bob\nset mail_check_recent=no\nset quit=yes\npush <quit>\n"
    )

    def has_new_mail() -> bool:
        ran = subprocess.run(
            [script, "-qec", f"{mutt} -F {tmp_path}/muttrc -R -Z", "/dev/null"],
            env={**os.environ, "HOME": str(tmp_path), "TERM": "xterm"},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return ran.returncode == 0

    deliver(spool, "bob")
    assert has_new_mail()
    (tmp_path / "bob/.mh_sequences").write_text("cur: 1\n")
    assert not has_new_mail()
    deliver(spool, "bob")
    assert has_new_mail()
