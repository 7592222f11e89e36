"""A person reads and writes from afar: a device with its password, and an account of the host without one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from conftest import SPOOL, eventually, install, new_subject, send_from_remote, the_message
from testinfra.host import Host

CERT = "/tmp/mail.pem"


@pytest.fixture(scope="module", autouse=True)
def tools(remote: Host) -> None:
    install(remote, "curl")
    install(remote, "python3-dkim")


@pytest.fixture(scope="module")
def password(mail: Host, remote: Host) -> Iterator[str]:
    """That of bob's phone, which trusts the host's certificate."""
    remote.check_output("printf %%s %s >%s", mail.file("/etc/smtpmail/tls/cert.pem").content_string, CERT)
    shown = mail.check_output("smtpmail device add bob phone")
    yield shown.splitlines()[0].split()[1]
    mail.run("smtpmail device remove bob phone")


def curl(remote: Host, *arguments: str) -> tuple[int, str]:
    words = " ".join(f"'{argument}'" for argument in arguments)
    result = remote.run(f"curl --silent --show-error --max-time 20 --cacert {CERT} {words}")
    return result.rc, result.stdout + result.stderr


@pytest.mark.parametrize("address", ["192.0.2.10", "2001:db8::10"])
def test_a_device_reads(mail: Host, remote: Host, password: str, address: str) -> None:
    subject = new_subject()
    send_from_remote(remote, "bob@dom.fr", subject)
    path = the_message(mail, f"{SPOOL}/bob", subject)
    place = f"mail.dom.fr:993:{f'[{address}]' if ':' in address else address}"
    at = ("--resolve", place, "--user", f"bob:{password}")
    rc, found = curl(remote, *at, "imaps://mail.dom.fr/INBOX", "--request", f"UID SEARCH SUBJECT {subject}")
    assert (rc, found.split()[:2]) == (0, ["*", "SEARCH"]), found
    number = path.rsplit("/", 1)[1]
    assert found.split()[2:] == [number]
    rc, text = curl(remote, *at, f"imaps://mail.dom.fr/INBOX;UID={number}")
    assert rc == 0, text
    assert "Hello from afar." in text
    rc, found = curl(remote, *at, "imaps://mail.dom.fr/INBOX", "--request", f"UID STORE {number} +FLAGS (\\Seen)")
    assert rc == 0, found
    assert "\\Seen" in mail.file(f"{path}.status").content_string


def test_a_device_sends_to_the_world_as_its_user_alone(mail: Host, remote: Host, password: str) -> None:
    subject = new_subject()
    remote.check_output(
        "printf 'From: bob@dom.fr\\nTo: alice@example.net\\nSubject: %%s\\n\\nFrom my phone.\\n' %s >/tmp/phone",
        subject,
    )
    door = ("smtps://mail.dom.fr:465", "--mail-rcpt", "alice@example.net", "--upload-file", "/tmp/phone")
    rc, said = curl(remote, *door, "--mail-from", "bob@dom.fr", "--user", f"bob:{password}")
    assert rc == 0, said
    path = the_message(remote, "/home/alice/Maildir/new", subject)
    assert remote.run("dkimverify <%s", path).rc == 0, remote.file(path).content_string
    rc, said = curl(remote, *door, "--mail-from", "anna@dom.fr", "--user", f"bob:{password}", "--verbose")
    assert rc != 0
    assert "553 5.7.1" in said
    rc, said = curl(remote, *door, "--mail-from", "bob@dom.fr", "--verbose")
    assert rc != 0, "nobody sends without a password"
    rc, said = curl(remote, *door, "--mail-from", "bob@dom.fr", "--user", "bob:wrong", "--verbose")
    assert rc != 0
    assert "535 5.7.8" in said


def test_a_device_that_was_removed_is_out(mail: Host, remote: Host) -> None:
    shown = mail.check_output("smtpmail device add anna lost")
    user = ("--user", f"anna:{shown.splitlines()[0].split()[1]}", "imaps://mail.dom.fr/")
    assert curl(remote, *user)[0] == 0
    assert re.search(r"just now +(192\.0\.2\.20|2001:db8::20)$", mail.check_output("smtpmail device list anna"))
    mail.check_output("smtpmail device remove anna lost")
    eventually(lambda: curl(remote, *user)[0] == 67)  # curl's word for a login that was refused
    listed = mail.file("/var/lib/smtpmail/devices")
    assert (listed.user, listed.mode) == ("smtpmail", 0o600)


def by_socket(mail: Host, account: str, command: str) -> str:
    """What the server says to an account of the host on the Unix socket."""
    return mail.run(
        "printf 'a %%s\\r\\nb LOGOUT\\r\\n' %s | runuser -u %s -- nc -w 10 -U /run/smtpmail/imap.sock", command, account
    ).stdout


def test_an_account_reads_its_own_mail_without_a_password(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_remote(remote, "anna@dom.fr", subject)
    path = the_message(mail, f"{SPOOL}/anna", subject)
    said = by_socket(mail, "anna", "EXAMINE INBOX")
    assert said.startswith("* PREAUTH "), said
    assert "a OK" in said
    number = path.rsplit("/", 1)[1]
    ssh = mail.run(
        "printf 'a EXAMINE INBOX\\r\\nb UID FETCH %%s BODY[TEXT]\\r\\nc LOGOUT\\r\\n' %s"
        " | runuser -u anna -- smtpmail imap", number,
    )  # fmt: skip
    assert "Hello from afar." in ssh.stdout, ssh.stdout + ssh.stderr
    refused = mail.run("runuser -u nobody -- nc -w 10 -U /run/smtpmail/imap.sock </dev/null").stdout
    assert refused.startswith("* BYE "), refused
