"""The Debian package on a host that has nothing yet: what docs/deploy.md says of it, line by line."""

from __future__ import annotations

import re
import subprocess

import pytest
from conftest import CHECKOUT, HERE, SPOOL, new_subject, send_from_mail, send_from_remote, the_message
from testinfra.host import Host

CONFIGURATION = """\
hostname = "mail.dom.fr"
suffix = ["dom.fr"]
users = "/etc/smtpmail/users"
"""


def documented() -> list[str]:
    """The five commands, without sudo and what is said of them."""
    page = (CHECKOUT / "docs" / "deploy.md").read_text()
    (block,) = re.findall(r"^## Without Ansible.*?```\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    return [line.partition("  #")[0].strip().replace("sudo ", "") for line in block.splitlines()]


INSTALL, MAILBOX, EDIT, OPEN, CHECK = documented()


@pytest.fixture(scope="module")
def installed(mail: Host) -> None:
    """The first two commands, and the package of this checkout in the folder where they are typed."""
    (package,) = (CHECKOUT / "dist").glob("smtpmail_*_all.deb")
    name = re.search(r"\./(\S+)", INSTALL)
    assert name
    assert name[1] == package.name
    subprocess.run(
        [HERE.parent / "hosts", "run", "mail", "sh", "-c", f"cat >/root/{package.name}"],
        input=package.read_bytes(), check=True,
    )  # fmt: skip
    install = INSTALL.replace("install", "install -y -qq")
    mail.check_output(f"cd /root && DEBIAN_FRONTEND=noninteractive {install}")
    mail.check_output(MAILBOX)


pytestmark = pytest.mark.usefixtures("installed")


def test_it_runs_for_the_host_alone(mail: Host, remote: Host) -> None:
    assert mail.service("smtpmail.service").is_running
    assert not mail.service("smtpmail.socket").is_running
    assert mail.run("nc -z 127.0.0.1 25").rc == 0
    assert remote.run("nc -z -w 2 192.0.2.10 25").rc != 0
    result = mail.run("systemd-analyze security --no-pager --threshold=12 smtpmail.service")
    assert result.rc == 0, result.stdout[-200:]


def test_mail_of_a_program_is_read_by_its_user(mail: Host) -> None:
    mail.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -y -qq bsd-mailx")
    subject = new_subject()
    mail.check_output("echo 'Hello from near.' | mail -s %s bob", subject)
    path = the_message(mail, f"{SPOOL}/bob", subject)
    assert "Hello from near." in mail.check_output("runuser -u bob -- cat %s", path)


@pytest.mark.parametrize(
    "page", ["smtpmail", "smtpmail-queue", "smtpmail.toml", "smtpmail-mailbox", "sendmail", "mailq"]
)
def test_its_manual_is_there(mail: Host, page: str) -> None:
    # Pages are left out of small installations (dpkg's path-exclude): the package has them all the same.
    assert f"/{page}." in mail.check_output("dpkg -L smtpmail | grep /usr/share/man/")


def test_five_commands_make_it_a_public_server(mail: Host, remote: Host) -> None:
    assert "smtpmail.toml" in EDIT
    mail.check_output("printf %%s %s | cat - /etc/smtpmail/smtpmail.toml >/tmp/toml", CONFIGURATION)
    mail.check_output("cp /tmp/toml /etc/smtpmail/smtpmail.toml && printf 'bob\\nanna\\n' >/etc/smtpmail/users")
    mail.check_output(OPEN)
    assert remote.run("nc -z -w 2 192.0.2.10 25").rc == 0
    assert "mx" in mail.run(CHECK).stdout
    # Its MX is what the provider's form is told: here the zone's server.
    for record in ("mail.dom.fr. 60 A 192.0.2.10", "dom.fr. 60 MX 10 mail.dom.fr."):
        key = "hmac-sha256:update.dom.fr:c210cG1haWwgdGVzdCBuZXR3b3JrLCBub3Qgc2VjcmV0ISE="
        remote.check_output("printf 'server 127.0.0.1\\nupdate add %%s\\nsend\\n' %s | nsupdate -y %s", record, key)
    subject = new_subject()
    send_from_remote(remote, "bob@dom.fr", subject)
    path = the_message(mail, f"{SPOOL}/bob", subject)
    assert "Hello from afar." in mail.check_output("runuser -u bob -- cat %s", path)
    away = new_subject()
    send_from_mail(mail, "alice@example.net", away)
    the_message(remote, "/home/alice/Maildir/new", away)


def test_a_configuration_that_cannot_work_stops_the_sockets_and_a_start_brings_them_back(mail: Host) -> None:
    file = "/etc/smtpmail/smtpmail.toml"
    mail.check_output("cp %s %s.kept && echo 'no-such-key = 1' >>%s", file, file, file)
    assert mail.run("systemctl restart smtpmail.service").rc != 0
    # An error is one in the journal, too, and what is none is not.
    errors = mail.check_output("journalctl --unit smtpmail.service --priority err --output cat _TRANSPORT=stdout")
    assert "no-such-key" in errors
    assert "server.started" not in errors
    mail.check_output("mv %s.kept %s && systemctl restart smtpmail.service", file, file)
    for unit in ("smtpmail.service", "smtpmail.socket", "smtpmail-loopback.socket"):
        assert mail.service(unit).is_running
