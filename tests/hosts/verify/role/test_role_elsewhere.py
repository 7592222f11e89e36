"""The role where hosts differ: several in one play, a busy apt, a firewall that is off, another port and spool."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import (
    WHEELHOUSES,
    deployed,
    install,
    main_pid,
    messages,
    new_subject,
    send_from_mail,
    the_message,
    with_tags,
)
from testinfra.host import Host


def connects(host: Host, port: int) -> bool:
    return bool(host.run("nc -z -w 2 192.0.2.10 %s", str(port)).rc == 0)


# -- several hosts in one play


def test_hosts_of_one_play_have_programs_of_their_own(mail: Host, remote: Host, tmp_path: Path) -> None:
    """And the tag `install` puts a release beside the one that runs, no more."""
    before = main_pid(mail)
    installed = "ls /opt/smtpmail/releases"
    there = set(mail.check_output(installed).split())
    hosts = {
        "mail": {"smtpmail_wheelhouse": str(WHEELHOUSES / "previous")},
        # Postfix has its port 25.
        "remote": {
            "smtpmail_hostname": "remote.example.net",
            "smtpmail_port": 2526,
            "smtpmail_devices": False,
            "smtpmail_wheelhouse": str(WHEELHOUSES / "broken"),
        },
    }
    (tmp_path / "more.json").write_text(json.dumps({"smtpmail": {"hosts": hosts}}))
    deployed(options=("--inventory", str(tmp_path / "more.json"), *with_tags("install")))
    (added,) = set(mail.check_output(installed).split()) - there
    assert added.startswith("0.0.1-")
    (elsewhere,) = remote.check_output(installed).split()
    assert elsewhere.startswith("9.9.9-")
    assert main_pid(mail) == before
    assert not remote.file("/etc/smtpmail").exists
    remote.check_output("rm -r /opt/smtpmail")


# -- another program installs packages

# Holds dpkg's lock until somebody has waited for it: apt tries it anew each second, and its processes stay meanwhile.
HOLD = """
import fcntl, glob, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
def installs():
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = open(path, "rb").read().split(b"\\0")
        except OSError:
            continue
        if words[0].endswith(b"apt-get") and b"install" in words:
            return True
while not installs():
    time.sleep(0.1)
time.sleep(5)
print("somebody waits:", installs(), flush=True)
"""


def test_an_installation_by_others_is_waited_for(mail: Host) -> None:
    mail.check_output("dpkg --remove --force-depends acl")
    mail.check_output("systemd-run --quiet --unit installs -- python3 -c %s", HOLD)
    deployed(options=with_tags("users"))
    assert mail.package("acl").is_installed
    assert "somebody waits: True" in mail.check_output("journalctl --unit installs --output cat")


# -- a firewall that is installed and off


@pytest.fixture
def ufw(mail: Host) -> Iterator[None]:
    install(mail, "ufw")
    yield
    mail.check_output("ufw --force reset")
    deployed(options=with_tags("firewall"))


@pytest.mark.usefixtures("ufw")
def test_a_firewall_that_is_off_comes_on_only_when_it_is_asked_for(mail: Host, remote: Host) -> None:
    deployed(options=with_tags("firewall"))
    assert "inactive" in mail.check_output("ufw status")
    assert mail.run("nft list table inet smtpmail").rc == 0
    deployed(options=with_tags("firewall"), smtpmail_firewall="ufw")
    assert "Status: active" in mail.check_output("ufw status")
    assert mail.run("nft list table inet smtpmail").rc != 0
    mail.check_output("systemd-run --quiet --unit open2600 -- nc -4 -k -l 2600")
    try:
        assert [port for port in (22, 25, 465, 993, 2600) if connects(remote, port)] == [22, 25, 465, 993]
    finally:
        mail.check_output("systemctl stop open2600")


# -- another port, another spool


def test_another_port_and_spool(mail: Host, remote: Host) -> None:
    deployed(smtpmail_port=2525, smtpmail_spool="/srv/mail")
    assert not connects(remote, 25)
    subject = new_subject()
    remote.check_output(
        "swaks --silent 2 --server 192.0.2.10 --port 2525 --from alice@example.net --to bob@dom.fr --header %s",
        f"Subject: {subject}",
    )
    path = the_message(mail, "/srv/mail/bob", subject)
    assert "alice@example.net" in mail.check_output("runuser -u bob -- cat %s", path)
    assert mail.run("runuser -u anna -- cat %s", path).rc != 0
    # Who may read the configuration, as cron does, finds the port by it; others are told.
    for caller in ("", "runuser -u nobody -- env SMTPMAIL_PORT=2525 "):
        away = new_subject()
        mail.check_output(
            f"printf 'Subject: %%s\\n\\nHello.\\n' %s | {caller}/usr/sbin/sendmail alice@example.net", away
        )
        the_message(remote, "/home/alice/Maildir/new", away)

    deployed()
    assert not connects(remote, 2525)
    later = new_subject()
    send_from_mail(mail, "bob@dom.fr", later)
    the_message(mail, "/var/spool/mail/bob", later)
    assert messages(mail, "/srv/mail/bob", subject) == [path], "what lies in the other spool stays there"
