"""Power cuts in seconds: the file system is told to stop without writing anything more, and mounted anew.

EXT4_IOC_SHUTDOWN without flushing the log is what xfstests' `godown -f` does: from then on nothing reaches the disk;
what had reached it is there after the next mount, and nothing else. Needs root and a loop device.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import require
from support.faultserver import FaultServer
from support.server import Servers, clean_environment, program, wait_until
from support.spool import token_of_whole

from tests.crash.load import LOCAL, REMOTE, TOKEN, Book, Checker, Load, arrived, body, check_sink, options

CUTS = int(os.environ.get("SMTPMAIL_CUTS", "2"))
SEED = int(os.environ.get("SMTPMAIL_SEED", str(random.SystemRandom().randrange(10**6))))

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

# What a server does that leaves the syncs out, in the words of Python's own start-up file.
CARELESS = """
import ctypes, os
os.fsync = os.fdatasync = lambda fd: None
class Libc:
    def __getattr__(self, name):
        return (lambda *_: 0) if name in ("syncfs", "sync_file_range") else getattr(real, name)
real, ctypes.CDLL = ctypes.CDLL(None, use_errno=True), lambda *_, **__: Libc()
"""


class Disk:
    """A small disk of its own whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._image = folder / "image"
        self._device = ""
        self.root.mkdir()
        with open(self._image, "wb") as file:
            file.truncate(1 << 30)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))

    def mount(self) -> None:
        self._device = run("losetup", "--find", "--show", "--direct-io=on", str(self._image)).strip()
        run("mount", self._device, str(self.root))

    def cut(self) -> None:
        """From now on nothing reaches it."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        if self._device:
            wait_until(lambda: not subprocess.run(["umount", self.root], capture_output=True, check=False).returncode)
            run("losetup", "--detach", self._device)
            self._device = ""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    require.root()
    for name in ("mkfs.ext4", "losetup", "mount", "umount"):
        require.tool(name)
    if not Path("/dev/loop-control").exists():
        require.missing("loop devices")
    made = Disk(tmp_path)
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


@pytest.mark.parametrize("journal", ["16M", "1M", "0"])
def test_power_cuts(disk: Disk, servers: Servers, journal: str) -> None:
    """Accepted is there again, under its number, whole, once; also after a cut in the middle of the replay."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    book, spool = Book(), disk.root / "spool"
    spool.mkdir()
    os.sync()
    checker = Checker(spool, book)
    replayed = 0
    with FaultServer() as sink:
        for round_ in range(CUTS):
            server = servers.start("--journal-size", journal, *options(sink), spool=spool)
            replayed += sum(event["files"] for event in server.events_named("journal.replayed"))
            load = Load(server, book, round_)
            wait_until(lambda: load.accepted >= 20, 60)  # noqa: B023
            time.sleep(rng.choice([rng.uniform(0, 1), rng.uniform(4, 7)]))
            checker.check(restarted=False)
            disk.cut()
            server.kill()
            load.join()
            disk.unmount()
            disk.mount()
            if rng.random() < 0.5:
                other = servers.launch("--journal-size", journal, *options(sink), spool=spool)
                time.sleep(rng.uniform(0.2, 0.8))
                disk.cut()
                other.process.kill()
                other.process.wait()
                disk.unmount()
                disk.mount()
        server = servers.start("--journal-size", journal, *options(sink), spool=spool)
        replayed += sum(event["files"] for event in server.events_named("journal.replayed"))
        checker.forget()
        wait_until(lambda: not [n for n in os.listdir(spool / ".queue") if not n.startswith(".")], 120)
        assert server.stop() == 0
        surplus = check_sink(sink, book, 40 * CUTS)
    # Else these were no power cuts: what was never synced is lost, and comes from the journal.
    assert journal == "0" or replayed > 0
    print(f"{CUTS} cuts, journal {journal}: {book.count()} accepted, {replayed} files made anew, {surplus} sent again")


def test_nothing_is_lost_without_the_journal_after_a_checkpoint(disk: Disk, servers: Servers) -> None:
    """A copy of the disk that leaves the journal out lacks at most what came after `smtpmail checkpoint`."""
    spool = disk.root / "spool"
    spool.mkdir()
    os.sync()
    tokens = [f"0.0.{n}" for n in range(30)]
    with FaultServer() as sink:
        closed = ["--smarthost", "127.0.0.1:9", "--retry-schedule", "1s", "--journal-size", "16M"]
        server = servers.start(*closed, spool=spool)
        with server.client() as client:
            client.ehlo()
            for token in tokens:
                client.transaction("bob@dom.fr", REMOTE)
                content = f"Message-ID: <{token}>\r\nSubject: x\r\n\r\n".encode() + body(token) + b"\r\n"
                assert client.data(content).code == 250
        command = [*program(), "checkpoint", "--spool", str(spool), "-s", "dom.fr", "-H", "mail.dom.fr"]
        subprocess.run(command, env=clean_environment(), check=True, timeout=120)
        disk.cut()
        server.kill()
        disk.unmount()
        disk.mount()
        shutil.rmtree(spool / ".queue/.journal")
        server = servers.start("--journal-size", "16M", *options(sink), spool=spool)
        found = [token_of_whole(spool / "bob", number, TOKEN, body) for number in range(1, len(tokens) + 1)]
        assert found == tokens
        wait_until(lambda: arrived(sink).keys() == set(tokens), 120)
        server.kill()


@pytest.mark.parametrize("journal", ["16M", "0"])
def test_the_test_sees_a_sync_left_out(disk: Disk, servers: Servers, tmp_path: Path, journal: str) -> None:
    """The same with a server that syncs nothing: what it has accepted is lost."""
    (tmp_path / "careless").mkdir()
    (tmp_path / "careless/sitecustomize.py").write_text(CARELESS)
    environment = {"PYTHONPATH": f"{tmp_path / 'careless'}:{os.environ.get('PYTHONPATH', '')}"}
    book, spool = Book(), disk.root / "spool"
    spool.mkdir()
    os.sync()
    with FaultServer() as sink:
        server = servers.start("--journal-size", journal, *options(sink), spool=spool, environment=environment)
        load = Load(server, book, 0)
        wait_until(lambda: load.accepted >= 20, 60)
        disk.cut()
        server.kill()
        load.join()
        disk.unmount()
        disk.mount()
        server = servers.start("--journal-size", journal, *options(sink), spool=spool)
        checker = Checker(spool, book)
        with pytest.raises(AssertionError, match=r"lost|gone"):
            checker.check()
            assert any((spool / user).exists() for user in LOCAL), "lost"
        server.kill()
