"""Fields, parameters and addresses, in messages as they come."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.imap import header as fields
from smtpmail.imap.header import Address, Header, parse_addresses, parse_disposition, parse_type, select_fields
from smtpmail.imap.structure import envelope


def plain(local: bytes, host: bytes, name: bytes | None = None, route: bytes | None = None) -> Address:
    return Address(name, route, local, host)


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        (b"Bob <bob@x.org>", [plain(b"bob", b"x.org", b"Bob")]),
        (b"bob@x.org", [plain(b"bob", b"x.org")]),
        (b"<bob@x.org>", [plain(b"bob", b"x.org")]),
        (b"bob@x.org (Bob (the) Builder)", [plain(b"bob", b"x.org", b"Bob (the) Builder")]),
        (b'"Doe, Jo \\"x\\"" <jo@y>, k@z', [plain(b"jo", b"y", b'Doe, Jo "x"'), plain(b"k", b"z")]),
        (b'"jo doe"@y', [plain(b"jo doe", b"y")]),
        (b"Joe Q. Public <j.q@z>", [plain(b"j.q", b"z", b"Joe Q. Public")]),
        (b"=?utf-8?q?J=C3=B6?= <j@z>", [plain(b"j", b"z", b"=?utf-8?q?J=C3=B6?=")]),
        (b"a@[192.0.2.1]", [plain(b"a", b"[192.0.2.1]")]),
        (b"<@a,@b:user@host>", [plain(b"user", b"host", route=b"@a,@b")]),
        (
            b"Team: a@b, C <c@d>;, e@f",
            [
                Address(None, None, b"Team", None),
                plain(b"a", b"b"),
                plain(b"c", b"d", b"C"),
                Address(None, None, None, None),
                plain(b"e", b"f"),
            ],
        ),
        (
            b"undisclosed-recipients:;",
            [Address(None, None, b"undisclosed-recipients", None), Address(None, None, None, None)],
        ),
        (b"only a name", [plain(b"only a name", b"")]),
        (b"", []),
        (b"<>", []),
        (b",,,", []),
        (b'"open', [plain(b"open", b"")]),
        (b"(open", []),
        (b"a b@c d", [plain(b"ab", b"cd")]),
    ],
    ids=repr,
)
def test_addresses(value: bytes, addresses: list[Address]) -> None:
    assert parse_addresses(value) == addresses


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (b"text/plain", (b"text", b"plain", [])),
        (b'Text/HTML; charset="utf-8"; x=y z', (b"Text", b"HTML", [(b"charset", b"utf-8"), (b"x", b"y")])),
        (b'a/b;c="d;e\\"f"', (b"a", b"b", [(b"c", b'd;e"f')])),
        (b"a/b (comment; q=r); c=d", (b"a", b"b", [(b"c", b"d")])),
        (b"a/b; name*0=x; name*1=y", (b"a", b"b", [(b"name*0", b"x"), (b"name*1", b"y")])),
        (b"text", None),
        (b"", None),
        (b"/x", None),
    ],
)
def test_types(value: bytes, parsed: object) -> None:
    assert parse_type(value) == parsed


def test_disposition() -> None:
    assert parse_disposition(b'attachment; filename="a b"') == (b"attachment", [(b"filename", b"a b")])
    assert parse_disposition(b";") is None


HEADER = b"""Subject: one
\ttwo
X: 1
to: a@b
Broken line
X : 2

"""


def test_fields() -> None:
    header = Header(HEADER)
    assert header.get(b"subject") == b"one two"
    assert header.all(b"x") == [b"1", b"2"]
    assert header.get(b"date") is None


def test_selected_fields_stand_as_they_are() -> None:
    assert select_fields(HEADER, [b"SUBJECT"], others=False) == b"Subject: one\n\ttwo\n\n"
    assert select_fields(HEADER, [b"x", b"subject"], others=True) == b"to: a@b\n\n"
    assert select_fields(b"A: b", [b"a"], others=False) == b"A: b\n\n"


def test_envelope() -> None:
    header = Header(b'Date: d\nSubject: "q"\nFrom: A <a@b>\nTo: c@d\nMessage-ID: <i>\n\n')
    a = b'(("A" NIL "a" "b"))'
    assert envelope(header) == b'("d" "\\"q\\"" ' + b" ".join([a, a, a]) + b' ((NIL NIL "c" "d")) NIL NIL NIL "<i>")'


def test_envelope_of_eight_bits() -> None:
    header = Header("Subject: Ä\n\n".encode())
    assert envelope(header).startswith(b"(NIL {2}\r\n\xc3\x84 NIL")
    assert envelope(header, utf8=True).startswith('(NIL "Ä" NIL'.encode())


@given(
    st.lists(st.sampled_from([b'"', b"\\", b"(", b")", b"<", b">", b"@", b",", b":", b";", b"a", b" ", b"\xff", b"["]))
)
def test_any_address(pieces: list[bytes]) -> None:
    for address in parse_addresses(b"".join(pieces)):
        assert address.mailbox is not None or address == Address(None, None, None, None)


@given(
    st.lists(
        st.sampled_from([b'"', b'""', b"<", b">", b"@", b",", b"a", b"b.c", b" ", b"\t", b"\\", b"]", b"<a@b>", b"a@b"])
    )
)
def test_plain_addresses_are_read_like_all_others(pieces: list[bytes]) -> None:
    value = b"".join(pieces).strip()
    plain = fields._plain_addresses(value)
    assert plain is None or plain == fields._any_addresses(value)


@given(
    st.lists(
        st.sampled_from([b"To", b"to ", b"X-Y", b"Subject", b"content-type\t", b":", b"\n", b"\n ", b" ", b"a", b"\r"])
    )
)
def test_common_fields_are_read_like_all_others(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    header = Header(data)
    for name in (b"to", b"x-y", b"subject", b"content-type"):
        expected = [m[2] for m in fields._FIELD.finditer(data) if m[1].rstrip().lower() == name]
        assert header.all(name) == [fields.unfold(value) for value in expected]
        assert header.get(name) == next(iter(header.all(name)), None)


@pytest.mark.parametrize(
    "value",
    [
        b"(" * 100_000,
        b'"\\"' * 60_000,
        b"<@" * 100_000,
        b";a=" * 60_000,
        b" " * 250_000,
        b"a" + b" \n" * 100_000,
        b":;" * 100_000,
        b"a@b," + b" " * 250_000 + b"x;",
        b"a " * 120_000,
        b'"a" ' * 60_000,
    ],
    ids=lambda value: repr(value[:4]),
)
def test_hostile_values_cost_little(value: bytes) -> None:
    """What would be quadratic takes minutes; this takes a second on a busy machine."""
    since = time.process_time()
    header = Header(b"From: " + value + b"\nContent-Type: a/b" + value + b"\n\n")
    header.addresses(b"from")
    parse_type(header.get(b"content-type") or b"")
    assert time.process_time() - since < 10
