"""`smtpmail device`, called by root on a folder of the service's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpmail.admin.device import device

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can be misled")


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        device, [*arguments, "--devices", str(folder / "devices"), "-s", "dom.fr", "-H", "mail.dom.fr"]
    )
    return result.exit_code, result.output


@pytest.fixture
def folder(open_folder: Path) -> Path:
    """The service's own; it can be reached, as a state directory can."""
    folder = open_folder / "state"
    folder.mkdir(0o700)
    os.chown(folder, NOBODY, NOBODY)
    return folder


def test_the_file_is_the_services(folder: Path) -> None:
    assert call(folder, "add", "bob", "phone")[0] == 0
    assert {(folder / name).stat().st_uid for name in ("devices", "devices.lock")} == {NOBODY}
    assert (folder / "devices").stat().st_mode & 0o777 == 0o600
    assert "phone" in call(folder, "list")[1]
    assert call(folder, "remove", "bob", "phone")[0] == 0


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        ("bob@dom.fr", ""),
        ("BOB@DOM.FR.", ""),
        ("bob@other.net", "'bob@other.net' is no user name"),
        ("bob@x@dom.fr", "is no user name"),
        ("bob+list", "is no user name"),
        ("../bob", "is no user name"),
        ("carol", "there is no user 'carol' in"),
        ("postmaster", ""),
    ],
)
def test_whose_device(folder: Path, tmp_path: Path, user: str, complaint: str) -> None:
    (tmp_path / "users").write_text("bob\n")
    code, output = call(folder, "add", user, "phone", "--users", str(tmp_path / "users"))
    assert complaint in output
    assert (code == 0) is (not complaint)
    if not complaint and user != "postmaster":
        assert "User name: bob\n" in output
        assert "phone" in call(folder, "list", "bob")[1]
        assert call(folder, "remove", user, "phone")[0] == 0
        assert call(folder, "list")[1] == "There is no device.\n"


def test_a_profile_that_cannot_be_written(folder: Path) -> None:
    code, output = call(folder, "add", "bob", "phone", "--profile", "/nowhere/x")
    assert code == 1
    assert output.endswith("/nowhere/x cannot be written: No such file or directory; no device was added\n")
    assert call(folder, "list")[1] == "There is no device.\n"


@pytest.mark.parametrize("name", ["devices.new", "devices.lock", "devices"])
def test_a_link_leads_root_nowhere(folder: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("root's own\n")
    victim.chmod(0o600)
    (folder / name).symlink_to(victim)
    code, output = call(folder, "add", "bob", "phone")
    assert victim.read_text() == "root's own\n", output
    assert victim.stat().st_uid == 0
    assert code != 0
