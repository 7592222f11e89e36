"""Any octets in any pieces: the session neither breaks nor loses its place, and no content is changed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.dialogue import Dialogue

from smtpmail.smtp.session import State

WORDS = [
    b"EHLO a.b", b"HELO a", b"MAIL FROM:<a@b>", b"MAIL FROM:<>", b"MAIL FROM:<a@b> SIZE=5 BODY=8BITMIME",
    b"RCPT TO:<bob@dom.fr>", b"RCPT TO:<nobody@dom.fr>", b"RCPT TO:<a@example.org>", b"DATA", b"BDAT 3", b"BDAT 5 LAST",
    b"BDAT 0", b"BDAT 0 LAST", b"RSET", b"NOOP", b"VRFY x", b"HELP", b"STARTTLS", b"QUIT", b"XYZZY", b"GET /",
    b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b".", b"\r\n.\r\n", b"\n.\n", b"\0", b"\xff", b"x" * 2100, b" ",
    b"Received: x\r\n",
]  # fmt: skip

pieces = st.lists(st.sampled_from(WORDS) | st.binary(max_size=8), max_size=40)
cuts = st.lists(st.integers(0, 4000), max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces that end at these places."""
    ends = sorted({0, len(data), *(p % (len(data) + 1) for p in places)})
    return [data[a:b] for a, b in pairwise(ends)] if data else []


@given(pieces, cuts)
@settings(max_examples=300)
@example(
    [b"EHLO a.b", b"\r\n", b"MAIL FROM:<a@b>", b"\r\n", b"RCPT TO:<bob@dom.fr>", b"\r\n", b"DATA", b"\r\n", b"\r"], [1]
)
def test_any_octets(words: list[bytes], places: list[int]) -> None:
    """However the input is cut, the same replies and the same messages; every reply is a line of a reply."""
    data = b"".join(words)
    # With TLS, what is in STARTTLS's packet counts or not: that is its purpose, and depends on the cut.
    whole, parts = Dialogue(max_size=60), Dialogue(max_size=60)
    expected = whole.send(data)
    replies = [line for piece in cut(data, places) for line in parts.send(piece)]

    if any("Improper pipelining" in line for line in expected + replies):
        return  # whether something came together is what this depends on

    def without_ids(lines: list[str]) -> list[str]:
        return [line.partition("queued as")[0] for line in lines]

    assert without_ids(replies) == without_ids(expected)
    assert [(m.content, m.size) for m in parts.messages] == [(m.content, m.size) for m in whole.messages]
    assert parts.session.state is whole.session.state
    assert len(parts.session._lines.buffer) <= 2048
    for line in expected:
        assert line[:3].isdigit()
        assert line[3] in " -"
        assert line.isprintable()
    for message in whole.messages:
        assert not set(b"\r\0") & set(message.content)
        assert message.envelope.recipients


@given(pieces, cuts)
@settings(max_examples=150)
def test_never_loses_its_place(words: list[bytes], places: list[int]) -> None:
    """After anything, the session is closed, or can be led back to a message that is stored as it should be."""
    dialogue = Dialogue(max_size=60, offer_tls=True)
    for piece in cut(b"".join(words), places):
        dialogue.send(piece)
    if dialogue.session.state is State.CHUNK:
        dialogue.send(b"x" * 5)
    # Ends a command line under way, a line too long, and content.
    dialogue.send(b"\r\n.\r\n")
    while dialogue.session.state is State.CHUNK:  # the line that was ended so was a BDAT
        dialogue.send(b"\r\n")
    if dialogue.closed:
        return
    dialogue.send(b"EHLO a\r\n")
    if dialogue.closed:
        return
    before = len(dialogue.messages)
    lines = dialogue.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<bob@dom.fr>\r\nDATA\r\nproof\r\n.\r\n")
    assert [line[:3] for line in lines] == ["250", "250", "354", "250"]
    assert [m.content for m in dialogue.messages[before:]] == [b"proof\n"]


line = st.binary(max_size=30).map(lambda b: bytes(c for c in b if c not in b"\r\n\0"))
content_lines = st.lists(line | st.sampled_from([b"", b".", b"..", b". ", b".x", b"Received: x"]), max_size=12)


def open_dialogue() -> Dialogue:
    dialogue = Dialogue(max_size=10_000)
    dialogue.send("EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@dom.fr>\r\n")
    return dialogue


@given(content_lines, cuts)
@settings(max_examples=200)
def test_data_is_kept(lines: list[bytes], places: list[int]) -> None:
    """Dot-stuffed by the book (RFC 5321 4.5.2), every content comes out with LF and nothing else changed."""
    dialogue = open_dialogue()
    sent = b"".join((b"." + x if x.startswith(b".") else x) + b"\r\n" for x in lines)
    replies = [r for piece in cut(b"DATA\r\n" + sent + b".\r\nNOOP\r\n", places) for r in dialogue.send(piece)]
    assert [r[:3] for r in replies] == ["354", "250", "250"]
    assert [m.content for m in dialogue.messages] == [b"".join(x + b"\n" for x in lines)]
    assert dialogue.messages[0].size == sum(len(x) + 2 for x in lines)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), cuts)
@settings(max_examples=200)
def test_bdat_is_kept(chunks: list[bytes], places: list[int]) -> None:
    """Any octets in any chunks: CRLF becomes LF, a CR alone and a NUL a space, nothing else changes."""
    dialogue = open_dialogue()
    sent = b"".join(
        b"BDAT %d%s\r\n%s" % (len(chunk), b" LAST" * (n == len(chunks)), chunk) for n, chunk in enumerate(chunks, 1)
    )
    replies = [r for piece in cut(sent + b"NOOP\r\n", places) for r in dialogue.send(piece)]
    assert [r[:3] for r in replies] == ["250"] * (len(chunks) + 1)
    expected = b"".join(chunks).replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\0", b" ")
    assert [m.content for m in dialogue.messages] == [expected]
