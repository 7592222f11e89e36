"""The sequences of MH readers (mh-sequence(5)) as text: `unseen`, `replied` and `flagged`, which stand for flags."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence

from smtpmail.spool.reader.states import Flags

BY_FLAG = {b"\\Seen": (b"unseen", False), b"\\Answered": (b"replied", True), b"\\Flagged": (b"flagged", True)}
"""For each flag the sequence, and whether a message in it has the flag: the names that mutt uses."""

Changes = Mapping[bytes, tuple[set[int], set[int]]]
"""For sequences, by name: the numbers to add, and those to remove."""

Ranges = list[tuple[int, int]]
"""First and last numbers, ascending, apart from each other."""

_LINE = re.compile(rb"([^\s:]+)[ \t]*:[ \t]*(.*)", re.DOTALL)
_RANGE = re.compile(rb"([1-9]\d{0,9})(?:-([1-9]\d{0,9}))?")


def members(text: bytes, name: bytes, numbers: Sequence[int]) -> set[int]:
    """Those of the numbers (ascending) that a sequence names."""
    found: set[int] = set()
    for first, last in ranges_of(text, name):
        found.update(numbers[bisect_left(numbers, first) : bisect_right(numbers, last)])
    return found


def ranges_of(text: bytes, name: bytes) -> Ranges:
    """What a sequence names, be there such messages or not."""
    ranges = []
    for line in _lines(text):
        match = _LINE.fullmatch(line)
        if match is not None and match[1] == name:
            for word in match[2].split():
                span = _RANGE.fullmatch(word)
                if span is not None:
                    ranges.append((int(span[1]), int(span[2] or span[1])))
    return _joined(ranges)


def changes_between(states: Mapping[int, tuple[Flags, Flags]]) -> dict[bytes, tuple[set[int], set[int]]]:
    """What follows for the sequences from flags before and after, by number."""
    changes: dict[bytes, tuple[set[int], set[int]]] = {}
    for number, (before, after) in states.items():
        for flag, (name, is_set) in BY_FLAG.items():
            if (flag in before) != (flag in after):
                added, removed = changes.setdefault(name, (set(), set()))
                (added if (flag in after) is is_set else removed).add(number)
    return changes


def change_sequences(text: bytes, changes: Changes) -> bytes:
    """The file with numbers added to sequences and removed from them; other sequences stay as they are."""
    lines: list[bytes] = []
    for line in _lines(text):
        match = _LINE.fullmatch(line)
        if match is None or match[1] not in changes:
            lines += [line] if line.strip() else []
    for name, (added, removed) in changes.items():
        ranges = _without(_joined([*ranges_of(text, name), *((n, n) for n in added)]), sorted(removed))
        if ranges:
            lines.append(line_of(name, ranges))
    return b"".join(line + b"\n" for line in lines)


def line_of(name: bytes, ranges: Ranges) -> bytes:
    """A sequence as a line of the file, without its end."""
    return name + b": " + b" ".join(b"%d" % a if a == b else b"%d-%d" % (a, b) for a, b in ranges)


def _lines(text: bytes) -> list[bytes]:
    return re.sub(rb"\n[ \t]+", b" ", text).split(b"\n")


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    joined: Ranges = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        elif first <= last:
            joined.append((first, last))
    return joined


def _without(ranges: Ranges, numbers: Sequence[int]) -> Ranges:
    left: Ranges = []
    for first, last in ranges:
        for number in numbers[bisect_left(numbers, first) : bisect_right(numbers, last)]:
            if number > first:
                left.append((first, number - 1))
            first = number + 1  # noqa: PLW2901
        if first <= last:
            left.append((first, last))
    return left
