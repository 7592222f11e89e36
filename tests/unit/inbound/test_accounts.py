"""Whose a loopback connection is, and how much an account may send in an hour."""

from __future__ import annotations

import os
import socket

import pytest

from smtpmail.inbound.accounts import HOUR, Peers, Rates
from smtpmail.mail.address import NULL_PATH
from smtpmail.mail.envelope import Envelope, Peer
from smtpmail.smtp.replies import Refusal


def envelope(uid: int | None) -> Envelope:
    return Envelope(NULL_PATH, Peer("127.0.0.1", 1, "loopback", uid))


def taken(rates: Rates, uid: int | None, count: int = 10) -> int:
    for done in range(count):
        try:
            rates.message(envelope(uid))
        except Refusal as refusal:
            assert refusal.reply.code == 450
            return done
    return count


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_tells_whose_it_is(host: str) -> None:
    peers = Peers()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        for _ in range(3):
            with socket.create_connection(server.getsockname()[:2]) as _client:
                accepted, _ = server.accept()
                with accepted:
                    assert peers.uid(accepted) == os.getuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_account() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pid = os.fork()
        if not pid:
            os.setuid(4711)
            with socket.create_connection(server.getsockname()) as client:
                client.recv(1)
            os._exit(0)
        accepted, _ = server.accept()
        with accepted:
            assert Peers().uid(accepted) == 4711
        os.waitpid(pid, 0)


def test_what_is_no_connection() -> None:
    with socket.socket() as sock:
        assert Peers().uid(sock) is None
    left, right = socket.socketpair()
    with left, right:
        assert Peers().uid(left) is None


def test_bounds() -> None:
    now = [10 * HOUR]
    rates = Rates(1, 3, 2, lambda: now[0])
    assert taken(rates, 1000) == 3
    assert taken(rates, 1001) == 3
    rates.recipient(envelope(1000))
    rates.recipient(envelope(1000))
    with pytest.raises(Refusal):
        rates.recipient(envelope(1000))
    assert taken(rates, 0) == taken(rates, None) == 10
    now[0] += HOUR
    assert taken(rates, 1000) == 3


def test_users_with_devices() -> None:
    """Each has a bound of their own, whatever device it is."""
    rates = Rates(1, 3, 3)

    def of(user: str) -> Envelope:
        return Envelope(NULL_PATH, Peer("192.0.2.1", 1, "submission"), user=user)

    for user in ("bob", "anna"):
        for _ in range(3):
            rates.message(of(user))
        with pytest.raises(Refusal):
            rates.message(of(user))
    assert taken(rates, 1000) == 3


def test_over_processes() -> None:
    rates = Rates(2, 5, 5, lambda: 0.0)
    pid = os.fork()
    if not pid:
        rates.use_part(1)
        os._exit(taken(rates, 1000, 3))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert taken(rates, 1000) == 2


def test_more_accounts_than_slots() -> None:
    now = [0.0]
    rates = Rates(1, 1, 1, lambda: now[0])
    for uid in range(1, Rates.SLOTS + 1):
        assert taken(rates, uid, 2) == 1
    assert taken(rates, 9999) == 10
    now[0] += HOUR
    assert taken(rates, 9999) == 1
