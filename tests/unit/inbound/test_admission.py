"""Who is let in: connections in all, and for each client of the network."""

from __future__ import annotations

from smtpmail.inbound.admission import HURRY_SECONDS, Admission, SharedCounts
from smtpmail.mail.envelope import Peer
from smtpmail.settings.config import Config
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply

ONE, OTHER = Peer("192.0.2.1", 1, "network"), Peer("192.0.2.2", 1, "network")
LOCAL = Peer("127.0.0.1", 1, "loopback")


class Gate:
    """Admission in two processes that share their counts, asked in turn."""

    def __init__(self, most: int, most_per_client: int) -> None:
        config = Config(max_connections=most, max_connections_per_client=most_per_client)
        counts = SharedCounts(2, most)
        self._processes = [Admission(config, counts, number) for number in range(2)]
        self._inside: list[tuple[Peer, Admission, int]] = []

    def enter(self, client: Peer) -> Reply | None:
        process = self._processes[len(self._inside) % 2]
        slot = process.enter(client)
        if isinstance(slot, Reply):
            return slot
        self._inside.append((client, process, slot))
        return None

    def leave(self, client: Peer) -> None:
        place = next(x for x in self._inside if x[0] == client)
        self._inside.remove(place)
        place[1].leave(place[2])


def test_in_all() -> None:
    admission = Gate(2, 100)
    assert [admission.enter(c) for c in (ONE, LOCAL)] == [None, None]
    assert admission.enter(OTHER) is replies.TOO_MANY_CONNECTIONS
    admission.leave(LOCAL)
    assert admission.enter(OTHER) is None
    assert admission.enter(LOCAL) is replies.TOO_MANY_CONNECTIONS


def test_for_each_client() -> None:
    admission = Gate(100, 2)
    assert [admission.enter(c) for c in (ONE, ONE, OTHER)] == [None] * 3
    assert admission.enter(ONE) is replies.TOO_MANY_FROM_CLIENT
    assert admission.enter(OTHER) is None
    admission.leave(ONE)
    assert admission.enter(ONE) is None


def test_one_network_of_ipv6_is_one_client() -> None:
    admission = Gate(100, 1)
    assert admission.enter(Peer("2001:db8::1", 1, "network")) is None
    assert admission.enter(Peer("2001:db8::2", 1, "network")) is replies.TOO_MANY_FROM_CLIENT
    assert admission.enter(Peer("2001:db8:0:1::2", 1, "network")) is None


def test_loopback_has_no_limit_per_client() -> None:
    admission = Gate(100, 1)
    assert [admission.enter(LOCAL) for _ in range(50)] == [None] * 50


def test_those_turned_away_do_not_count() -> None:
    admission = Gate(1, 1)
    admission.enter(ONE)
    for _ in range(5):
        admission.enter(ONE)
    admission.leave(ONE)
    assert admission.enter(OTHER) is None


def test_programs_on_this_host_are_never_locked_out() -> None:
    """The network may fill nine tenths."""
    gate = Gate(20, 100)
    assert [gate.enter(Peer(f"192.0.2.{n}", 1, "network")) for n in range(18)] == [None] * 18
    assert gate.enter(ONE) is replies.TOO_MANY_CONNECTIONS
    assert [gate.enter(LOCAL), gate.enter(LOCAL)] == [None, None]


def test_one_site_of_ipv6_is_bounded() -> None:
    """A customer's /48 or /56 has many networks: together they get twice what one gets."""
    gate = Gate(100, 2)
    peers = [Peer(f"2001:db8:0:{n:x}::1", 1, "network") for n in range(5)]
    assert [gate.enter(p) for p in peers[:4]] == [None] * 4
    assert gate.enter(peers[4]) is replies.TOO_MANY_FROM_CLIENT
    assert gate.enter(Peer("2001:db8:1::1", 1, "network")) is None


def test_patience_shrinks_under_load() -> None:
    config = Config(max_connections=20, timeout=300)
    admission = Admission(config, SharedCounts(1, 20), 0)
    for n in range(12):
        admission.enter(Peer(f"192.0.2.{n}", 1, "network"))
    assert (admission.patience(ONE), admission.patience(LOCAL)) == (300, 300)
    admission.enter(OTHER)
    assert (admission.patience(ONE), admission.patience(LOCAL)) == (HURRY_SECONDS, 300)
