"""Sets of numbers as clients write them: `1,3:5,*` (RFC 3501 sequence-set), and written back as short as can be."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_NUMBER = 2**32 - 1

LAST = MAX_NUMBER + 1
"""Stands for `*`."""

_SET = re.compile(rb"(?:[1-9]\d{0,9}|\*)(?::(?:[1-9]\d{0,9}|\*))?(?:,(?:[1-9]\d{0,9}|\*)(?::(?:[1-9]\d{0,9}|\*))?)*")


@dataclass(frozen=True, slots=True)
class SequenceSet:
    """Ranges of numbers, ends included, in the order in which the client wrote them; LAST is `*`."""

    ranges: tuple[tuple[int, int], ...]
    saved: bool = False
    """`$`: what the last search with RETURN (SAVE) has found (RFC 5182)."""

    def among(self, numbers: Sequence[int]) -> list[int]:
        """Those of the ascending `numbers` that are in the set, as their positions (from 0), ascending."""
        last = numbers[-1] if numbers else 0
        spans = []
        for first, second in self.ranges:
            low, high = sorted((last if first == LAST else first, last if second == LAST else second))
            start, end = bisect_left(numbers, low), bisect_right(numbers, high)
            if start < end:
                spans.append((start, end))
        return _union(spans)

    def positions(self, count: int) -> list[int] | None:
        """The positions (from 0) that the set names as message numbers of `count` messages, ascending.

        None when it names a message that is not there.
        """
        spans = []
        for first, second in self.ranges:
            low, high = sorted((count if first == LAST else first, count if second == LAST else second))
            if low < 1 or high > count:
                return None
            spans.append((low - 1, high))
        return _union(spans)

    @property
    def has_last(self) -> bool:
        """Whether `*` stands in it."""
        return any(LAST in span for span in self.ranges)


SAVED = SequenceSet((), saved=True)


def format_missing(numbers: Sequence[int], last: int, within: SequenceSet | None = None) -> bytes:
    """The numbers from 1 to `last` that are not among the ascending `numbers`, of a set if one is given.

    What it costs grows with the numbers that are there and the ranges of the set, not with those that are missing.
    """
    spans = [(1, last)]
    if within is not None:
        ends = (tuple(sorted(last if end == LAST else end for end in span)) for span in within.ranges)
        spans = sorted((low, min(high, last)) for low, high in ends)
    found: list[tuple[int, int]] = []

    def add(low: int, high: int) -> None:
        if low > high:
            return
        if found and found[-1][1] == low - 1:
            low = found.pop()[0]
        found.append((low, high))

    reached = 0
    for low, high in spans:
        start = max(low, reached + 1)
        for number in numbers[bisect_left(numbers, start) : bisect_right(numbers, high)]:
            add(start, number - 1)
            start = number + 1
        add(start, high)
        reached = max(reached, high)
    return _written(found)


def _union(spans: list[tuple[int, int]]) -> list[int]:
    """The numbers in the half-open spans, each once, ascending: the cost is that of the result."""
    if len(spans) == 1:
        return list(range(*spans[0]))
    found: list[int] = []
    reached = 0
    for start, end in sorted(spans):
        found += range(max(start, reached), end)
        reached = max(reached, end)
    return found


def parse_set(text: bytes) -> SequenceSet:
    """Raises ValueError."""
    if not _SET.fullmatch(text):
        raise ValueError("a set of numbers is required, 1,3:5,* for example")
    ranges = []
    for item in text.split(b","):
        first, _, second = item.partition(b":")
        ranges.append((_number(first), _number(second or first)))
    return SequenceSet(tuple(ranges))


def _number(text: bytes) -> int:
    if text == b"*":
        return LAST
    number = int(text)
    if number > MAX_NUMBER:
        raise ValueError(f"{number} does not fit into 32 bits")
    return number


def format_set(numbers: Iterable[int]) -> bytes:
    """Ascending numbers as a set, runs as ranges; empty for none."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return _written(ranges)


def _written(ranges: Iterable[Sequence[int]]) -> bytes:
    return b",".join(b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in ranges)
