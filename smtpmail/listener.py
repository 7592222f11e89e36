"""One listening socket = one thread; whom it lets in (limits); and the threads that serve connections."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import queue
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

from smtpmail.envelope import Client
from smtpmail.log import log
from smtpmail.network import IPAddress
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply

IDLE_SECONDS = 10.0
"""So long a thread waits for another connection before it ends."""

STACK_SIZE = 512 * 1024
"""Octets of address space for the stack of a thread that serves a connection."""


class Admission:
    """Counts connections, in all and for each client (Client.key)."""

    def __init__(self, most: int, most_per_client: int) -> None:
        self._most = most
        self._most_per_client = most_per_client
        self._lock = threading.Lock()
        self._count = 0
        self._clients: Counter[str] = Counter()

    def enter(self, client: Client) -> Reply | None:
        """Lets the client in, or returns the reply that turns it away."""
        key = client.key
        with self._lock:
            if self._count >= self._most:
                return replies.TOO_MANY_CONNECTIONS
            if client.listener == "network" and self._clients[key] >= self._most_per_client:
                return replies.TOO_MANY_FROM_CLIENT
            self._count += 1
            self._clients[key] += 1
            return None

    def leave(self, client: Client) -> None:
        """The connection of a client that was let in is over."""
        key = client.key
        with self._lock:
            self._count -= 1
            self._clients[key] -= 1
            if not self._clients[key]:
                del self._clients[key]


class Workers:
    """Threads that serve one connection after another: as many as there are connections, kept for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = 0
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def start(self, job: Callable[[], None]) -> None:
        """Runs the job in a thread of its own. Raises RuntimeError when there can be no more threads."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._jobs.put(job)
                return
        threading.Thread(target=self._work, args=(job,), daemon=True).start()

    def _work(self, job: Callable[[], None] | None) -> None:
        while job is not None:
            job()
            job = self._next_job()

    def _next_job(self) -> Callable[[], None] | None:
        with self._lock:
            self._idle += 1
        while True:
            try:
                return self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    # At zero, a job has been counted out for this thread and is on its way.
                    if self._idle:
                        self._idle -= 1
                        return None


class Listener:
    """Accepts connections on one socket. `serve` is called for each in a thread of its own."""

    def __init__(
        self,
        sock: socket.socket,
        kind: str,
        admission: Admission,
        workers: Workers,
        serve: Callable[[socket.socket, Client], None],
    ) -> None:
        self._sock = sock
        self.kind = kind
        """`loopback` or `network`."""
        self._admission = admission
        self._workers = workers
        self._serve = serve
        self._closed = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._accept_all, name=f"{kind} {self.address}", daemon=True)

    @property
    def address(self) -> str:
        """ADDR:PORT, IPv6 in brackets."""
        host, port = self._sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def receives(self, address: IPAddress, port: int) -> bool:
        """Whether a connection to this address of the host comes in here."""
        host, own_port = self._sock.getsockname()[:2]
        bound = ipaddress.ip_address(host.partition("%")[0])
        return port == own_port and bound.version == address.version and (bound.is_unspecified or bound == address)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No new connections from here on."""
        self._closed = True
        # Not shutdown(2), which would end the listening of the very socket that systemd holds for the next start.
        os.eventfd_write(self._wake, 1)
        self._thread.join(timeout=5)
        self._sock.close()
        os.close(self._wake)

    def _accept_all(self) -> None:
        self._sock.setblocking(False)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._closed:
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                poll.poll()
                continue
            except OSError as error:
                if not self._closed:
                    # Out of descriptors, say: it passes, and a mail server may not give up.
                    log.error("listener.error", address=self.address, error=str(error))
                    time.sleep(0.1)
                continue
            self._admit(sock, Client(_plain(peer[0]), peer[1], self.kind))

    def _admit(self, sock: socket.socket, client: Client) -> None:
        refusal = self._admission.enter(client)
        if refusal is not None:
            self._turn_away(sock, client, refusal)
            return
        try:
            self._workers.start(lambda: self._serve_one(sock, client))
        except RuntimeError:
            self._admission.leave(client)
            self._turn_away(sock, client, replies.TOO_MANY_CONNECTIONS)

    def _serve_one(self, sock: socket.socket, client: Client) -> None:
        try:
            self._serve(sock, client)
        finally:
            self._admission.leave(client)

    @staticmethod
    def _turn_away(sock: socket.socket, client: Client, reply: Reply) -> None:
        log.warning("session.refused", client=client.name, listener=client.listener, reply=str(reply))
        with contextlib.suppress(OSError):
            sock.send(reply.wire, socket.MSG_DONTWAIT)
            sock.shutdown(socket.SHUT_WR)
        sock.close()


def _plain(address: str) -> str:
    """An IPv4 address that reached an IPv6 socket, as IPv4."""
    return address.removeprefix("::ffff:") if address.startswith("::ffff:") and "." in address else address
