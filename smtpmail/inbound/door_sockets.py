"""The sockets of those who read and send from afar: opened here unless systemd has opened them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Collection

from smtpmail.inbound.sockets import listen, prepare
from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError

IMAP_PORT = 993
SUBMISSION_PORT = 465
BACKLOG = 512


def open_doors(config: Config, activated: Collection[str]) -> list[tuple[str, socket.socket]]:
    """The sockets of the doors that the settings name, each with its kind; not those that are `activated` already.

    Raises ConfigError.
    """
    sockets: list[tuple[str, socket.socket]] = []
    if config.imap_socket and "imap-socket" not in activated:
        sockets.append(("imap-socket", _unix_socket(config.imap_socket)))
    for kind, endpoints, port in (
        ("imap", config.imap_listen, IMAP_PORT),
        ("submission", config.submission_listen, SUBMISSION_PORT),
    ):
        if kind not in activated:
            for endpoint in endpoints:
                sock = listen(endpoint, port, by_default=False, shared=False)
                assert sock is not None
                prepare(sock, config.timeout)
                sockets.append((kind, sock))
    return sockets


def _unix_socket(path: str) -> socket.socket:
    """A socket that every account of this host may connect to: the kernel says which one it is."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, 0o666)  # noqa: S103 - as is meant: each account reads its own mail
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        why = "is too long for a socket" if "too long" in str(error) else error.strerror
        raise ConfigError(f"--imap-socket: cannot listen on {path}: {why}") from None
    return sock


def _remove_stale(path: str) -> None:
    """Removes the socket of a server that is no more. Raises OSError when one listens, or something else is there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is something that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another program listens there")
