"""Sets of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.imap.sequences import SequenceSet, format_missing, format_set, parse_set

SMALL = st.integers(1, 45)

MAILBOX = [2, 3, 5, 8, 13]


@pytest.mark.parametrize(
    ("text", "uids", "numbers"),
    [
        (b"1", [], [1]),
        (b"2", [2], [2]),
        (b"*", [13], [5]),
        (b"1:*", MAILBOX, [1, 2, 3, 4, 5]),
        (b"*:1", MAILBOX, [1, 2, 3, 4, 5]),
        (b"4:2", [2, 3], [2, 3, 4]),
        (b"5,2,5:8", [2, 5, 8], None),
        (b"3,1", [3], [1, 3]),
        (b"100:*", [13], None),
        (b"100:200", [], None),
        (b"4294967295", [], None),
        (b"2:4,3:5,*", [2, 3, 5, 13], [2, 3, 4, 5]),
    ],
)
def test_sets(text: bytes, uids: list[int], numbers: list[int] | None) -> None:
    parsed = parse_set(text)
    assert [MAILBOX[place] for place in parsed.among(MAILBOX)] == uids
    positions = parsed.positions(len(MAILBOX))
    assert (None if positions is None else [p + 1 for p in positions]) == numbers


@pytest.mark.parametrize(
    "text",
    [b"", b"0", b"01", b"1:", b":1", b"1,,2", b",1", b"1,", b"a", b"1:2:3", b"**", b"4294967296", b"-1"],
    ids=repr,
)
def test_not_sets(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"required|fit"):
        parse_set(text)


def test_in_an_empty_mailbox() -> None:
    assert parse_set(b"1:*").among([]) == []
    assert parse_set(b"1:*").positions(0) is None


@given(st.sets(st.integers(1, 60)))
def test_written_and_read_again(numbers: set[int]) -> None:
    text = format_set(sorted(numbers))
    if numbers:
        everything = range(1, 61)
        assert [everything[place] for place in parse_set(text).among(everything)] == sorted(numbers)
    else:
        assert text == b""


def test_a_hundred_thousand_ranges() -> None:
    """The cost is that of what is there, however often it is named."""
    text = b",".join([b"1:4294967295"] * 100_000)
    assert parse_set(text).among(MAILBOX) == [0, 1, 2, 3, 4]


@given(st.sets(st.integers(1, 40)), st.integers(0, 50), st.none() | st.lists(st.tuples(SMALL, SMALL), min_size=1))
def test_missing(numbers: set[int], last: int, ranges: list[tuple[int, int]] | None) -> None:
    numbers = {number for number in numbers if number <= last}
    within = SequenceSet(tuple(ranges)) if ranges is not None else None
    asked = range(1, last + 1)
    chosen = set(asked) if within is None else {asked[place] for place in within.among(asked)}
    assert format_missing(sorted(numbers), last, within) == format_set(sorted(chosen - numbers))


def test_billions_are_missing() -> None:
    """The last number is that of a file of the user."""
    assert format_missing([7], 2**32 - 1, parse_set(b"1:*")) == b"1:6,8:4294967295"
    assert format_missing([7], 2**32 - 1, parse_set(b"5:4294967295,1:*")) == b"1:6,8:4294967295"
