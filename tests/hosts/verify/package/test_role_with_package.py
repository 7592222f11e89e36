"""The role with the Debian package (`smtpmail_install: package`), and pip with `smtpmail setup-systemd`.

On the host that test_removal.py has left, with mail of before.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from conftest import HERE, SPOOL, deployed, new_subject, send_from_remote, the_message
from testinfra.host import Host


def test_the_role_installs_the_package(mail: Host, remote: Host) -> None:
    settings = {"smtpmail_install": "package", "smtpmail_tls": "none"}
    deployed(**settings)
    assert mail.package("smtpmail").is_installed
    assert mail.file("/opt/smtpmail/current").linked_to == "/opt/smtpmail/releases/package"
    subject = new_subject()
    send_from_remote(remote, "bob@dom.fr", subject)
    the_message(mail, f"{SPOOL}/bob", subject)
    near = new_subject()
    mail.check_output("printf 'Subject: %%s\\n\\nHello.\\n' %s | runuser -u nobody -- /usr/sbin/sendmail bob", near)
    the_message(mail, f"{SPOOL}/bob", near)
    assert re.search(r"^mail .*changed=0 ", deployed(**settings), re.MULTILINE)


def test_and_removes_it_but_not_the_mail(mail: Host) -> None:
    before = mail.check_output("find /var/mail/bob -name '[0-9]*' | sort")
    assert "smtpmail is gone. These stay" in deployed(smtpmail_state="absent")
    assert not mail.package("smtpmail").is_installed
    assert mail.check_output("find /var/mail/bob -name '[0-9]*' | sort") == before
    assert (
        mail.run("ls /opt/smtpmail /usr/local/bin/smtpmail /usr/bin/smtpmail /etc/systemd/system/smtpmail*").stdout
        == ""
    )


def test_pip_and_setup_systemd(mail: Host) -> None:
    """As docs/deploy.md says, from wheels instead of a package index."""
    mail.check_output("rm -rf /etc/smtpmail && apt-get install -y -qq python3-venv")
    wheels = Path(os.environ["SMTPMAIL_WHEELHOUSE"])
    archive = subprocess.run(["tar", "-C", wheels, "-c", "."], capture_output=True, check=True).stdout
    unpack = ["sh", "-c", "mkdir -p /srv/wheels && tar -C /srv/wheels -x"]
    subprocess.run([HERE.parent / "hosts", "run", "mail", *unpack], input=archive, check=True)
    mail.check_output(
        "python3 -m venv /opt/smtpmail && /opt/smtpmail/bin/pip install -q --no-index --find-links /srv/wheels smtpmail"
    )
    for _ in ("first", "again"):
        assert "serves this host" in mail.check_output("/opt/smtpmail/bin/smtpmail setup-systemd")
    assert mail.service("smtpmail.service").is_running
    assert not mail.service("smtpmail.socket").is_running
    subject = new_subject()
    mail.check_output("printf 'Subject: %%s\\n\\nHello.\\n' %s | runuser -u nobody -- /usr/sbin/sendmail bob", subject)
    the_message(mail, f"{SPOOL}/bob", subject)
    assert "Removed." in mail.check_output("/opt/smtpmail/bin/smtpmail setup-systemd --remove")
    assert mail.run("nc -z 127.0.0.1 25").rc != 0
    assert mail.run("ls /usr/sbin/sendmail /etc/systemd/system/smtpmail*").stdout == ""
    assert mail.file("/etc/smtpmail/smtpmail.toml").exists
