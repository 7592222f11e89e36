"""Starts the real program in a process of its own and speaks with it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.client import Address, Client

START_SECONDS = 60
NO_RESOLVER = ("--resolver", "127.0.0.1:9", "--verify", "off")
"""Nothing answers there: no test of this suite may ask the world's DNS. What is asked of each message is off, too."""

LOOPBACK_ONLY = ("--loopback", "127.0.0.1:0", "--loopback", "[::1]:0", "--listen", "127.0.0.1:0", "--listen", "[::1]:0")
"""Both listeners on free ports of addresses that the network cannot reach."""


def program() -> list[str]:
    """The command that runs the program under test."""
    return [sys.executable, "-m", "smtpmail"]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings of the program and of a service manager."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SMTPMAIL_", "LISTEN_", "NOTIFY_", "WATCHDOG_"))}
    return kept | dict(extra or {})


def split_address(text: str) -> Address:
    """ADDR:PORT of the log, IPv6 in brackets."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Server:
    """One running server. `wrapper` is a command that starts it (strace, unshare, ...)."""

    def __init__(
        self,
        spool: Path,
        options: Sequence[str] = (),
        *,
        addresses: Sequence[str] = LOOPBACK_ONLY,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> None:
        self.spool = spool
        self.events: list[dict[str, Any]] = []
        self.other_output: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        command = [*wrapper, *program(), "--spool", str(spool), "-s", "dom.fr", "-H", "mail.dom.fr"]
        self.process = subprocess.Popen(
            [*command, "--log-format", "json", *NO_RESOLVER, *addresses, *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=clean_environment(environment),
            start_new_session=True,
            **popen,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    # -- the log

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.other_output.append(line.decode(errors="replace").rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_event(self, name: str, timeout: float = 60, **fields: Any) -> dict[str, Any]:
        """The first event of that name with these fields."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = self.events_named(name, **fields)
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(there, timeout)
        if not found:
            raise AssertionError(f"no event {name} {fields}: {self.events[-5:]} {self.other_output}")
        return found[0]

    def events_named(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """All events of that name with these fields so far."""
        return [e for e in self.events if e["event"] == name and fields.items() <= e.items()]

    # -- addresses

    def wait_started(self) -> Server:
        self.wait_event("server.started", START_SECONDS)
        return self

    def address(self, listener: str = "loopback", *, ipv6: bool = False) -> Address:
        """Where a listener can be reached."""
        texts = self.wait_event("server.started", START_SECONDS)[listener]
        return split_address(next(t for t in texts if t.startswith("[") == ipv6))

    def client(self, listener: str = "loopback", *, ipv6: bool = False, **options: Any) -> Client:
        return Client(self.address(listener, ipv6=ipv6), **options)

    # -- the spool

    def messages(self, user: str) -> dict[int, bytes]:
        """What a reader sees in a mailbox: each message must have its status beside it."""
        return read_mailbox(self.spool / user)

    # -- processes

    @property
    def pid(self) -> int:
        """The process that obeys signals."""
        return int(self.wait_event("server.started", START_SECONDS)["pid"])

    def processes(self) -> list[int]:
        """The server and its children."""
        found = [self.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(word) for word in task.read_text().split()]
        return found

    def resident(self) -> int:
        """Octets of memory that the server and its children hold, what they share counted once."""
        private = shared = 0
        for pid in self.processes():
            sizes = {}
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                key, value = line.split()[:2]
                sizes[key.rstrip(":")] = int(value) * 1024
            private += sizes["Private_Clean"] + sizes["Private_Dirty"]
            shared = max(shared, sizes["Shared_Clean"] + sizes["Shared_Dirty"])
        return private + shared

    def forget_peak(self) -> None:
        """From now on `peak` counts."""
        for pid in self.processes():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Octets of memory that the server and its children held at most, each at its own time."""
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in self.processes()]
        return sum(int(status.partition("VmHWM:")[2].split()[0]) * 1024 for status in statuses)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 60) -> int:
        """The exit status, when the server has ended by itself."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    def stop(self) -> int:
        """Stops gracefully."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Ends all processes at once, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # Not for good: one of its threads may be in the hands of a file system that does not answer.
        self.process.wait(120)
        self._reader.join(10)


class Servers:
    """Makes servers for a test and ends them with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Server] = []

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._made:
            if server.process.poll() is None:
                server.kill()

    def launch(self, *options: str, spool: Path | None = None, **more: Any) -> Server:
        """Starts a server and does not wait."""
        server = Server(spool or self._folder / "spool", options, **more)
        self._made.append(server)
        return server

    def start(self, *options: str, **more: Any) -> Server:
        """Starts a server and waits until it serves."""
        return self.launch(*options, **more).wait_started()


def read_mailbox(folder: Path) -> dict[int, bytes]:
    """The messages that a reader sees, by number; fails when one has no whole status."""
    messages = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.isdigit():
            assert (folder / f"{path.name}.status").read_bytes() == b"\\Recent\n", path
            messages[int(path.name)] = path.read_bytes()
    return messages


def wait_until(condition: Any, timeout: float = 60) -> None:
    """Waits for something that can't be waited on otherwise."""
    give_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < give_up, "did not happen"
        time.sleep(0.02)
