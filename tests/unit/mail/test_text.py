"""Foreign text for people: nothing in it steers a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.mail.text import harmless, rfc3339


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("naïve 日本", "naïve 日本"),
        ("a\tb", "a b"),
        ("\x1b[31mred\x07", "?[31mred?"),
        ("x\r\ny\0", "x??y?"),
        ("\u202eevil\x9b\ud800", "?evil??"),
    ],
)
def test_harmless(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text(), st.integers(0, 9))
def test_always_printable_and_never_too_long(text: str, limit: int) -> None:
    assert harmless(text).isprintable() and len(harmless(text)) == len(text)
    assert len(harmless(text, limit)) <= limit


def test_time() -> None:
    assert rfc3339(1795453552.9) == "2026-11-23T17:05:52Z"
