"""Clients that never stop sending, and what a spool must hold afterwards."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from support.client import Client, Closed
from support.faultserver import FaultServer
from support.server import Server
from support.spool import token_of_whole

TOKEN = re.compile(rb"^Message-ID: <([0-9]+\.[0-9]+\.[0-9]+)>$", re.MULTILINE)
SENDERS = 6
LOCAL = ("bob", "anna")
REMOTE = "alice@example.net"


def options(sink: FaultServer) -> list[str]:
    """Of a server whose mail to the outside ends in the sink."""
    return ["--smarthost", f"127.0.0.1:{sink.address[1]}", "--retry-schedule", "1s", "--reply-timeout", "5",
            "--processes", "2"]  # fmt: skip


def body(token: str) -> bytes:
    """Every token has its own content: small ones, and now and then one that no journal carries."""
    worker, count = map(int, token.split(".")[1:])
    size = 200_000 if count % 23 == 22 else 37 * (worker + 1) * (count % 11 + 1)
    return (token.encode() + b" ") * (size // (len(token) + 1) + 1)


@dataclass
class Book:
    """What was sent and what was answered with 250, over all rounds."""

    sent: set[str] = field(default_factory=set)
    accepted: dict[str, set[str]] = field(default_factory=dict)
    """By recipient, a user or REMOTE: the tokens."""

    def note(self, recipients: tuple[str, ...], token: str) -> None:
        for recipient in recipients:
            self.accepted.setdefault(recipient, set()).add(token)

    def count(self) -> int:
        """Of messages that were accepted."""
        return len(set().union(*self.accepted.values())) if self.accepted else 0


class Load:
    """The clients of one round, at work until the server is gone."""

    def __init__(self, server: Server, book: Book, round_: int) -> None:
        self.accepted = 0
        self._address = server.address()
        self._book = book
        self._round = round_
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self, worker: int) -> None:
        users = [("bob",), ("anna", "bob"), (REMOTE,), ("bob", REMOTE)][worker % 4]
        recipients = [user if "@" in user else f"{user}@dom.fr" for user in users]
        count = 0
        with contextlib.suppress(OSError, Closed, AssertionError):
            while True:
                with Client(self._address, timeout=30) as client:
                    client.ehlo()
                    # Many messages a connection, then one.
                    for _ in range(5 if count % 2 else 1):
                        token = f"{self._round}.{worker}.{count}"
                        count += 1
                        self._book.sent.add(token)
                        client.transaction(*recipients, sender="sender@dom.fr")
                        content = f"Message-ID: <{token}>\r\nSubject: x\r\n\r\n".encode() + body(token) + b"\r\n"
                        if client.data(content).code == 250:
                            self._book.note(users, token)
                            self.accepted += 1

    def join(self) -> None:
        """When the server is gone."""
        for thread in self._threads:
            thread.join(60)


class Checker:
    """Looks at the mailboxes after each round: at what is new in full, at the rest by its name."""

    def __init__(self, spool: Path, book: Book) -> None:
        self.spool = spool
        self.book = book
        self._known: dict[str, dict[int, str]] = {user: {} for user in LOCAL}

    def check(self, *, restarted: bool = True) -> None:
        """Fails when anything that was accepted is lost, doubled, half there, or has another number than before."""
        for user in LOCAL:
            folder = self.spool / user
            if not folder.exists():
                continue
            names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
            numbers = {int(name) for name in names if name.isdigit()}
            known = self._known[user]
            assert known.keys() <= numbers, f"{user}: gone: {sorted(known.keys() - numbers)[:9]}"
            for number in numbers - known.keys():
                known[number] = token_of_whole(folder, number, TOKEN, body)
                assert known[number] in self.book.sent
            if restarted:
                assert names == {n for number in numbers for n in (str(number), f"{number}.status")}
                lost = self.book.accepted.get(user, set()) - set(known.values())
                assert not lost, f"{user}: accepted and lost: {sorted(lost)[:9]}"
            doubled = [token for token, count in Counter(known.values()).items() if count > 1]
            assert not doubled, f"{user}: stored twice: {doubled[:9]}"

    def forget(self) -> None:
        """After a power cut: what readers saw is looked at again in full."""
        before = self._known
        self._known = {user: {} for user in LOCAL}
        self.check()
        for user, known in before.items():
            for number, token in known.items():
                assert self._known[user][number] == token, f"{user}/{number} was another message"


def arrived(sink: FaultServer) -> Counter[str]:
    """How often each token has come to the sink."""
    counts: Counter[str] = Counter()
    for (_, message_id), count in sink.deliveries.items():
        counts[message_id.strip("<>")] += count
    return counts


def check_sink(sink: FaultServer, book: Book, crashes: int) -> int:
    """Everything accepted for the outside has left; returns how many copies too many were sent."""
    counts = arrived(sink)
    lost = book.accepted.get(REMOTE, set()) - counts.keys()
    assert not lost, f"accepted for the outside and lost: {sorted(lost)[:9]}"
    surplus = sum(counts.values()) - len(counts)
    # What is on its way at the moment of a crash goes once more: nobody can know whether it was taken.
    assert surplus <= crashes * 2 * 10
    return surplus
