"""File systems that hosts share, by what the kernel says of its mounts: no file of theirs is touched to find out.

One whose servers are away makes everybody wait who looks at it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

SHARED = frozenset({
    "fuse.glusterfs", "nfs", "nfs4", "ceph", "fuse.ceph", "fuse.ceph-fuse", "cifs", "smb3", "ocfs2", "gfs2", "lustre",
    "beegfs", "afs", "fuse.moosefs", "fuse.mfs", "fuse.juicefs", "fuse.sshfs",
})  # fmt: skip
"""Types that other hosts may have mounted, too. On GlusterFS, NFSv4 and CephFS POSIX locks hold between hosts."""

LOCAL = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "jfs", "reiserfs", "nilfs2", "zfs", "tmpfs", "ramfs",
    "overlay", "fuse.fuse-overlayfs", "squashfs", "erofs",
})  # fmt: skip
"""Types that no other host can have mounted at the same time."""

MOUNTINFO = "/proc/self/mountinfo"

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo, proc(5)."""

    device: int
    """As st_dev of its files."""
    point: str
    kind: str
    source: str
    options: tuple[str, ...] = ()
    """Those of the file system."""

    @property
    def is_shared(self) -> bool:
        """Whether other hosts may have it mounted, too."""
        return self.kind in SHARED

    def has(self, path: str) -> bool:
        """Whether an absolute path leads there or below."""
        return path == self.point or path.startswith(self.point.rstrip("/") + "/")


def mounts() -> list[Mount]:
    """All mounts that this process sees, the later above the earlier; none where the kernel does not tell."""
    try:
        with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            return [mount for line in file if (mount := parse(line)) is not None]
    except OSError:
        return []


def parse(line: str) -> Mount | None:
    """A line of mountinfo; None when it makes no sense."""
    before, _, after = line.partition(" - ")
    fields, rest = before.split(" "), after.split()
    try:
        major, _, minor = fields[2].partition(":")
        return Mount(
            os.makedev(int(major), int(minor)), _plain(fields[4]), rest[0], _plain(rest[1]), tuple(rest[2].split(","))
        )
    except (IndexError, ValueError):
        return None


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def mount_of(path: str) -> Mount | None:
    """The mount that a path lies on. Links are followed only where this touches no shared file system but the last."""
    there = mounts()
    found = _innermost(there, os.path.abspath(path))
    if found is not None and found.is_shared:
        return found
    return _innermost(there, os.path.realpath(path))


def _innermost(there: list[Mount], path: str) -> Mount | None:
    found = None
    for mount in there:
        if mount.has(path) and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def is_shared(path: str) -> bool:
    """Whether other hosts may have the file system of a path mounted, too."""
    mount = mount_of(path)
    return mount is not None and mount.is_shared
