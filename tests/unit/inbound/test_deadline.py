"""How long a client may take, on a clock that only the test turns."""

from __future__ import annotations

import pytest

from smtpmail.inbound.deadline import MIN_RATE, TRANSACTION_TIMEOUTS, Deadline

MESSAGE = object()


def test_each_command_has_the_timeout() -> None:
    deadline = Deadline(300, 1000)
    assert deadline.waiting(1000, None, content=False, progress=True) == 300
    assert deadline.waiting(1200, None, content=False, progress=True) == 300


def test_a_command_that_drips_has_it_once() -> None:
    deadline = Deadline(300, 1000)
    deadline.waiting(1000, None, content=False, progress=True)
    assert deadline.waiting(1100, None, content=False, progress=False) == 200
    assert deadline.waiting(1299, None, content=False, progress=False) == 1


def test_each_piece_of_content_has_it_anew() -> None:
    deadline = Deadline(300, 10**9)
    deadline.waiting(1000, MESSAGE, content=True, progress=True)
    assert deadline.waiting(1250, MESSAGE, content=True, progress=False) == 300


@pytest.mark.parametrize("octets", [0, 1024, 1024 * 100])
def test_a_message_as_a_whole_is_bounded(octets: int) -> None:
    """So many timeouts, and a second for each KiB that has come."""
    deadline = Deadline(300, 10**9)
    deadline.waiting(1000, MESSAGE, content=True, progress=True)
    deadline.received(octets)
    end = 1000 + TRANSACTION_TIMEOUTS * 300 + octets / MIN_RATE
    assert deadline.time_left(1000) == end - 1000
    assert deadline.waiting(end - 7, MESSAGE, content=True, progress=False) == 7


def test_what_is_too_large_buys_no_time() -> None:
    deadline = Deadline(300, 1000)
    deadline.waiting(0, MESSAGE, content=True, progress=True)
    deadline.received(10**9)
    assert deadline.time_left(0) == TRANSACTION_TIMEOUTS * 300 + 2000 / MIN_RATE


def test_the_next_message_begins_anew() -> None:
    deadline = Deadline(300, 1000)
    deadline.waiting(0, MESSAGE, content=True, progress=True)
    deadline.received(1000)
    assert deadline.waiting(1000, object(), content=True, progress=True) == 300
    assert deadline.time_left(1000) == TRANSACTION_TIMEOUTS * 300
    assert deadline.waiting(1001, None, content=False, progress=True) == 300
    assert deadline.time_left(5000) == 300
