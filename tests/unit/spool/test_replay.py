"""What records say must be on disk; what a power cut leaves of a file."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.spool.record import Kind, Record
from smtpmail.spool.replay import is_damaged, missing_lines, plan


def stored(place: str, number: int, content: bytes = b"x", time: int = 0) -> Record:
    return Record(Kind.STORED, place, number, b"\\Recent\n", (content,), time)


def test_all_kinds() -> None:
    made = plan([
        stored("bob", 1), stored("bob", 2), stored("anna", 1),
        Record(Kind.REMOVED, "bob", parts=(b"2\n", b"5\n")),
        Record(Kind.QUEUED, "id1", parts=(b"one",)), Record(Kind.QUEUED, "id2", parts=(b"two",)),
        Record(Kind.PROGRESS, "id1", parts=(b"a\n",), time=1), Record(Kind.PROGRESS, "id2", parts=(b"c\n",)),
        Record(Kind.PROGRESS, "id1", parts=(b"b\n",), time=2),
        Record(Kind.FINISHED, parts=(b"id2\n", b"id3\n")),
    ])  # fmt: skip
    assert set(made.mailboxes["bob"].stored) == {1}
    assert made.mailboxes["bob"].removed == {2, 5}
    assert made.mailboxes["bob"].last == 5
    assert made.mailboxes["anna"].last == 1
    assert set(made.queued) == {"id1"}
    assert made.finished == {"id2", "id3"}
    assert made.progress == {"id1": b"a\nb\n"}


def test_order_of_records_does_not_matter() -> None:
    """Each process has a journal of its own: a removal may be read before what it removes."""
    records = [
        stored("bob", 1, time=1),
        Record(Kind.REMOVED, "bob", parts=(b"1\n",), time=2),
        Record(Kind.QUEUED, "i", parts=(b"x",), time=1),
        Record(Kind.PROGRESS, "i", parts=(b"1\n",), time=2),
        Record(Kind.PROGRESS, "i", parts=(b"2\n",), time=3),
        Record(Kind.FINISHED, parts=(b"j\n",), time=4),
    ]
    first, *others = [plan(order) for order in itertools.permutations(records)]
    assert all(other == first for other in others)


SECTORS = st.lists(st.binary(min_size=512, max_size=512).filter(any), min_size=1, max_size=6)


@given(SECTORS, st.binary(min_size=1, max_size=511).filter(any), st.data())
def test_damage(sectors: list[bytes], rest: bytes, data: st.DataObject) -> None:
    pieces = [*sectors, rest]
    content = b"".join(pieces)
    assert not is_damaged(content, content)
    zeros = [data.draw(st.booleans()) for _ in pieces]
    holes = b"".join(bytes(len(p)) if zero else p for p, zero in zip(pieces, zeros, strict=True))
    cut = holes[: data.draw(st.integers(0, len(holes)))]
    assert is_damaged(cut, content) == (cut != content)
    at = data.draw(st.integers(0, len(content) - 1))
    other = bytearray(content)
    other[at] ^= 0xFF
    if other[at]:
        assert not is_damaged(bytes(other), content)
    assert not is_damaged(content + b"more", content)


@pytest.mark.parametrize(
    ("found", "lines", "expected"),
    [
        (b"", b"a\n", b"a\n"),
        (b"a\n", b"a\n", b""),
        (b"a\n", b"a\nb\n", b"b\n"),
        (b"a\nb\n", b"a\nb\n", b""),
        (b"a\nb", b"a\nb\n", b"\nb\n"),
        (b"a\n\0\0\0", b"a\nb\n", b"\nb\n"),
        (b"z\n", b"a\nb\n", b"a\nb\n"),
        (b"torn", b"", b""),
    ],
)
def test_lines_that_a_log_lacks(found: bytes, lines: bytes, expected: bytes) -> None:
    assert missing_lines(found, lines) == expected
    assert missing_lines(found + expected, lines) == b""
