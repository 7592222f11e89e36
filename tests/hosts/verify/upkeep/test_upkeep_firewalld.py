"""The host's operator changes to firewalld: the port moves to it, and the table of before goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import deploy, deployed, hosts
from testinfra.host import Host


def connects(host: Host, address: str, port: int) -> bool:
    return bool(host.run("nc -z -w 2 %s %s", address, str(port)).rc == 0)


@pytest.fixture(scope="module")
def firewalld(mail: Host) -> Iterator[None]:
    # An operator who has ssh on another port as well is not locked out of it.
    mail.check_output("printf 'Port 22\\nPort 2222\\n' >/etc/ssh/sshd_config.d/ports.conf && systemctl restart ssh")
    deployed(smtpmail_firewall="firewalld")
    result = hosts("reboot", "mail")
    assert result.returncode == 0, result.stderr
    mail.check_output("systemd-run --quiet --unit open2600 -- nc -6 -k -l 2600")
    mail.check_output("systemd-run --quiet --unit open2600v4 -- nc -4 -k -l 2600")
    yield
    mail.check_output("systemctl stop open2600 open2600v4")


@pytest.mark.usefixtures("firewalld")
@pytest.mark.parametrize("address", ["192.0.2.10", "2001:db8::10"])
def test_mail_and_ssh_are_open_and_nothing_else(remote: Host, address: str) -> None:
    assert connects(remote, address, 25)
    assert connects(remote, address, 22)
    assert connects(remote, address, 2222)
    assert not connects(remote, address, 2600)


@pytest.mark.usefixtures("firewalld")
def test_it_is_the_only_firewall_and_stays_as_it_is(mail: Host) -> None:
    assert mail.run("nft list table inet smtpmail").rc != 0
    assert mail.check_output("firewall-cmd --permanent --list-ports").split() == [
        "25/tcp",
        "465/tcp",
        "993/tcp",
        "2222/tcp",
    ]
    again = deploy(smtpmail_firewall="auto")
    assert again.returncode == 0, again.stdout[-3000:]
    assert "changed=0" in again.stdout
