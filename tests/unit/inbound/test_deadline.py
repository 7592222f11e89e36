"""How long a client may take, on a clock that only the test turns."""

from __future__ import annotations

import pytest

from smtpmail.inbound.deadline import IDLE_TIMEOUTS, MIN_RATE, TRANSACTION_TIMEOUTS, Deadline

MESSAGE = object()


class Clock:
    """A deadline that began at 1000, asked with a timeout of 300 seconds."""

    def __init__(self, max_size: int = 10**9) -> None:
        self.deadline = Deadline(max_size, 1000)

    def wait(
        self, now: float, message: object = None, *, content: bool = False, progress: bool = True,
        messages: int = 0, timeout: float = 300,
    ) -> float:  # fmt: skip
        return self.deadline.waiting(now, timeout, message, messages, content=content, progress=progress)


def test_each_command_has_the_timeout() -> None:
    clock = Clock()
    assert clock.wait(1000) == 300
    assert clock.wait(1200) == 300


def test_a_command_that_drips_has_it_once() -> None:
    clock = Clock()
    clock.wait(1000)
    assert clock.wait(1100, progress=False) == 200
    assert clock.wait(1299, progress=False) == 1


def test_each_piece_of_content_has_it_anew() -> None:
    clock = Clock()
    clock.wait(1000, MESSAGE, content=True)
    assert clock.wait(1250, MESSAGE, content=True, progress=False) == 300


@pytest.mark.parametrize("octets", [0, 1024, 1024 * 100])
def test_a_message_as_a_whole_is_bounded(octets: int) -> None:
    """So many timeouts, and a second for each KiB that has come."""
    clock = Clock()
    clock.wait(1000, MESSAGE, content=True)
    clock.deadline.received(octets)
    end = 1000 + TRANSACTION_TIMEOUTS * 300 + octets / MIN_RATE
    assert clock.deadline.time_left(1000, 300) == end - 1000
    assert clock.wait(end - 7, MESSAGE, content=True, progress=False) == 7


def test_what_is_too_large_buys_no_time() -> None:
    clock = Clock(max_size=1000)
    clock.wait(1000, MESSAGE, content=True)
    clock.deadline.received(10**9)
    assert clock.deadline.time_left(1000, 300) == TRANSACTION_TIMEOUTS * 300 + 2000 / MIN_RATE


def test_the_next_message_begins_anew() -> None:
    clock = Clock()
    clock.wait(1000, MESSAGE, content=True)
    clock.deadline.received(1000)
    assert clock.wait(2000, object(), content=True, messages=1) == 300
    assert clock.deadline.time_left(2000, 300) == TRANSACTION_TIMEOUTS * 300


@pytest.mark.parametrize("message", [None, "new ones again and again"])
def test_commands_that_do_nothing_do_not_prolong_a_session(message: object) -> None:
    """NOOP, or MAIL and RSET in turn: without a message that is taken, the time runs."""
    clock = Clock()
    now, end = 1000.0, 1000 + IDLE_TIMEOUTS * 300
    while now + 290 < end:
        assert 0 < clock.wait(now, None if message is None else object()) <= 300
        now += 290
    assert clock.wait(now, None if message is None else object()) == end - now


def test_a_message_that_is_taken_prolongs_it() -> None:
    clock = Clock()
    clock.wait(1000)
    assert clock.wait(1000 + IDLE_TIMEOUTS * 300 - 5, messages=1) == 300


def test_patience_may_shrink() -> None:
    """The server fills up: who is silent now has less time than was promised at first."""
    clock = Clock()
    assert clock.wait(1000, timeout=300) == 300
    assert clock.wait(1002, timeout=10, progress=False) == 8
