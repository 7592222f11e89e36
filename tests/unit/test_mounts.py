"""What is shared is told by the kernel's table of mounts alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smtpmail import mounts

TABLE = """\
22 1 0:21 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a
30 22 8:1 / /srv rw,relatime shared:2 master:3 - ext4 /dev/sda1 rw
31 30 0:50 / /srv/mail rw,relatime shared:4 - fuse.glusterfs mx1:/mail rw,user_id=0
32 31 0:51 / /srv/mail/bob rw - nfs4 nas:/bob rw
33 30 0:52 / /srv/my\\040disk rw - tmpfs tmpfs rw
34 30 0:53 / /srv/over rw - nfs nas:/x rw
35 30 8:2 / /srv/over rw - xfs /dev/sdb rw
nonsense
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(TABLE)
    monkeypatch.setattr(mounts, "MOUNTINFO", str(file))


@pytest.mark.parametrize(
    ("path", "point", "kind", "shared"),
    [
        ("/srv/mail", "/srv/mail", "fuse.glusterfs", True),
        ("/srv/mail/anna/.lock", "/srv/mail", "fuse.glusterfs", True),
        ("/srv/mail/bob", "/srv/mail/bob", "nfs4", True),
        ("/srv/mail/../mail/bob/1", "/srv/mail/bob", "nfs4", True),
        ("/srv/mailbox", "/srv", "ext4", False),
        ("/srv/my disk/x", "/srv/my disk", "tmpfs", False),
        ("/srv/over/x", "/srv/over", "xfs", False),
        ("/nowhere", "/", "overlay", False),
    ],
)
def test_the_innermost_mount_counts(table: None, path: str, point: str, kind: str, shared: bool) -> None:
    mount = mounts.mount_of(path)
    assert mount is not None
    assert (mount.point, mount.kind, mount.is_shared) == (point, kind, shared)


def test_a_link_to_a_shared_file_system(table: None, tmp_path: Path) -> None:
    (tmp_path / "mail").symlink_to("/srv/mail")
    assert mounts.is_shared(str(tmp_path / "mail/anna"))


def test_the_device_is_that_of_its_files() -> None:
    mount = mounts.mount_of("/proc/self")
    assert mount is not None and mount.device == os.stat("/proc").st_dev


def test_without_a_table_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTINFO", "/nowhere/mountinfo")
    assert mounts.mount_of("/srv/mail") is None and not mounts.is_shared("/srv/mail")
