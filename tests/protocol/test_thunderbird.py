"""Thunderbird as a person uses it: reads by port 993, flags, moves, deletes, sends by port 465; looked at on disk."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import thunderbird
from support.server import Server, Servers, clean_environment, program, split_address, wait_until
from support.spool import deliver
from support.thunderbird import TOOLS, Thunderbird, account, keep_password, send, subjects
from support.tls import Certificate

from smtpmail.spool.mailbox import Spool

TRUST_ALL = """
Cc["@mozilla.org/security/certoverride;1"].getService(Ci.nsICertOverrideService)
  .setDisableAllSecurityChecksAndLetAttackersInterceptMyData(true);
"""
"""As if the person had confirmed that they trust the certificate."""

ME = pwd.getpwuid(os.getuid()).pw_name

SUBJECTS = ("Welcome to dom.fr", "Minutes of Tuesday", "Tickets", "Buy now!", "Grüße aus Köln")


@pytest.fixture
def server(servers: Servers, tmp_path: Path, certificate: Certificate) -> Server:
    (tmp_path / "users").write_text("bob\nanna\n")
    return servers.start(
        *certificate.options, "--imap-listen", "127.0.0.1:0", "--submission-listen", "127.0.0.1:0",
        "--devices", str(tmp_path / "devices"), "--users", str(tmp_path / "users"),
    )  # fmt: skip


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[Thunderbird]:
    add = [*program(), "device", "add", "bob", "desk", "--devices", str(tmp_path / "devices"), "-s", "dom.fr"]
    shown = subprocess.run(add, check=True, capture_output=True, text=True, env=clean_environment()).stdout
    found = re.search(r"^Password: +(\S+)$", shown, re.MULTILINE)
    assert found is not None
    fill(server, "bob")
    started = server.wait_event("server.started")
    ports = split_address(started["imap"][0])[1], split_address(started["submission"][0])[1]
    home = tmp_path / "thunderbird"
    home.mkdir()
    with thunderbird.started(home, account("bob", "127.0.0.1", *ports)) as client:
        client.run(TRUST_ALL)
        keep_password(client, "127.0.0.1", "bob", found[1])
        yield client


def fill(server: Server, user: str) -> None:
    """Some messages."""
    for n, subject in enumerate(SUBJECTS, 1):
        deliver(
            Spool(str(server.spool)), user,
            content=(
                f"From: Anna <anna@dom.fr>\nTo: bob@dom.fr\nSubject: {subject}\nMessage-ID: <{n}@dom.fr>\n"
                f"Date: Wed, 25 Nov 2026 1{n}:00:00 +0000\nMIME-Version: 1.0\n"
                "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
                f"Dear Bob,\n\nthis is about: {subject}.\n\nAnna\n"
            ).encode(),
        )  # fmt: skip


def state(path: Path) -> set[str]:
    return set(path.with_name(f"{path.name}.status").read_text().split())


def test_reading_and_sending(server: Server, client: Thunderbird, tmp_path: Path) -> None:
    bob = server.spool / "bob"
    client.run(TOOLS + "server.performExpand(window3.msgWindow); await update(inbox());")
    wait_until(lambda: subjects(client) == sorted(SUBJECTS))
    folders = client.run(TOOLS + "return server.rootFolder.descendants.map(f => f.name).sort();")
    assert isinstance(folders, list)
    assert {"Archive", "Drafts", "Junk", "Sent", "Trash"} <= set(folders)

    # The person opens a message: it is shown, and seen.
    client.run(
        TOOLS
        + """
        const about = window3.document.getElementById("tabmail").currentAbout3Pane;
        about.displayFolder(inbox());
        await new Promise(r => window3.setTimeout(r, 1500));
        about.threadTree.selectedIndex = about.gDBView.findIndexOfMsgHdr(message(inbox(), "Minutes of Tuesday"), true);
        """
    )
    wait_until(lambda: "\\Seen" in state(bob / "2"))
    picture = os.environ.get("SMTPMAIL_SCREENSHOTS")
    client.run("await new Promise(r => Services.wm.getMostRecentWindow('mail:3pane').setTimeout(r, 1500));")
    client.screenshot(tmp_path / "reading.png")
    if picture:
        client.screenshot(Path(picture) / "imap.png")
    assert (tmp_path / "reading.png").read_bytes().startswith(b"\x89PNG")

    # Flagged, moved, deleted.
    client.run(TOOLS + "inbox().markMessagesFlagged([message(inbox(), 'Grüße aus Köln')], true);")
    wait_until(lambda: "\\Flagged" in state(bob / "5"))
    client.run(
        TOOLS
        + """
        await copied(l => MailServices.copy.copyMessages(
          inbox(), [message(inbox(), "Tickets")], named("Archive"), true, l, window3.msgWindow, false));
        await copied(l => inbox().deleteMessages(
          [message(inbox(), "Buy now!")], window3.msgWindow, false, true, l, false));
        """
    )
    wait_until(lambda: not (bob / "3").exists() and not (bob / "4").exists())
    assert b"Subject: Tickets\n" in (bob / "Archive/1").read_bytes()
    assert b"Subject: Buy now!\n" in (bob / "Trash/1").read_bytes()

    # New mail while it looks on.
    deliver(Spool(str(server.spool)), "bob", content=b"From: anna@dom.fr\nSubject: just now\n\nx\n")
    wait_until(lambda: "just now" in subjects(client))

    # Sent to a user and to the world, with a copy in Sent.
    send(client, "anna@dom.fr, alice@example.org", "From my desk", "Dear Anna,\n\nit works.\n")
    wait_until(lambda: (server.spool / "anna/1").exists() and (bob / "Sent/1").exists())
    received = server.wait_event("message.received", recipients=["anna@dom.fr", "alice@example.org"])
    assert received["sender"] == "bob@dom.fr"
    assert " with ESMTPSA " in (server.spool / "anna/1").read_text()
    assert b"Subject: From my desk\n" in (bob / "Sent/1").read_bytes()
    assert "\\Seen" in state(bob / "Sent/1")
    assert server.wait_event("message.queued")["recipients"] == ["alice@example.org"]
    assert not server.events_named("login.failed")
    assert not server.events_named("imap.error")


class Tunnel(threading.Thread):
    """`ssh -L PORT:SOCKET`: a port of one's own that leads to the server's socket, as the account that runs it."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = str(path)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def run(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._path)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def test_through_a_tunnel_without_a_password(servers: Servers, tmp_path: Path) -> None:
    """Nothing is asked for: the kernel has told who it is."""
    server = servers.start("--imap-socket", str(tmp_path / "imap.sock"))
    fill(server, ME)
    tunnel = Tunnel(tmp_path / "imap.sock")
    tunnel.start()
    home = tmp_path / "thunderbird"
    home.mkdir()
    with thunderbird.started(home, account(ME, "127.0.0.1", tunnel.port)) as client:
        client.run(TOOLS + "server.performExpand(window3.msgWindow); await update(inbox());")
        wait_until(lambda: subjects(client) == sorted(SUBJECTS))
        client.run(TOOLS + "inbox().markMessagesRead([message(inbox(), 'Tickets')], true);")
        wait_until(lambda: "\\Seen" in state(server.spool / ME / "3"))
    assert not server.events_named("login.failed")
