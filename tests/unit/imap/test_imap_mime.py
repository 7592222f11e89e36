"""Structure and sections, exactly by the octets of the file."""

from __future__ import annotations

import os
import tempfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.imap.content import MessageFile, opened, to_wire
from smtpmail.imap.fetch_items import parse_items
from smtpmail.imap.mime import parse_message
from smtpmail.imap.scanner import Scanner
from smtpmail.imap.structure import body_structure

NESTED = b"""From: a@b
Subject: outer
Content-Type: multipart/mixed; boundary="one"

preamble
--one
Content-Type: text/plain; charset=utf-8
Content-ID: <x>

hello
world
--one
Content-Type: message/rfc822
Content-Disposition: attachment; filename="m.eml"

Subject: inner
Content-Type: multipart/alternative; boundary=two

--two

plain
--two
Content-Type: text/html

<p>
--two--
--one
Content-Type: image/png
Content-Transfer-Encoding: base64

iVBORw0K

--one--
epilogue
"""

LEAF = b"Subject: s\nContent-Type: text/html\n\nline\nlast"


def sections(message: bytes, *names: str) -> list[bytes | None]:
    """What FETCH returns for them."""
    found: list[bytes | None] = []
    for name in names:
        (section,) = parse_items(Scanner([name.encode()]))
        assert not isinstance(section, str)
        with tempfile.TemporaryFile() as file:
            file.write(message)
            file.flush()
            with opened(os.dup(file.fileno()), os.fstat(file.fileno())) as opened_message:
                result = opened_message.section(section, len(to_wire(message)))
                if result is None:
                    found.append(None)
                    continue
                size, pieces = result
                data = b"".join(pieces)
                assert len(data) == size, name
                found.append(data)
    return found


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("BODY[1]", b"hello\nworld"),
        ("BODY[1.MIME]", b"Content-Type: text/plain; charset=utf-8\nContent-ID: <x>\n\n"),
        ("BODY[2.HEADER]", b"Subject: inner\nContent-Type: multipart/alternative; boundary=two\n\n"),
        ("BODY[2.TEXT]", b"--two\n\nplain\n--two\nContent-Type: text/html\n\n<p>\n--two--"),
        ("BODY[2.1]", b"plain"),
        ("BODY[2.2]", b"<p>"),
        ("BODY[2.1.MIME]", b"\n"),
        ("BODY[2.HEADER.FIELDS (subject)]", b"Subject: inner\n\n"),
        ("BODY[3]", b"iVBORw0K\n"),
        ("BODY[HEADER.FIELDS (Subject X)]", b"Subject: outer\n\n"),
        ("BODY[HEADER]", NESTED[: NESTED.index(b"\n\n") + 2]),
        ("BODY[TEXT]", NESTED[NESTED.index(b"\n\n") + 2 :]),
        ("BODY[]", NESTED),
        ("BODY[4]", None),
        ("BODY[1.1]", None),
        ("BODY[1.HEADER]", None),
        ("BODY[2.3]", None),
        ("BODY[2.1.1]", None),
    ],
)
def test_sections(section: str, expected: bytes | None) -> None:
    assert sections(NESTED, section) == [None if expected is None else to_wire(expected)]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("BODY[1]", b"line\nlast"),
        ("BODY[1.MIME]", b"Subject: s\nContent-Type: text/html\n\n"),
        ("BODY[2]", None),
        ("BODY[1.1]", None),
        ("BODY[]<9.6>", b"s\r\nCon"),
        ("BODY[1]<4.3>", b"\r\nl"),
        ("BODY[1]<5.100>", b"\nlast"),
        ("BODY[]<1000.5>", b""),
        ("BODY[HEADER]<0.4>", b"Subj"),
    ],
)
def test_sections_of_a_message_without_parts(section: str, expected: bytes | None) -> None:
    wire = None if expected is None else expected if b"\r" in expected or "<" in section else to_wire(expected)
    assert sections(LEAF, section) == [wire]


def test_body_structure() -> None:
    assert body_structure(NESTED, parse_message(NESTED), extended=True) == (
        b'(("text" "plain" ("charset" "utf-8") "<x>" NIL "7bit" 12 1 NIL NIL NIL NIL)'
        b'("message" "rfc822" NIL NIL NIL "7bit" 131 '
        b'(NIL "inner" NIL NIL NIL NIL NIL NIL NIL NIL) '
        b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 0 NIL NIL NIL NIL)'
        b'("text" "html" NIL NIL NIL "7bit" 3 0 NIL NIL NIL NIL) "alternative" ("boundary" "two") NIL NIL NIL) '
        b'10 NIL ("attachment" ("filename" "m.eml")) NIL NIL)'
        b'("image" "png" NIL NIL NIL "base64" 10 NIL NIL NIL NIL) "mixed" ("boundary" "one") NIL NIL NIL)'
    )


@pytest.mark.parametrize(
    ("message", "types"),
    [
        (b"Content-Type: multipart/mixed; boundary=x\n\nno part", ["text/plain"]),
        (b"Content-Type: multipart/mixed\n\n--x\n\na\n--x--", ["text/plain"]),
        (b"Content-Type: multipart/mixed; boundary=x\n\n--x", ["multipart/mixed", "text/plain"]),
        (b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\na", ["multipart/mixed", "text/plain"]),
        (
            b"Content-Type: multipart/mixed; boundary=x\n\n--xy\n\na\n--x  \n\nb\n--x --\n",
            ["multipart/mixed", "text/plain"],
        ),
        (
            b"Content-Type: multipart/digest; boundary=x\n\n--x\n\nSubject: d\n\na\n--x--\n",
            ["multipart/digest", "message/rfc822"],
        ),
        (b"Content-Type: nonsense\n\nx", ["text/plain"]),
        (b"", ["text/plain"]),
        (b"\n", ["text/plain"]),
        (b"no header at all", ["text/plain"]),
    ],
)
def test_odd_messages(message: bytes, types: list[str]) -> None:
    part = parse_message(message)
    found = [part, *part.children]
    assert [f"{p.main_type.decode()}/{p.subtype.decode()}" for p in found] == types


words = st.sampled_from(
    [b"--x", b"--y", b"--x--", b"--y--", b"\n", b"\n", b"\n\n", b"Content-Type: multipart/mixed; boundary=x", b"a",
     b"Content-Type: multipart/mixed; boundary=y", b"Content-Type: message/rfc822", b"Content-Type: text/plain", b" "]
)  # fmt: skip


@given(st.lists(words, max_size=40))
def test_any_message(pieces: list[bytes]) -> None:
    """Ranges lie within each other; every part that the structure names can be fetched, with the size it tells."""
    message = b"".join(pieces)
    root = parse_message(message)
    body_structure(message, root, extended=True)

    def check(part, start: int, end: int, numbers: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
        assert start <= part.start <= part.body <= part.end <= end
        if numbers:
            name = ".".join(map(str, numbers))
            assert sections(message, f"BODY[{name}]") == [to_wire(message[part.body : part.end])]
        for n, child in enumerate(part.children, 1):
            check(child, part.body, part.end, (*numbers, n))
        if part.message is not None:
            inner = part.message
            assert part.body == inner.start
            assert inner.end == part.end
            if not inner.children and numbers:
                check(inner, part.body, part.end, (*numbers, 1))

    if root.children:
        check(root, 0, len(message), ())
    else:
        check(root, 0, len(message), (1,))


def deep(levels: int) -> bytes:
    head = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(levels))
    return head + b"\nx\n" + b"".join(b"--b%d--\n" % n for n in reversed(range(levels)))


@pytest.mark.parametrize(
    "message",
    [
        deep(500),
        b"Content-Type: multipart/mixed; boundary=x\n\n" + b"--x\n\na\n" * 100_000,
        b"Content-Type: message/rfc822\n\n" * 5000,
        b"Content-Type: multipart/mixed; boundary=x\n\n" + b"--xx\n" * 200_000,
        b"a" * 5_000_000,
    ],
    ids=["depth", "parts", "messages", "almost", "line"],
)
def test_hostile_messages(message: bytes) -> None:
    since = time.process_time()
    structure = body_structure(message, parse_message(message), extended=True)
    assert structure.count(b"(") == structure.count(b")")
    assert time.process_time() - since < 20


def test_a_large_message_is_read_in_pieces() -> None:
    """And each piece that a client asks for is where it would be in the whole."""
    message = b"Subject: x\n\n" + b"0123456789\n" * 200_000
    wire = to_wire(message)
    for first in (0, 1, 65_536, 65_537, 1_000_000, len(wire) - 3):
        assert sections(message, f"BODY[]<{first}.70000>") == [wire[first : first + 70_000]]
    with tempfile.TemporaryFile() as file:
        file.write(message)
        file.flush()
        opened_message = MessageFile(os.dup(file.fileno()), os.fstat(file.fileno()))
        assert opened_message.lines() == message.count(b"\n")
        assert opened_message.head() == b"Subject: x\n\n"
        assert opened_message._data is None
        opened_message.close()
