"""A server on a host of the cluster, and clients of that host that never stop sending."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.client import Client, Closed
from support.server import Server, program, wait_until
from support.spool import token_of_whole

from tests.cluster.volume import MOUNT
from tests.network.lab import NETNS, Host

CHECKOUT = Path(__file__).parents[2]
USERS = ("bob", "anna")
PER_HOST = 4
"""Clients of each host."""

TOKEN = re.compile(rb"^Message-ID: <([a-z0-9]+\.[0-9]+\.[0-9]+)>$", re.MULTILINE)

SETTINGS = ("-s", "dom.fr", "-H", "mail.dom.fr", "--spool", MOUNT)

_CLONE_NEWNET = 0x40000000


def command(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the program on a host, to its end."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        host.command(*program(), *words, *SETTINGS), capture_output=True, text=True, timeout=120, env=environment,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


class Node:
    """One host with its server. What it owns alone, its queue, lies on its own disk unless `queue` says otherwise."""

    def __init__(self, host: Host, *options: str, queue: str | None = None) -> None:
        self.host = host
        self.name = host.name
        self.queue = queue or f"/run/smtpmail-{host.name}"
        self._options = [*options, "--queue", self.queue, "--processes", "2", "--shared-spool", "yes"]
        self.server: Server | None = None

    def launch(self, *options: str) -> Server:
        """Starts the server and does not wait."""
        environment = {"PYTHONPATH": f"{CHECKOUT}:{os.environ.get('PYTHONPATH', '')}"}
        self.server = Server(
            Path(MOUNT), [*self._options, *options],
            addresses=("--loopback", "127.0.0.1:25", "--no-network"),
            wrapper=self.host.command(), environment=environment,
        )  # fmt: skip
        return self.server

    def start(self, *options: str) -> Server:
        """Starts the server and waits until it serves."""
        return self.launch(*options).wait_started()

    def kill(self) -> None:
        if self.server is not None:
            self.server.kill()

    def complaints(self) -> list[str]:
        """What its log warns of, each kind once."""
        assert self.server is not None
        kinds: dict[str, str] = {}
        for event in self.server.events:
            if event["level"] in ("warning", "error") and event["event"] not in ("users.any", "server.runs_as_root"):
                kinds.setdefault(event["event"] + str(event.get("error"))[:40], str(event)[:400])
        return [*kinds.values(), *self.server.other_output]

    def stop(self) -> int:
        assert self.server is not None
        return self.server.stop()

    def deliver_what_waits(self) -> None:
        """A message for two mailboxes is taken when one of them could be had: for the other one it waits in here."""

        def empty() -> bool:
            if not any(len(name) >= 19 for name in os.listdir(self.host.path(self.queue))):
                return True
            command(self.host, "queue", "retry", "--all", "--queue", self.queue)
            time.sleep(1)
            return False

        wait_until(empty, 240)

    def enter(self) -> None:
        """The calling thread's sockets belong to the host from now on."""
        with (NETNS / self.host.namespace).open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot enter the network of the host")

    def say(
        self, *recipients: str, content: bytes = b"Subject: x\r\n\r\nx\r\n", timeout: float = 90
    ) -> tuple[int, str]:
        """Hands the server one message; code and text of the first reply that is none of acceptance, or the last."""

        def talk() -> tuple[int, str]:
            with Client(("127.0.0.1", 25), timeout=timeout) as client:
                client.ehlo()
                lines = ["MAIL FROM:<sender@dom.fr>", *(f"RCPT TO:<{r}>" for r in recipients)]
                for line in lines:
                    answer = client.command(line)
                    if answer.code != 250:
                        return answer.code, str(answer)
                answer = client.data(content)
                return answer.code, str(answer)

        return self.host.call(talk)


@dataclass
class Book:
    """What was sent, and what was answered."""

    sent: set[str] = field(default_factory=set)
    accepted: dict[str, set[str]] = field(default_factory=lambda: {user: set() for user in USERS})
    refused: Counter[int] = field(default_factory=Counter)

    def count(self) -> int:
        """Of messages that were accepted."""
        return len(set().union(*self.accepted.values()))


def body(token: str) -> bytes:
    """Every token has its own content; now and then it is too long for memory."""
    count = int(token.rpartition(".")[2])
    size = 200_000 if count % 40 == 39 else 61 * (count % 17 + 1)
    return (token.encode() + b" ") * (size // (len(token) + 1) + 1)


class Load:
    """Clients of one host, which begin anew whatever happens, until they are stopped."""

    def __init__(self, node: Node, book: Book, round_: int) -> None:
        self.accepted = 0
        self.node = node
        self._book = book
        self._name = f"{node.name}r{round_}"
        self._stopping = False
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(PER_HOST)]
        for thread in self._threads:
            thread.start()

    def _send(self, worker: int) -> None:
        self.node.enter()
        users = [("bob",), ("anna",), ("anna", "bob"), ("bob",)][worker % 4]
        count = 0
        while not self._stopping:
            lost = contextlib.suppress(OSError, Closed, AssertionError, ValueError)
            with lost, Client(("127.0.0.1", 25), timeout=90) as client:
                client.ehlo()
                while not self._stopping:
                    count += 1
                    self._one(client, users, f"{self._name}.{worker}.{count}")
            count += 1
            time.sleep(0.05)

    def _one(self, client: Client, users: Sequence[str], token: str) -> None:
        client.expect("MAIL FROM:<sender@dom.fr>", 250)
        for user in users:
            answer = client.command(f"RCPT TO:<{user}@dom.fr>")
            if answer.code != 250:
                self._book.refused[answer.code] += 1
                client.command("RSET")
                time.sleep(0.2)
                return
        self._book.sent.add(token)
        answer = client.data(f"Message-ID: <{token}>\r\nSubject: x\r\n\r\n".encode() + body(token) + b"\r\n")
        if answer.code == 250:
            self.accepted += 1
            for user in users:
                self._book.accepted[user].add(token)
        else:
            self._book.refused[answer.code] += 1

    def stop(self) -> None:
        """Ends the clients; what they are waiting for is waited for."""
        self._stopping = True
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a client waits for an answer that does not come"


@contextlib.contextmanager
def load_on(nodes: Sequence[Node], book: Book, round_: int = 0) -> Iterator[list[Load]]:
    """Clients on all of the hosts at once."""
    loads = [Load(node, book, round_) for node in nodes]
    try:
        yield loads
    finally:
        for load in loads:
            load.stop()


@dataclass
class Found:
    """What is in the mailboxes."""

    stored: int = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0

    def __str__(self) -> str:
        return f"{self.stored} stored, {self.lost} lost, {self.doubled} doubled, {self.gaps} gaps"


class Mailboxes:
    """Reads all of them after each round, seen from one host, and remembers: what was there stays as it was."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._known: dict[tuple[str, int], str] = {}

    def check(self, host: Host) -> Found:
        """Fails when anything accepted is lost, doubled, half there, or has another number than before."""
        found = Found()
        for user in USERS:
            folder = host.path(f"{MOUNT}/{user}")
            names = os.listdir(folder) if folder.exists() else []
            numbers = sorted(int(name) for name in names if name.isdigit())
            tokens: dict[int, str] = {}
            for number in numbers:
                tokens[number] = self._known.get((user, number)) or token_of_whole(folder, number, TOKEN, body)
                assert tokens[number] in self._book.sent
            gone = [n for (u, n) in self._known if u == user and n not in tokens]
            assert not gone, f"{user}: gone: {gone[:9]}"
            self._known.update({(user, n): token for n, token in tokens.items()})
            lost = self._book.accepted[user] - set(tokens.values())
            doubled = [token for token, count in Counter(tokens.values()).items() if count > 1]
            found.lost += len(lost)
            found.doubled += len(doubled)
            assert not lost, f"{user}: accepted and lost: {sorted(lost)[:9]}"
            assert not doubled, f"{user}: stored twice: {doubled[:9]}"
            found.stored += len(numbers)
            found.gaps += (numbers[-1] if numbers else 0) - len(numbers)
        return found
