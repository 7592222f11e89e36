"""Where lines, contents and headers end, in any chunking."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from support.dialogue import Dialogue

from smtpmail.smtp.framing import MAX_LINE, BareLineFeed, DotReader, LineEnds, LineReader, LineTooLong

LINE_ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b""]


def not_an_end() -> Iterator[bytes]:
    """What other servers have taken for the end of data, and what looks like it."""
    for before, dot, behind in itertools.product(LINE_ENDS, (b".", b"..", b". ", b" .", b".\0"), LINE_ENDS):
        candidate = before + dot + behind
        if b"\r\n.\r\n" not in candidate:
            yield candidate


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("attempt", list(not_an_end()), ids=repr)
def test_smuggling(attempt: bytes, size: int) -> None:
    """CVE-2023-51764 and its kin: only CRLF . CRLF ends a message; a second one can't be hidden in the content."""
    dialogue = Dialogue()
    dialogue.send("EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@dom.fr>\r\nDATA\r\n")
    hidden = b"MAIL FROM:<evil@b>\r\nRCPT TO:<carol@dom.fr>\r\nDATA\r\nevil\r\n"
    lines = []
    # `x` before and `y` behind: nothing of the attempt touches a line end that is not its own.
    for piece in chunked(b"x" + attempt + b"y" + hidden + b".\r\n", size):
        lines += dialogue.send(piece)
    assert [line[:3] for line in lines] == ["250"], attempt
    (message,) = dialogue.messages
    assert b"MAIL FROM:<evil@b>\nRCPT TO:<carol@dom.fr>\nDATA\nevil\n" in message.content
    assert not set(b"\r\0") & set(message.content)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\n"),
        (b"x\r\n.\r\n", b"x\n"),
        (b"..\r\n.\r\n", b".\n"),
        (b"...\r\n.\r\n", b"..\n"),
        (b".x\r\n.\r\n", b"x\n"),
        (b"x\r\n..\r\n.y\r\n.\r\n", b"x\n.\ny\n"),
        (b"x\n.\ny\r\n.\r\n", b"x\n.\ny\n"),
        (b"x\n..\ny\r\n.\r\n", b"x\n..\ny\n"),  # no CRLF before it: not a stuffed dot
        (b"x\ry\r\n.\r\n", b"x y\n"),
        (b"x\r\r\n.\r\n", b"x \n"),
        (b"x\r\r\n.\ry\r\n.\r\n", b"x \n y\n"),
        (b"\0\r\n.\r\n", b" \n"),
        (b"x\n\r\n.\r\n", b"x\n\n"),
        (b"x\r\n.\n.\r\n.\r\n", b"x\n\n.\n"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_what_is_stored(sent: bytes, stored: bytes, size: int) -> None:
    """Dot-stuffing undone, LF line ends, neither CR nor NUL; what follows the end is given back."""
    reader, line_ends = DotReader(), LineEnds()
    content = rest = b""
    for piece in chunked(sent + b"NEXT", size):
        if reader.done:
            rest += piece
            continue
        text, left = reader.read(piece)
        content += line_ends.convert(text, last=reader.done)
        rest += left
    assert reader.done
    assert content == stored
    assert rest == b"NEXT"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [(b"a\r\nb", b"a\nb"), (b"a\r", b"a "), (b"\r\n\r\n", b"\n\n"), (b"a\n\rb", b"a\n b"), (b"\r\r\r\n", b"  \n")],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_line_ends(sent: bytes, stored: bytes, size: int) -> None:
    line_ends = LineEnds()
    content = b"".join(line_ends.convert(piece) for piece in chunked(sent, size)) + line_ends.convert(b"", last=True)
    assert content == stored


def read_lines(data: bytes, size: int) -> list[bytes | str]:
    reader = LineReader()
    lines: list[bytes | str] = []
    for piece in chunked(data, size):
        reader.buffer += piece
        while True:
            try:
                line = reader.next_line()
            except (LineTooLong, BareLineFeed) as error:
                lines.append(type(error).__name__)
                continue
            if line is None:
                break
            lines.append(line)
        assert len(reader.buffer) <= MAX_LINE + size
    return lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"\r\n", [b""]),
        (b"a\nb\r\n", ["BareLineFeed", b"b"]),
        (b"a\rb\r\n", [b"a\rb"]),
        (b"a\r\r\n", [b"a\r"]),
        (b"x" * (MAX_LINE - 2) + b"\r\ny\r\n", [b"x" * (MAX_LINE - 2), b"y"]),
        (b"x" * (MAX_LINE - 1) + b"\r\ny\r\n", ["LineTooLong", b"y"]),
        (b"x" * (5 * MAX_LINE) + b"\r\ny\r\n", ["LineTooLong", b"y"]),
        (b"x" * (5 * MAX_LINE) + b"\ny\r\n", ["LineTooLong", b"y"]),
        (b"a", []),
    ],
    ids=repr,
)
@pytest.mark.parametrize("size", [1, 7, 2048, 100_000])
def test_lines(data: bytes, lines: list[bytes | str], size: int) -> None:
    assert read_lines(data, size) == lines
