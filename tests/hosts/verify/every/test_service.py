"""The service on the host: who it is, what it may, what it says."""

from __future__ import annotations

import json

import pytest
from conftest import eventually, main_pid
from testinfra.host import Host


@pytest.mark.parametrize(
    "unit",
    ["smtpmail.service", "smtpmail.socket", "smtpmail-loopback.socket", "smtpmail-imap.socket",
     "smtpmail-submission.socket", "smtpmail-imap-local.socket", "smtpmail-rotate.timer"],
)  # fmt: skip
def test_runs_now_and_after_the_next_boot(mail: Host, unit: str) -> None:
    assert mail.service(unit).is_running
    assert mail.service(unit).is_enabled


def test_runs_as_its_user_without_any_capability(mail: Host) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in mail.file(f"/proc/{main_pid(mail)}/status").content_string.splitlines()
        if ":\t" in line
    )
    user = mail.user("smtpmail")
    assert user.shell == "/usr/sbin/nologin"
    assert status["Uid"].split() == [str(user.uid)] * 4
    assert status["Gid"].split() == [str(user.gid)] * 4
    assert status["Groups"].split() == [str(user.gid)]
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_is_sandboxed(mail: Host) -> None:
    # The systemd of Debian 12 cannot give it a name space of users in which it knows the host's accounts.
    most = 14 if mail.system_info.release.startswith("12") else 12
    result = mail.run("systemd-analyze security --no-pager --threshold=%s smtpmail.service", str(most))
    assert result.rc == 0, result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("smtpmail.socket", {"0.0.0.0:25", "[::]:25"}),
        ("smtpmail-imap.socket", {"0.0.0.0:993", "[::]:993"}),
        ("smtpmail-submission.socket", {"0.0.0.0:465", "[::]:465"}),
        ("smtpmail-imap-local.socket", {"/run/smtpmail/imap.sock"}),
    ],
)
def test_systemd_holds_the_ports(mail: Host, name: str, addresses: set[str]) -> None:
    listen = mail.check_output("systemctl show --value --property Listen %s", name)
    assert {word for word in listen.split() if word != "(Stream)"} == addresses


def own_loopback(mail: Host) -> set[str]:
    """Where the host's own name leads to in its /etc/hosts: 127.0.1.1 on a Debian that was installed by hand, elsewhere
    perhaps an address that others reach, too."""
    lines = [line.partition("#")[0].split() for line in mail.file("/etc/hosts").content_string.splitlines()]
    return {words[0] for words in lines if "mail.dom.fr" in words[1:] and words[0].startswith("127.")}


def test_the_loopback_listener_has_the_addresses_of_the_hosts_own_name(mail: Host) -> None:
    listen = mail.check_output("systemctl show --value --property Listen smtpmail-loopback.socket")
    addresses = {"127.0.0.1:25", "[::1]:25"} | {f"{address}:25" for address in own_loopback(mail)}
    assert {word for word in listen.split() if word != "(Stream)"} == addresses


def test_the_service_may_make_mailboxes_and_not_move_those_of_others(mail: Host) -> None:
    mail.check_output("install -d -o nobody /var/spool/mail/others")
    try:
        assert mail.run("runuser -u smtpmail -- mv /var/spool/mail/others /var/spool/mail/taken").rc != 0
        assert mail.run("runuser -u smtpmail -- rmdir /var/spool/mail/others").rc != 0
        mail.check_output("runuser -u smtpmail -- mkdir /var/spool/mail/new")
        mail.check_output("runuser -u smtpmail -- rmdir /var/spool/mail/new")
    finally:
        mail.check_output("rmdir /var/spool/mail/others")


def test_programs_that_use_the_hosts_own_name_reach_the_loopback_listener(mail: Host) -> None:
    for address in own_loopback(mail) | {"127.0.0.1", "::1"}:
        sent = mail.run(f"swaks --server [{address}] --from bob@dom.fr --to alice@example.net --quit-after RCPT")
        assert sent.rc == 0, sent.stdout


def test_a_configuration_that_cannot_work_stops_the_sockets_too(mail: Host) -> None:
    """Nobody who connects starts it again, for ever; what mends it brings all back."""
    file = "/etc/smtpmail/smtpmail.toml"
    mail.check_output("cp -p %s %s.kept && echo 'no-such-key = 1' >>%s", file, file, file)
    try:
        assert mail.run("systemctl restart smtpmail.service").rc != 0
        for socket in ("smtpmail.socket", "smtpmail-imap.socket", "smtpmail-submission.socket"):
            eventually(lambda: not mail.service(socket).is_running)  # noqa: B023
        before = starts(mail)
        assert mail.run("nc -z 192.0.2.10 25").rc != 0
        assert starts(mail) == before
    finally:
        mail.check_output("mv %s.kept %s && systemctl restart smtpmail.service", file, file)
    for socket in ("smtpmail.socket", "smtpmail-imap.socket", "smtpmail-submission.socket"):
        assert mail.service(socket).is_running
    assert mail.run("swaks --server 127.0.0.1 --quit-after EHLO").rc == 0


def starts(mail: Host) -> int:
    return int(mail.check_output("journalctl --unit smtpmail.service --output cat | grep -c 'Starting smtpmail'"))


def test_logs_json_to_the_journal(mail: Host) -> None:
    lines = mail.check_output("journalctl --unit smtpmail.service --output cat _TRANSPORT=stdout").splitlines()
    # A configuration that cannot work is said in plain words.
    events = [json.loads(line) for line in lines if line.startswith("{")]
    started = [event for event in events if event["event"] == "server.started"]
    assert started
    assert started[-1]["hostname"] == "mail.dom.fr"


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/etc/smtpmail", 0o750),
        ("/etc/smtpmail/smtpmail.toml", 0o640),
        ("/etc/smtpmail/users", 0o640),
        ("/etc/smtpmail/tls/key.pem", 0o640),
    ],
)
def test_configuration_belongs_to_root(mail: Host, path: str, mode: int) -> None:
    file = mail.file(path)
    assert (file.user, file.group, file.mode) == ("root", "smtpmail", mode)


def test_keys_that_sign_are_the_services_alone(mail: Host) -> None:
    listed = json.loads(mail.check_output("smtpmail dkim list --json"))
    assert [key["domain"] for key in listed if key["state"] == "signs"] == ["dom.fr"]
    found = mail.check_output("find /etc/smtpmail/dkim -printf '%u:%g %m %y\n'").splitlines()
    assert sorted(set(found)) == ["smtpmail:smtpmail 600 f", "smtpmail:smtpmail 700 d"]


def test_program_approves_of_its_configuration(mail: Host) -> None:
    result = mail.run("smtpmail check")
    assert result.rc == 0, result.stderr


def test_reload_keeps_the_process(mail: Host) -> None:
    before = main_pid(mail)
    mail.check_output("systemctl reload smtpmail.service")
    assert main_pid(mail) == before
    assert mail.service("smtpmail.service").is_running
