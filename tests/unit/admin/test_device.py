"""`smtpmail device`, called by root on a folder of the service's."""

from __future__ import annotations

import os
from collections.abc import Callable
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


def test_a_profile_in_place_of_another_file(folder: Path, tmp_path: Path) -> None:
    """Who could read that file before reads nothing of it now."""
    file = tmp_path / "phone.mobileconfig"
    file.write_text("old")
    file.chmod(0o644)
    with file.open("rb") as before:
        assert call(folder, "add", "bob", "phone", "--profile", str(file))[0] == 0
        assert before.read() == b"old"
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"IncomingPassword" in file.read_bytes()
    assert list(tmp_path.glob("phone*")) == [file]


@pytest.mark.parametrize("make", [lambda path, victim: path.symlink_to(victim), lambda path, victim: os.mkfifo(path)])
def test_a_profile_goes_into_no_link_and_no_fifo(
    folder: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("root's own\n")
    make(tmp_path / "profile", victim)
    code, output = call(folder, "add", "bob", "phone", "--profile", str(tmp_path / "profile"))
    assert code == 1
    assert output.endswith("profile cannot be written: it is there, and no regular file; no device was added\n")
    assert victim.read_text() == "root's own\n"
    assert call(folder, "list")[1] == "There is no device.\n"


@pytest.mark.parametrize(
    "line",
    [
        "root:x:0:0:root:/root:/bin/bash",
        '{"user": "bob", "device": "x", "sha256": "é", "added": 1}',
        '{"user": "bob", "device": "x", "sha256": "%s", "added": 1e400}' % ("0" * 64),
        '{"user": "bob", "device": "x", "sha256": "%s", "added": -1}' % ("0" * 64),
        "[" * 100_000,
    ],
    ids=lambda line: line[:20],
)
def test_a_file_of_something_else_is_left_alone(folder: Path, line: str) -> None:
    """Who names the wrong file loses nothing of it."""
    assert call(folder, "add", "bob", "phone")[0] == 0
    with (folder / "devices").open("a") as file:
        file.write(f"\n{line}\n")
    before = (folder / "devices").read_bytes()
    for command in (("add", "bob", "tablet"), ("remove", "bob", "phone")):
        code, output = call(folder, *command)
        assert code == 1
        assert output.endswith("devices, line 3: this is no device; nothing was changed\n")
    assert (folder / "devices").read_bytes() == before
    code, output = call(folder, "list")
    assert code == 0
    assert [row.split()[:2] for row in output.splitlines()[1:]] == [["bob", "phone"]]


def test_a_fifo_in_place_of_the_devices_holds_nobody_up(folder: Path) -> None:
    os.mkfifo(folder / "devices")
    for command in (("list",), ("add", "bob", "phone"), ("remove", "bob", "phone")):
        code, output = call(folder, *command)
        assert code == 1
        assert output.endswith("it is no regular file\n")


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
