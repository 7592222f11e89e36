"""The units as they come to a host: what systemd thinks of them, what they say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKOUT, GATHERED

UNITS = (
    "smtpmail.service", "smtpmail.socket", "smtpmail-loopback.socket", "smtpmail-imap.socket",
    "smtpmail-submission.socket", "smtpmail-imap-local.socket",
)  # fmt: skip
TIMERS = ("smtpmail-rotate.service", "smtpmail-rotate.timer", "smtpmail-report.service", "smtpmail-report.timer")
Render = Callable[..., str]


def with_facts(**facts: object) -> dict[str, object]:
    """A host on which some facts are others."""
    return {"ansible_facts": GATHERED["ansible_facts"] | facts}


@pytest.fixture
def folder(render: Render, tmp_path: Path) -> Path:
    """The units in a folder, with a program that exists."""
    for name in (*UNITS, *TIMERS):
        text = render(name, smtpmail_program="/bin/true", smtpmail_dns="update")
        (tmp_path / name).write_text(re.sub("(?m)^ExecStart=/usr/local/.*", "ExecStart=/bin/true", text))
    return tmp_path


def test_systemd_finds_nothing_to_say(folder: Path) -> None:
    units = [folder / name for name in (*UNITS, *TIMERS)]
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in result.stderr.splitlines() if "smtpmail" in line and "not found" not in line]
    assert not ours, ours


@pytest.mark.parametrize(
    ("name", "variables", "tenths"),
    [
        ("smtpmail.service", {"smtpmail_imap": False}, 12),
        # The kernel has to tell whose mail is asked for.
        ("smtpmail.service", {}, 14),
        # Root, for keys that are another's.
        ("smtpmail-rotate.service", {}, 40),
        ("smtpmail-report.service", {}, 20),
    ],
)
def test_exposure_offline(render: Render, tmp_path: Path, name: str, variables: dict[str, object], tenths: int) -> None:
    (tmp_path / name).write_text(render(name, **variables))
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={tenths}", tmp_path / name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-300:] + result.stderr


@pytest.mark.parametrize(
    ("release", "imap", "lines"),
    [
        ("12", True, []),
        ("12", False, ["PrivateUsers=yes"]),
        ("13", True, ["PrivateUsers=identity"]),
        ("13", False, ["PrivateUsers=identity"]),
    ],
)
def test_the_service_knows_accounts_by_their_numbers(
    render: Render, release: str, imap: bool, lines: list[str]
) -> None:
    unit = render("smtpmail.service", smtpmail_imap=imap, **with_facts(distribution_major_version=release))
    assert [line for line in unit.splitlines() if line.startswith("PrivateUsers")] == lines


@pytest.mark.parametrize(
    "line",
    [
        "RequiresMountsFor=/var/spool/mail /var/lib/smtpmail",
        "RestartPreventExitStatus=2",
        "LogRateLimitIntervalSec=0",
        "MemoryMax=512M",
        "TasksMax=2424",
        "OOMPolicy=kill",
        "IPAddressDeny=169.254.169.254 100.100.100.200 fd00:ec2::254 fd20:ce::254",
        "ReadWritePaths=/var/spool/mail",
    ],
)
def test_the_service_says(render: Render, line: str) -> None:
    assert line in render("smtpmail.service").splitlines()


def test_limits_follow_the_settings(render: Render) -> None:
    unit = render("smtpmail.service", smtpmail_settings={"max-connections": 5000, "max-deliveries": 10})
    assert "TasksMax=6064" in unit.splitlines()
    assert "MemoryMax=2G" in render("smtpmail.service", smtpmail_memory_max="2G").splitlines()


def test_another_spool_is_waited_for_and_may_be_written(render: Render) -> None:
    unit = render("smtpmail.service", smtpmail_spool="/srv/mail").splitlines()
    assert "RequiresMountsFor=/srv/mail /var/lib/smtpmail" in unit
    assert "ReadWritePaths=/srv/mail" in unit


def test_a_name_server_may_be_asked_even_where_clouds_have_their_metadata(render: Render) -> None:
    facts = with_facts(dns={"nameservers": ["169.254.169.254"]})
    (denied,) = re.findall("^IPAddressDeny=(.*)$", render("smtpmail.service", **facts), re.MULTILINE)
    assert "169.254.169.254" not in denied.split()
    assert "IPAddressDeny" not in render("smtpmail.service", smtpmail_denied_addresses=[])


def listens(unit: str) -> list[str]:
    return re.findall("^ListenStream=(.*)$", unit, re.MULTILINE)


def test_the_loopback_listener_has_the_address_of_the_hosts_own_name(render: Render) -> None:
    assert listens(render("smtpmail-loopback.socket")) == ["127.0.0.1:25", "127.0.1.1:25", "[::1]:25"]


def test_a_host_without_ipv6_gets_no_socket_of_it(render: Render) -> None:
    facts = with_facts(all_ipv6_addresses=[])
    assert listens(render("smtpmail-loopback.socket", **facts)) == ["127.0.0.1:25", "127.0.1.1:25"]
    assert listens(render("smtpmail.socket", **facts)) == ["0.0.0.0:25"]
    assert listens(render("smtpmail-imap.socket", **facts)) == ["0.0.0.0:993"]
    assert 'imap-listen = ["0.0.0.0:993"]' in render("smtpmail.toml", **facts)


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".socket") and "local" not in name])
def test_a_lost_address_family_does_not_keep_a_socket_from_its_port(render: Render, name: str) -> None:
    assert "FreeBind=yes" in render(name).splitlines()


def test_the_configuration_names_the_smarthost_and_never_its_password(render: Render) -> None:
    text = render(
        "smtpmail.toml", smtpmail_smarthost="smtp.example.net:587", smtpmail_smarthost_user="me",
        smtpmail_smarthost_password="secret",
    )  # fmt: skip
    assert 'smarthost = "smtp.example.net:587"' in text
    assert 'smarthost-auth = "/etc/smtpmail/smarthost"' in text
    assert "secret" not in text
    assert "smarthost" not in render("smtpmail.toml")


@pytest.mark.parametrize("name", [*UNITS, "smtpmail-report.service", "smtpmail-report.timer"])
def test_the_packages_units_are_the_roles(render: Render, name: str) -> None:
    """They differ in where the program lies, and the package takes nothing from the network until it is told to."""
    rendered = render(
        name, smtpmail_program="/usr/bin/smtpmail", smtpmail_spool="/var/mail", smtpmail_network=False,
        smtpmail_imap=False, smtpmail_hosts_file={"content": ""}, **with_facts(distribution_major_version="13"),
    )  # fmt: skip
    packaged = (CHECKOUT / "smtpmail" / "units" / name).read_text()
    assert packaged.splitlines() == rendered.splitlines()[1:]


@pytest.mark.parametrize(
    ("variables", "lines"),
    [
        ({}, ["root: alice"]),
        ({"smtpmail_users": ["root", "bob"]}, []),
        ({"smtpmail_aliases": {"root": "bob"}}, ["root: bob"]),
        (
            {"smtpmail_aliases": {"sales": ["bob", "carol@example.net"]}},
            ["root: alice", "sales: bob, carol@example.net"],
        ),
    ],
)
def test_root_is_somebody(render: Render, variables: dict[str, object], lines: list[str]) -> None:
    assert [line for line in render("aliases", **variables).splitlines() if not line.startswith("#")] == lines


def test_devices_have_ports_of_their_own(render: Render) -> None:
    assert listens(render("smtpmail-imap.socket", smtpmail_imap_port=1993)) == ["0.0.0.0:1993", "[::]:1993"]
    assert listens(render("smtpmail-submission.socket")) == ["0.0.0.0:465", "[::]:465"]
    text = render("smtpmail.toml", smtpmail_imap_port=1993)
    assert 'imap-listen = ["0.0.0.0:1993", "[::]:1993"]' in text
    assert 'submission-listen = ["0.0.0.0:465", "[::]:465"]' in text
    requires = "Requires=smtpmail-loopback.socket smtpmail.socket smtpmail-imap.socket smtpmail-submission.socket"
    assert f"{requires} smtpmail-imap-local.socket" in render("smtpmail.service").splitlines()
    assert "tcp dport { 22, 25, 993, 465 } accept" in render("firewall.nft", **SSH)


SSH = {"smtpmail_ssh": {"stdout_lines": ["22"]}, "smtpmail_came_through": {"stdout_lines": ["22"]}}


@pytest.mark.parametrize("off", [{"smtpmail_devices": False}, {"smtpmail_network": False}, {"smtpmail_tls": "none"}])
def test_without_network_or_certificate_no_device_comes_in(render: Render, off: dict[str, object]) -> None:
    text = render("smtpmail.toml", **off)
    assert "devices" not in text
    assert "listen" not in text
    assert "imap-socket" in text, "this needs neither"
    unit = render("smtpmail.service", **off)
    (requires,) = re.findall("^Requires=(.*)$", unit, re.MULTILINE)
    assert "submission" not in requires
    assert "tcp dport { 22, 25 } accept" in render("firewall.nft", **off, **SSH)


def test_the_key_that_publishes_stays_where_it_is_of_use(render: Render) -> None:
    assert "LoadCredential=dns.key:/etc/smtpmail/dns.key" in render("smtpmail-rotate.service", smtpmail_dns="update")
    assert "LoadCredential" not in render("smtpmail-rotate.service")
    assert "LoadCredential" not in render("smtpmail.service", smtpmail_dns="update")


@pytest.mark.parametrize(
    ("variables", "said", "calls"),
    [
        ({}, "nothing is due", []),
        ({}, "example.org: publish this record", ["mail: The key that signs mail of example.org"]),
        ({"smtpmail_dns": "update"}, "example.org: x signs in the place of y", ["reload"]),
        ({}, "FAIL", ["mail: The key that signs mail of example.org could not be replaced"]),
    ],
)
def test_root_is_told_what_to_do_and_what_failed(
    render: Render, tmp_path: Path, variables: dict[str, object], said: str, calls: list[str]
) -> None:
    (tmp_path / "current" / "bin").mkdir(parents=True)
    log = tmp_path / "log"
    programs = {
        "smtpmail": f"#!/bin/sh\necho \"$@\" >>{tmp_path}/asked\necho '{said}'\n[ '{said}' != FAIL ]\n",
        "current/bin/sendmail": f"#!/bin/sh\nsed -n 's/^Subject: /mail: /p' >>{log}\n",
        "systemctl": f'#!/bin/sh\necho "$1" >>{log}\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = render(
        "rotate-keys", smtpmail_program=str(tmp_path / "smtpmail"), smtpmail_home=str(tmp_path), **variables
    )
    result = subprocess.run(
        ["/bin/sh"], input=script, text=True, capture_output=True, check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CREDENTIALS_DIRECTORY": "/run/keys"},
    )  # fmt: skip
    assert result.returncode == (1 if said == "FAIL" else 0), result.stderr
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("dkim rotate example.org --older-than 180")
    assert ("--key-file /run/keys/dns.key" in asked) == (variables != {})
    done = log.read_text().splitlines() if log.exists() else []
    assert [call for call in done if call != "reload" or variables] == calls
