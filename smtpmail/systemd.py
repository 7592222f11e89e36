"""What systemd offers a service: readiness and watchdog (sd_notify(3)), sockets (sd_listen_fds(3)), its journal.

The protocols are a datagram and a few variables: less than a library to depend on.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

FIRST_SOCKET = 3
"""SD_LISTEN_FDS_START."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
"""Of the levels of a log, as in syslog(3): what `journalctl -p` chooses by."""


def notify(state: str) -> None:
    """Tells the manager `state` (READY=1, STOPPING=1, ...); without one, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Whoever started us may have gone; the mail goes on.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), address)


def watchdog_interval() -> float | None:
    """Seconds between two signs of life, half of the manager's patience; None when it wants none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or pid != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000


def inherited_sockets(environment: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """The sockets that systemd opened for us, each with its FileDescriptorName; the variables are taken away.

    Raises ValueError when the variables make no sense.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count:
        return []
    if not count.isdigit() or len(names) != int(count):
        raise ValueError("LISTEN_FDS and LISTEN_FDNAMES do not fit together")
    sockets = []
    for index, name in enumerate(names):
        fd = FIRST_SOCKET + index
        os.set_inheritable(fd, False)
        sockets.append((name, socket.socket(fileno=fd)))
    return sockets


def is_journal(fd: int) -> bool:
    """Whether what is written to the descriptor goes to the journal (JOURNAL_STREAM, systemd.exec(5)).

    A program that was started with its output elsewhere has the variable, too, but not the same file.
    """
    with contextlib.suppress(OSError):
        status = os.fstat(fd)
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def with_priority(level: str, line: str) -> str:
    """The line as the journal takes it, which keeps the priority of `level` apart from the text (sd-daemon(3))."""
    return f"<{PRIORITIES.get(level, 5)}>{line}"
