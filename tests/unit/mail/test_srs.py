"""Sender rewriting there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.mail.address import NULL_PATH, Address, parse_address
from smtpmail.mail.srs import VALID_DAYS, SRSError, is_rewritten, reverse, rewrite

KEY = b"k" * 32
NOW = 1_800_000_000.0
DAY = 86400.0
ALICE = Address("Alice.B", "example.net")


def test_there_and_back() -> None:
    rewritten = rewrite(ALICE, "dom.fr", KEY, NOW)
    assert rewritten.domain == "dom.fr"
    assert rewritten.local.startswith("SRS0=")
    assert is_rewritten(rewritten.local)
    assert parse_address(str(rewritten)) == rewritten
    assert reverse(rewritten.local, KEY, NOW) == ALICE


def test_case_may_change_on_the_way() -> None:
    local = rewrite(ALICE, "dom.fr", KEY, NOW).local
    assert reverse(local.upper(), KEY, NOW) == Address("ALICE.B", "EXAMPLE.NET")


@pytest.mark.parametrize("sender", [NULL_PATH, Address("bob", "dom.fr"), Address("bob", "DOM.fr")])
def test_what_is_left_alone(sender: Address) -> None:
    assert rewrite(sender, "dom.fr", KEY, NOW) == sender


@pytest.mark.parametrize("days", [0, 1, VALID_DAYS])
def test_valid_for_some_days(days: int) -> None:
    local = rewrite(ALICE, "dom.fr", KEY, NOW).local
    assert reverse(local, KEY, NOW + days * DAY) == ALICE


@pytest.mark.parametrize("days", [-1, VALID_DAYS + 1, 100, 1000])
def test_then_no_more(days: int) -> None:
    local = rewrite(ALICE, "dom.fr", KEY, NOW).local
    with pytest.raises(SRSError):
        reverse(local, KEY, NOW + days * DAY)


def test_through_two_and_three_forwarders() -> None:
    """The address stays short: only the first and the last forwarder stand in it."""
    first = rewrite(ALICE, "first.example", b"1" * 32, NOW)
    second = rewrite(first, "second.example", KEY, NOW)
    third = rewrite(second, "third.example", b"3" * 32, NOW)
    assert second.local.startswith("SRS1=")
    assert len(third.local) == len(second.local)
    assert reverse(second.local, KEY, NOW) == first
    assert reverse(third.local, b"3" * 32, NOW) == first


@pytest.mark.parametrize(
    "local",
    ["bob", "SRS0", "SRS0=", "SRS0=x=y=z", "SRS0=aaaaaaaa=aa=example.net=alice", "SRS1=aaaaaaaa=first==a=b=c=d",
     "SRS0=aaaaaaaa=!!=example.net=alice", "SRS0=é=aa=example.net=alice"],
)  # fmt: skip
def test_forged(local: str) -> None:
    with pytest.raises(SRSError):
        reverse(local, KEY, NOW)


def test_another_key_and_another_text() -> None:
    local = rewrite(ALICE, "dom.fr", KEY, NOW).local
    for other in (local.replace("net", "org"), local.replace("Alice", "Carol")):
        with pytest.raises(SRSError):
            reverse(other, KEY, NOW)
    with pytest.raises(SRSError):
        reverse(local, b"other", NOW)


@given(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda t: not is_rewritten(t)),
    st.from_regex(r"[a-z0-9]{1,20}\.[a-z]{2,5}", fullmatch=True),
)
def test_any_sender_comes_back(local: str, domain: str) -> None:
    sender = Address(local, domain)
    rewritten = rewrite(sender, "dom.fr", KEY, NOW)
    if sender.local.lower()[:4] not in ("srs0", "srs1"):
        assert reverse(rewritten.local, KEY, NOW) == sender


@given(st.text())
def test_nothing_else_is_raised(local: str) -> None:
    try:
        reverse(local, KEY, NOW)
    except SRSError:
        return
    raise AssertionError(local)
