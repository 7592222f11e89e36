"""Mail servers besides Postfix, as far as they are on this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.servers import ROOT, BenchError, Server, end, free_port


class Aiosmtpd:
    """aiosmtpd with its own maildir handler: it syncs each message, but not the folder; one mailbox for all users."""

    name = "aiosmtpd"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.pid = 0
        self._mail = folder / "aiosmtpd"
        self._process: subprocess.Popen[bytes] | None = None
        self._before = 0.0

    def start(self) -> None:
        self._mail.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{self.port}"]
        command += ["-c", "aiosmtpd.handlers.Mailbox", str(self._mail)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        _wait_for_port(self.port)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def delivered(self, user: str) -> list[str]:
        """All that came since the last call for another user: there is one mailbox."""
        try:
            with os.scandir(self._mail / "new") as entries:
                return [entry.path for entry in entries]
        except FileNotFoundError:
            return []


def available(folder: Path) -> tuple[Sequence[Server], Sequence[str]]:
    """The servers that can be measured, and the names of those that are missing."""
    servers: list[Server] = []
    missing = []
    if importlib.util.find_spec("aiosmtpd") is not None:
        servers.append(Aiosmtpd(folder))
    else:
        missing.append("aiosmtpd (pip install aiosmtpd)")
    return servers, missing


def _wait_for_port(port: int) -> None:
    import socket

    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise BenchError(f"nothing listens on port {port}")
