"""Where a header ends, in whatever pieces it comes; what is found in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.mail.head import HEAD_LIMIT, HeadReader, header_of, hops, message_id


def read(content: bytes, sizes: list[int]) -> tuple[HeadReader, bytes]:
    """Feeds the content in pieces of these sizes, in turn; the body that came out."""
    reader, body, start, turn = HeadReader(), b"", 0, 0
    while start < len(content):
        size = sizes[turn % len(sizes)]
        body += reader.feed(content[start : start + size])
        start, turn = start + size, turn + 1
    return reader, body


@pytest.mark.parametrize(
    ("content", "head"),
    [
        (b"Subject: x\n\nbody\n", b"Subject: x\n"),
        (b"Subject: x\n\n", b"Subject: x\n"),
        (b"Subject: x\n", b"Subject: x\n"),
        (b"Subject: x", b"Subject: x"),
        (b"\nbody\n\nmore\n", b""),
        (b"\n\n", b""),
        (b"", b""),
        (b"A: b\n\n\n\nC: d\n\n", b"A: b\n"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_where_it_ends(content: bytes, head: bytes, size: int) -> None:
    reader, body = read(content, [size])
    assert reader.head == head
    assert reader.head + body == content
    assert not reader.oversized


@given(
    st.lists(st.sampled_from([b"\n", b"\n\n", b"x", b"Received: a", b":", b" "])).map(b"".join),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_pieces_make_no_difference(content: bytes, sizes: list[int]) -> None:
    reader, body = read(content, sizes)
    assert reader.head + body == content
    assert reader.head == header_of(content)


@pytest.mark.parametrize("size", [1000, 70_000, 10_000_000])
def test_a_header_without_end_is_bounded(size: int) -> None:
    content = b"X: " + b"y" * (2 * HEAD_LIMIT) + b"\n\nbody"
    reader, body = read(content, [size])
    assert reader.oversized
    assert len(reader.head) == HEAD_LIMIT
    assert reader.head + body == content


@pytest.mark.parametrize(
    ("header", "count"),
    [
        (b"Received: a\nSubject: x\n", 1),
        (b"received: a\nRECEIVED: b\n", 2),
        (b"X-Received: a\nReceived-SPF: b\nSubject: Received: c\n", 0),
        (b"Received: a\n by Received: b\n", 1),
        (b"Received: a", 1),
        (b"", 0),
    ],
)
def test_hops(header: bytes, count: int) -> None:
    assert hops(header) == count


@pytest.mark.parametrize(
    ("header", "id_"),
    [
        (b"Subject: x\nMESSAGE-ID:  <a@b>\n", "<a@b>"),
        (b"Message-Id: <a@b>\nMessage-Id: <c@d>\n", "<a@b>"),
        (b"Message-Id: a@b\n", None),
        (b"X-Message-Id: <a@b>\n", None),
        (b"", None),
    ],
)
def test_message_id(header: bytes, id_: str | None) -> None:
    assert message_id(header) == id_
