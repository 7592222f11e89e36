"""Who is let in: connections in all, and for each client of the network."""

from __future__ import annotations

from smtpmail.inbound.admission import Admission, SharedCounts
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
