"""The reader of other servers' replies: whatever comes, however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.smtp.reply_reader import MAX_LINE, MAX_LINES, NonsenseReply, ReplyReader, ServerReply


def replies_in(*pieces: bytes) -> list[ServerReply]:
    """All replies in the stream. Raises NonsenseReply."""
    reader = ReplyReader()
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.next_reply()) is not None:
            found.append(reply)
    return found


@pytest.mark.parametrize(
    ("stream", "code", "lines"),
    [
        (b"250 ok\r\n", 250, ("ok",)),
        (b"250\r\n", 250, ("",)),
        (b"250 \r\n", 250, ("",)),
        (b"250 bare line feed\n", 250, ("bare line feed",)),
        (b"250-mx.test\r\n250-SIZE 1000\r\n250 HELP\r\n", 250, ("mx.test", "SIZE 1000", "HELP")),
        (b"250-a\r\n250-\r\n250 \r\n", 250, ("a", "", "")),
        (b"220-first\r\n220\r\n", 220, ("first", "")),
        (b"550 5.1.1 \xc3\xa9t\xc3\xa9\r\n", 550, ("5.1.1 été",)),
        (b"550 \xff\xfe\r\n", 550, ("��",)),
        (b"250 odd line end\r\r\n", 250, ("odd line end",)),
        (b"250-a\r250-b\r250 c\r\n", 250, ("a", "b", "c")),
        (b"250 a\rb\r\n", 250, ("a?b",)),
        (b"250\ttab\r\n", 250, ("tab",)),
        (b"250-one\r\n\r\n250 two\r\n", 250, ("one", "two")),
        (b"250-one\r\n550 another code\r\n", 550, ("one", "another code")),
        (b"451 \x1b[31mred\x07\x00\r\n", 451, ("?[31mred??",)),
    ],
)
def test_replies(stream: bytes, code: int, lines: tuple[str, ...]) -> None:
    assert replies_in(stream) == [ServerReply(code, lines)]


@pytest.mark.parametrize(
    "stream",
    [
        b"\r\n",
        b"hello\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"250ok\r\n",
        b"250_ok\r\n",
        b"150 no such class\r\n",
        b"650 no such class\r\n",
        b"999 no such class\r\n",
        b"000 no such class\r\n",
        "２５０ not those digits\r\n".encode(),
        b" 250 ok\r\n",
        b"-250 ok\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x16\x03\x01\x00\xa5\x01\r\n",
        b"250-one\r\nnothing\r\n",
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"x" * (MAX_LINE + 1),
        b"250-more\r\n" * (MAX_LINES + 1),
    ],
)
def test_nonsense(stream: bytes) -> None:
    with pytest.raises(NonsenseReply) as caught:
        replies_in(stream)
    assert str(caught.value).isprintable(), "it goes into the log and into bounces"
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"250 2.1.5 fine\r\n", "2.1.5"),
        (b"550 5.1.1\r\n", "5.1.1"),
        (b"550 5.7.30 a\r\n", "5.7.30"),
        (b"450-4.2.0 first\r\n450 4.9.9 last\r\n", "4.2.0"),
        (b"550 no status\r\n", "5.0.0"),
        (b"451\r\n", "4.0.0"),
        (b"550 4.1.1 contradicts itself\r\n", "5.0.0"),
        (b"550 5.1.1.1 too long\r\n", "5.0.0"),
        (b"550 5.1000.1 too long\r\n", "5.0.0"),
        (b"550 192.0.2.1 is an address\r\n", "5.0.0"),
    ],
)
def test_enhanced_status(stream: bytes, status: str) -> None:
    (reply,) = replies_in(stream)
    assert reply.status == status


@pytest.mark.parametrize(
    ("code", "positive", "permanent"),
    [(200, True, False), (250, True, False), (251, True, False), (299, True, False), (334, False, False),
     (354, False, False), (421, False, False), (450, False, False), (499, False, False), (500, False, True),
     (550, False, True), (599, False, True)],
)  # fmt: skip
def test_what_a_code_means(code: int, positive: bool, permanent: bool) -> None:
    """A 354 asks for more: it is no yes to anything, least of all to a whole message."""
    reply = ServerReply(code, ("",))
    assert (reply.positive, reply.permanent) == (positive, permanent)


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"250 no end", "250 no end"),
        (b"250-mx.test\r\n250-SIZE 1000\r\n", "250 mx.test SIZE 1000"),
        (b"250-a\r\n250 b\r", "250 a b"),
        (b"550-no\r\n550-", "550 no"),
    ],
)
def test_a_reply_that_does_not_end(stream: bytes, text: str) -> None:
    reader = ReplyReader()
    reader.feed(stream)
    assert reader.next_reply() is None
    assert str(reader.unfinished()) == text
    assert not reader.unread and reader.unfinished() is None


@pytest.mark.parametrize(
    ("reply", "too_many"),
    [
        ("452 4.5.3 Too many recipients", True),
        ("452 4.5.3", True),
        ("452 Too many recipients", True),
        ("452 4.3.0 too many RCPTs", True),
        ("552 too many recipients", True),
        ("552 5.5.3 x", True),
        ("550 5.5.3 x", True),
        ("450 4.5.3 x", True),
        ("452 4.2.2 mailbox full", False),
        ("452 4.3.1 Insufficient system storage", False),
        ("452 later", False),
        ("552 5.2.2 full", False),
        ("552 mailbox full, too many messages", False),
        ("550 no such recipient", False),
        ("450 4.7.1 too many recipients in the last hour", False),
    ],
)
def test_too_many_recipients(reply: str, too_many: bool) -> None:
    (read,) = replies_in(reply.encode() + b"\r\n")
    assert read.too_many_recipients is too_many


def test_what_is_written_down_of_a_long_reply() -> None:
    """20 small mails made 30 MB of log."""
    (reply,) = replies_in((b"550-" + "é".encode() * 400 + b"\r\n") * 250 + b"550 end\r\n")
    assert 900 < len(str(reply).encode()) <= 1024


def test_as_text() -> None:
    assert str(ServerReply(550, ("5.1.1 no", "", "such user"))) == "550 5.1.1 no such user"
    assert str(ServerReply(250, ("",))) == "250"


reply_text = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=40)
replies = st.builds(
    lambda code, lines: (code, [line.strip() for line in lines]),
    st.integers(200, 599),
    st.lists(reply_text, min_size=1, max_size=6),
)


def on_wire(code: int, lines: list[str]) -> bytes:
    *first, last = lines
    return "".join([f"{code}-{line}\r\n" for line in first] + [f"{code} {last}\r\n"]).encode()


@given(st.lists(replies, max_size=6), st.data())
def test_never_out_of_step(wanted: list[tuple[int, list[str]]], data: st.DataObject) -> None:
    """Whole replies come out as they went in, in whatever pieces the network brings them."""
    stream = b"".join(on_wire(code, lines) for code, lines in wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [(r.code, list(r.lines)) for r in replies_in(*pieces)] == wanted


chunk = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"250 ok\r\n", b"250-", b"\r", b"\n", b"250", b" ", b"550 no\r\n", b"\x00", b"x" * 5000]),
)


@given(st.lists(chunk, max_size=30))
def test_any_octets(pieces: list[bytes]) -> None:
    """Never anything but replies and NonsenseReply; what is kept is bounded; pieces make no difference."""
    reader = ReplyReader()

    def drain(seen: list[object]) -> None:
        while (reply := reader.next_reply()) is not None:
            assert 200 <= reply.code <= 599
            assert all(line.isprintable() and len(line) <= 500 for line in reply.lines)
            assert reply.status[0] == str(reply.code)[0]
            seen.append(reply)
        assert len(reader._buffer) <= MAX_LINE
        assert len(reader._lines) <= MAX_LINES

    def outcome(parts: list[bytes]) -> list[object]:
        nonlocal reader
        reader = ReplyReader()
        seen: list[object] = []
        try:
            for part in parts:
                reader.feed(part)
                drain(seen)
        except NonsenseReply:
            seen.append("nonsense")
        return seen

    whole = b"".join(pieces)
    assert outcome(pieces) == outcome([whole]) == outcome([whole[n : n + 1] for n in range(len(whole))])


@pytest.mark.parametrize("drip", [b"x", b"250 x", b"\r", b"\0", b"250-"])
def test_a_line_without_end_is_given_up(drip: bytes) -> None:
    reader = ReplyReader()
    with pytest.raises(NonsenseReply):
        for _ in range(MAX_LINE + 1):
            reader.feed(drip)
            assert reader.next_reply() is None


def test_unread_tells_of_what_came_too_early() -> None:
    """What a server sends between STARTTLS and the handshake was not protected (CVE-2021-38371 and others)."""
    reader = ReplyReader()
    reader.feed(b"220 go\r\n")
    assert reader.next_reply() is not None
    assert not reader.unread
    reader.feed(b"2")
    assert reader.unread
