"""What is said to a service manager and what it hands over."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from smtpmail import systemd


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"smtpmail-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
        sock.bind(f"\0{name}" if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        systemd.notify("READY=1\nSTATUS=Serving")
        sock.settimeout(5)
        assert sock.recv(1000) == b"READY=1\nSTATUS=Serving"


def test_nobody_to_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without a manager, nor with one that has gone."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("10000000", None, 5.0),
        ("10000000", "own", 5.0),
        ("10000000", "1", None),
        (None, None, None),
        ("soon", None, None),
    ],
)
def test_watchdog(monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, interval: float | None) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog_interval() == interval


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "loopback"},
        {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "loopback"},
    ],
)
def test_sockets_for_somebody_else(variables: dict[str, str]) -> None:
    """They are left alone, and a child of ours is not told of them either."""
    environment = dict(variables)
    assert systemd.inherited_sockets(environment) == []
    assert environment == {}


@pytest.mark.parametrize(("count", "names"), [("2", "loopback"), ("1", "a:b"), ("many", "loopback")])
def test_variables_that_make_no_sense(count: str, names: str) -> None:
    with pytest.raises(ValueError, match="LISTEN_FDS"):
        systemd.inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names})
