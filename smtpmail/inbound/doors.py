"""The doors to the mailboxes: a Unix socket for the accounts of this host, a port for devices. In each process.

Loaded only when a door is set up.
"""

from __future__ import annotations

import contextlib
import pwd
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from smtpmail.inbound.admission import Admission
from smtpmail.inbound.certificate import Certificate
from smtpmail.inbound.guard import Gatekeeper
from smtpmail.inbound.imap_connection import ImapConnection
from smtpmail.inbound.listener import Listener
from smtpmail.inbound.streams import SocketStream
from smtpmail.inbound.workers import Workers
from smtpmail.log import log
from smtpmail.mail.envelope import Peer
from smtpmail.settings.config import Config
from smtpmail.smtp.replies import Reply
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.reader.account import Account
from smtpmail.users.devices import Device
from smtpmail.users.users import user_of

HANDSHAKE_SECONDS = 30.0
"""Seconds in which TLS must be established."""

WATCH_SECONDS = 0.3
"""So often it is looked whether the devices that are connected are still allowed to."""

STOP_SECONDS = 5.0
"""Seconds that commands under way may take after a signal to stop."""


class DoorListener(Listener):
    """A listener whose clients speak IMAP: who is turned away is told so in that language."""

    @staticmethod
    def _turn_away(sock: socket.socket, peer: Peer, reply: Reply) -> None:
        log.warning("session.refused", client=peer.name, listener=peer.listener, reply=str(reply))
        with contextlib.suppress(OSError):
            if peer.listener == "imap-socket":
                sock.send(b"* BYE Too many connections\r\n", socket.MSG_DONTWAIT)
            sock.shutdown(socket.SHUT_WR)
        sock.close()


class UnixListener(DoorListener):
    """The same on a Unix socket, whose peers are accounts of this host."""

    @property
    def address(self) -> str:
        """The path."""
        return str(self._sock.getsockname())

    def _accept_one(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.error("listener.error", address=self.address, error=str(error))
            time.sleep(0.1)
            return
        self._admit(sock, Peer("local", uid_of(sock), self.kind))


def uid_of(sock: socket.socket) -> int:
    """The user id of the other side, as the kernel knows it (SO_PEERCRED, unix(7))."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


class Doors:
    """`exists` tells whether a name is that of a user; `gatekeeper` is there when devices may log in."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[tuple[str, socket.socket]],
        admission: Admission,
        spool: Spool,
        exists: Callable[[str], bool],
        gatekeeper: Gatekeeper | None,
    ) -> None:
        self._config = config
        self._spool = spool
        self._exists = exists
        self._gatekeeper = gatekeeper
        self._tls = Certificate(config) if any(kind == "imap" for kind, _ in sockets) else None
        self._lock = threading.Lock()
        self._connections: dict[ImapConnection, Device | None] = {}
        self._watching = False
        self._stopping = False
        workers = Workers()
        self.listeners = [
            (UnixListener if kind == "imap-socket" else DoorListener)(sock, kind, admission, workers, self._serve)
            for kind, sock in sockets
        ]

    def start(self) -> None:
        """Begins to accept connections."""
        for listener in self.listeners:
            listener.start()

    def reload(self) -> bool:
        """Reads the certificate again; whether that went well."""
        return self._tls is None or self._tls.reload()

    def stop(self) -> None:
        """No new connections; those that are open end when the command under way is done."""
        for listener in self.listeners:
            listener.stop()
        self._stopping = True
        give_up = time.monotonic() + STOP_SECONDS
        while (connections := self._open_connections()) and time.monotonic() < give_up:
            for connection in connections:
                connection.stop()
            time.sleep(0.02)

    def _open_connections(self) -> list[ImapConnection]:
        with self._lock:
            return list(self._connections)

    # -- a connection

    def _serve(self, sock: socket.socket, peer: Peer) -> None:
        if peer.listener == "imap-socket":
            self._serve_account(sock, peer)
        else:
            self._serve_device(sock, peer)

    def _serve_account(self, sock: socket.socket, peer: Peer) -> None:
        user = self._account_of(peer.port)
        if user is None:
            log.warning("login.failed", client=peer.name, door=peer.listener, user=None, failures=1)
            with contextlib.suppress(OSError):
                sock.sendall(b"* BYE Your account has no mail here\r\n")
            sock.close()
            return
        self._run(self._connection(sock, peer, user=user))

    def _account_of(self, uid: int) -> str | None:
        """The mail user of an account."""
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            return None
        user = user_of(name)
        return user if user is not None and "+" not in name and self._exists(user) else None

    def _serve_device(self, sock: socket.socket, peer: Peer) -> None:
        assert self._tls is not None
        sock.settimeout(HANDSHAKE_SECONDS)
        try:
            tls = self._tls.context.wrap_socket(sock, server_side=True)
        except (ssl.SSLError, OSError) as error:
            log.info("tls.failed", client=peer.name, error=str(error))
            sock.close()
            return
        connection = self._connection(tls, peer)
        connection.guard = lambda name, password: self._log_in(connection, name, password, peer)
        self._run(connection)

    def _connection(self, sock: socket.socket, peer: Peer, user: str | None = None) -> ImapConnection:
        config = self._config
        return ImapConnection(
            SocketStream(sock, config.timeout),
            peer.name,
            peer.listener,
            hostname=config.hostname,
            max_size=config.max_size,
            timeout=config.timeout,
            open_account=self._open_account,
            user=user,
        )

    def _run(self, connection: ImapConnection) -> None:
        with self._lock:
            self._connections[connection] = None
        try:
            if self._stopping:
                connection.stop()
            connection.run()
        finally:
            with self._lock:
                del self._connections[connection]

    def _open_account(self, user: str) -> Account:
        self._spool.check_mounted()
        return Account(self._spool.path, user, partial(self._spool.removing, user))

    # -- devices

    def _log_in(self, connection: ImapConnection, name: str, password: str, peer: Peer) -> str | None:
        device = self._gatekeeper.log_in(name, password, peer) if self._gatekeeper is not None else None
        if device is None:
            return None
        with self._lock:
            self._connections[connection] = device
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch_devices, name="devices", daemon=True).start()
        return device.user

    def _watch_devices(self) -> None:
        """Ends the connections of devices that were removed."""
        assert self._gatekeeper is not None
        while True:
            time.sleep(WATCH_SECONDS)
            with self._lock:
                connected = [(c, device) for c, device in self._connections.items() if device is not None]
                if not connected:
                    self._watching = False
                    return
            for connection, device in connected:
                if not self._gatekeeper.devices.has(device):
                    connection.stop("the device was removed")
