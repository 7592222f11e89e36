"""The disk under test: a file with ext4 and its journal on it, as people have it, mounted through a loop device."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

OCTETS = 6 * 1024**3


class DiskError(Exception):
    """The disk can't be made: one line for people."""


@contextlib.contextmanager
def made(parent: Path) -> Iterator[Path]:
    """The root of a fresh disk, in a file below `parent`; it goes when it is left. Raises DiskError."""
    folder = Path(tempfile.mkdtemp(prefix="smtpmail-bench-disk-", dir=parent))
    try:
        folder.chmod(0o755)  # Postfix's own user passes through
        image, root = folder / "image", folder / "root"
        root.mkdir()
        with open(image, "wb") as file:
            try:
                # All blocks belong to it from the beginning: the disk below has nothing to allocate during a run.
                os.posix_fallocate(file.fileno(), 0, OCTETS)
            except OSError as error:
                raise DiskError(f"no room for {OCTETS >> 30} GiB below {parent}: {error.strerror}") from None
        # Nothing is left for later that a kernel thread would do during a run.
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        device = _run("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
        try:
            _run("mount", "-o", "relatime", device, str(root))
            try:
                root.chmod(0o755)
                yield root
            finally:
                _run("umount", str(root))
        finally:
            _run("losetup", "--detach", device)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def given(parent: Path, *, keep: bool) -> Iterator[Path]:
    """A folder on a disk that is there already; what was written goes at the very end."""
    path = Path(tempfile.mkdtemp(prefix="smtpmail-bench-", dir=parent))
    path.chmod(0o755)  # Postfix's own user passes through
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path)


def can_be_made() -> str:
    """Why no disk can be made here; empty when one can."""
    missing = [name for name in ("mkfs.ext4", "losetup", "mount", "umount") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing"
    if os.getuid():
        return "root is needed for a loop device"
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices here"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise DiskError(f"{command[0]} failed: {' '.join(done.stderr.split())}")
    return done.stdout
