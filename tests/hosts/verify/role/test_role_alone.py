"""The role on a host that runs: each tag by itself, a smarthost, certificates by other ways, what a release keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import (
    SPOOL,
    deploy,
    deployed,
    eventually,
    hosts,
    main_pid,
    new_subject,
    send_from_mail,
    send_from_remote,
    the_error,
    the_message,
    with_tags,
)
from testinfra.host import Host

USERS = ["bob", "anna", "erin"]


# -- tags


def test_tag_users_adds_a_user_and_asks_for_nothing_else(mail: Host, remote: Host) -> None:
    before = main_pid(mail)
    mail.check_output("id zoe || useradd --create-home zoe")
    output = deployed(options=with_tags("users"), smtpmail_users=[*USERS, "zoe"], smtpmail_wheelhouse="/nonexistent")
    assert "wheels" not in output
    assert main_pid(mail) == before
    subject = new_subject()
    send_from_remote(remote, "zoe@dom.fr", subject)
    path = the_message(mail, f"{SPOOL}/zoe", subject)
    assert "Hello from afar." in mail.check_output("runuser -u zoe -- cat %s", path)


def test_tag_users_refuses_what_the_program_does_not_take(mail: Host) -> None:
    before = mail.check_output("sha256sum /etc/smtpmail/users")
    result = deploy(options=with_tags("users"), smtpmail_users=[*USERS, "a.." + "b" * 62])
    assert result.returncode != 0
    assert "users" in the_error(result.stdout)
    assert mail.check_output("sha256sum /etc/smtpmail/users") == before


def test_tag_service_applies_a_setting_without_facts(mail: Host) -> None:
    """Facts may be off, and have no names of their own."""
    off = {"ANSIBLE_GATHERING": "explicit", "ANSIBLE_INJECT_FACT_VARS": "False"}
    deployed(options=with_tags("service"), settings=off, smtpmail_settings={"max-size": "5M"})
    assert "SIZE 5242880" in mail.run("swaks --server 127.0.0.1 --quit-after EHLO").stdout


def test_tag_tls_makes_the_certificate_anew(mail: Host) -> None:
    mail.check_output("rm -f /etc/smtpmail/tls/cert.pem")
    deployed(options=with_tags("tls"))
    assert "mail.dom.fr" in mail.check_output("openssl x509 -noout -subject -in /etc/smtpmail/tls/cert.pem")


def test_tag_firewall_opens_what_is_named(mail: Host) -> None:
    deployed(options=with_tags("firewall"), smtpmail_firewall_allow=["8443/tcp"])
    assert "8443" in mail.check_output("nft list table inet smtpmail")
    deployed(options=with_tags("firewall"))
    assert "8443" not in mail.check_output("nft list table inet smtpmail")


def test_tags_dns_and_check_speak_of_dns_and_checks(mail: Host) -> None:
    output = deployed(options=with_tags("dns", "check"), smtpmail_dns="print")
    assert "; keep: these are right" in output
    assert "outbound    port 25: remote.example.net answers" in output


def test_port_25_that_the_provider_blocks_is_said_with_the_way_out(mail: Host) -> None:
    rules = (
        "add table inet provider; add chain inet provider in { type filter hook input priority 0; };"
        " add rule inet provider in tcp dport 25 drop"
    )
    assert hosts("net", "remote", "nft", rules).returncode == 0
    try:
        output = " ".join(deployed(options=with_tags("check")).split())
    finally:
        hosts("net", "remote", "nft", "delete table inet provider")
    assert re.search(r"error outbound port 25: no other mail server can be reached: .*smtpmail_smarthost", output)


# -- a smarthost


@pytest.fixture
def smarthost(mail: Host, remote: Host) -> Iterator[None]:
    """Postfix of the remote side takes mail on port 587 from who knows the password; the host trusts it."""
    remote.check_output("apt-get install -y -qq libsasl2-modules sasl2-bin")
    remote.check_output(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30"
        " -subj /CN=remote.example.net -addext subjectAltName=DNS:remote.example.net"
        " -keyout /etc/postfix/smart.key -out /etc/postfix/smart.pem"
    )
    remote.check_output("mkdir -p /etc/postfix/sasl")
    remote.check_output(
        "printf 'pwcheck_method: auxprop\\nauxprop_plugin: sasldb\\nmech_list: PLAIN LOGIN\\n'"
        " >/etc/postfix/sasl/smtpd.conf"
    )
    remote.check_output("echo 'pass word:1' | saslpasswd2 -p -c -u remote.example.net customer")
    remote.check_output("chgrp postfix /etc/sasldb2 && chmod 640 /etc/sasldb2")
    remote.check_output(
        "postconf -M 'submission/inet=submission inet n - n - - smtpd' && postconf -P"
        " submission/inet/smtpd_tls_cert_file=/etc/postfix/smart.pem"
        " submission/inet/smtpd_tls_key_file=/etc/postfix/smart.key"
        " submission/inet/smtpd_tls_security_level=encrypt submission/inet/smtpd_sasl_auth_enable=yes"
        " submission/inet/smtpd_sasl_local_domain=remote.example.net"
        " submission/inet/smtpd_recipient_restrictions=permit_sasl_authenticated,reject && systemctl restart postfix"
    )
    certificate = remote.check_output("cat /etc/postfix/smart.pem")
    mail.check_output(
        "echo %s >/usr/local/share/ca-certificates/smart.crt && update-ca-certificates", certificate + "\n"
    )
    yield
    mail.check_output("rm /usr/local/share/ca-certificates/smart.crt && update-ca-certificates")
    remote.check_output("postconf -MX submission/inet && systemctl restart postfix")


@pytest.mark.usefixtures("smarthost")
def test_mail_leaves_through_the_smarthost_with_the_password(mail: Host, remote: Host) -> None:
    through = {
        "smtpmail_smarthost": "remote.example.net:587",
        "smtpmail_smarthost_user": "customer",
        "smtpmail_smarthost_password": "pass word:1",
    }
    output = deployed(options=with_tags("service", "check"), **through)
    assert "pass word" not in output
    assert "remote.example.net port 587: the smarthost answers" in output
    file = mail.file("/etc/smtpmail/smarthost")
    assert (file.user, file.mode) == ("smtpmail", 0o400)
    subject = new_subject()
    send_from_mail(mail, "alice@example.net", subject)
    content = remote.file(the_message(remote, "/home/alice/Maildir/new", subject)).content_string
    assert "ESMTPSA" in content, "with TLS and the password"
    deployed(options=with_tags("service"))
    assert not file.exists
    assert "smarthost" not in mail.file("/etc/smtpmail/smtpmail.toml").content_string


def test_half_of_a_smarthost_is_refused(mail: Host) -> None:
    result = deploy(options=with_tags("service"), smtpmail_smarthost_user="customer")
    assert "smtpmail_smarthost_user and smtpmail_smarthost_password go together" in the_error(result.stdout)


# -- a certificate that is on the host


def served(mail: Host) -> str:
    return mail.check_output(
        "openssl s_client -connect 127.0.0.1:25 -starttls smtp </dev/null 2>/dev/null | openssl x509 -noout -serial"
    )


def test_a_certificate_of_the_host_is_taken_and_so_are_its_renewals(mail: Host) -> None:
    make = (
        "mkdir -p /srv/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30"
        " -subj /CN=host -addext subjectAltName=DNS:mail.dom.fr -keyout /srv/tls/key.pem -out /srv/tls/cert.pem"
        " && openssl x509 -noout -serial -in /srv/tls/cert.pem"
    )
    first = mail.check_output(make)
    paths = {"smtpmail_tls_cert": "/srv/tls/cert.pem", "smtpmail_tls_key": "/srv/tls/key.pem"}
    deployed(options=with_tags("tls"), smtpmail_tls="host", **paths)
    assert served(mail) == first
    second = mail.check_output(make)
    eventually(lambda: served(mail) == second, 30)
    deployed(options=with_tags("tls"))
    assert not mail.file("/etc/systemd/system/smtpmail-certificate.path").exists


# -- the package and the wheels in turns


def test_package_and_wheels_take_turns_and_each_release_has_its_own_settings(mail: Host) -> None:
    """What cron and its like call works all the while, whichever is the current release and whichever came first."""
    package = {"smtpmail_install": "package", "smtpmail_memory_max": "640M", "smtpmail_settings": {"max-size": "5M"}}
    turns: tuple[tuple[str, dict[str, Any], bool], ...] = (
        ("deploy.yml", package, True),
        ("deploy.yml", {}, False),
        ("rollback.yml", {}, True),
        ("deploy.yml", {}, False),
    )
    for playbook, settings, packaged in turns:
        options = with_tags("service") if playbook == "deploy.yml" else ()
        deployed(playbook, options=options, **settings)
        assert str(mail.file("/opt/smtpmail/current").linked_to).endswith("/releases/package") is packaged
        memory = mail.check_output("systemctl show --value --property MemoryMax smtpmail.service")
        assert (memory == str(640 * 1024 * 1024)) is packaged
        assert ("max-size" in mail.file("/etc/smtpmail/smtpmail.toml").content_string) is packaged
        subject = new_subject()
        mail.check_output(
            "printf 'Subject: %%s\\n\\nHello.\\n' %s | runuser -u nobody -- /usr/sbin/sendmail bob", subject
        )
        the_message(mail, f"{SPOOL}/bob", subject)
        mail.check_output("mailq && newaliases && /usr/bin/smtpmail --version")


# -- programs of the host


def test_mail_of_the_hosts_programs_is_ours(mail: Host, remote: Host) -> None:
    assert mail.file("/usr/sbin/sendmail").linked_to.startswith("/opt/smtpmail/")
    subject = new_subject()
    mail.check_output(
        "printf 'Subject: %%s\\n\\nHello.\\n' %s | runuser -u nobody -- /usr/sbin/sendmail alice@example.net", subject
    )
    the_message(remote, "/home/alice/Maildir/new", subject)
