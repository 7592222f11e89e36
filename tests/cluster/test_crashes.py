"""Servers, mounts, bricks and networks go away under load, on one side or on all at once: acknowledged is stored, once.

SMTPMAIL_CLUSTER_ROUNDS: how often; a hundred with `make test-cluster`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.server import wait_until

from tests.cluster.conftest import ROUNDS, Start
from tests.cluster.node import USERS, Book, Load, Mailboxes, Node, load_on
from tests.cluster.volume import MOUNT, Volume

SEED = int(os.environ.get("SMTPMAIL_SEED", str(random.SystemRandom().randrange(10**6))))


def flowing(*loads: Load, messages: int = 10) -> None:
    """Waits until mail is accepted on each side; else tells what the servers complain of."""
    marks = [load.accepted + messages for load in loads]
    try:
        wait_until(lambda: all(load.accepted >= mark for load, mark in zip(loads, marks, strict=True)), 120)
    except AssertionError:
        missing = [mark - load.accepted for load, mark in zip(loads, marks, strict=True)]
        complaints = [load.node.complaints() for load in loads]
        raise AssertionError(f"no mail on a side: {missing} messages missing; {complaints}") from None


def tell(what: str, book: Book, found: object) -> None:
    print(f"{what}: {len(book.sent)} sent, {book.count()} accepted, {found}, refused {dict(book.refused)}; seed {SEED}")


def test_two_hosts_into_the_same_mailboxes(whole: Volume, node: Start) -> None:
    """Undisturbed: none lost, none doubled, and no number left out."""
    nodes = [node("mx1"), node("mx2")]
    for each in nodes:
        each.start()
    book = Book()
    with load_on(nodes, book) as loads:
        flowing(*loads, messages=60)
    for each in nodes:
        each.deliver_what_waits()
    found = [Mailboxes(book).check(host) for host in whole.hosts]
    assert found[0] == found[1] == found[2], "all hosts see the same"
    assert found[0].gaps == 0 and not book.refused, [c for each in nodes for c in each.complaints()]
    tell("two hosts", book, found[0])
    assert [each.stop() for each in nodes] == [0, 0]


def test_three_hosts(whole: Volume, node: Start) -> None:
    nodes = [node("mx1"), node("mx2"), node("arbiter")]
    for each in nodes:
        each.start()
    book = Book()
    with load_on(nodes, book) as loads:
        flowing(*loads, messages=30)
    for each in nodes:
        each.deliver_what_waits()
    found = Mailboxes(book).check(whole.hosts[0])
    assert found.gaps == 0 and not book.refused, [c for each in nodes for c in each.complaints()]
    tell("three hosts", book, found)


def kill_server(volume: Volume, node: Node, rng: random.Random) -> None:
    node.kill()
    time.sleep(rng.uniform(0, 0.3))
    node.start()


def kill_mount(volume: Volume, node: Node, rng: random.Random) -> None:
    """The server stays, and finds the new mount by itself."""
    volume.kill_mount(node.host)
    time.sleep(rng.uniform(0, 0.5))
    volume.mount(node.host)


def kill_brick(volume: Volume, node: Node, rng: random.Random) -> None:
    volume.kill_brick(node.host)
    time.sleep(rng.uniform(0.5, 2))
    volume.restart_bricks()


def cut_network(volume: Volume, node: Node, rng: random.Random) -> None:
    """For so long that the others go on without it."""
    with volume.cut_off(node.host):
        time.sleep(rng.uniform(7, 9))


Crash = Callable[[Volume, Node, random.Random], None]

BESIDE = ThreadPoolExecutor()
"""Its threads stay: servers and mounts end with the thread that started them (PR_SET_PDEATHSIG)."""


@pytest.mark.parametrize("crash", [kill_server, kill_mount, kill_brick, cut_network])
def test_crashes_under_load(whole: Volume, node: Start, crash: Crash) -> None:
    endure(whole, [node("mx1"), node("mx2")], crash)


def endure(whole: Volume, nodes: Sequence[Node], crash: Crash) -> None:
    """Crashes while clients of both hosts send, and mail flows again on both; counted after each round."""
    rng = random.Random(SEED)
    for each in nodes:
        each.start()
    book = Book()
    mailboxes = Mailboxes(book)
    for round_ in range(ROUNDS):
        victim = nodes[(round_ + 1) % 2]
        other = nodes[round_ % 2]
        with load_on(nodes, book, round_) as loads:
            flowing(*loads)
            time.sleep(rng.uniform(0, 0.3))
            crash(whole, victim, rng)
            flowing(*loads)
        whole.wait_healed()
        for each in nodes:
            each.deliver_what_waits()
        found = mailboxes.check(other.host)
        tell(f"{crash.__name__} {round_ + 1}", book, found)
    assert not [e for each in nodes for e in (each.server.events if each.server else []) if "exception" in e]


def at_once(crash: Crash) -> Crash:
    """The same on the other host at the same moment."""

    def both(volume: Volume, node: Node, rng: random.Random) -> None:
        others = [n for n in NODES if n is not node]
        crashes = [BESIDE.submit(crash, volume, n, random.Random(rng.random())) for n in others]
        crash(volume, node, rng)
        for other in crashes:
            other.result(240)

    both.__name__ = f"both_{crash.__name__}"
    return both


def kill_bricks(volume: Volume, node: Node, rng: random.Random) -> None:
    """Two of three: nobody may write, until they are back."""
    for host in volume.hosts[:2]:
        volume.kill_brick(host)
    time.sleep(rng.uniform(0.5, 2))
    volume.restart_bricks()


def kill_all_kinds(volume: Volume, node: Node, rng: random.Random) -> None:
    """The server of one host, the mount of the other one, and the arbiter."""
    (other,) = [n for n in NODES if n is not node]
    volume.kill_brick(volume.hosts[2])
    volume.kill_mount(other.host)
    node.kill()
    time.sleep(rng.uniform(0, 0.5))
    volume.mount(other.host)
    node.start()
    volume.restart_bricks()


NODES: list[Node] = []
"""Those of the test that runs."""

BOTH = [kill_all_kinds] if ROUNDS == 1 else [kill_all_kinds, kill_bricks, at_once(kill_server), at_once(kill_mount)]


@pytest.mark.parametrize("crash", BOTH, ids=lambda crash: crash.__name__)
def test_on_both_sides_at_once(whole: Volume, node: Start, crash: Crash) -> None:
    NODES[:] = [node("mx1"), node("mx2")]
    endure(whole, NODES, crash)


def test_both_servers_at_once(whole: Volume, node: Start) -> None:
    """Nobody is left who could have the locks."""
    rng = random.Random(SEED)
    nodes = [node("mx1"), node("mx2")]
    book = Book()
    mailboxes = Mailboxes(book)
    for round_ in range(2 * ROUNDS):
        for each in nodes:
            each.start()
            each.deliver_what_waits()
        found = mailboxes.check(nodes[0].host)
        tell(f"both servers {round_}", book, found)
        with load_on(nodes, book, round_) as loads:
            flowing(*loads)
            time.sleep(rng.uniform(0, 0.3))
            for each in nodes:
                assert each.server is not None
                os.killpg(each.server.process.pid, signal.SIGKILL)
            for load in loads:
                load.stop()
        for each in nodes:
            each.kill()
    # Nothing is left of them: what had a number has it, and other names there are none.
    for each in nodes:
        each.start()
        each.deliver_what_waits()
    tell("both servers", book, mailboxes.check(nodes[0].host))
    folders = [nodes[0].host.path(f"{MOUNT}/{user}") for user in USERS]
    wait_until(lambda: not [p for folder in folders for p in folder.glob("*.status") if not p.with_suffix("").exists()])
