"""The foreign programs at both ends: Postfix's smtp-source sends, its smtp-sink receives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tests.bench.servers import DOMAIN, ROOT, BenchError, end

MESSAGE_OCTETS = 4096
"""Payload of each message; smtp-source adds a short header."""

PATIENCE = 600.0
"""Seconds that smtp-source may take."""

STALLED = 60.0
"""Seconds without another message after which a run has failed."""


def source(
    port: int, recipient: str, messages: int, sessions: int, *, reuse: bool, host: str = "127.0.0.1",
    octets: int = MESSAGE_OCTETS,
    recipients: int = 1,
    tls: bool = False,
    within: Sequence[str] = (),
) -> subprocess.Popen[str]:  # fmt: skip
    """Begins to send; `reuse` sends many messages over a connection, else each has its own. For `finish`.

    The names of further recipients have a number before them: bob, 2bob, 3bob, ...
    """
    if tls:
        command = [*within, sys.executable, "-m", "tests.bench.tlssource", str(port), recipient, str(sessions)]
        command += [str(messages), str(octets), str(int(reuse))]
    else:
        command = [*within, "smtp-source", *(["-d"] if reuse else []), "-s", str(sessions), "-m", str(messages)]
        command += ["-l", str(octets), "-M", "client.example", "-f", f"sender@{DOMAIN}", "-t", recipient]
        command += ["-r", str(recipients)] if recipients > 1 else []
        command.append(f"{host}:{port}")
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for a source. Raises BenchError unless every message was accepted."""
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise BenchError(f"the source did not end within {PATIENCE:g} s") from None
    if process.returncode:
        raise BenchError(f"the source failed: {' '.join(errors.split())}")


def wait_until(count: Callable[[], int], wanted: int, *, interval: float, what: str) -> None:
    """Looks every `interval` seconds until `count` gives `wanted`.

    Raises BenchError when it does not grow any more, and when it is more than wanted.
    """
    last, since = -1, time.monotonic()
    while (now := count()) < wanted:
        if now > last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > STALLED:
            raise BenchError(f"{what}: only {now} of {wanted} messages")
        time.sleep(interval)
    if now > wanted:
        raise BenchError(f"{what}: {now} messages where {wanted} were sent")


class Sink:
    """An smtp-sink that counts what it gets."""

    def __init__(self, host: str, port: int, within: Sequence[str] = ()) -> None:
        # Its running counters go to memory: nobody has to wake up for them, and the disk under test is left alone.
        self._counters = os.memfd_create("smtp-sink")
        command = [*within, "smtp-sink", "-c", "-u", "nobody", "-m", "1000", f"{host}:{port}", "1000"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._counters)

    def received(self) -> int:
        """Messages so far. Raises BenchError when the sink is gone."""
        if self._process.poll() is not None:
            raise BenchError("smtp-sink ended: is its port in use?")
        size = os.fstat(self._counters).st_size
        found = re.findall(rb"mesg=(\d+)\r", os.pread(self._counters, 256, max(0, size - 256)))
        return int(found[-1]) if found else 0

    def stop(self) -> None:
        end(self._process)
        os.close(self._counters)
