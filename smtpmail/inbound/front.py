"""The part of the server that talks to clients: listeners and their connections. One in each process."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from smtpmail.accept import Accept
from smtpmail.inbound.accounts import Peers
from smtpmail.inbound.admission import Admission
from smtpmail.inbound.certificate import Certificate
from smtpmail.inbound.connection import Connection
from smtpmail.inbound.gate import Gate
from smtpmail.inbound.listener import Listener
from smtpmail.inbound.workers import Workers
from smtpmail.mail.envelope import Peer
from smtpmail.settings.config import Config
from smtpmail.smtp.session import Limits, Session

if TYPE_CHECKING:
    from smtpmail.inbound.guard import Submitter

STOP_SECONDS = 30.0
"""Seconds that a session in the middle of a message may go on after a signal to stop."""


class Front:
    """`gates` has, for each kind of listener, what decides about senders and recipients."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[tuple[str, socket.socket]],
        admission: Admission,
        accept: Accept,
        gates: Mapping[str, Gate],
        submitters: Callable[[Peer], Submitter] | None = None,
    ) -> None:
        self._config = config
        self._accept = accept
        self._admission = admission
        self._gates = gates
        self._peers = Peers()
        self._submitters = submitters
        self._limits = Limits(config.max_size, config.max_recipients)
        self._tls = Certificate(config) if config.tls_cert else None
        self._connections: set[Connection] = set()
        self._connections_lock = threading.Lock()
        self._stop_at: float | None = None
        workers = Workers()
        self.listeners = [Listener(sock, kind, admission, workers, self._serve) for kind, sock in sockets]

    def start(self) -> None:
        """Begins to accept connections."""
        for listener in self.listeners:
            listener.start()

    def reload(self) -> bool:
        """Reads the certificate again; whether that went well."""
        return self._tls is None or self._tls.reload()

    def stop(self, pause: Callable[[], None]) -> int:
        """No new connections; sessions may finish their message. Returns how many were cut off in the end.

        `pause` waits a moment between two looks.
        """
        for listener in self.listeners:
            listener.stop()
        self._stop_at = time.monotonic() + STOP_SECONDS
        while (connections := self._open_connections()) and time.monotonic() < self._stop_at + 5:
            for connection in connections:
                connection.stop(self._stop_at)
            pause()
        return len(self._open_connections())

    def _open_connections(self) -> list[Connection]:
        with self._connections_lock:
            return list(self._connections)

    def _serve(self, sock: socket.socket, peer: Peer) -> None:
        config = self._config
        submitter = self._submitter(peer)
        offer_tls = self._tls is not None
        origin = None
        if peer.listener == "loopback":
            peer = replace(peer, uid=self._peers.uid(sock))
            # Programs of this host may leave the domain out.
            origin = config.origin
        session = Session(
            config.hostname,
            peer,
            self._limits,
            offer_tls=offer_tls,
            origin=origin,
            authenticates=submitter is not None,
        )
        tls_context = self._tls_context if offer_tls else None
        connection = Connection(
            sock,
            peer,
            session,
            self._gates[peer.listener],
            self._accept,
            partial(self._admission.patience, peer),
            tls_context,
            submitter,
            inherited=config.timeout,
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

    def _submitter(self, peer: Peer) -> Submitter | None:
        """Who decides about a client that sends from afar; None for all others."""
        if peer.listener != "submission":
            return None
        assert self._submitters is not None
        return self._submitters(peer)

    def _tls_context(self) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls.context
