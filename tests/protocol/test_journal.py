"""The journal, seen from outside: what a start makes of it, what a stop leaves of it, how a command empties it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from support.server import Servers, clean_environment, program
from support.spool import deliver, locked_by_another_process, visible, with_journal, with_status

from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.spool.commit import commit
from smtpmail.spool.durability import has_records
from smtpmail.spool.journals import FOLDER, live_generations
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueStore

ID = "0660f49b352707d03dc"


def lose_power(folder: Path) -> dict[str, bytes]:
    """A spool that has taken messages and lost what the journal brings back; returns what must be there again."""
    (folder / ".queue").mkdir(parents=True)
    spool, queue = Spool(str(folder)), QueueStore(str(folder / ".queue"))
    with_journal(spool, queue)
    deliver(spool, "bob", "carol")
    deliver(spool, "bob")
    content = queue.content()
    content.write(b"Subject: x\n\nx\n")
    commit([queue.prepare(content, Item(ID, time.time(), "a@dom.fr", [QueuedRecipient("b@example.net")]), b"")])
    promised = [*folder.glob("[a-z]*/[0-9]*"), folder / ".queue" / ID]
    contents = {str(path): path.read_bytes() for path in promised}
    (folder / "bob/1").unlink()
    (folder / "bob/2").write_bytes(b"")
    (folder / "carol/1.status").unlink()
    (folder / ".queue" / ID).unlink()
    return contents


def all_there(contents: dict[str, bytes]) -> bool:
    return all(Path(path).read_bytes() == content for path, content in contents.items())


def checkpoint(spool: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program(), "checkpoint", "--spool", str(spool), "-s", "dom.fr", "-H", "mail.dom.fr"],
        env=clean_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_replayed_before_anybody_is_served(servers: Servers, tmp_path: Path) -> None:
    """Who connects meanwhile waits for the greeting, and finds everything there."""
    contents = lose_power(tmp_path / "spool")
    journal = str(tmp_path / "spool/.queue" / FOLDER)
    before = live_generations(journal)
    assert before
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with locked_by_another_process(tmp_path / "spool/bob/.lock"):
        server = servers.launch(
            "--smarthost", "127.0.0.1:9", addresses=["--loopback", f"127.0.0.1:{port}", "--no-network"]
        )  # fmt: skip
        client = connect(port)
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(4)
    with client:
        client.settimeout(60)
        assert client.recv(4) == b"220 "
        assert all_there(contents)
        # The journal may tell something new already: the first attempt to deliver what was queued.
        assert not before & live_generations(journal)
    server.wait_event("journal.replayed", records=4, files=4, kept=0)


def connect(port: int) -> socket.socket:
    """As soon as somebody listens."""
    give_up = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            assert time.monotonic() < give_up
            time.sleep(0.02)


def test_a_stop_leaves_it_empty(servers: Servers, tmp_path: Path) -> None:
    server = servers.start("--smarthost", "127.0.0.1:9")
    with server.client() as client:
        client.begin("bob@dom.fr", "alice@example.net")
        assert client.data(b"Subject: x\r\n\r\nx\r\n").code == 250
    assert server.stop() == 0
    assert not has_records(str(tmp_path / "spool/.queue"))
    assert visible(tmp_path / "spool/bob") == with_status([1])
    again = servers.start("--smarthost", "127.0.0.1:9")
    assert not again.events_named("journal.replayed")


def test_the_command_empties_the_journal_of_a_running_server(servers: Servers, tmp_path: Path) -> None:
    """What was accepted before is in files on disk; mail goes on."""
    server = servers.start()
    with server.client() as client:
        client.ehlo()
        for _ in range(5):
            assert client.deliver().code == 250
        done = checkpoint(tmp_path / "spool")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not has_records(str(tmp_path / "spool/.queue"))
        assert client.deliver().code == 250


def test_the_command_after_a_crash(tmp_path: Path) -> None:
    """Nobody has started the server again yet, and a backup is due."""
    contents = lose_power(tmp_path / "spool")
    done = checkpoint(tmp_path / "spool")
    assert done.returncode == 0, done.stderr
    assert all_there(contents)
    assert not has_records(str(tmp_path / "spool/.queue"))
    assert os.listdir(tmp_path / "spool/.queue/.journal")


def test_the_command_without_a_spool(tmp_path: Path) -> None:
    done = checkpoint(tmp_path / "nothing")
    assert done.returncode == 2 and str(tmp_path / "nothing") in done.stderr
    assert not (tmp_path / "nothing").exists()
