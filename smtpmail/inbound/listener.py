"""One listening socket = one thread; whom it lets in (limits); and the threads that serve connections."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from smtpmail.inbound.admission import Admission
from smtpmail.inbound.workers import Workers
from smtpmail.log import log
from smtpmail.mail.envelope import Peer
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply


class Listener:
    """Accepts connections on one socket. `serve` is called for each in a thread of its own."""

    def __init__(
        self,
        sock: socket.socket,
        kind: str,
        admission: Admission,
        workers: Workers,
        serve: Callable[[socket.socket, Peer], None],
    ) -> None:
        self._sock = sock
        self.kind = kind
        """`loopback` or `network`."""
        self._admission = admission
        self._workers = workers
        self._serve = serve
        self._sock.setblocking(False)
        self._stopped = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._accept_all, name=f"{kind} {self.address}", daemon=True)

    @property
    def address(self) -> str:
        """ADDR:PORT, IPv6 in brackets."""
        host, port = self._sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No new connections from here on; those that wait in the kernel are left to whoever else has the socket."""
        # Not shutdown(2), which would end the listening of the very socket that systemd holds for the next start.
        os.eventfd_write(self._stopped, 1)
        self._thread.join(timeout=5)
        self._sock.close()

    def _accept_all(self) -> None:
        with select.epoll() as poll:
            # Exclusive: a new connection wakes one process, not all.
            poll.register(self._sock, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            poll.register(self._stopped, select.EPOLLIN)
            while not any(fd == self._stopped for fd, _ in poll.poll()):
                self._accept_one()

    def _accept_one(self) -> None:
        try:
            sock, name = self._sock.accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:
            # Out of descriptors, say: it passes, and a mail server may not give up.
            log.error("listener.error", address=self.address, error=str(error))
            time.sleep(0.1)
            return
        self._admit(sock, Peer(_plain(name[0]), name[1], self.kind))

    def _admit(self, sock: socket.socket, peer: Peer) -> None:
        if self.kind == "loopback" and not peer.is_loopback:
            # A neighbour's packets may get here where route_localnet is on; it may not send to the world.
            log.warning("session.refused", client=peer.name, listener=self.kind, reply=None)
            sock.close()
            return
        slot = self._admission.enter(peer)
        if isinstance(slot, Reply):
            self._turn_away(sock, peer, slot)
            return
        try:
            self._workers.start(lambda: self._serve_one(sock, peer, slot))
        except RuntimeError:
            self._admission.leave(slot)
            self._turn_away(sock, peer, replies.TOO_MANY_CONNECTIONS)

    def _serve_one(self, sock: socket.socket, peer: Peer, slot: int) -> None:
        try:
            self._serve(sock, peer)
        finally:
            self._admission.leave(slot)

    @staticmethod
    def _turn_away(sock: socket.socket, peer: Peer, reply: Reply) -> None:
        log.warning("session.refused", client=peer.name, listener=peer.listener, reply=str(reply))
        with contextlib.suppress(OSError):
            sock.send(reply.wire, socket.MSG_DONTWAIT)
            sock.shutdown(socket.SHUT_WR)
        sock.close()


def _plain(address: str) -> str:
    """An IPv4 address that reached an IPv6 socket, as IPv4."""
    return address.removeprefix("::ffff:") if address.startswith("::ffff:") and "." in address else address
