"""`smtpmail status` beside the real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.faultserver import FaultServer, say
from support.server import Server, Servers, clean_environment

from smtpmail.admin.status import unseen
from smtpmail.auth.dkim_keys import NEXT, KeyFolder


def run(server: Server, *options: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit status, the rows by name, and the page for people."""
    host, port = server.address()
    arguments = ["--spool", str(server.spool), "-s", "dom.fr", "-H", "mail.dom.fr", "--no-network", *options]
    command = [sys.executable, "-m", "smtpmail", "status", "--loopback", f"{host}:{port}", *arguments]
    made = [
        subprocess.run([*command, *more], capture_output=True, text=True, check=False, env=clean_environment())
        for more in (["--json"], [])
    ]
    rows = {row["name"]: row for row in json.loads(made[0].stdout)["checks"]}
    # The journal and the disks are the machine's.
    ours = [row["level"] for name, row in rows.items() if name not in ("errors", "disk spool", "disk queue")]
    return max(("ok", "warning", "critical").index(level) for level in ours), rows, made[1].stdout


def test_all_is_well(server: Server) -> None:
    with server.client() as client:
        client.ehlo()
        client.deliver(b"Subject: x\r\n\r\nx\r\n", "bob@dom.fr", "x@example.net")
    server.wait_event("delivery.deferred")
    (server.spool / "bob" / ".mh_sequences").write_text("cur: 1\nunseen: 1 3-5\n")
    status, rows, page = run(server)
    assert status == 0
    assert rows["listeners"]["text"] == "1 answer"
    assert rows["queue"]["data"]["messages"] == 1
    assert rows["queue"]["data"]["destinations"].keys() == {"example.net"}
    assert rows["mailboxes"]["data"] == {"mailboxes": 1, "new": {"bob": 4}}
    assert "    1  example.net, the oldest" in page
    assert len(page.splitlines()) < 24


def test_a_server_that_is_down(servers: Servers) -> None:
    server = servers.start()
    server.stop()
    status, rows, page = run(server)
    assert status == 2
    assert "is the server running?" in rows["listeners"]["text"]
    assert "critical  listeners" in page


def test_a_message_that_waits_for_long(server: Server) -> None:
    with server.client() as client:
        client.ehlo()
        client.deliver(b"Subject: x\r\n\r\nx\r\n", "x@example.net")
    server.wait_event("delivery.deferred")
    (path,) = (p for p in (server.spool / ".queue").iterdir() if p.name[0] != "." and not p.suffix)
    envelope, newline, content = path.read_bytes().partition(b"\n")
    changed = json.loads(envelope)
    changed["arrived"] -= 5 * 3600
    path.write_bytes(json.dumps(changed).encode() + newline + content)
    status, rows, _ = run(server)
    assert (status, rows["queue"]["level"]) == (1, "warning")
    assert "the oldest 5 h old" in rows["queue"]["text"]


def test_keys(server: Server, tmp_path: Path) -> None:
    """Those that sign, one that waits for its record, one that nobody can use."""
    folder = KeyFolder(str(tmp_path / "keys"))
    Path(folder.path).mkdir()
    options = ("--dkim-keys", folder.path)
    assert run(server, *options)[1]["dkim"]["level"] == "critical"
    folder.create("dom.fr", "ed25519", "a")
    assert run(server, *options)[1]["dkim"] | {"details": []} == {
        "name": "dkim", "level": "ok", "text": "1 key for signatures", "details": [],
        "data": {"signing": ["dom.fr/a"], "waiting": []},
    }  # fmt: skip
    folder.create("dom.fr", "ed25519", "b", NEXT)
    row = run(server, *options)[1]["dkim"]
    assert (row["level"], row["data"]["waiting"]) == ("warning", ["dom.fr/b"])
    Path(folder.path, "dom.fr", "a.pem").chmod(0o644)
    row = run(server, *options)[1]["dkim"]
    assert row["level"] == "critical"
    assert "chmod 600" in row["details"][0]


def test_a_receiver_that_does_not_believe_us(servers: Servers) -> None:
    """What its code means, and what to do."""
    with FaultServer({"MAIL": [say("450 4.7.26 unauthenticated")] * 9}) as receiver:
        server = servers.start("--smarthost", f"127.0.0.1:{receiver.address[1]}")
        with server.client() as client:
            client.ehlo()
            client.deliver(b"Subject: x\r\n\r\nx\r\n", "x@example.net")
        server.wait_event("delivery.deferred")
        status, rows, page = run(server)
    assert (status, rows["refusals"]["level"]) == (1, "warning")
    (found,) = rows["refusals"]["data"]
    assert "4.7.26" in found["reply"] and "neither SPF nor DKIM" in found["meaning"]
    assert "neither SPF nor DKIM" in page and "smtpmail dns check" in page


@pytest.mark.parametrize(
    ("text", "count"),
    [("unseen: 1 3-5\n", 4), ("cur: 9\n", 0), ("unseen: 5-1 x 7-y - 2\n", 1), ("", 0), ("unseen:" + " 1" * 10, 10)],
)
def test_unseen(tmp_path: Path, text: str, count: int) -> None:
    (tmp_path / ".mh_sequences").write_text(text)
    assert unseen(str(tmp_path)) == count


def test_unseen_of_a_hostile_folder(tmp_path: Path) -> None:
    assert unseen(str(tmp_path)) == 0
    os.mkfifo(tmp_path / ".mh_sequences")
    assert unseen(str(tmp_path)) == 0
