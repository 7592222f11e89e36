"""A person lives on it: Thunderbird through ssh without a password, or with a device's; mutt on the host: all see one
state."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CHECKOUT, HERE, SPOOL, eventually, hosts, install, new_subject, send_from_remote, the_message
from testinfra.host import Host

sys.path.insert(0, str(CHECKOUT / "tests"))

from support.thunderbird import account

HOST = "mail.dom.fr"
TUNNEL_PORT = 1143
PATIENCE = 60.0
SCREENSHOT = CHECKOUT / "artefacts" / "thunderbird-imap.png"


@pytest.fixture(scope="module")
def tunnel(mail: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """`ssh -L 1143:/run/smtpmail/imap.sock bob@mail`, typed on a third host beside them."""
    key = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    mail.check_output("install -d -m 0700 -o bob -g bob /home/bob/.ssh")
    public = key.with_suffix(".pub").read_text().strip()
    mail.check_output("echo %s >/home/bob/.ssh/authorized_keys && chown bob: /home/bob/.ssh/authorized_keys", public)
    process = subprocess.Popen(
        [
            HERE.parent / "hosts", "net", "bridge", "ssh", "-N", "-F", "none", "-i", key, "-o", "BatchMode=yes",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "ExitOnForwardFailure=yes",
            "-L", f"127.0.0.1:{TUNNEL_PORT}:/run/smtpmail/imap.sock", "bob@192.0.2.10",
        ],
        start_new_session=True,
    )  # fmt: skip
    try:
        eventually(lambda: hosts("net", "bridge", "nc", "-z", "127.0.0.1", str(TUNNEL_PORT)).returncode == 0)
        yield TUNNEL_PORT
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        mail.run("rm /home/bob/.ssh/authorized_keys")


@pytest.fixture(scope="module")
def password(mail: Host) -> Iterator[str]:
    """That of bob's desk, of which Thunderbird is told as the command says."""
    shown = mail.check_output("smtpmail device add bob desk")
    assert f"server {HOST}, port 993, SSL/TLS" in shown
    assert f"server {HOST}, port 465, SSL/TLS" in shown
    found = re.search(r"^Password: +(\S+)$", shown, re.MULTILINE)
    assert found is not None
    yield found[1]
    mail.run("smtpmail device remove bob desk")


@contextlib.contextmanager
def thunderbird(**job: object) -> Iterator[dict[str, list[str]]]:
    """One session of a person, who has asked for all and looks on; what they saw at first."""
    script = str(Path(__file__).with_name("person.py"))
    with subprocess.Popen(
        [HERE.parent / "hosts", "net", "bridge", sys.executable, script, json.dumps(job)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        seen = process.stdout.readline()
        assert seen, process.stderr.read()
        try:
            yield json.loads(seen)
        finally:
            process.stdin.close()
    assert process.returncode == 0


def mutt(mail: Host, keys: str) -> None:
    """Bob opens his mailbox on the host."""
    settings = (
        "set folder=/home/bob quit=yes wait_key=no pipe_decode=yes delete=yes resolve=no move=no sort=mailbox-order"
    )
    command = f"stty rows 24 cols 80; mutt -n -f {SPOOL}/bob -e '{settings}' -e 'push \"{keys}<sync-mailbox><quit>\"'"
    mail.check_output("runuser -u bob -- env TERM=xterm HOME=/home/bob script --quiet --command %s /dev/null", command)


def seen_by_mutt(mail: Host, pattern: str, subjects: list[str]) -> set[str]:
    """Those of the subjects whose messages fit a pattern."""
    mail.check_output("rm -f /home/bob/found && touch /home/bob/found && chown bob: /home/bob/found")
    mutt(mail, f"<tag-pattern>{pattern}<enter><tag-prefix-cond><pipe-message>cat >>/home/bob/found<enter><end-cond>")
    shown = mail.file("/home/bob/found").content_string
    return {subject for subject in subjects if f"Subject: {subject}\n" in shown}


def test_a_person_lives_on_it(mail: Host, remote: Host, tunnel: int, password: str) -> None:
    install(mail, "mutt")
    subjects = flagged, read, deleted, marked = [new_subject() for _ in range(4)]
    for subject in subjects:
        send_from_remote(remote, "bob@dom.fr", subject)
    paths = {subject: the_message(mail, f"{SPOOL}/bob", subject) for subject in subjects}

    def state(subject: str) -> set[str]:
        return set(mail.file(f"{paths[subject]}.status").content_string.split())

    # Through ssh: nothing is asked for.
    with thunderbird(prefs=account("bob", "127.0.0.1", tunnel), wait_for=subjects, flag=[flagged], read=[read]):
        eventually(lambda: "\\Flagged" in state(flagged) and "\\Seen" in state(read), PATIENCE)
    assert not {"\\Flagged", "\\Seen"} & (state(deleted) | state(marked))

    # On the host: the same; and something is marked there.
    assert seen_by_mutt(mail, "~F", subjects) == {flagged}
    assert seen_by_mutt(mail, "~R", subjects) == {read}
    mutt(mail, f"<limit>~s {marked}<enter><first-entry><flag-message><limit>all<enter>")

    # With a device's password, from anywhere: what both have marked; deleted, sent to the world.
    der = ssl.PEM_cert_to_DER_cert(mail.file("/etc/smtpmail/tls/cert.pem").content_string)
    answer = new_subject()
    SCREENSHOT.parent.mkdir(exist_ok=True)
    SCREENSHOT.unlink(missing_ok=True)
    with thunderbird(
        # The third host has no resolver.
        prefs={**account("bob", HOST, 993, 465), "network.dns.forceResolve": "192.0.2.10"},
        password=password, certificate=base64.b64encode(der).decode(), wait_for=subjects, delete=[deleted],
        send=["anna@dom.fr, alice@example.net", answer, "From my desk."], screenshot=str(SCREENSHOT),
    ) as seen:  # fmt: skip
        assert set(seen["flagged"]) & set(subjects) == {flagged, marked}
        assert read in seen["read"]
        eventually(lambda: not mail.file(paths[deleted]).exists, PATIENCE)
        copy = the_message(mail, f"{SPOOL}/bob/Sent", answer, PATIENCE)
        eventually(lambda: "\\Seen" in mail.file(f"{copy}.status").content_string, PATIENCE)
    assert SCREENSHOT.stat().st_size > 10_000
    assert the_message(mail, f"{SPOOL}/bob/Trash", deleted)
    for host, folder in ((mail, f"{SPOOL}/anna"), (remote, "/home/alice/Maildir/new")):
        content = host.file(the_message(host, folder, answer)).content_string
        assert "From my desk." in content
        assert "Return-Path: <bob@dom.fr>" in content
        assert " with ESMTPSA " in content

    # And again on the host.
    assert seen_by_mutt(mail, "~F", subjects) == {flagged, marked}
    assert seen_by_mutt(mail, "~A", subjects) == {flagged, read, marked}
