"""The life of the host: restart under load, upgrade, return, a version that does not start, reboot."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import (
    SPOOL,
    WHEELHOUSES,
    deploy,
    deployed,
    eventually,
    hosts,
    messages,
    new_subject,
    release,
    send_from_mail,
    send_from_remote,
    the_message,
)
from testinfra.host import Host

STREAM = (Path(__file__).parent / "stream.py").read_text()


@pytest.mark.parametrize("address", ["192.0.2.10", "2001:db8::10"])
def test_restart_under_a_stream_loses_and_refuses_nothing(mail: Host, remote: Host, address: str) -> None:
    subject = new_subject()
    stop = f"/tmp/stop-{subject}"

    def stored() -> int:
        return len(messages(mail, f"{SPOOL}/bob", subject))

    with ThreadPoolExecutor() as pool:
        stream = pool.submit(remote.run, "python3 -c %s %s %s %s", STREAM, address, subject, stop)
        try:
            for _ in range(3):
                seen = stored()
                eventually(lambda: stored() > seen)  # noqa: B023
                mail.check_output("systemctl restart smtpmail.service")
        finally:
            remote.check_output("touch %s", stop)
        result = stream.result(timeout=120)
    assert result.rc == 0, result.stderr
    outcomes = json.loads(result.stdout)
    assert "refused connection" not in outcomes
    assert not [code for code in outcomes if code.startswith("5")], outcomes
    numbers = mail.check_output("grep -rh -A1 --include='[0-9]*' %s %s | grep ^X-Number", subject, f"{SPOOL}/bob")
    assert sorted(int(line.split()[1]) for line in numbers.splitlines()) == list(range(outcomes["accepted"]))


def test_upgrade_and_return_lose_nothing(mail: Host, remote: Host) -> None:
    new = release(mail)
    deployed(smtpmail_wheelhouse=str(WHEELHOUSES / "previous"))
    assert release(mail) == "0.0.1"

    # Mail in a mailbox, and mail in the queue for a server that is away.
    stored, queued, later = new_subject(), new_subject(), new_subject()
    send_from_remote(remote, "anna@dom.fr", stored)
    stored_path = the_message(mail, f"{SPOOL}/anna", stored)
    remote.check_output("systemctl stop postfix")
    send_from_mail(mail, "carol@example.net", queued)

    deployed()
    assert release(mail) == new
    kept = (stored_path, "/etc/smtpmail/smtpmail.toml", "/etc/smtpmail/users")
    before = {path: mail.file(path).content for path in kept}
    send_from_mail(mail, "carol@example.net", later)

    deployed("rollback.yml")
    assert release(mail) == "0.0.1"
    assert {path: mail.file(path).content for path in before} == before
    deployed("rollback.yml")
    assert release(mail) == new

    remote.check_output("systemctl start postfix")
    for subject in (queued, later):
        mail.check_output("smtpmail queue retry --all")
        the_message(remote, "/home/carol/Maildir/new", subject)


def test_return_to_a_version_that_does_not_start_is_taken_back(mail: Host) -> None:
    running = release(mail)
    program = "/opt/smtpmail/previous/bin/smtpmail"
    # It approves of the configuration, and then does not start.
    fails = '#!/bin/sh\n[ "$1" = check ]\n'
    mail.check_output("mv %s %s.kept && printf %%s %s >%s && chmod 755 %s", program, program, fails, program, program)
    result = deploy("rollback.yml")
    assert result.returncode != 0
    assert "does not run here" in result.stdout
    assert mail.run("swaks --server 127.0.0.1 --quit-after EHLO").rc == 0
    assert release(mail) == running
    mail.check_output("mv %s.kept %s", program, program)


def test_version_that_does_not_start_is_taken_back(mail: Host) -> None:
    new = release(mail)
    result = deploy(smtpmail_wheelhouse=str(WHEELHOUSES / "broken"), smtpmail_settings={"max-size": "20M"})
    assert result.returncode != 0
    assert "this version does not start" in result.stdout
    assert "The server of before runs on." in " ".join(result.stdout.split())
    assert release(mail) == new
    assert "max-size" not in mail.file("/etc/smtpmail/smtpmail.toml").content_string
    assert mail.run("swaks --server 127.0.0.1 --quit-after EHLO").rc == 0


def test_reboot_brings_all_back(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_remote(remote, "bob@dom.fr", subject)
    path = the_message(mail, f"{SPOOL}/bob", subject)
    rules = mail.check_output("nft --stateless list ruleset")
    assert "tcp dport { 22, 25, 465, 993 } accept" in rules
    boot = mail.check_output("cat /proc/1/stat").split()[21]
    result = hosts("reboot", "mail")
    assert result.returncode == 0, result.stderr
    assert mail.check_output("cat /proc/1/stat").split()[21] != boot
    assert mail.check_output("nft --stateless list ruleset") == rules
    for unit in ("smtpmail.socket", "smtpmail-loopback.socket", "smtpmail.service"):
        assert mail.service(unit).is_running
    assert mail.file(path).exists
    assert mail.file(f"{path}.status").content_string == "\\Recent\n"
    after = new_subject()
    send_from_remote(remote, "bob@dom.fr", after)
    the_message(mail, f"{SPOOL}/bob", after)
