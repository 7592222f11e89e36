"""The disk under test: a file with ext4 and its journal on it, as people have it, mounted through a loop device."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

OCTETS = 6 * 1024**3

_ZEROS = bytes(1 << 20)


class DiskError(Exception):
    """The disk can't be made: one line for people."""


class Disk(Protocol):
    """Where the servers have their files."""

    what: str
    """For the head of the report."""

    def fresh(self) -> AbstractContextManager[Path]:
        """A folder on which nothing was deleted yet, for one kind of measurement. Raises DiskError."""


class Made:
    """A disk in a file of its own; each kind of measurement gets a new file system on it."""

    what = "ext4 in a file, loop device with direct I/O"

    def __init__(self, folder: Path) -> None:
        """Writes the file, which takes a minute. Raises DiskError."""
        self._image, self._root = folder / "image", folder / "root"
        self._root.mkdir()
        # Zeros that are written: blocks that are only reserved, or holes, would cost the file system below a
        # transaction of its own with nearly each sync, which a disk does not.
        try:
            fd = os.open(self._image, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                for _ in range(0, OCTETS, len(_ZEROS)):
                    os.write(fd, _ZEROS)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise DiskError(f"no room for {OCTETS >> 30} GiB below {folder.parent}: {error.strerror}") from None

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        # `nodiscard`, for mke2fs would make a hole of the file. Nothing is left for later that a kernel thread would
        # do during a run.
        settings = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        # Twice the usual number of inodes: a message of 4 KiB takes two.
        _run("mkfs.ext4", "-q", "-F", "-i", "8192", "-E", settings, str(self._image))
        device = _run("losetup", "--find", "--show", "--direct-io=on", str(self._image)).strip()
        try:
            _run("mount", "-o", "relatime", device, str(self._root))
            try:
                self._root.chmod(0o755)  # Postfix's own user passes through
                yield self._root
            finally:
                _run("umount", str(self._root))
        finally:
            _run("losetup", "--detach", device)


class Given:
    """Folders on a disk that is there already."""

    what = "a folder that was given"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        path = self._folder / str(next(self._numbers))
        path.mkdir()
        yield path


@contextlib.contextmanager
def made(parent: Path) -> Iterator[Disk]:
    """A disk in a file below `parent`; it goes when it is left. Raises DiskError."""
    with _folder(parent, "smtpmail-bench-disk-", keep=False) as folder:
        yield Made(folder)


@contextlib.contextmanager
def given(parent: Path, *, keep: bool) -> Iterator[Disk]:
    """Folders on a disk that is there already; what was written goes at the very end."""
    with _folder(parent, "smtpmail-bench-", keep=keep) as folder:
        yield Given(folder)


@contextlib.contextmanager
def _folder(parent: Path, prefix: str, *, keep: bool) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    path.chmod(0o755)
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)  # what went wrong before it is what should be seen


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
