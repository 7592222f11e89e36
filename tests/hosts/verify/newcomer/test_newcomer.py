"""A first play on a host that has had another life: one obstacle after the other, each met by a sentence of advice.

In the order of the file: each test leaves the host as the next one needs it.
"""

from __future__ import annotations

import re

import pytest
from conftest import (
    CHECKOUT,
    SPOOL,
    deploy,
    deployed,
    eventually,
    hosts,
    new_subject,
    send_from_mail,
    send_from_remote,
    the_error,
    the_message,
)
from testinfra.host import Host

# Of the operator of this host: no dynamic updates, one user who is no account yet.
FIRST = {"smtpmail_dns": "print", "smtpmail_addresses": ["192.0.2.10"]}


@pytest.fixture(scope="module", autouse=True)
def no_ipv6() -> None:
    # From the outside: these hosts may not set it themselves. It stays through a reboot.
    assert hosts("net", "mail", "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1").returncode == 0


def test_another_mail_server_is_named(mail: Host) -> None:
    error = the_error(deploy(**FIRST).stdout)
    assert re.search(r"Port 25 of mail is held by exim4 \(exim4\.service\)\. .*smtpmail_replace_mta", error), error
    assert mail.service("exim4").is_running


def test_a_mailbox_in_the_way_is_named_and_nothing_is_stopped(mail: Host) -> None:
    error = the_error(deploy(**FIRST, smtpmail_replace_mta=True).stdout)
    assert "mv /var/spool/mail/bob ~bob/mbox" in error
    assert mail.service("exim4").is_running
    mail.check_output("mv /var/spool/mail/bob ~bob/mbox")


def test_rules_that_reject_are_named(mail: Host) -> None:
    mail.check_output("apt-get install -y -qq nftables")
    mail.check_output(
        "nft 'add table ip own; add chain ip own in { type filter hook input priority 0; };"
        " add rule ip own in ct state established,related accept; add rule ip own in tcp dport 22 accept;"
        " add rule ip own in iif lo accept; add rule ip own in ip saddr 192.0.2.20 udp sport 53 accept;"
        " add rule ip own in counter reject'"
    )
    error = the_error(deploy(**FIRST, smtpmail_replace_mta=True).stdout)
    assert re.search(r"whose chain ip own in drops or rejects .*'tcp dport \{ 25, 993, 465 \} accept'", error), error
    mail.check_output("nft delete table ip own")


def test_ports_that_would_be_closed_are_named_and_those_of_containers_are_not(mail: Host) -> None:
    mail.check_output("cp /usr/bin/nc.openbsd /usr/local/bin/docker-proxy")
    for unit, program, port in (("site", "nc", "8080"), ("container", "/usr/local/bin/docker-proxy", "8090")):
        mail.check_output("systemd-run --quiet --unit %s -- %s -4 -k -l %s", unit, program, port)
    error = the_error(deploy(**FIRST, smtpmail_replace_mta=True).stdout)
    assert "would close: 8080/tcp. Add" in error, error
    mail.check_output("systemctl stop site container")


def test_the_play_says_what_to_enter_and_mail_flows(mail: Host, remote: Host) -> None:
    output = deployed(**FIRST, smtpmail_replace_mta=True)
    assert re.search(r'remove: dom\.fr\. TXT "?.*v=spf1 include:example\.net ~all', output)
    assert re.search(r"dom\.fr\. 3600 IN TXT .*v=spf1 mx include:example\.net ~all", output)
    assert not mail.service("exim4").is_running
    assert not mail.service("exim4").is_enabled
    key = "hmac-sha256:update.dom.fr:c210cG1haWwgdGVzdCBuZXR3b3JrLCBub3Qgc2VjcmV0ISE="
    for record in ("mail.dom.fr. 60 A 192.0.2.10", "dom.fr. 60 MX 10 mail.dom.fr."):
        remote.check_output("printf 'server 127.0.0.1\nupdate add %%s\nsend\n' %s | nsupdate -y %s", record, key)
    subject = new_subject()
    send_from_remote(remote, "bob@dom.fr", subject)
    assert "Hello from afar." in mail.check_output(
        "runuser -u bob -- cat %s", the_message(mail, f"{SPOOL}/bob", subject)
    )
    away = new_subject()
    send_from_mail(mail, "alice@example.net", away)
    the_message(remote, "/home/alice/Maildir/new", away)


def test_the_first_message_of_the_page_leaves_and_is_answered(mail: Host, remote: Host) -> None:
    page = (CHECKOUT / "docs" / "deploy.md").read_text()
    (command,) = re.findall(r"^printf .*sendmail you@elsewhere\.example$", page, re.MULTILINE)
    subject = new_subject()
    command = command.replace("you@elsewhere.example", "alice@example.net").replace(
        "Subject: Hello", f"Subject: {subject}"
    )
    mail.check_output("runuser -u bob -- sh -c %s", command)
    came = remote.file(the_message(remote, "/home/alice/Maildir/new", subject)).content_string
    assert re.search(r"^From: .*\bbob@dom\.fr>?$", came, re.MULTILINE), "whom she answers"


def test_what_cron_says_to_root_is_read_by_the_first_user(mail: Host) -> None:
    """Exim's sendmail would put it into a queue that nobody empties."""
    word = new_subject()
    mail.check_output("printf '* * * * * root echo %%s\n' %s >/etc/cron.d/says && systemctl restart cron", word)
    eventually(lambda: mail.run("grep -rl %s /var/spool/mail/bob", word).stdout, 90)
    mail.check_output("rm /etc/cron.d/says")


def test_without_ipv6_it_comes_back_after_a_boot(mail: Host) -> None:
    assert not mail.check_output("ss -Hltn6 'sport = :25'")
    assert hosts("reboot", "mail").returncode == 0
    assert mail.service("smtpmail.service").is_running
    assert mail.run("nc -z 192.0.2.10 25").rc == 0


def test_there_is_nothing_to_return_to_yet() -> None:
    assert "has no release to return to" in the_error(deploy("rollback.yml").stdout)


def test_a_python_that_debian_has_replaced_is_met_by_a_new_environment(mail: Host) -> None:
    """Its library is for another Python then: the program does not start any more, and the play repairs it."""
    mail.check_output("cd /opt/smtpmail/releases && mv * $(ls | sed 's/-py.*/-py3.9/') && ln -sfn $PWD/* ../current")
    mail.check_output("cd /opt/smtpmail/releases/*/lib && mv python3.* python3.9")
    assert mail.run("systemctl restart smtpmail.service").rc != 0
    deployed(**FIRST, smtpmail_replace_mta=True)
    assert mail.run("swaks --server 127.0.0.1 --quit-after EHLO").rc == 0


def test_absent_leaves_mail_queue_and_configuration_alone(mail: Host) -> None:
    kept = "find /var/mail /etc/smtpmail/users /etc/smtpmail/smtpmail.toml /var/lib/smtpmail -type f | sort"
    before = mail.check_output(kept)
    output = deployed(**FIRST, smtpmail_state="absent")
    assert "smtpmail is gone. These stay" in output
    assert mail.check_output(kept) == before
    assert mail.run("ls /opt/smtpmail /usr/local/bin/smtpmail /etc/systemd/system/smtpmail*").stdout == ""
    assert "exim4" in mail.check_output("readlink -f /usr/sbin/sendmail"), "the one of before is back"
    assert mail.run("nft list table inet smtpmail").rc != 0
    assert mail.run("nc -z 127.0.0.1 25").rc != 0
    assert re.search(r"^mail .*changed=0 ", deployed(**FIRST, smtpmail_state="absent"), re.MULTILINE)
