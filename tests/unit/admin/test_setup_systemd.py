"""What setup-systemd writes below a folder, and where it refuses; a host with systemd is a matter of tests/hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from support.commands import runner

from smtpmail.admin import setup_systemd
from smtpmail.cli import cli

PROGRAM = "/opt/smtpmail/bin/smtpmail"
UNITS = ("smtpmail.service", "smtpmail.socket", "smtpmail-loopback.socket")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if for all users of the host."""
    monkeypatch.setattr(setup_systemd, "installed_program", lambda: PROGRAM)


def run(root: Path, *options: str) -> Result:
    return runner().invoke(cli, ["setup-systemd", "--root", str(root), *options])


def everything(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): str(p.readlink()) if p.is_symlink() else p.read_text()
        for p in root.rglob("*")
        if p.is_symlink() or p.is_file()
    }


def test_units_account_folders_manual_completions_and_sendmail(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 0, result.output + result.stderr
    found = everything(tmp_path)
    assert f"\nExecStart={PROGRAM}\n" in found["etc/systemd/system/smtpmail.service"]
    assert f"\nExecStart={PROGRAM} report --since" in found["etc/systemd/system/smtpmail-report.service"]
    assert {f"etc/systemd/system/{unit}" for unit in UNITS} < found.keys()
    assert "\nu smtpmail " in found["etc/sysusers.d/smtpmail.conf"]
    assert "/var/lib/smtpmail" in found["etc/tmpfiles.d/smtpmail.conf"]
    assert 'spool = "/var/mail"' in found["etc/smtpmail/smtpmail.toml"]
    assert found["usr/sbin/sendmail"] == "/opt/smtpmail/bin/sendmail"
    assert "usr/local/share/man/man1/smtpmail.1" in found
    assert "usr/local/share/bash-completion/completions/smtpmail" in found


def test_again_is_the_same_and_the_configuration_stays(tmp_path: Path) -> None:
    run(tmp_path)
    file = tmp_path / "etc/smtpmail/smtpmail.toml"
    file.write_text("mine")
    before = everything(tmp_path)
    assert run(tmp_path).exit_code == 0
    assert everything(tmp_path) == before


def test_removed_but_for_what_people_would_miss(tmp_path: Path) -> None:
    mail = tmp_path / "var/mail/bob/1"
    mail.parent.mkdir(parents=True)
    mail.touch()
    run(tmp_path)
    assert run(tmp_path, "--remove").exit_code == 0
    assert everything(tmp_path).keys() == {"var/mail/bob/1", "etc/smtpmail/smtpmail.toml"}


def test_sendmail_of_another_mail_server_stays(tmp_path: Path) -> None:
    other = tmp_path / "usr/sbin/sendmail"
    other.parent.mkdir(parents=True)
    other.write_text("Exim's")
    assert run(tmp_path).exit_code == 0
    assert run(tmp_path, "--remove").exit_code == 0
    assert other.read_text() == "Exim's"


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("usr/lib/systemd/system/smtpmail.service", "the Debian package brings its own units"),
        ("etc/systemd/system/smtpmail.socket", "is not of setup-systemd"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--remove",)])
def test_units_of_another_origin_stay(tmp_path: Path, path: str, complaint: str, options: tuple[str, ...]) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text("[Unit]\n")
    result = run(tmp_path, *options)
    assert result.exit_code != 0
    assert complaint in result.stderr
    assert everything(tmp_path) == {path: "[Unit]\n"}


@pytest.mark.parametrize("place", ["/root/.local/share/pipx/venvs/smtpmail/bin", "/home/ann/venv/bin"])
def test_an_installation_that_a_service_cannot_see(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("sys.executable", f"{place}/python")
    monkeypatch.setattr("os.access", lambda *_: True)
    result = runner().invoke(cli, ["setup-systemd"])
    assert result.exit_code != 0
    assert "pipx install --global smtpmail" in result.stderr


def test_a_checkout_is_no_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    result = runner().invoke(cli, ["setup-systemd"])
    assert f"there is no {tmp_path}/smtpmail" in result.stderr
