"""What the network sees of the host: one port for mail, none for relaying, the records of its domain."""

from __future__ import annotations

import json

import pytest
from conftest import PATIENCE, main_pid
from testinfra.host import Host

ADDRESSES = ["192.0.2.10", "2001:db8::10"]


def connects(host: Host, address: str, port: int) -> bool:
    return bool(host.run("nc -z -w %s %s %s", str(round(2 * PATIENCE)), address, str(port)).rc == 0)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("port", [25, 22, 465, 993])
def test_mail_and_ssh_are_open(remote: Host, address: str, port: int) -> None:
    assert connects(remote, address, port)


@pytest.fixture(scope="module")
def listener_on_2600(mail: Host) -> object:
    mail.check_output("systemd-run --quiet --unit open2600 -- nc -6 -k -l 2600")
    mail.check_output("systemd-run --quiet --unit open2600v4 -- nc -4 -k -l 2600")
    yield
    mail.check_output("systemctl stop open2600 open2600v4")


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.usefixtures("listener_on_2600")
def test_another_port_with_a_listener_is_closed(mail: Host, remote: Host, address: str) -> None:
    assert connects(mail, address, 2600), "the listener itself must work"
    assert not connects(remote, address, 2600)


@pytest.mark.parametrize("address", ADDRESSES)
def test_relaying_is_refused(remote: Host, address: str) -> None:
    result = remote.run(
        "swaks --server %s --from alice@example.net --to carol@example.net --quit-after RCPT", f"[{address}]"
    )
    assert "550 5.7.1" in result.stdout, result.stdout + result.stderr


def test_starttls_is_offered(remote: Host) -> None:
    result = remote.run("swaks --server 192.0.2.10 --tls --quit-after EHLO")
    assert result.rc == 0, result.stdout + result.stderr
    assert "TLSv1.3" in result.stdout


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("dom.fr", "MX", "10 mail.dom.fr."),
        ("mail.dom.fr", "A", "192.0.2.10"),
        ("mail.dom.fr", "AAAA", "2001:db8::10"),
        ("mail.dom.fr", "TXT", '"v=spf1 a -all"'),
        ("_dmarc.dom.fr", "TXT", '"v=DMARC1; p=none; rua=mailto:postmaster@dom.fr"'),
        ("_smtp._tls.dom.fr", "TXT", '"v=TLSRPTv1; rua=mailto:postmaster@dom.fr"'),
        ("_imaps._tcp.dom.fr", "SRV", "0 1 993 mail.dom.fr."),
        ("_submissions._tcp.dom.fr", "SRV", "0 1 465 mail.dom.fr."),
    ],
)
def test_records_are_published(remote: Host, name: str, kind: str, value: str) -> None:
    assert remote.check_output("dig +short @192.0.2.20 %s %s", name, kind).splitlines() == [value]


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("dom.fr", "A", {"192.0.2.80"}),
        ("www.dom.fr", "A", {"192.0.2.80"}),
        # The policy that was there is extended, its other terms stand.
        ("dom.fr", "TXT", {'"site-verification=0123456789"', '"v=spf1 mx include:example.net ~all"'}),
    ],
)
def test_records_that_were_there_survive(remote: Host, name: str, kind: str, values: set[str]) -> None:
    assert set(remote.check_output("dig +short @192.0.2.20 %s %s", name, kind).splitlines()) == values


def test_dns_check_finds_nothing_wrong(mail: Host) -> None:
    result = mail.run("smtpmail dns check --json --outbound remote.example.net")
    findings = json.loads(result.stdout)
    assert result.rc == 0, findings
    assert {(f["check"], f["level"]) for f in findings} == {
        ("mx", "ok"), ("address", "ok"), ("reverse", "ok"), ("spf", "ok"), ("port", "ok"), ("outbound", "ok"),
        ("dmarc", "ok"), ("tls-rpt", "ok"), ("dkim", "ok"), ("message", "ok"), ("srv", "ok"),
        ("certificate", "warning"),  # it is self-signed here
    }  # fmt: skip


def test_dns_check_sees_what_is_wrong(mail: Host) -> None:
    result = mail.run("smtpmail dns check --json --address 192.0.2.99 --outbound nobody.example.net")
    wrong = {f["check"] for f in json.loads(result.stdout) if f["level"] == "error"}
    assert result.rc == 1
    assert wrong == {"address", "reverse", "spf", "port", "outbound"}


def test_the_secret_of_dns_is_roots_alone(mail: Host) -> None:
    kept = mail.file("/etc/smtpmail/dns.key")
    assert (kept.user, kept.group, kept.mode) == ("root", "root", 0o600)
    # A pattern that does not match itself: what is run through sudo stands in the journal.
    secret = "[c]210cG1haWwgdGVzdCBuZXR3b3JrLCBub3Qgc2VjcmV0ISE="
    found = mail.run("grep -rls %s /etc /opt /root /run /tmp /var/lib /var/log", secret).stdout
    assert found.split() == ["/etc/smtpmail/dns.key"]
    assert mail.run("journalctl --no-pager | grep -q %s", secret).rc == 1
    assert main_pid(mail) > 0
