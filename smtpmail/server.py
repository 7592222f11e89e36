"""The whole server: opens the sockets, starts the listeners, obeys signals, stops without losing anything."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import queue
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import FrameType

from smtpmail import __version__, systemd
from smtpmail.bouncer import Bouncer
from smtpmail.config import Config, ConfigError, Endpoint
from smtpmail.connection import Connection, set_timeouts
from smtpmail.delivery.client import Credentials, Timeouts
from smtpmail.delivery.courier import Courier
from smtpmail.delivery.resolver import Resolver
from smtpmail.envelope import Client
from smtpmail.intake import Intake
from smtpmail.listener import STACK_SIZE, Admission, Listener, Workers
from smtpmail.log import log
from smtpmail.mailbox import Spool
from smtpmail.network import IPAddress, is_own_address
from smtpmail.queue.runner import Runner
from smtpmail.queue.store import Item, QueueStore
from smtpmail.routing import Router, Users, UsersUnreadable
from smtpmail.smtp.session import Limits, Session

STOP_SECONDS = 30.0
"""So long a session in the middle of a message may go on after SIGTERM."""

BACKLOG = 512


class Server:
    """Made of a Config that has been checked; `run` serves until a signal ends it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spool = Spool(config.spool)
        self._store = QueueStore(config.queue)
        self._users = Users(config.users, self._users_changed)
        self._routers = {
            kind: Router(config.domains, self._users, may_relay=kind == "loopback", is_own_address=is_own_address)
            for kind in ("loopback", "network")
        }
        bouncing = bouncer(config, self._announce)
        self._intake = Intake(self._spool, self._store, bouncing, config.hostname, self._announce)
        self._runner = Runner(
            self._store,
            courier(config, self._receives),
            bouncing,
            config.retry_policy,
            max_workers=config.max_deliveries,
            max_per_destination=config.max_deliveries_per_destination,
        )
        self._limits = Limits(config.max_size, config.max_recipients)
        self._tls = config.tls_context() if config.tls_cert else None
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._connections: set[Connection] = set()
        self._connections_lock = threading.Lock()
        self._stop_at: float | None = None
        self._listeners: list[Listener] = []

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises ConfigError when a socket can't be opened."""
        os.umask(0o077)
        sockets = open_sockets(self._config)
        threading.stack_size(STACK_SIZE)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        removed = self._spool.repair() + self._store.repair()
        if removed:
            log.info("spool.repaired", removed=removed)
        if self._config.users is None:
            log.warning("users.any", hint="every valid name is a user; --users FILE names those who exist")
        self._read_users()
        admission = Admission(self._config.max_connections, self._config.max_connections_per_client)
        workers = Workers()
        self._listeners = [Listener(sock, kind, admission, workers, self._serve) for kind, sock in sockets]
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        self._runner.start(self._store.listen())
        for listener in self._listeners:
            listener.start()
        log.info(
            "server.started",
            version=__version__,
            hostname=self._config.hostname,
            domains=list(self._config.domains),
            spool=self._spool.path,
            loopback=[x.address for x in self._listeners if x.kind == "loopback"],
            network=[x.address for x in self._listeners if x.kind == "network"],
            pid=os.getpid(),
        )
        systemd.notify(f"READY=1\nSTATUS=Serving {', '.join(self._config.domains)}")
        self._obey_signals()
        self._stop()

    # -- signals

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals.put(number)

    def _obey_signals(self) -> None:
        """Returns when it is time to stop."""
        interval = systemd.watchdog_interval()
        while True:
            try:
                number = self._signals.get(timeout=interval)
            except queue.Empty:
                systemd.notify("WATCHDOG=1")
                continue
            if number != signal.SIGHUP:
                log.info("server.stopping", signal=signal.Signals(number).name)
                return
            self._reload()

    def _reload(self) -> None:
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._read_users()
        try:
            if self._tls is not None:
                self._tls = self._config.tls_context()
            log.info("server.reloaded")
        except ConfigError as error:
            log.error("server.reload_failed", error=str(error), hint="the certificate from before stays in use")
        systemd.notify("READY=1")

    def _stop(self) -> None:
        systemd.notify("STOPPING=1")
        for listener in self._listeners:
            listener.stop()
        self._stop_at = time.monotonic() + STOP_SECONDS
        while self._open_connections():
            for connection in self._open_connections():
                connection.stop(self._stop_at)
            if time.monotonic() > self._stop_at + 5:
                break
            with contextlib.suppress(queue.Empty):
                self._signals.get(timeout=0.1)
                # A second signal: whatever was answered with 250 is on disk.
                log.info("server.stopped", sessions_cut=len(self._open_connections()))
                os._exit(0)
        self._runner.stop(max(1.0, self._stop_at - time.monotonic()))
        log.info("server.stopped", sessions_cut=len(self._open_connections()))

    def _open_connections(self) -> list[Connection]:
        with self._connections_lock:
            return list(self._connections)

    def _read_users(self) -> None:
        try:
            self._users.reload()
        except UsersUnreadable as error:
            log.error("users.unreadable", error=str(error), hint="recipients get 451 until the file can be read")

    # -- the queue

    def _announce(self, item: Item) -> None:
        self._runner.submit(item)

    def _receives(self, address: IPAddress, port: int) -> bool:
        """Whether a connection to this address and port would reach one of our own listeners."""
        return any(listener.receives(address, port) for listener in self._listeners) and is_own_address(address)

    # -- clients

    def _serve(self, sock: socket.socket, client: Client) -> None:
        config = self._config
        router = self._routers[client.listener]
        offer_tls = self._tls is not None
        session = Session(config.hostname, client, router.route, self._limits, offer_tls=offer_tls)
        connection = Connection(
            sock, client, session, self._intake, config.timeout, self._tls_context if offer_tls else None
        )
        with self._connections_lock:
            self._connections.add(connection)
        try:
            if self._stop_at is not None:
                connection.stop(self._stop_at)
            connection.run()
        finally:
            with self._connections_lock:
                self._connections.discard(connection)

    def _tls_context(self) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls

    @staticmethod
    def _users_changed(count: int, complaints: list[str]) -> None:
        log.info("users.read", count=count)
        for complaint in complaints:
            log.warning("users.line_ignored", complaint=complaint)


def bouncer(config: Config, announce: Callable[[Item], None]) -> Bouncer:
    """Notifications as the settings describe them; `announce` is told of one that leaves through the queue."""
    users = Users(config.users, lambda count, complaints: None)
    router = Router(config.domains, users, may_relay=True, is_own_address=is_own_address)
    return Bouncer(Spool(config.spool), QueueStore(config.queue), router.route, config.hostname, announce)


def courier(config: Config, receives: Callable[[IPAddress, int], bool]) -> Courier:
    """The way out that the settings describe."""

    def credentials() -> Credentials | None:
        return Credentials(*config.read_smarthost_auth()) if config.smarthost_auth else None

    return Courier(
        Resolver(config.resolver, config.hostname, receives),
        config.hostname,
        Timeouts(config.connect_timeout, config.reply_timeout),
        config.smarthost,
        credentials,
    )


# -- sockets


def open_sockets(config: Config) -> list[tuple[str, socket.socket]]:
    """The listening sockets, each with its kind; those that systemd has opened come first. Raises ConfigError."""
    try:
        sockets = systemd.inherited_sockets(os.environ)
    except ValueError as error:
        raise ConfigError(f"socket activation: {error}") from None
    for kind, sock in sockets:
        if kind not in ("loopback", "network"):
            raise ConfigError(f"socket activation: FileDescriptorName is {kind!r}; loopback or network is wanted")
        _check_activated(kind, sock)
        _prepare(sock, config.timeout)
    if sockets:
        return [(kind, sock) for kind, sock in sockets if kind == "loopback" or not config.no_network]
    wanted = [("loopback", e, not config.loopback) for e in config.loopback or _addresses("127.0.0.1", "::1")]
    if not config.no_network:
        wanted += [("network", e, not config.listen) for e in config.listen or _addresses("0.0.0.0", "::")]
    # Both listeners share a port by SO_REUSEPORT: the kernel gives a connection to the more specific address. It
    # would let a second server in, too; so first see, without it, whether anybody else is there.
    for shared in (False, True):
        for kind, endpoint, by_default in wanted:
            opened = _listen(endpoint, config.port, by_default=by_default, shared=shared)
            if opened is not None and shared:
                _prepare(opened, config.timeout)
                sockets.append((kind, opened))
            elif opened is not None:
                opened.close()
    if not any(kind == "loopback" for kind, _ in sockets):
        raise ConfigError("--loopback: this machine has neither 127.0.0.1 nor ::1")
    return sockets


def _addresses(*hosts: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(host) for host in hosts)


def _prepare(sock: socket.socket, timeout: float) -> None:
    """What accepted sockets inherit."""
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    set_timeouts(sock, timeout)


def _listen(endpoint: Endpoint, default_port: int, *, by_default: bool, shared: bool) -> socket.socket | None:
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
        return f"port {endpoint.port} on {endpoint.host} is in use by another program; stop it, or use --port 2525"
    return f"cannot listen on {endpoint}: {error.strerror}"


def _check_activated(kind: str, sock: socket.socket) -> None:
    """A socket by the name of loopback that the network can reach would be an open relay. Raises ConfigError."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        raise ConfigError(f"socket activation: the {kind} socket is no TCP socket")
    host = sock.getsockname()[0]
    if kind == "loopback" and not (host == "::1" or host.startswith("127.")):
        raise ConfigError(f"socket activation: the loopback socket listens on {host}, which is no loopback address")
