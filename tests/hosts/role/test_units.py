"""The units as they come to a host: what systemd thinks of them, what they say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKOUT

UNITS = ("smtpmail.service", "smtpmail.socket", "smtpmail-loopback.socket")
Render = Callable[..., str]


@pytest.fixture
def folder(render: Render, tmp_path: Path) -> Path:
    """The units in a folder, with a program that exists."""
    for name in UNITS:
        (tmp_path / name).write_text(render(name, smtpmail_program="/bin/true"))
    return tmp_path


def test_systemd_finds_nothing_to_say(folder: Path) -> None:
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *(folder / name for name in UNITS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in result.stderr.splitlines() if "smtpmail" in line and "not found" not in line]
    assert not ours, ours


def test_exposure_offline(folder: Path) -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=12", folder / "smtpmail.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-300:] + result.stderr


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
    facts = {"ansible_facts": {"dns": {"nameservers": ["169.254.169.254"]}}}
    (denied,) = re.findall("^IPAddressDeny=(.*)$", render("smtpmail.service", **facts), re.MULTILINE)
    assert "169.254.169.254" not in denied.split()
    assert "IPAddressDeny" not in render("smtpmail.service", smtpmail_denied_addresses=[])


def listens(unit: str) -> list[str]:
    return re.findall("^ListenStream=(.*)$", unit, re.MULTILINE)


def test_the_loopback_listener_has_the_address_of_the_hosts_own_name(render: Render) -> None:
    assert listens(render("smtpmail-loopback.socket")) == ["127.0.0.1:25", "127.0.1.1:25", "[::1]:25"]


def test_a_host_without_ipv6_gets_no_socket_of_it(render: Render) -> None:
    facts = {"ansible_facts": {"all_ipv6_addresses": [], "fqdn": "mail.example.org", "hostname": "mail"}}
    assert listens(render("smtpmail-loopback.socket", **facts)) == ["127.0.0.1:25", "127.0.1.1:25"]
    assert listens(render("smtpmail.socket", **facts)) == ["0.0.0.0:25"]


@pytest.mark.parametrize("name", ["smtpmail.socket", "smtpmail-loopback.socket"])
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


@pytest.mark.parametrize("name", UNITS)
def test_the_packages_units_are_the_roles(render: Render, name: str) -> None:
    """They differ in where the program lies, and the package takes nothing from the network until it is told to."""
    rendered = render(
        name, smtpmail_program="/usr/bin/smtpmail", smtpmail_network=False, smtpmail_spool="/var/mail",
        smtpmail_hosts_file={"content": ""},
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
