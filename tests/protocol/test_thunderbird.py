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
from support.thunderbird import Pref, Thunderbird
from support.tls import Certificate

from smtpmail.spool.mailbox import Spool

TOOLS = """
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const window3 = Services.wm.getMostRecentWindow("mail:3pane");
const server = MailServices.accounts.accounts[0].incomingServer;
const named = name => server.rootFolder.descendants.find(f => f.name.toLowerCase() == name.toLowerCase());
const inbox = () => named("Inbox");
const update = folder => new Promise((resolve, reject) => {
  folder.QueryInterface(Ci.nsIMsgImapMailFolder).updateFolderWithListener(window3.msgWindow, {
    OnStartRunningUrl() {}, OnStopRunningUrl(_, status) { status ? reject("update: " + status) : resolve(); } });
});
const messages = folder => [...folder.messages];
const message = (folder, subject) => {
  const found = messages(folder).find(m => m.mime2DecodedSubject == subject);
  if (!found) throw new Error("no " + subject + " in " + messages(folder).map(m => m.mime2DecodedSubject));
  return found;
};
const copied = start => new Promise((resolve, reject) => start({
  QueryInterface: ChromeUtils.generateQI(["nsIMsgCopyServiceListener"]),
  onStartCopy() {}, onProgress() {}, setMessageKey() {}, getMessageId() { return null; },
  onStopCopy(status) { status ? reject("copy: " + status) : resolve(); } }));
"""

ME = pwd.getpwuid(os.getuid()).pw_name

SUBJECTS = ("Welcome to dom.fr", "Minutes of Tuesday", "Tickets", "Buy now!", "Grüße aus Köln")


def prefs(imap: int, submission: int, *, user: str = "bob", tls: bool = True) -> dict[str, Pref]:
    """One account, as the dialogue for a new account sets it up."""
    return {
        "mail.accountmanager.accounts": "account1",
        "mail.accountmanager.defaultaccount": "account1",
        "mail.account.account1.identities": "id1",
        "mail.account.account1.server": "server1",
        "mail.server.server1.type": "imap",
        "mail.server.server1.name": f"{user}@dom.fr",
        "mail.server.server1.hostname": "127.0.0.1",
        "mail.server.server1.port": imap,
        "mail.server.server1.userName": user,
        "mail.server.server1.socketType": 3 if tls else 0,
        "mail.server.server1.authMethod": 3,
        "mail.server.server1.login_at_startup": False,
        "mail.identity.id1.fullName": "Bob",
        "mail.identity.id1.useremail": f"{user}@dom.fr",
        "mail.identity.id1.smtpServer": "smtp1",
        "mail.identity.id1.fcc": True,
        "mail.identity.id1.fcc_folder": f"imap://{user}@127.0.0.1/Sent",
        "mail.identity.id1.valid": True,
        "mail.smtpservers": "smtp1",
        "mail.smtp.defaultserver": "smtp1",
        "mail.smtpserver.smtp1.hostname": "127.0.0.1",
        "mail.smtpserver.smtp1.port": submission,
        "mail.smtpserver.smtp1.authMethod": 3,
        "mail.smtpserver.smtp1.try_ssl": 3,
        "mail.smtpserver.smtp1.username": user,
    }


def set_up(client: Thunderbird, password: str) -> None:
    """As if the person had typed the password and ticked the box, and confirmed that they trust the certificate."""
    client.run(
        """
        Cc["@mozilla.org/security/certoverride;1"].getService(Ci.nsICertOverrideService)
          .setDisableAllSecurityChecksAndLetAttackersInterceptMyData(true);
        for (const origin of ["imap://127.0.0.1", "smtp://127.0.0.1"]) {
          const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
          login.init(origin, null, origin, "bob", given[0], "", "");
          await Services.logins.addLoginAsync(login);
        }
        """,
        password,
    )


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
    with thunderbird.started(home, prefs(*ports)) as client:
        set_up(client, found[1])
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


def subjects(client: Thunderbird) -> list[str]:
    """Of what it has in INBOX."""
    found = client.run(TOOLS + "return messages(inbox()).map(m => m.mime2DecodedSubject).sort();")
    assert isinstance(found, list)
    return found


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
    client.run(
        TOOLS
        + """
        const fields = Cc["@mozilla.org/messengercompose/composefields;1"].createInstance(Ci.nsIMsgCompFields);
        fields.to = "anna@dom.fr, alice@example.org";
        fields.subject = "From my desk";
        fields.body = "Dear Anna,\\n\\nit works.\\n";
        const params = Cc["@mozilla.org/messengercompose/composeparams;1"].createInstance(Ci.nsIMsgComposeParams);
        params.composeFields = fields;
        params.format = Ci.nsIMsgCompFormat.PlainText;
        params.identity = MailServices.accounts.accounts[0].defaultIdentity;
        MailServices.compose.OpenComposeWindowWithParams(null, params);
        let compose;
        for (let n = 0; n < 200 && !(compose?.gMsgCompose && compose.document.readyState == "complete"); n++) {
          await new Promise(r => window3.setTimeout(r, 100));
          compose = Services.wm.getMostRecentWindow("msgcompose");
        }
        await new Promise(r => window3.setTimeout(r, 2000));
        compose.goDoCommand("cmd_sendNow");
        """
    )
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
    with thunderbird.started(home, prefs(tunnel.port, 9, user=ME, tls=False)) as client:
        client.run(TOOLS + "server.performExpand(window3.msgWindow); await update(inbox());")
        wait_until(lambda: subjects(client) == sorted(SUBJECTS))
        client.run(TOOLS + "inbox().markMessagesRead([message(inbox(), 'Tickets')], true);")
        wait_until(lambda: "\\Seen" in state(server.spool / ME / "3"))
    assert not server.events_named("login.failed")
