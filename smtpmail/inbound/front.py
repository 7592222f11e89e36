"""The part of the server that talks to clients: listeners, their connections, the way in. One in each process."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from smtpmail.accept import Intake
from smtpmail.bouncer import Bouncer
from smtpmail.inbound.admission import Admission
from smtpmail.inbound.connection import Connection
from smtpmail.inbound.listener import Listener
from smtpmail.inbound.workers import Workers
from smtpmail.log import log
from smtpmail.mail.envelope import Client
from smtpmail.mail.queued import Item
from smtpmail.network import IPAddress, is_own_address
from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError
from smtpmail.smtp.session import Limits, Session
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueStore
from smtpmail.users.routing import Router
from smtpmail.users.users import Users, UsersUnreadable

STOP_SECONDS = 30.0
"""So long a session in the middle of a message may go on after a signal to stop."""


class Front:
    """`announce` is told of each message that was queued."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[tuple[str, socket.socket]],
        admission: Admission,
        announce: Callable[[Item], None],
    ) -> None:
        self._config = config
        self._users = Users(config.users, self._users_changed)
        self._routers = {
            kind: Router(config.domains, self._users, may_relay=kind == "loopback", is_own_address=is_own_address)
            for kind in ("loopback", "network")
        }
        spool, store = Spool(config.spool), QueueStore(config.queue)
        self.bouncer = Bouncer(spool, store, self._routers["loopback"].route, config.hostname, announce)
        self._intake = Intake(spool, store, self.bouncer, config.hostname, announce)
        self._limits = Limits(config.max_size, config.max_recipients)
        self._tls = config.tls_context() if config.tls_cert else None
        self._connections: set[Connection] = set()
        self._connections_lock = threading.Lock()
        self._stop_at: float | None = None
        workers = Workers()
        self.listeners = [Listener(sock, kind, admission, workers, self._serve) for kind, sock in sockets]

    def start(self) -> None:
        """Reads the users and begins to accept."""
        self._read_users()
        for listener in self.listeners:
            listener.start()

    def reload(self) -> None:
        """Reads users and certificate again; what can't be read stays as it was."""
        self._read_users()
        try:
            if self._tls is not None:
                self._tls = self._config.tls_context()
        except ConfigError as error:
            log.error("server.reload_failed", error=str(error), hint="the certificate from before stays in use")

    def stop(self, hurry: Callable[[], bool]) -> int:
        """No new connections; sessions may finish their message. Returns how many were cut off in the end.

        `hurry` is asked every now and then whether to wait no longer.
        """
        for listener in self.listeners:
            listener.stop()
        self._stop_at = time.monotonic() + STOP_SECONDS
        while (connections := self._open_connections()) and time.monotonic() < self._stop_at + 5:
            for connection in connections:
                connection.stop(self._stop_at)
            if hurry():
                break
        return len(self._open_connections())

    def receives(self, address: IPAddress, port: int) -> bool:
        """Whether a connection to this address and port would come in here."""
        return any(listener.receives(address, port) for listener in self.listeners) and is_own_address(address)

    def _open_connections(self) -> list[Connection]:
        with self._connections_lock:
            return list(self._connections)

    def _serve(self, sock: socket.socket, client: Client) -> None:
        config = self._config
        offer_tls = self._tls is not None
        route = self._routers[client.listener].route
        session = Session(config.hostname, client, route, self._limits, offer_tls=offer_tls)
        tls_context = self._tls_context if offer_tls else None
        connection = Connection(sock, client, session, self._intake, config.timeout, tls_context)
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

    def _read_users(self) -> None:
        with contextlib.suppress(UsersUnreadable):
            self._users.reload()
            return
        log.error("users.unreadable", file=self._config.users, hint="recipients get 451 until the file can be read")

    @staticmethod
    def _users_changed(count: int, complaints: list[str]) -> None:
        log.info("users.read", count=count)
        for complaint in complaints:
            log.warning("users.line_ignored", complaint=complaint)
