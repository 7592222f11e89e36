"""When mail is tried again, told about and given up: the promises as tables."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.mail.retry import DAY, HOUR, JITTER, MINUTE, START_SPREAD_MOST, RetryPolicy
from smtpmail.settings import sources

POLICY = RetryPolicy()
ARRIVED = 1_000_000.0


def never() -> float:
    return 0.0


def most() -> float:
    return 1.0


@pytest.mark.parametrize(
    ("attempts", "minutes"),
    [(1, 1), (2, 5), (3, 10), (4, 20), (5, 40), (6, 80), (7, 120), (8, 120), (9, 120), (50, 120), (10_000, 120)],
)
def test_schedule(attempts: int, minutes: float) -> None:
    """The wait after so many attempts: 1 min, 5, 10, 20, 40 min, 1 h 20, then every 2 h; at most a tenth longer."""
    now = ARRIVED + 100
    assert POLICY.next_attempt(ARRIVED, attempts, now, never) == now + minutes * MINUTE
    assert POLICY.next_attempt(ARRIVED, attempts, now, most) == pytest.approx(now + minutes * MINUTE * (1 + JITTER))


@given(st.integers(1, 100), st.floats(0, 4.9 * DAY), st.floats(0, 1))
def test_jitter_only_lengthens_and_only_a_little(attempts: int, age: float, random: float) -> None:
    now = ARRIVED + age
    plain = POLICY.next_attempt(ARRIVED, attempts, now, never)
    jittered = POLICY.next_attempt(ARRIVED, attempts, now, lambda: random)
    assert plain is not None and jittered is not None
    assert now < plain <= jittered <= min(now + (plain - now) * (1 + JITTER) + 1e-3, ARRIVED + POLICY.lifetime)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (5 * DAY - 3 * HOUR, 5 * DAY - HOUR),
        (5 * DAY - HOUR, 5 * DAY),
        (5 * DAY - 1, 5 * DAY),
        (5 * DAY, None),
        (5 * DAY + 1, None),
        (500 * DAY, None),
    ],
)
def test_the_last_attempt_is_made_when_the_lifetime_ends(age: float, expected: float | None) -> None:
    at = POLICY.next_attempt(ARRIVED, 20, ARRIVED + age, never)
    assert at == (None if expected is None else ARRIVED + expected)


@pytest.mark.parametrize("seed", range(5))
def test_five_days_as_they_go(seed: int) -> None:
    """From arrival to the end: about as many attempts as the schedule has room for, the last one at the end."""
    now, attempts, times = ARRIVED, 1, [ARRIVED]
    random = Random(seed).random
    while (at := POLICY.next_attempt(ARRIVED, attempts, now, random)) is not None:
        assert at > now
        now = at
        attempts += 1
        times.append(at)
    assert times[-1] == ARRIVED + 5 * DAY
    assert 60 <= attempts <= 68


@pytest.mark.parametrize(
    ("age", "told"), [(0, False), (HOUR, False), (4 * HOUR - 1, False), (4 * HOUR, True), (3 * DAY, True)]
)
def test_delay_notice_after_four_hours(age: float, told: bool) -> None:
    assert POLICY.wants_delay_notice(ARRIVED, ARRIVED + age) is told


@given(st.integers(1, 100_000), st.floats(0, 1), st.floats(-DAY, 0))
def test_a_start_with_overdue_messages_spreads_them(overdue: int, random: float, late: float) -> None:
    now = ARRIVED
    at = POLICY.after_start(now + late, overdue, now, lambda: random)
    assert now <= at <= now + START_SPREAD_MOST


def test_ten_thousand_overdue_messages_do_not_start_together() -> None:
    random = Random(1).random
    times = sorted(POLICY.after_start(0.0, 10_000, ARRIVED, random) - ARRIVED for _ in range(10_000))
    assert times[-1] > 450, "spread over minutes"
    per_second = max(sum(1 for t in times if s <= t < s + 1) for s in range(int(times[-1]) + 1))
    assert per_second < 60


def test_one_overdue_message_does_not_wait() -> None:
    assert POLICY.after_start(0.0, 1, ARRIVED, most) - ARRIVED < 1


def test_what_is_not_due_yet_keeps_its_time() -> None:
    assert POLICY.after_start(ARRIVED + 77, 5000, ARRIVED, most) == ARRIVED + 77


def test_all_of_it_is_configurable() -> None:
    policy = sources.load(
        {"retry_schedule": "10s 1m, 1h", "queue_lifetime": "2d", "delay_notice": "30m"}, {}, None
    ).retry_policy
    assert policy == RetryPolicy((10.0, 60.0, 3600.0), 2 * DAY, 30 * MINUTE)
    assert [policy.next_attempt(0, n, 0, never) for n in (1, 2, 3, 4)] == [10, 60, 3600, 3600]


def test_the_defaults_are_those_of_the_contract() -> None:
    assert sources.load({}, {}, None).retry_policy == RetryPolicy(
        (60.0, 300.0, 600.0, 1200.0, 2400.0, 4800.0, 7200.0), 5 * DAY, 4 * HOUR
    )
