"""Addresses in header fields, and what a message from a local program gets."""

from __future__ import annotations

import email
from email.header import decode_header, make_header
from email.utils import parseaddr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.mail.mailbox_list import complete, find_addresses
from smtpmail.mail.submission import Origin, fields_of, fix_up, from_field, header_end, phrase, recipients_of

ORIGIN = Origin("dom.fr", "Root <root@dom.fr>", "Wed, 25 Nov 2026 20:00:00 +0000", "<1@mail.dom.fr>")


@pytest.mark.parametrize(
    ("field", "addresses", "completed"),
    [
        ("bob", ["bob"], "bob@D"),
        (" bob , carol\n", ["bob", "carol"], " bob@D , carol@D\n"),
        ("bob@x.y", ["bob@x.y"], None),
        ("Bob <bob>", ["bob"], "Bob <bob@D>"),
        ("Bob <bob@x.y>, <carol>", ["bob@x.y", "carol"], "Bob <bob@x.y>, <carol@D>"),
        ('"Smith, Bob" <bob>', ["bob"], '"Smith, Bob" <bob@D>'),
        ('"a b"', ['"a b"'], '"a b"@D'),
        ('"a@b"', ['"a@b"'], '"a@b"@D'),
        ('"bob" <carol@x.y>', ["carol@x.y"], None),
        ("bob (the (real) bob, he)", ["bob"], "bob@D (the (real) bob, he)"),
        ("(x) bob", ["bob"], "(x) bob@D"),
        ("bob (never closed", ["bob"], "bob@D (never closed"),
        ("friends: bob, carol@x.y;, dave", ["bob", "carol@x.y", "dave"], "friends: bob@D, carol@x.y;, dave@D"),
        ("undisclosed-recipients:;", [], None),
        ("bob @ x.y", ["bob@x.y"], None),
        ("<bob @\n x.y>", ["bob@x.y"], None),
        ("Bob Smith", [], None),
        ("<>", [], None),
        ("", [], None),
        (",,;:<", [], None),
        ("bob <carol", ["carol"], "bob <carol@D"),
        ("<@relay.example:bob@x.y>", ["@relay.example:bob@x.y"], None),
        ("host!bob, bob%x", ["host!bob", "bob%x"], None),
        ("bob@[192.0.2.1]", ["bob@[192.0.2.1]"], None),
        ("=?utf-8?q?B=C3=B6b?= <bob>", ["bob"], "=?utf-8?q?B=C3=B6b?= <bob@D>"),
        ("jürgen", ["jürgen"], "jürgen@D"),
    ],
)
def test_addresses(field: str, addresses: list[str], completed: str | None) -> None:
    assert [found.text for found in find_addresses(field)] == addresses
    assert complete(field, "D") == (field if completed is None else completed)


@given(st.text(alphabet=' "\\(<>),;:@ab.\n[]'))
def test_completion_only_adds(field: str) -> None:
    """What is completed needs no more, and without what was added it is what it was."""
    completed = complete(field, "D")
    assert completed.replace("@D", "") == field.replace("@D", "")
    assert complete(completed, "D") == completed


@pytest.mark.parametrize(
    ("message", "header", "certain"),
    [
        (b"A: 1\nB: 2\n\nbody\n", b"A: 1\nB: 2\n", True),
        (b"A: 1\n more\n\nbody", b"A: 1\n more\n", True),
        (b"A: 1\nno field\n", b"A: 1\n", True),
        (b"\nbody", b"", True),
        (b"plain text\n", b"", True),
        (b" A: 1\n", b"", True),
        (b"From bob Mon Nov\nA: 1\n", b"", True),
        (b"A : 1\n\n", b"A : 1\n", True),
        (b"A: 1\nB: 2", b"A: 1\n", False),
        (b"", b"", False),
        (b"http://x.y\n\n", b"http://x.y\n", True),
    ],
)
def test_header_end(message: bytes, header: bytes, certain: bool) -> None:
    end, told = header_end(message)
    assert (message[:end], told) == (header, certain)


@given(st.lists(st.sampled_from([b"A: 1\n", b" x\n", b"\n", b"no field\n", b"B:"])), st.integers(0, 40))
def test_header_end_in_pieces(lines: list[bytes], cut: int) -> None:
    message = b"".join(lines)
    start, told = header_end(message[:cut])
    assert header_end(message, start) == header_end(message)
    if told:
        assert header_end(message) == (start, True)


def test_fields() -> None:
    header = b"A: 1\n\tmore\nb : 2\x0b3\nA:\n"
    fields = list(fields_of(header))
    assert [(f.name, f.body) for f in fields] == [("a", b" 1\n\tmore"), ("b", b" 2\x0b3"), ("a", b"")]
    assert b"".join(f.raw for f in fields) == header


@pytest.mark.parametrize(
    ("header", "recipients"),
    [
        (b"To: bob, Carol <c@x.y>\nCc: d@x.y\nBCC: e@x.y\nTo: f\n", ["bob", "c@x.y", "d@x.y", "e@x.y", "f"]),
        (b"To: bob\nResent-To: c@x.y\nResent-Bcc: d@x.y\n", ["c@x.y", "d@x.y"]),
        (b"To: bob\nResent-From: c@x.y\n", ["bob"]),
        ("To: jürgen@x.y\n".encode(), ["jürgen@x.y"]),
        (b"Subject: To: bob\n", []),
    ],
)
def test_recipients(header: bytes, recipients: list[str]) -> None:
    assert recipients_of(header) == recipients


def test_what_is_missing_is_added() -> None:
    assert fix_up(b"Subject: x\n", ORIGIN) == (
        b"Subject: x\nFrom: Root <root@dom.fr>\nDate: Wed, 25 Nov 2026 20:00:00 +0000\nMessage-ID: <1@mail.dom.fr>\n"
    )


def test_what_is_there_stays_byte_for_byte() -> None:
    header = b"from: \xff\xfe <bob@x.y>\nDATE : never\nmessage-id: 5\nTO:carol@x.y\n\t,  (d)dave@x.y\nX-Bcc: e\n"
    assert fix_up(header, ORIGIN) == header


def test_bcc_goes_and_bare_addresses_are_completed() -> None:
    header = b"From: root\nTo: bob,\n carol\nBcc: secret,\n more\nresent-bcc: x\nDate: 1\nMessage-ID: 2\nSubject: bob\n"
    assert fix_up(header, ORIGIN) == (
        b"From: root@dom.fr\nTo: bob@dom.fr,\n carol@dom.fr\nDate: 1\nMessage-ID: 2\nSubject: bob\n"
    )


@given(st.binary())
def test_fixed_up_twice_is_fixed_up_once(data: bytes) -> None:
    header = data[: header_end(data)[0]]
    once = fix_up(header, ORIGIN)
    assert fix_up(once, ORIGIN) == once


NAMES = ("Bob", "Bob Smith", "Smith, Bob", 'Bob "the" \\', "Jürgen Müller", "Bob\nBcc: x@y.z", "日本" * 40, "a\0b")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_name(name: str) -> None:
    """Python's own reader finds the name again, and nothing beside it."""
    message = email.message_from_string(f"From: {from_field(name, 'bob@dom.fr')}\n\n")
    display_name, address = parseaddr(message["From"])
    assert address == "bob@dom.fr"
    expected = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    assert str(make_header(decode_header(display_name))) == expected
    assert message.keys() == ["From"]


@given(st.text())
def test_no_name_ends_the_field(name: str) -> None:
    assert phrase(name).isascii()
    assert phrase(name).isprintable()
