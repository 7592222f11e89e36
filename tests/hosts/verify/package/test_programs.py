"""What the programs of a host say to root is read by a person, and `status` and `report` agree with what was sent.

On the host that test_package.py has made a public server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import SPOOL, eventually, new_subject
from testinfra.host import Host

BOX = f"{SPOOL}/bob"
GIT = (
    "git init -q -b main . && git config user.name Anna && git config user.email anna@dom.fr"
    " && git commit -q --allow-empty -m first && echo text >file && git add file && git commit -q -m %s"
    " && git send-email --quiet --confirm=never --to=root@dom.fr HEAD^"
)


@pytest.fixture(scope="module", autouse=True)
def sent_before(mail: Host) -> Iterator[int]:
    """root: bob, and the programs; how many copies the report has counted so far."""
    mail.check_output("printf 'root: bob\\n' >/etc/smtpmail/aliases")
    mail.check_output("echo 'aliases = \"/etc/smtpmail/aliases\"' >>/etc/smtpmail/smtpmail.toml")
    mail.check_output("systemctl restart smtpmail.service && newaliases")
    mail.check_output(
        "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq cron at mdadm logwatch unattended-upgrades git-email"
    )
    yield stored(mail)
    mail.check_output("rm -f /etc/cron.d/says")


def stored(mail: Host) -> int:
    """Copies in bob's mailbox, by the log."""
    report = json.loads(mail.check_output("smtpmail report --json"))
    return int(report["stored"]["by_user"].get("bob", 0))


def message_with(mail: Host, word: str, seconds: float = 30) -> str:
    """The text of the one message of bob's that has a word."""
    paths = str(eventually(lambda: mail.run("grep -rlF --include='[0-9]*' %s %s", word, BOX).stdout, seconds)).split()
    assert len(paths) == 1, paths
    return mail.check_output("runuser -u bob -- cat %s", paths[0])


def test_cron(mail: Host) -> None:
    word = new_subject()
    mail.check_output("printf '* * * * * root echo %%s\\n' %s >/etc/cron.d/says && systemctl restart cron", word)
    path = eventually(lambda: mail.run("grep -rlx %s %s", word, BOX).stdout, 90)
    mail.check_output("rm /etc/cron.d/says")
    assert "Cron <root@" in mail.check_output("cat %s", str(path).split()[0])


def test_at(mail: Host) -> None:
    word = new_subject()
    mail.check_output("systemctl start atd && echo 'echo %s' | at now 2>&1", word)
    assert "Output from your job" in message_with(mail, word, 90)


def test_the_monitor_of_a_raid(mail: Host) -> None:
    """No array can be made on these hosts: what mdadm writes when a disk fails, to the command that it calls."""
    command = mail.check_output("grep -aoE '/[a-z/]*sendmail -t' $(command -v mdadm) | head -n 1")
    word = f"/dev/md-{new_subject()}"
    mail.check_output(
        "printf 'From: mdadm monitoring <root>\\nTo: root\\nSubject: Fail event on %%s:mail\\n\\n"
        "This is an automatically generated mail message.\\nA Fail event had been detected.\\n' %s | " + command,
        word,
    )
    assert "A Fail event had been detected." in message_with(mail, word)


def test_logwatch(mail: Host) -> None:
    mail.check_output("logwatch --output mail --mailto root --range today --detail med")
    assert "Subject: Logwatch for mail" in message_with(mail, "Subject: Logwatch for")


def test_unattended_upgrades(mail: Host) -> None:
    mail.check_output(
        'printf \'Unattended-Upgrade::Mail "root";\\nUnattended-Upgrade::MailReport "always";\\n\''
        " >/etc/apt/apt.conf.d/99mail"
    )
    mail.check_output("timeout 120 unattended-upgrade")
    assert "unattended-upgrades" in message_with(mail, "Unattended upgrade").lower()


def test_git_send_email(mail: Host) -> None:
    word = new_subject()
    mail.check_output("mkdir /tmp/repository && cd /tmp/repository && " + GIT, word)
    text = message_with(mail, f"Subject: [PATCH] {word}")
    assert "From: Anna <anna@dom.fr>" in text
    assert "+text" in text


def test_the_report_of_a_day(mail: Host) -> None:
    """There is none of yesterday; that it is sent by its unit is what matters."""
    mail.check_output("systemctl start smtpmail-report.service")
    assert "The log says nothing of this time." in message_with(mail, "Subject: Mail report")


def test_status_and_report_agree_with_what_was_sent(mail: Host, sent_before: int) -> None:
    assert stored(mail) - sent_before >= 7
    status = mail.run("smtpmail status --json")
    assert status.rc in (0, 1), status.stdout + status.stderr
    rows = {row["name"]: row for row in json.loads(status.stdout)["checks"]}
    assert rows["queue"]["level"] == "ok"
    # Nobody has read any of it, and every copy that the log tells of is there.
    files = int(mail.check_output("ls %s | grep -cx '[0-9]*'", BOX))
    assert rows["mailboxes"]["data"]["new"]["bob"] == files == stored(mail)
