"""One listening socket = one thread; whom it lets in (limits); and the threads that serve connections."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import mmap
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable

from smtpmail.config import Config
from smtpmail.envelope import Client
from smtpmail.log import log
from smtpmail.network import IPAddress
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply

IDLE_SECONDS = 10.0
"""So long a thread waits for another connection before it ends."""

STACK_SIZE = 512 * 1024
"""Octets of address space for the stack of a thread that serves a connection."""


class SharedCounts:
    """Who is connected, in memory that the processes share: a slot for each connection, a part for each process.

    A process writes only to its own part and reads all, so that no lock is needed between them; two that admit at the
    same instant may exceed a limit by one.
    """

    SLOT = 16
    """Octets that stand for a client; zeros are a free slot."""

    def __init__(self, processes: int, connections: int) -> None:
        self._part = connections * self.SLOT
        self._clients = mmap.mmap(-1, processes * self._part)
        self._totals = memoryview(mmap.mmap(-1, processes * 8)).cast("q")

    def count(self, client: bytes) -> int:
        """Connections of one client."""
        return self._clients[:].count(client)

    def total(self) -> int:
        """Connections of all clients."""
        return sum(self._totals)

    def slots(self, process: int) -> list[int]:
        """The slots of a process."""
        return list(range(process * self._part, (process + 1) * self._part, self.SLOT))

    def take(self, slot: int, client: bytes) -> None:
        """Puts a client into a slot."""
        self._clients[slot : slot + self.SLOT] = client
        self._totals[slot // self._part] += 1

    def free(self, slot: int) -> None:
        """Empties a slot."""
        self._clients[slot : slot + self.SLOT] = bytes(self.SLOT)
        self._totals[slot // self._part] -= 1


class Admission:
    """Who may come in: limits for all connections and for those of one client (Client.key), over all processes."""

    def __init__(self, config: Config, counts: SharedCounts, process: int) -> None:
        self._most = config.max_connections
        self._most_per_client = config.max_connections_per_client
        self._counts = counts
        self._lock = threading.Lock()
        self._free = counts.slots(process)

    def enter(self, client: Client) -> int | Reply:
        """Lets the client in and returns its slot, or the reply that turns it away."""
        # Of a digest, no two that stand side by side make a third.
        key = hashlib.blake2b(client.key.encode(), digest_size=SharedCounts.SLOT).digest()
        with self._lock:
            if not self._free or self._counts.total() >= self._most:
                return replies.TOO_MANY_CONNECTIONS
            if client.listener == "network" and self._counts.count(key) >= self._most_per_client:
                return replies.TOO_MANY_FROM_CLIENT
            slot = self._free.pop()
            self._counts.take(slot, key)
            return slot

    def leave(self, slot: int) -> None:
        """The connection in this slot is over."""
        with self._lock:
            self._counts.free(slot)
            self._free.append(slot)


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
        self._sock.setblocking(False)
        self._stopped = os.eventfd(0, os.EFD_CLOEXEC)
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
            sock, peer = self._sock.accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:
            # Out of descriptors, say: it passes, and a mail server may not give up.
            log.error("listener.error", address=self.address, error=str(error))
            time.sleep(0.1)
            return
        self._admit(sock, Client(_plain(peer[0]), peer[1], self.kind))

    def _admit(self, sock: socket.socket, client: Client) -> None:
        slot = self._admission.enter(client)
        if isinstance(slot, Reply):
            self._turn_away(sock, client, slot)
            return
        try:
            self._workers.start(lambda: self._serve_one(sock, client, slot))
        except RuntimeError:
            self._admission.leave(slot)
            self._turn_away(sock, client, replies.TOO_MANY_CONNECTIONS)

    def _serve_one(self, sock: socket.socket, client: Client, slot: int) -> None:
        try:
            self._serve(sock, client)
        finally:
            self._admission.leave(slot)

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
