"""Opens the listening sockets, or takes those that systemd has opened; says clearly why one can't be had."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Sequence

from smtpmail import systemd
from smtpmail.inbound.connection import set_timeouts
from smtpmail.log import log
from smtpmail.network import IPAddress, is_own_address
from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError, Endpoint

BACKLOG = 512

SMTP_KINDS = ("loopback", "network")
IMAP_KINDS = ("imap", "imap-socket")
DOOR_KINDS = (*IMAP_KINDS, "submission")
"""Names of the sockets of those who read and send from afar."""


def open_sockets(config: Config) -> list[tuple[str, socket.socket]]:
    """The listening sockets, each with its kind; those that systemd has opened come first. Raises ConfigError."""
    try:
        sockets = systemd.inherited_sockets(os.environ)
    except ValueError as error:
        raise ConfigError(f"socket activation: {error}") from None
    for kind, sock in sockets:
        if kind not in (*SMTP_KINDS, *DOOR_KINDS):
            raise ConfigError(
                f"socket activation: FileDescriptorName is {kind!r}; it must be one of "
                f"{', '.join((*SMTP_KINDS, *DOOR_KINDS))}"
            )
        _check_activated(kind, sock)
        prepare(sock, config.timeout)
    doors = [(kind, sock) for kind, sock in sockets if kind in DOOR_KINDS]
    if config.imap_socket or config.imap_listen or config.submission_listen:
        # Most servers do without.
        from smtpmail.inbound.door_sockets import open_doors  # noqa: PLC0415

        doors += open_doors(config, {kind for kind, _ in doors})
    sockets = [(kind, sock) for kind, sock in sockets if kind in SMTP_KINDS]
    if sockets:
        return doors + [(kind, sock) for kind, sock in sockets if kind == "loopback" or not config.no_network]
    wanted = [("loopback", e, not config.loopback) for e in config.loopback or _addresses("127.0.0.1", "::1")]
    if not config.no_network:
        wanted += [("network", e, not config.listen) for e in config.listen or _addresses("0.0.0.0", "::")]
    # Both listeners share a port by SO_REUSEPORT: the kernel gives a connection to the more specific address. It
    # would let a second server in, too; so first see, without it, whether anybody else is there.
    for shared in (False, True):
        for kind, endpoint, by_default in wanted:
            opened = listen(endpoint, config.port, by_default=by_default, shared=shared)
            if opened is not None and shared:
                prepare(opened, config.timeout)
                sockets.append((kind, opened))
            elif opened is not None:
                opened.close()
    if not any(kind == "loopback" for kind, _ in sockets):
        raise ConfigError("--loopback: this machine has neither 127.0.0.1 nor ::1")
    return doors + sockets


def _addresses(*hosts: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(host) for host in hosts)


def prepare(sock: socket.socket, timeout: float) -> None:
    """What accepted sockets inherit."""
    sock.setblocking(True)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    set_timeouts(sock, timeout)


def listen(endpoint: Endpoint, default_port: int, *, by_default: bool, shared: bool) -> socket.socket | None:
    """A listening socket; None when nobody asked for this address and the machine lacks it. Raises ConfigError."""
    port = default_port if endpoint.port is None else endpoint.port
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((endpoint.host, port))
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        return sock
    except OSError as error:
        if by_default and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            if shared:
                log.warning("listener.skipped", address=str(endpoint), error=error.strerror)
            return None
        raise ConfigError(_why_not(Endpoint(endpoint.host, port), error)) from None


def _why_not(endpoint: Endpoint, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"port {endpoint.port} may not be bound on {endpoint.host}: ports below 1024 need a privilege; "
            "use --port 2525, or give the program CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRINUSE:
        return f"port {endpoint.port} on {endpoint.host} is in use by another program; stop it, or use another --port"
    return f"cannot listen on {endpoint}: {error.strerror}"


def _check_activated(kind: str, sock: socket.socket) -> None:
    """A socket by the name of loopback that the network can reach would be an open relay. Raises ConfigError."""
    families = (socket.AF_UNIX,) if kind == "imap-socket" else (socket.AF_INET, socket.AF_INET6)
    if sock.family not in families or sock.type != socket.SOCK_STREAM:
        what = "Unix stream" if kind == "imap-socket" else "TCP"
        raise ConfigError(f"socket activation: the {kind} socket is no {what} socket")
    host = sock.getsockname()[0]
    if kind == "loopback" and not (host == "::1" or host.startswith("127.")):
        raise ConfigError(f"socket activation: the loopback socket listens on {host}, which is no loopback address")


def receives(sockets: Sequence[tuple[str, socket.socket]], address: IPAddress, port: int) -> bool:
    """Whether a connection to this address and port would come in by one of these sockets."""
    for _, sock in sockets:
        host, own_port = sock.getsockname()[:2]
        bound = ipaddress.ip_address(host.partition("%")[0])
        if port == own_port and bound.version == address.version and (bound.is_unspecified or bound == address):
            return is_own_address(address)
    return False
