"""Started by root, the server opens its ports and becomes somebody else; commands of root leave nothing of root."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support import require
from support.server import NO_RESOLVER, Server, Servers, clean_environment, wait_until
from test_starting import assert_one_line, run

import smtpmail

NOBODY = 65534


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that other accounts can read: that of the tests may lie in root's home."""
    require.root()
    paths = [str(Path(smtpmail.__file__).parents[1]), str(Path(click.__file__).parents[1])]
    for python in (sys.executable, "/usr/bin/python3"):
        ran = subprocess.run(
            [python, "-c", f"import os; os.setuid({NOBODY}); open(os.__file__); import click, smtpmail.server"],
            env=clean_environment({"PYTHONPATH": ":".join(paths)}), cwd="/", capture_output=True, check=False,
        )  # fmt: skip
        if ran.returncode == 0:
            monkeypatch.setenv("PYTHONPATH", ":".join(paths))
            monkeypatch.setattr(sys, "executable", python)
            return
    require.missing("a Python that other accounts can read, and the packages of the program beside it")


@pytest.fixture
def spool(open_folder: Path) -> Path:
    """A folder that root owns, for now."""
    (open_folder / "spool").mkdir()
    return open_folder / "spool"


def uids(server: Server) -> set[str]:
    """The real, effective, saved and file system user of each process, and its groups."""
    return {
        line
        for pid in server.processes()
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("Uid:", "CapEff:", "CapPrm:"))
    }


@pytest.mark.parametrize("by", ["owner", "--user"])
def test_it_becomes_the_owner_of_the_spool_or_the_account_named(servers: Servers, spool: Path, by: str) -> None:
    os.chown(spool, NOBODY, NOBODY)
    options = ["--user", pwd.getpwuid(NOBODY).pw_name] if by == "--user" else []
    server = servers.start(*options, "--processes", "2", spool=spool)
    assert uids(server) == {"Uid:\t" + "\t".join([str(NOBODY)] * 4), "CapEff:\t" + "0" * 16, "CapPrm:\t" + "0" * 16}
    with server.client() as client:
        client.ehlo()
        assert client.deliver(b"Subject: x\r\n\r\nx\r\n", "bob@dom.fr").code == 250
        assert client.deliver(b"Subject: x\r\n\r\nx\r\n", "bob@elsewhere.test").code == 250
    server.wait_event("message.stored", user="bob")
    assert not server.events_named("server.runs_as_root")
    assert {path.stat().st_uid for path in spool.rglob("*")} == {NOBODY}
    assert server.stop() == 0


def test_otherwise_it_says_loudly_that_it_is_root(servers: Servers, spool: Path) -> None:
    assert servers.start(spool=spool).wait_event("server.runs_as_root")["level"] == "warning"


def test_what_the_account_may_not_do_is_found_before_a_port_is_open(spool: Path, open_folder: Path) -> None:
    name = pwd.getpwuid(NOBODY).pw_name
    options = ["--spool", str(spool), "--port", "0", *NO_RESOLVER]
    assert_one_line(run(*options, "--user", name), "--spool", str(spool), "not writable")
    assert_one_line(run(*options, "--user", "no-such-account"), "--user", "no-such-account")
    os.chown(spool, NOBODY, NOBODY)
    key = open_folder / "key.pem"
    key.touch(0o600)
    assert_one_line(run(*options, "--tls-cert", str(key)), "--tls-cert", "Permission denied")


def test_a_link_in_place_of_the_queue_makes_nothing_elsewhere(spool: Path, open_folder: Path) -> None:
    """Planted by the owner of the spool: root would follow it."""
    (spool / ".queue").symlink_to(open_folder / "made by root")
    os.chown(spool, NOBODY, NOBODY)
    assert_one_line(run("--spool", str(spool), "--port", "0", *NO_RESOLVER), "--queue")
    assert not (open_folder / "made by root").exists()


def test_commands_of_root_leave_nothing_that_the_server_cannot_read(servers: Servers, spool: Path) -> None:
    """Held, released and returned by root; the server reads it all, and mailboxes stay the account's."""
    os.chown(spool, NOBODY, NOBODY)
    server = servers.start("--smarthost", "127.0.0.1:1", "--retry-schedule", "1h", spool=spool)
    ids = []
    for _ in range(2):
        with server.client() as client:
            client.begin("bob@one.test", sender="alice@dom.fr")
            ids.append(client.data(b"Subject: x\r\n\r\nx\r\n").text.split()[-1])
    for id_ in ids:
        server.wait_event("delivery.deferred", id=id_)

    def queue(*words: str) -> None:
        options = ["--spool", str(spool), "-s", "dom.fr", "-H", "mail.dom.fr", *NO_RESOLVER]
        ran = run(*options, "queue", *words)
        assert (ran.returncode, ran.stderr) == (0, ""), ran

    queue("hold", *ids)
    server.wait_event("queue.changed", id=ids[0], change="held")
    queue("release", ids[0])
    server.wait_event("delivery.deferred", id=ids[0], attempt=2)
    queue("remove", ids[1], "--bounce")
    wait_until(lambda: server.messages("alice"))
    assert {path.lstat().st_uid for path in spool.rglob("*")} == {NOBODY}
    assert {path.lstat().st_mode & 0o077 for path in spool.rglob("*") if not path.is_socket()} == {0}
    assert server.stop() == 0
    queue("hold", "--all")
    assert {path.lstat().st_uid for path in spool.rglob("*")} == {NOBODY}
