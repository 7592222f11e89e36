"""docs/promises.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| (.*?) \| (`.*`) \|$", (CHECKOUT / "docs" / "promises.md").read_text(), re.MULTILINE)


def test_there_are_promises() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize(("promise", "tests"), ROWS, ids=[promise for promise, _ in ROWS])
def test_each_is_held_by_a_test(promise: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    assert named and len(named) == tests.count("::")
    for path, name in named:
        assert re.search(rf"^def {name}\(", (CHECKOUT / path).read_text(), re.MULTILINE), f"{path}::{name}"
