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
def folder(tmp_path: Path) -> Path:
    """The service's own; it can be reached, as a state directory can."""
    for parent in (tmp_path, *tmp_path.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    folder = tmp_path / "state"
    folder.mkdir(0o700)
    os.chown(folder, NOBODY, NOBODY)
    return folder


def test_the_file_is_the_services(folder: Path) -> None:
    assert call(folder, "add", "bob", "phone")[0] == 0
    assert {(folder / name).stat().st_uid for name in ("devices", "devices.lock")} == {NOBODY}
    assert (folder / "devices").stat().st_mode & 0o777 == 0o600
    assert "phone" in call(folder, "list")[1]
    assert call(folder, "remove", "bob", "phone")[0] == 0


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
