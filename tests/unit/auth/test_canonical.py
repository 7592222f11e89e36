"""The canonical forms of RFC 6376 3.4: its examples, and what dkimpy makes of any text."""

from __future__ import annotations

import hashlib

import pytest
from dkim.canonicalization import Relaxed as RelaxedOracle
from dkim.canonicalization import Simple as SimpleOracle
from hypothesis import example, given
from hypothesis import strategies as st

from smtpmail.auth.canonical import BodyHash, relaxed_field, simple_field
from smtpmail.auth.fields import split_header

text = st.text(" \t\nab.", max_size=40).map(str.encode)


def digest(body: bytes, size: int = 1000, *, relaxed: bool = True) -> bytes:
    hashed = BodyHash(relaxed=relaxed)
    for i in range(0, len(body), size):
        hashed.update(body[i : i + size])
    return hashed.digest()


@pytest.mark.parametrize(
    ("body", "relaxed", "simple"),
    [
        (b" C \nD \t E\n\n\n", b" C\r\nD E\r\n", b" C \r\nD \t E\r\n"),  # RFC 6376 3.4.5
        (b"", b"", b"\r\n"),
        (b"\n\n", b"", b"\r\n"),
        (b" \n\t\n", b"", b" \r\n\t\r\n"),
        (b"no line end", b"no line end\r\n", b"no line end\r\n"),
        (b"\n\na\n", b"\r\n\r\na\r\n", b"\r\n\r\na\r\n"),
        (b"a \n \n b", b"a\r\n\r\n b\r\n", b"a \r\n \r\n b\r\n"),
    ],
)
def test_bodies(body: bytes, relaxed: bytes, simple: bytes) -> None:
    for size in (1, 2, 3, 100):
        assert digest(body, size) == hashlib.sha256(relaxed).digest()
        assert digest(body, size, relaxed=False) == hashlib.sha256(simple).digest()


@given(text, st.integers(1, 7), st.booleans())
@example(b"a \n", 2, True)
@example(b" \n \na", 1, True)
def test_bodies_as_dkimpy_sees_them(body: bytes, size: int, relaxed: bool) -> None:
    wire = body.replace(b"\n", b"\r\n")
    if wire and not wire.endswith(b"\r\n"):
        wire += b"\r\n"
    canonical = (RelaxedOracle if relaxed else SimpleOracle).canonicalize_body(wire)
    if relaxed and not canonical.strip(b"\r\n"):
        canonical = b""  # dkimpy keeps one line end of a body of blank lines; RFC 6376 3.4.4 does not
    assert digest(body, size, relaxed=relaxed) == hashlib.sha256(canonical).digest()


@given(text, st.integers(1, 7), st.booleans(), st.integers(0, 60))
def test_a_limit_counts_canonical_octets(body: bytes, size: int, relaxed: bool, limit: int) -> None:
    whole = BodyHash(relaxed=relaxed)
    whole.update(body)
    digest_of_all = whole.digest()
    limited = BodyHash(relaxed=relaxed, limit=limit)
    for i in range(0, len(body), size):
        limited.update(body[i : i + size])
    digest_of_some = limited.digest()
    assert limited.size == whole.size
    assert (digest_of_some == digest_of_all) == (limit >= whole.size)


def test_limits() -> None:
    hashed = BodyHash(relaxed=False, limit=4)
    hashed.update(b"ab\n")
    hashed.update(b"cd\n")
    assert hashed.digest() == hashlib.sha256(b"ab\r\n").digest()
    assert hashed.size == 8


def test_line_ends_alone_cost_neither_memory_nor_time() -> None:
    hashed = BodyHash(relaxed=True)
    for _ in range(1000):
        hashed.update(b"\n" * 65536)
    hashed.update(b"x")
    assert hashed.digest() == hashlib.sha256(b"\r\n" * 65_536_000 + b"x\r\n").digest()


@pytest.mark.parametrize(
    ("raw", "relaxed", "simple"),
    [
        (b"A: X\n", b"a:X\r\n", b"A: X\r\n"),  # RFC 6376 3.4.5
        (b"B : Y\t\n\tZ  \n", b"b:Y Z\r\n", b"B : Y\t\r\n\tZ  \r\n"),
        (b"Subject:\n a \x0b b\n", b"subject:a \x0b b\r\n", b"Subject:\r\n a \x0b b\r\n"),
        (b"C:\n", b"c:\r\n", b"C:\r\n"),
    ],
)
def test_fields(raw: bytes, relaxed: bytes, simple: bytes) -> None:
    (field,) = split_header(raw)
    assert relaxed_field(field) == relaxed
    assert simple_field(field) == simple


@given(st.text(" \t\nab:", max_size=30).map(lambda value: value.replace("\n", "\n ").encode()))
def test_fields_as_dkimpy_sees_them(value: bytes) -> None:
    (field,) = split_header(b"Subject:" + value + b"\n")
    ((name, canonical),) = RelaxedOracle.canonicalize_headers([(b"Subject", value.replace(b"\n", b"\r\n") + b"\r\n")])
    assert relaxed_field(field) == name + b":" + canonical
