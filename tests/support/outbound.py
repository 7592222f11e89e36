"""The way out without DNS: hosts are told to the courier, and nothing but loopback is ever reached."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smtpmail.accept import Accept, Accepted
from smtpmail.bouncer import Bouncer
from smtpmail.mail.envelope import new_id
from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.mail.retry import RetryPolicy
from smtpmail.network import is_own_address
from smtpmail.outbound.client import Credentials, Timeouts
from smtpmail.outbound.clock import Clock
from smtpmail.outbound.courier import Courier
from smtpmail.outbound.kept import Kept
from smtpmail.outbound.mailboxes import Mailboxes
from smtpmail.outbound.mailhost import MailHost, RoutingError
from smtpmail.outbound.outcome import Outcome
from smtpmail.outbound.runner import Runner
from smtpmail.settings.values import Endpoint
from smtpmail.spool.commit import commit
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueStore
from smtpmail.users.routing import LocalDomains, Router
from smtpmail.users.users import Users
from support.faultserver import FaultServer

SHORT = Timeouts(connect=2.0, reply=2.0)
QUICK = RetryPolicy(schedule=(0.3,), lifetime=60, delay_notice=60)
MESSAGE = b"Received: by mail.dom.fr id x;\n\tnow\nSubject: test\nMessage-ID: <1@dom.fr>\n\n.dot\n..\n.\nend\n"


def on_wire(content: bytes) -> bytes:
    """What arrives elsewhere of stored content."""
    return content.replace(b"\n", b"\r\n")


class Hosts:
    """Stands for the destinations: the hosts of each domain, or the error with which the search for them ends."""

    def __init__(self, routes: Mapping[str, Sequence[MailHost] | RoutingError]) -> None:
        self.routes = dict(routes)
        self.asked: list[str] = []

    def hosts(self, domain: str, *, stranger: bool = False) -> Iterator[MailHost]:
        self.asked.append(domain)
        found = self.routes[domain]
        if isinstance(found, RoutingError):
            raise found
        yield from found

    def named(self, name: str, port: int) -> list[MailHost]:
        found = self.routes.get(name, [MailHost(name, name, port)])
        if isinstance(found, RoutingError):
            raise found
        return list(found)


def target(server: FaultServer, host: str = "fault.test") -> MailHost:
    address, port = server.address
    return MailHost(host, address, port)


def nobody(host: str = "nobody.test") -> MailHost:
    """A host that refuses connections: nothing listens on port 1 of loopback."""
    return MailHost(host, "127.0.0.1", 1)


class TurnedClock(Clock):
    """Goes on by itself, and by as much as a test turns it."""

    def __init__(self) -> None:
        self.turned = 0.0

    def turn(self, seconds: float) -> None:
        self.turned += seconds

    def now(self) -> float:
        return super().now() + self.turned

    def elapsed(self) -> float:
        return super().elapsed() + self.turned

    def chance(self) -> float:
        return 0.5

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        condition.wait(min(seconds, 0.01))


def item(
    *recipients: str | QueuedRecipient, sender: str = "alice@dom.fr", content: bytes = MESSAGE, **more: Any
) -> Item:
    listed = [r if isinstance(r, QueuedRecipient) else QueuedRecipient(r) for r in recipients or ("bob@one.test",)]
    more.setdefault("size", len(on_wire(content)))
    more.setdefault("eightbit", not content.isascii())
    return Item(new_id(), time.time(), sender, listed, **more)


def courier(
    hosts: Hosts,
    *,
    timeouts: Timeouts = SHORT,
    smarthost: Endpoint | None = None,
    credentials: Callable[[], Credentials | None] = lambda: None,
) -> Courier:
    return Courier(hosts, "mail.dom.fr", timeouts, smarthost, credentials)


def deliver(
    *targets: MailHost,
    message: Item | None = None,
    content: bytes = MESSAGE,
    session: Kept | None = None,
    by: Courier | None = None,
) -> dict[int, Outcome]:
    """One attempt at one.test; by recipient."""
    by = by or courier(Hosts({"one.test": targets}))
    message = message or item(content=content)
    kept = session or Kept("one.test")
    try:
        return by.deliver(kept, message, message.pending, io.BytesIO(content))
    finally:
        if session is None:
            kept.close()


def put(store: QueueStore, message: Item, content: bytes = MESSAGE) -> Item:
    """Into the queue on disk."""
    piece = store.content()
    piece.write(content)
    draft = store.prepare(piece, message, b"")
    commit([draft])
    draft.close()
    piece.close()
    return message


class Queue:
    """A runner with its store and its spool, in this process."""

    def __init__(
        self, folder: Path, hosts: Hosts, policy: RetryPolicy, clock: Clock | None = None, **limits: int
    ) -> None:
        self.spool_path = folder / "spool"
        (self.spool_path / ".queue").mkdir(parents=True, exist_ok=True)
        self.store = QueueStore(str(self.spool_path / ".queue"))
        self.spool = Spool(str(self.spool_path))
        self.router = Router(LocalDomains(["dom.fr"], is_own_address), Users(None, lambda *_: None), may_relay=True)
        accept = Accept(self.spool, self.store, "mail.dom.fr", self._announce)
        self.bouncer = Bouncer(accept, lambda address: self.router.routes(address), "mail.dom.fr")
        self.runner = Runner(
            self.store,
            courier(hosts),
            policy,
            max_workers=limits.get("max_workers", 20),
            max_per_destination=limits.get("max_per_destination", 5),
            clock=clock,
        )

    def _announce(self, accepted: Accepted) -> None:
        for queued in accepted.queued:
            self.runner.submit(queued)

    def start(self) -> None:
        self.runner.start(self.store.listen(), self.bouncer, Mailboxes(self.spool))

    def submit(self, message: Item, content: bytes = MESSAGE) -> Item:
        self.runner.submit(put(self.store, message, content))
        return message

    def mailbox(self, user: str) -> list[bytes]:
        folder = self.spool_path / user
        return [path.read_bytes() for path in sorted(folder.glob("[0-9]")) if path.name.isdigit()]

    def wait_for(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        give_up = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < give_up, f"did not happen; in the queue: {self.store.ids()}"
            time.sleep(0.01)

    def wait_empty(self, timeout: float = 10.0) -> None:
        self.wait_for(lambda: not self.store.ids(), timeout)


@contextmanager
def queue(
    folder: Path,
    hosts: Hosts,
    policy: RetryPolicy = QUICK,
    *,
    start: bool = True,
    clock: Clock | None = None,
    **limits: int,
) -> Iterator[Queue]:
    made = Queue(folder, hosts, policy, clock, **limits)
    if start:
        made.start()
    try:
        yield made
    finally:
        made.runner.stop(5)
