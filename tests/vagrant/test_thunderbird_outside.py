"""Thunderbird on this computer, its mail on `mail`: through ssh without a password, or with that of a device.

Environment: SMTPMAIL_SSH_CONFIG names the output of `vagrant ssh-config`.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import thunderbird
from support.thunderbird import TOOLS, Thunderbird, account, keep_password, send, subjects
from test_power_cut import ALICE, BOB, MAIL, REMOTE, STEP, accepts, eventually

HOST = "127.0.0.1"
"""Where the tunnel begins."""

TRUST_ALL = """
Cc["@mozilla.org/security/certoverride;1"].getService(Ci.nsICertOverrideService)
  .setDisableAllSecurityChecksAndLetAttackersInterceptMyData(true);
"""
"""As if the person had confirmed that they trust the certificate."""


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    """Where ssh, as bob, leads to on `mail`: the socket, the ports for reading and for sending."""
    MAIL.run("install -D -o bob -m 600 /home/vagrant/.ssh/authorized_keys /home/bob/.ssh/authorized_keys")
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    forwards = []
    for port, end in zip(ports, ("/run/smtpmail/imap.sock", "localhost:993", "localhost:465"), strict=True):
        forwards += ["-L", f"127.0.0.1:{port}:{end}"]
    ssh = subprocess.Popen([*MAIL.ssh, "-l", "bob", "-N", "-o", "ExitOnForwardFailure=yes", *forwards, MAIL.name])
    try:
        eventually(lambda: all(accepts(port) for port in ports), STEP, "ssh did not open the tunnel")
        yield ports
    finally:
        ssh.kill()
        ssh.wait()


@pytest.fixture
def device() -> Iterator[str]:
    """The password of a device of bob's."""
    name = f"desk-{uuid.uuid4().hex[:8]}"
    shown = MAIL.run(f"smtpmail device add bob {name}")
    found = re.search(r"^Password: +(\S+)$", shown, re.MULTILINE)
    assert found is not None, shown
    yield found[1]
    MAIL.run(f"smtpmail device remove bob {name}")


@pytest.fixture
def subject() -> str:
    """Of a message that bob has got from alice."""
    subject = f"outside-{uuid.uuid4().hex}"
    REMOTE.run("runuser -u alice -- /usr/sbin/sendmail bob@dom.fr", f"Subject: {subject}\n\nHello\n")
    eventually(lambda: bool(file_of(subject)), STEP, "the message did not arrive")
    return subject


def file_of(subject: str, folder: str = BOB) -> str:
    """The file in bob's mailbox with this message, if there is one."""
    return MAIL.run(f"sh -c 'grep -lx \"Subject: {subject}\" {folder}/[1-9]* || true'").strip()


def has(path: str, flag: str) -> bool:
    return flag in MAIL.run(f"cat {path}.status").split()


def mutt_finds(pattern: str) -> bool:
    """Whether mutt, which opens the same folder, finds a message with this pattern (`~F`: flagged, `~U`: unread)."""
    keys = f"<tag-pattern>{pattern}<enter><tag-prefix-cond><pipe-message>touch /home/bob/found<enter><end-cond><quit>"
    settings = "set folder=/home/bob quit=yes wait_key=no"
    mutt = f"stty rows 24 cols 80; mutt -n -R -f {BOB} -e '{settings}' -e 'push \"{keys}\"'"
    MAIL.run("rm -f /home/bob/found")
    MAIL.run(f"runuser -u bob -- env TERM=xterm HOME=/home/bob script --quiet --command {shlex.quote(mutt)} /dev/null")
    return MAIL.run("find /home/bob -name found") != ""


def reads(client: Thunderbird, subject: str) -> None:
    """It has the message in its list."""

    def shown() -> bool:
        client.run(TOOLS + "await update(inbox());")
        return subject in subjects(client)

    client.run(TOOLS + "server.performExpand(window3.msgWindow);")
    eventually(lambda: bool(client.run(TOOLS + "return Boolean(inbox());")), STEP, "no inbox")
    eventually(shown, STEP, "the message is not in the list")


def test_reads_through_ssh_without_a_password(ports: list[int], subject: str, tmp_path: Path) -> None:
    with thunderbird.started(tmp_path, account("bob", HOST, ports[0])) as client:
        reads(client, subject)
        client.run(TOOLS + "inbox().markMessagesFlagged([message(inbox(), given[0])], true);", subject)
        path = file_of(subject)
        eventually(lambda: has(path, "\\Flagged"), STEP, "the flag is not on the disk")
    assert mutt_finds(f"~F ~s {subject}")


def test_reads_and_sends_to_the_world_with_the_password_of_a_device(
    ports: list[int], device: str, subject: str, tmp_path: Path
) -> None:
    with thunderbird.started(tmp_path, account("bob", HOST, *ports[1:])) as client:
        client.run(TRUST_ALL)
        keep_password(client, HOST, "bob", device)
        reads(client, subject)
        client.run(TOOLS + "inbox().markMessagesRead([message(inbox(), given[0])], true);", subject)
        path = file_of(subject)
        eventually(lambda: has(path, "\\Seen"), STEP, "the mark is not on the disk")
        assert mutt_finds(f"!~U ~s {subject}")

        sent = f"from-{subject}"
        send(client, "alice@example.net", sent, "Dear Alice,\n\nit works.\n")
        eventually(
            lambda: bool(REMOTE.run(f"sh -c 'grep -rlx \"Subject: {sent}\" {ALICE} || true'")),
            STEP, "the message did not reach the world",
        )  # fmt: skip
        eventually(lambda: bool(file_of(sent, f"{BOB}/Sent")), STEP, "no copy in Sent")
