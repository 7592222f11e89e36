"""Names of mailboxes and the patterns of LIST."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.imap.names import NameSyntaxError, Pattern, decode_name, decode_utf7, encode_utf7


@pytest.mark.parametrize(
    ("encoded", "name"),
    [
        # RFC 3501 5.1.3
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
        (b"Entw&APw-rfe", "Entwürfe"),
        (b"&-", "&"),
        (b"a&-b&-c", "a&b&c"),
        (b"&2D3cSQ-", "\U0001f449"),
        (b"plain", "plain"),
    ],
)
def test_utf7(encoded: bytes, name: str) -> None:
    assert decode_utf7(encoded) == name
    assert encode_utf7(name) == encoded


@pytest.mark.parametrize(
    "encoded",
    [
        b"&",
        b"&ZeVn",
        b"caf\xc3\xa9",
        b"&Jjo!",
        b"&AGE-",
        b"&ZeVnLIqe-&APw-",
        b"&2D0-",
        b"&ZeVnLIqf-x&",
        b"&A-",
        b"&AP/8-",
    ],
    ids=repr,
)
def test_not_utf7(encoded: bytes) -> None:
    """A name has one form only."""
    with pytest.raises(NameSyntaxError):
        decode_utf7(encoded)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_utf7_is_reversible(name: str) -> None:
    encoded = encode_utf7(name)
    assert decode_utf7(encoded) == name
    assert encoded.isascii()


@given(st.binary(max_size=40))
def test_any_octets(data: bytes) -> None:
    """Decoded or refused; what is decoded is the only form of its name."""
    try:
        name = decode_utf7(data)
    except NameSyntaxError:
        return
    assert encode_utf7(name) == data


@pytest.mark.parametrize(
    ("sent", "utf8", "name"),
    [
        (b"inbox", False, "INBOX"),
        (b"InBoX/Sub", False, "INBOX/Sub"),
        (b"INBOXES", False, "INBOXES"),
        (b"foo/", False, "foo"),
        ("Entwürfe & mehr".encode(), True, "Entwürfe & mehr"),
        (b"&ZeVnLIqe-", True, "&ZeVnLIqe-"),
        ("u\u0308".encode(), True, "ü"),
    ],
)
def test_names_as_clients_send_them(sent: bytes, utf8: bool, name: str) -> None:
    assert decode_name(sent, utf8=utf8) == name


@pytest.mark.parametrize(
    ("pattern", "fits", "fails"),
    [
        ("*", ["a", "a/b", "INBOX"], []),
        ("%", ["a", "INBOX"], ["a/b"]),
        ("a/%", ["a/b"], ["a", "a/b/c", "ab"]),
        ("a*", ["a", "ab", "a/b"], ["b"]),
        ("%/%", ["a/b"], ["a", "a/b/c"]),
        ("*b", ["b", "a/b"], ["bc"]),
        ("in%x", ["INBOX", "inbix"], ["inb/x"]),
        ("*nbox", ["INBOX"], ["inbox/nBOX"]),
        ("inbox", ["INBOX"], []),
        ("a.b", ["a.b"], ["axb"]),
        ("%x*y", ["x/y", "axby"], ["a/xy"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], fails: list[str]) -> None:
    compiled = Pattern(pattern)
    assert [name for name in [*fits, *fails] if compiled.matches(name)] == fits


@given(st.text("ab/%*", max_size=12), st.text("ab/", max_size=12))
def test_patterns_as_regular_expressions(pattern: str, name: str) -> None:
    expression = "".join({"*": ".*", "%": "[^/]*"}.get(c, re.escape(c)) for c in pattern)
    assert Pattern(pattern).matches(name) == bool(re.fullmatch(expression, name))


def test_hostile_pattern() -> None:
    """Backtracking would not end in this life."""
    assert not Pattern("*a" * 400 + "b").matches("a" * 900)
