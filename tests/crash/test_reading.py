"""Mail readers at work when the program is killed or the power fails: what was answered with OK is so afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server, Servers, wait_until

from tests.crash.test_power import Disk, disk  # noqa: F401 - a fixture

ME = pwd.getpwuid(os.getuid()).pw_name
CUTS = int(os.environ.get("SMTPMAIL_CUTS", "2"))
SEED = int(os.environ.get("SMTPMAIL_SEED", str(random.SystemRandom().randrange(10**6))))
READERS = 4


class Refused(Exception):
    """The answer was not OK: the disk is gone."""


class Book:
    """What readers were told, by folder and number."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.given: dict[tuple[str, int], str] = {}
        """The subject of each message that got a number."""
        self.flags: dict[tuple[str, int], set[str]] = {}
        self.leaving: set[tuple[str, int]] = set()
        """Asked to be removed."""
        self.gone: set[tuple[str, int]] = set()
        self.validity: dict[str, str] = {}
        self.wrong: list[str] = []
        """What readers found out while they were at work."""

    def gave(self, folder: str, validity: str, number: int, subject: str, flags: set[str]) -> None:
        with self.lock:
            if self.validity.setdefault(folder, validity) != validity:
                self.wrong.append(f"{folder} has another UIDVALIDITY")
            if (folder, number) in self.given:
                self.wrong.append(f"{folder} {number} was given twice")
            self.given[folder, number] = subject
            self.flags[folder, number] = set(flags)


class Reader:
    """One connection to the Unix socket."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(path))
        self._sock.settimeout(60)
        self._file = self._sock.makefile("rb")
        self._file.readline()

    def ask(self, command: str) -> str:
        """The whole answer. Raises Refused, OSError."""
        self._sock.sendall(f"t {command}\r\n".encode())
        answer = ""
        while True:
            line = self._file.readline().decode()
            if not line:
                raise ConnectionError
            answer += line
            if line.startswith("t "):
                if not line.startswith("t OK"):
                    raise Refused(line)
                return answer

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    assert match is not None, text
    return match.groups()


def read(path: Path, name: str, book: Book, rng: random.Random) -> None:
    """Appends, marks, copies, moves and expunges until the server is gone."""
    with contextlib.suppress(OSError, Refused):
        reader = Reader(path)
        reader.ask("SELECT INBOX")
        for n in range(100_000):
            subject = f"{name}-{n}"
            message = f"Subject: {subject}\r\n\r\nx\r\n"
            answer = reader.ask(f"APPEND INBOX (\\Seen) {{{len(message)}+}}\r\n{message}")
            validity, number = found(r"APPENDUID (\d+) (\d+)", answer)
            key = ("INBOX", int(number))
            book.gave("INBOX", validity, key[1], subject, {"\\Seen"})
            reader.ask(f"UID STORE {number} +FLAGS (\\Flagged $k{n})")
            book.flags[key] |= {"\\Flagged", f"$k{n}"}
            book.flags[key] -= {"\\Seen"}  # from here on until the answer it may be so or not
            reader.ask(f"UID STORE {number} -FLAGS (\\Seen)")
            book.flags[key] = {"\\Flagged", f"$k{n}", "no \\Seen"}
            match rng.randrange(4):
                case 0:
                    answer = reader.ask(f"UID COPY {number} Archive")
                    validity, copy = found(r"COPYUID (\d+) \d+ (\d+)", answer)
                    book.gave("Archive", validity, int(copy), subject, book.flags[key])
                case 1:
                    book.leaving.add(key)
                    answer = reader.ask(f"UID MOVE {number} Archive")
                    validity, copy = found(r"COPYUID (\d+) \d+ (\d+)", answer)
                    book.gave("Archive", validity, int(copy), subject, book.flags[key])
                    book.gone.add(key)
                case 2:
                    book.leaving.add(key)
                    reader.ask(f"UID STORE {number} +FLAGS.SILENT (\\Deleted)")
                    reader.ask(f"UID EXPUNGE {number}")
                    book.gone.add(key)


def check(path: Path, book: Book, spool: Path) -> None:
    """Compares what is there with what readers were told."""
    reader = Reader(path)
    for folder in ("INBOX", "Archive"):
        assert f"UIDVALIDITY {book.validity[folder]}]" in reader.ask(f"EXAMINE {folder}")
        answer = reader.ask("UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        there = {
            int(number): (set(flags.split()), subject)
            for number, flags, subject in re.findall(r"UID (\d+) FLAGS \(([^)]*)\).*\r\nSubject: (\S+)\r\n", answer)
        }
        assert len(there) == answer.count(" FETCH (")
        where = spool / ME / ("" if folder == "INBOX" else folder)
        assert {f"{number}.status" for number in there} <= {p.name for p in where.glob("*.status")}
        for (name, number), subject in book.given.items():
            if name != folder:
                continue
            if (name, number) in book.gone:
                assert number not in there, f"{folder} {number} was expunged and is back"
            elif (name, number) not in book.leaving:
                assert number in there, f"{folder} {number} is lost"
            if number in there:
                flags, now = there[number]
                assert now == subject
                asked = book.flags[name, number]
                assert {flag for flag in asked if not flag.startswith("no ")} <= flags, f"flags of {folder} {number}"
                assert "no \\Seen" not in asked or "\\Seen" not in flags, f"{folder} {number} is seen again"
        assert max(there, default=0) < int(found(r"UIDNEXT (\d+)", reader.ask(f"STATUS {folder} (UIDNEXT)"))[0])
    reader.close()


@contextlib.contextmanager
def readers(path: Path, book: Book, round_: int) -> Iterator[None]:
    threads = [
        threading.Thread(target=read, args=(path, f"{round_}-{n}", book, random.Random(SEED + n)))
        for n in range(READERS)
    ]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not book.wrong


def go_on(servers: Servers, spool: Path, path: Path, book: Book, round_: int) -> Server:
    """A new server: what was told is so; then readers are at work until the caller ends it."""
    server = servers.start("--imap-socket", str(path), "--log-level", "info", spool=spool)
    if book.validity:
        check(path, book, spool)
    print(f"round {round_}: {len(book.given)} numbers given, {len(book.gone)} messages expunged or moved")
    return server


def work(server: Server, path: Path, book: Book, round_: int, rng: random.Random, end: object) -> None:
    before = len(book.given)
    with readers(path, book, round_):
        wait_until(lambda: len(book.given) >= before + 20 and "Archive" in book.validity, 120)
        time.sleep(rng.uniform(0, 1))
        assert callable(end)
        end()
        server.kill()


def test_kill(servers: Servers, tmp_path: Path) -> None:
    """SIGKILL under several readers."""
    rng, book, path = random.Random(SEED), Book(), tmp_path / "imap.sock"
    print(f"seed {SEED}")
    spool = tmp_path / "spool"
    spool.mkdir()
    for round_ in range(CUTS + 1):
        server = go_on(servers, spool, path, book, round_)
        work(server, path, book, round_, rng, lambda: None)
    go_on(servers, spool, path, book, CUTS + 1)


def test_power_cut(disk: Disk, servers: Servers, tmp_path: Path) -> None:  # noqa: F811
    """The disk takes nothing more from one moment to the next."""
    rng, book, path = random.Random(SEED), Book(), tmp_path / "imap.sock"
    print(f"seed {SEED}")
    spool = disk.root / "spool"
    spool.mkdir()
    os.sync()
    for round_ in range(CUTS):
        server = go_on(servers, spool, path, book, round_)
        work(server, path, book, round_, rng, disk.cut)
        disk.unmount()
        disk.mount()
    server = go_on(servers, spool, path, book, CUTS)
    assert server.stop() == 0


@pytest.mark.parametrize("known", ["", "flagged: 2\nlast: 2\nunseen: 1-2\n"])
def test_the_last_word_before_a_power_cut(disk: Disk, servers: Servers, tmp_path: Path, known: str) -> None:  # noqa: F811
    """Nothing that is written afterwards makes the sequences of MH readers durable by chance."""
    spool, path = disk.root / "spool", tmp_path / "imap.sock"
    spool.mkdir()
    os.sync()
    server = servers.start("--imap-socket", str(path), spool=spool)
    reader = Reader(path)
    reader.ask("SELECT INBOX")
    for _ in range(2):
        reader.ask("APPEND INBOX (\\Seen) {17+}\r\nSubject: x\r\n\r\nx\r\n")
    reader.ask("UID STORE 2 +FLAGS (\\Flagged)")
    reader.ask("UID STORE 2 -FLAGS (\\Seen)")
    if known:
        (spool / ME / ".sequences.known").write_text(known)
    os.sync()
    reader.ask("UID STORE 1 -FLAGS (\\Seen)")
    disk.cut()
    server.kill()
    reader.close()
    disk.unmount()
    disk.mount()
    long_ago = time.time() - 60
    os.utime(spool / ME / ".mh_sequences", (long_ago, long_ago))
    servers.start("--imap-socket", str(path), spool=spool)
    reader = Reader(path)
    reader.ask("SELECT INBOX")
    assert found(r"FLAGS \(([^)]*)\)", reader.ask("UID FETCH 1 (FLAGS)")) == ("",)
    reader.close()
