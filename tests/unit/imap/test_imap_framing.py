"""Where commands end, however the octets are cut."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.imap_dialogue import ImapDialogue

from smtpmail.imap.framing import MAX_LINE, CommandReader, LineTooLong, LiteralAhead, Pending


def commands_in(pieces: list[bytes]) -> list[tuple[list[bytes], list[bytes]]]:
    """The texts and literals of each command."""
    reader, found = CommandReader(), []
    for piece in pieces:
        reader.buffer += piece
        while (came := reader.next()) is not None:
            if isinstance(came, LiteralAhead):
                reader.take()
            else:
                assert isinstance(came, Pending)
                found.append((came.texts, [literal.data for literal in came.literals]))
    return found


text = st.binary(max_size=12).map(lambda b: bytes(c for c in b if c not in b"\r\n{}+~"))


@given(
    st.lists(st.tuples(text, st.lists(st.tuples(st.binary(max_size=20), text), max_size=3)), max_size=5),
    st.lists(st.integers(0, 400), max_size=10),
)
def test_any_cut(commands: list[tuple[bytes, list[tuple[bytes, bytes]]]], places: list[int]) -> None:
    """Literals of any octets between texts of any octets."""
    data = b""
    expected = []
    for first, rest in commands:
        data += first + b"".join(b"{%d+}\r\n%s%s" % (len(literal), literal, after) for literal, after in rest) + b"\r\n"
        expected.append(([first, *(after for _, after in rest)], [literal for literal, _ in rest]))
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    assert commands_in([data[a:b] for a, b in pairwise(ends)]) == expected


def test_too_long() -> None:
    reader = CommandReader()
    reader.buffer = b"a1 FETCH " + b"1," * MAX_LINE
    with pytest.raises(LineTooLong) as caught:
        reader.next()
    assert caught.value.start.startswith(b"a1 FETCH ")
    assert reader.buffer == b""
    reader.buffer += b"the rest\r\na2 NOOP\r\n"
    came = reader.next()
    assert isinstance(came, Pending)
    assert came.texts == [b"a2 NOOP"]


WORDS = [
    b"a LOGIN bob secret", b"b SELECT INBOX", b"c FETCH 1:* (FLAGS BODY[])", b"d APPEND INBOX {5}", b"e APPEND x {5+}",
    b"f NOOP", b"IDLE", b"g IDLE", b"DONE", b"h STORE 1 +FLAGS (\\Deleted)", b"i EXPUNGE", b"j AUTHENTICATE PLAIN",
    b"AGJvYgBzZWNyZXQ=", b"*", b"k LOGOUT", b"l SEARCH TEXT {3+}", b"m LIST \"\" *", b"n CREATE {100000}",
    b"{9999999999}", b"o CREATE {90000+}", b"~{3+}", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"hello", b"abc", b"(",
    b")", b" ", b"\0", b"\xff", b"p UID COPY 1:* foo", b"q CREATE foo", b"r ENABLE QRESYNC", b"s CLOSE", b'"', b"\\",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(WORDS) | st.binary(max_size=6), max_size=40),
    st.lists(st.integers(0, 3000), max_size=10),
    st.booleans(),
)
@settings(max_examples=200)
def test_any_octets(
    tmp_path_factory: pytest.TempPathFactory, words: list[bytes], places: list[int], preauth: bool
) -> None:
    """However the input is cut, the same answers; and nothing breaks the dialogue."""
    data = b"".join(words)
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    answers = []
    for pieces in ([data], [data[a:b] for a, b in pairwise(ends)]):
        with ImapDialogue(tmp_path_factory.mktemp("spool"), preauth=preauth, max_size=50) as dialogue:
            answers.append(b"".join(dialogue.send(piece) for piece in pieces))
            assert len(dialogue.session._reader.buffer) <= MAX_LINE + len(data)
    volatile = re.compile(rb"(UIDVALIDITY|HIGHESTMODSEQ|APPENDUID|COPYUID|MODSEQ \() ?\d+|INTERNALDATE \"[^\"]*\"")
    assert volatile.sub(b"", answers[0]) == volatile.sub(b"", answers[1])
    assert not answers[0] or answers[0].endswith(b"\r\n")
