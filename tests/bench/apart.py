"""Programs of Debian packages that are not installed, in a root of their own: this machine's, with theirs laid over it.

The packages of mail servers exclude each other, and their programs have paths and accounts compiled in.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.servers import ROOT

PACKAGES = ROOT / ".cache/bench-peers/debian"
"""Where `fetch-peers` has unpacked them."""

# What is laid over the root is in memory; the disk under test is where it always is, and its folder `spool` at $spool.
SCRIPT = """
over=$1 packages=$2 files=$3 disk=$4 spool=$5; shift 5
mount -t tmpfs tmpfs "$over"
mkdir "$over/upper" "$over/work" "$over/root"
cp -a "$packages/usr" "$packages/etc" "$over/upper"
cp -a "$files/." "$over/upper"
mount -t overlay overlay -o "lowerdir=/,upperdir=$over/upper,workdir=$over/work" "$over/root"
mkdir -p "$over/root$disk"
mount --bind "$disk" "$over/root$disk"
if [ -n "$spool" ]; then mkdir -p "$over/root$spool"; mount --bind "$disk/spool" "$over/root$spool"; fi
mount -t proc proc "$over/root/proc"
mount --rbind /dev "$over/root/dev"
mount -t tmpfs tmpfs "$over/root/run"
exec chroot "$over/root" "$@"
"""


def missing(program: str) -> str:
    """Why a program can't be run; empty when it can."""
    path = PACKAGES / program.lstrip("/")
    if not path.exists():
        return "tests/bench/fetch-peers fetches it"
    if shutil.which("unshare") is None or "overlay" not in Path("/proc/filesystems").read_text():
        return "unshare(1) or overlayfs is not there"
    found = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False, timeout=30)
    libraries = [line.split()[0] for line in found.stdout.splitlines() if line.endswith("not found")]
    return f"without {', '.join(libraries)}" if libraries else ""


def command(disk: Path, spool: str, accounts: Mapping[str, int], files: Mapping[str, str], *words: str) -> list[str]:
    """What runs the words as root in such a place; its first process ends all others with it.

    `disk` is a folder on the disk under test; where `spool` is given, that path is the folder `spool` in it. `accounts`
    are there besides those of the machine, each with a group of its name; `files` are contents by path.
    """
    over, layer = disk / "over", disk / "layer"
    over.mkdir(parents=True, exist_ok=True)
    for database, fields in (("passwd", "{id}::/nonexistent:/usr/sbin/nologin"), ("group", "")):
        lines = [f"{name}:x:{id_}:" + fields.format(id=id_) for name, id_ in accounts.items()]
        _write(layer / "etc" / database, Path("/etc", database).read_text() + "\n".join([*lines, ""]))
    for path, content in files.items():
        _write(layer / path.lstrip("/"), content)
    paths = (str(over), str(PACKAGES), str(layer), str(disk), spool)
    return [*_unshare(), "sh", "-e", "-c", SCRIPT, "sh", *paths, *words]


def _unshare() -> Sequence[str]:
    # A process whose parent ends belongs to the first one of the name space: the CPU time of all is counted.
    return "unshare", "--mount", "--pid", "--fork", "--kill-child"


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
