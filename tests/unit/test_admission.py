"""Who is let in: connections in all, and for each client of the network."""

from __future__ import annotations

from smtpmail.envelope import Client
from smtpmail.listener import Admission, SharedCounts
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply

ONE, OTHER = Client("192.0.2.1", 1, "network"), Client("192.0.2.2", 1, "network")
LOCAL = Client("127.0.0.1", 1, "loopback")


def admission_of(most: int, most_per_client: int) -> Admission:
    return Admission(most, most_per_client, SharedCounts(1, most), 0)


def is_in(answer: int | Reply) -> bool:
    return not isinstance(answer, Reply)


def test_in_all() -> None:
    admission = admission_of(2, 100)
    first, second = (admission.enter(c) for c in (ONE, LOCAL))
    assert is_in(first) and isinstance(second, int)
    assert admission.enter(OTHER) is replies.TOO_MANY_CONNECTIONS
    admission.leave(second)
    assert is_in(admission.enter(OTHER))
    assert admission.enter(LOCAL) is replies.TOO_MANY_CONNECTIONS


def test_for_each_client() -> None:
    admission = admission_of(100, 2)
    first, *others = (admission.enter(c) for c in (ONE, ONE, OTHER))
    assert isinstance(first, int) and all(is_in(other) for other in others)
    assert admission.enter(ONE) is replies.TOO_MANY_FROM_CLIENT
    assert is_in(admission.enter(OTHER))
    admission.leave(first)
    assert is_in(admission.enter(ONE))


def test_processes_count_together() -> None:
    counts = SharedCounts(2, 3)
    one, other = (Admission(3, 2, counts, process) for process in (0, 1))
    assert is_in(one.enter(ONE))
    slot = other.enter(ONE)
    assert isinstance(slot, int)
    assert one.enter(ONE) is replies.TOO_MANY_FROM_CLIENT
    assert is_in(one.enter(OTHER))
    assert other.enter(OTHER) is replies.TOO_MANY_CONNECTIONS
    other.leave(slot)
    assert is_in(one.enter(ONE))


def test_one_network_of_ipv6_is_one_client() -> None:
    admission = admission_of(100, 1)
    assert is_in(admission.enter(Client("2001:db8::1", 1, "network")))
    assert admission.enter(Client("2001:db8::2", 1, "network")) is replies.TOO_MANY_FROM_CLIENT
    assert is_in(admission.enter(Client("2001:db8:0:1::2", 1, "network")))


def test_loopback_has_no_limit_per_client() -> None:
    admission = admission_of(100, 1)
    assert all(is_in(admission.enter(LOCAL)) for _ in range(50))


def test_those_turned_away_do_not_count() -> None:
    admission = admission_of(1, 1)
    slot = admission.enter(ONE)
    for _ in range(5):
        admission.enter(ONE)
    assert isinstance(slot, int)
    admission.leave(slot)
    assert is_in(admission.enter(OTHER))
