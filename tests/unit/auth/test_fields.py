"""A message in pieces of any size, cut into header and body."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.auth.fields import MAX_HEADER, Field, MessageSplitter, split_header


def split(pieces: list[bytes]) -> tuple[bytes, bytes, bool]:
    """Header, body, and whether the header was too long."""
    header: list[bytes] = []
    body: list[bytes] = []

    def begin(found: bytes):
        header.append(found)
        return body.append

    splitter = MessageSplitter(begin)
    for piece in pieces:
        splitter.write(piece)
    splitter.close()
    assert len(header) == 1
    return header[0], b"".join(body), splitter.overlong


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("message", "header", "body"),
    [
        (b"From: a\nTo: b\n\nHi.\n", b"From: a\nTo: b\n", b"Hi.\n"),
        (b"From: a\n\n\n\nHi.\n", b"From: a\n", b"\n\nHi.\n"),
        (b"From: a\n\n", b"From: a\n", b""),
        (b"From: a\n", b"From: a\n", b""),
        (b"From: a", b"From: a", b""),
        (b"\nFrom: a\n\nHi.\n", b"", b"From: a\n\nHi.\n"),
        (b"", b"", b""),
        (b"plain text\n\nmore: text\n", b"", b"plain text\n\nmore: text\n"),
        (b"plain text\n", b"", b"plain text\n"),
    ],
)
def test_header_and_body(size: int, message: bytes, header: bytes, body: bytes) -> None:
    assert split(cut(message, size)) == (header, body, False)


@given(st.binary(max_size=60) | st.text(":\n ab", max_size=60).map(str.encode), st.integers(1, 9))
def test_the_pieces_do_not_matter(message: bytes, size: int) -> None:
    assert split(cut(message, size)) == split([message])


@pytest.mark.parametrize("size", [1 << 12, 1 << 16, 1 << 24])
def test_of_a_huge_header_the_author_is_kept(size: int) -> None:
    filling = b"X-Filling: " + b"x" * 60 + b"\n"
    message = filling * 150_000 + b"frOM : eve@bank.example,\n mallory@x.example\n" + filling + b"\nFrom: body\n"
    header, body, overlong = split(cut(message, size))
    assert overlong
    assert len(header) < MAX_HEADER + 100
    assert [f.value for f in split_header(header) if f.name == b"from"] == [b" eve@bank.example,\n mallory@x.example\n"]
    assert body == b""


@pytest.mark.parametrize("size", [1, MAX_HEADER, MAX_HEADER + 1])
def test_the_limit_does_not_depend_on_the_pieces(size: int) -> None:
    for excess in (0, 1):
        header = b"X: " + b"x" * (MAX_HEADER - 4 + excess) + b"\n"
        _, body, overlong = split(cut(header + b"\nbody", size))
        assert (overlong, body) == ((True, b"") if excess else (False, b"body"))


def test_a_line_without_end_costs_no_memory() -> None:
    header, _, overlong = split([b"A: " + b"x" * 100_000] * 100 + [b"\nFrom: a@b\n\n"])
    assert overlong
    assert len(header) < 100
    assert b"From: a@b\n" in header


def test_fields() -> None:
    fields = split_header(b"From: a\n\tb\nX-Y : c\nno field\n more\nTo:d")
    assert fields == [
        Field(b"from", b"From: a\n\tb\n"),
        Field(b"x-y", b"X-Y : c\n"),
        Field(b"", b"no field\n more\n"),
        Field(b"to", b"To:d\n"),
    ]
    assert [field.value for field in fields[:2]] == [b" a\n\tb\n", b" c\n"]
