"""What a test needs from the machine: by hand, what is missing skips the test and says so; in CI it is a failure."""

from __future__ import annotations

import os
import shutil

import pytest


def in_ci() -> bool:
    """Whether nothing may be skipped."""
    return os.environ.get("CI") == "true"


def missing(what: str) -> None:
    """Ends the test: the one place of the rule."""
    if in_ci():
        pytest.fail(f"needs {what}, and with CI=true nothing is skipped", pytrace=False)
    pytest.skip(f"needs {what}")


def tool(name: str, package: str | None = None) -> str:
    """The path of a program; `package` is the Debian package it comes from."""
    # nmh keeps its programs apart, and Postfix's are in sbin.
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin/mh:/usr/sbin:/sbin")
    if path is None:
        missing(f"{name} (tests/setup packages, or apt-get install {package or name})")
        raise AssertionError
    return path


def root() -> None:
    """The test needs root: for mounts, namespaces or other users."""
    if os.geteuid() != 0:
        missing("root")
