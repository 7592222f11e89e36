"""What is published: the wheel has all that a host needs, the sdist all that the tests need."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def built(kind: str, folder: Path) -> Path:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    ran = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (file,) = folder.iterdir()
    return file


def test_the_wheel_has_units_manual_and_completions(tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", tmp_path)) as wheel:
        names = wheel.namelist()
    assert {f"smtpmail/units/smtpmail.{kind}" for kind in ("service", "socket", "sysusers", "tmpfiles")} <= {*names}
    shared = {name.partition(".data/data/share/")[2] for name in names}
    assert {
        "man/man1/smtpmail.1",
        "man/man1/smtpmail-queue.1",
        "man/man5/smtpmail.toml.5",
        "man/man8/sendmail.8",
        "bash-completion/completions/smtpmail",
        "zsh/site-functions/_smtpmail",
        "fish/vendor_completions.d/smtpmail.fish",
    } <= shared


def test_the_sdist_is_the_repository(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("this is no git checkout")
    with tarfile.open(built("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = {
        name for name in listed
        if not name.startswith(".ci/") and (CHECKOUT / name).is_file() and name not in names
    }  # fmt: skip
    assert missing == set()
