"""8-bit content made 7-bit, read back by Python's own parser."""

from __future__ import annotations

import contextlib
import email
import email.errors
import email.policy
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpmail.mail.mime import LINE_LIMIT, SignedContent, convert, has_long_line, to_7bit


def read(message: bytes) -> EmailMessage:
    parsed = email.message_from_bytes(message, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def lines(message: bytes) -> list[bytes]:
    return message.splitlines(keepends=True)


MIXED = """Received: by x
Subject: Grüße
From: "Zoë Ö" <zoe@dom.fr>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="a b"
Content-Transfer-Encoding: 8bit

Preamble ü
--a b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Müßiggang = Laster
.dot
--a b
Content-Type: text/plain

plain = plain
--a b
Content-Type: message/rfc822

Subject: inner
Content-Type: multipart/alternative; boundary=c

--c

é inside
--c
Content-Type: application/octet-stream
Content-Transfer-Encoding: base64

aGVsbG8=
--c--
--a b--
Epilogue
""".encode()


def test_parts_that_need_it_and_no_others() -> None:
    converted = to_7bit(MIXED)
    assert converted.isascii()
    message = read(converted)
    assert message["Subject"] == "Grüße"
    assert "Zoë Ö" in message["From"] and "<zoe@dom.fr>" in message["From"]
    assert message["Content-Transfer-Encoding"] == "7bit"
    text, plain, enclosed = message.iter_parts()
    assert text["Content-Transfer-Encoding"] == "quoted-printable"
    assert text.get_content() == "Müßiggang = Laster\n.dot"
    assert plain["Content-Transfer-Encoding"] is None and plain.get_content() == "plain = plain"
    inner, attachment = enclosed.get_content().iter_parts()
    assert inner.get_payload(decode=True) == "é inside".encode()
    assert attachment.get_content() == b"hello"


def test_what_needs_nothing_stays_octet_for_octet() -> None:
    assert b"".join(convert(lambda: lines(MIXED), eightbit=True)) == MIXED
    ascii_ = MIXED.decode().encode("ascii", "ignore")
    assert to_7bit(ascii_).replace(b"7bit", b"8bit") == ascii_


@pytest.mark.parametrize(
    ("body", "charset"), [("é\n".encode(), "utf-8"), (b"\xe9\n", "unknown-8bit"), (b"x" * 1200 + b"\n", "us-ascii")]
)
def test_content_without_mime(body: bytes, charset: str) -> None:
    message = read(to_7bit(b"Subject: x\n\n" + body))
    assert message["MIME-Version"] == "1.0"
    assert message.get_content_charset() == charset
    assert message.get_payload(decode=True) == body


@pytest.mark.parametrize(
    "message",
    [
        b"Content-Type: multipart/signed; boundary=b\n\n--b\n\n\xe9\n--b--\n",
        b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"
        b"Content-Type: multipart/signed; boundary=b\n\n--b\n\n\xe9\n--b--\n--a--\n",
        b"Content-Transfer-Encoding: x-uuencode\n\n\xe9\n",
    ],
)
def test_what_may_not_be_touched(message: bytes) -> None:
    with pytest.raises(SignedContent):
        to_7bit(message)


def test_a_clean_signature_beside_8bit_text_stays() -> None:
    signed = b"Content-Type: multipart/signed; boundary=b\n\n--b\n\nclean\n--b--\n"
    message = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n" + signed + b"--a\n\n\xc3\xa9\n--a--\n"
    converted = to_7bit(message)
    assert signed in converted and converted.isascii()


def test_quoted_printable_with_octets_that_it_may_not_have() -> None:
    message = b"Content-Type: text/plain; charset=latin1\nContent-Transfer-Encoding: quoted-printable\n\n=E9\xe9=\n!\n"
    assert read(to_7bit(message)).get_content() == "éé!\n"


def test_long_header_lines_are_folded() -> None:
    header = b"References: " + b" ".join(b"<%040d@x>" % n for n in range(100)) + b"\n"
    converted = b"".join(convert(lambda: lines(header + b"\nbody\n"), eightbit=True))
    assert not has_long_line(converted)
    assert converted.replace(b"\n ", b" ") == header + b"\nbody\n"


@pytest.mark.parametrize("size", [LINE_LIMIT - 1, LINE_LIMIT, LINE_LIMIT + 1, 5000])
@pytest.mark.parametrize("before", [b"", b"x\n", b"y" * 500 + b"\n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\nz\n"])
def test_long_lines_are_found(size: int, before: bytes, after: bytes) -> None:
    assert has_long_line(before + b"x" * size + after) is (size > LINE_LIMIT)


piece = st.sampled_from(
    [b"Subject: x\n", b"Content-Type: multipart/mixed; boundary=b\n", b"Content-Type: message/rfc822\n", b"--b\n",
     b"--b--\n", b"\n", b"text\n", "é\n".encode(), b"\xff\xfe\n", b"=\n", b"x" * 1100 + b"\n", b" folded\n", b"end",
     b"Content-Transfer-Encoding: 8bit\n", b"Content-Transfer-Encoding: base64\n", b"S\xe9: \xe9\n"]
)  # fmt: skip


@given(st.lists(st.one_of(piece, st.binary(max_size=30)), max_size=25).map(b"".join))
@settings(max_examples=300)
def test_any_content(message: bytes) -> None:
    """Never an error, never an 8-bit octet; lines are only as long as they have no blank to fold at."""
    try:
        converted = to_7bit(message)
    except SignedContent:
        return
    assert converted.isascii()
    with contextlib.suppress(email.errors.HeaderParseError):  # the library writes no header that has others in it
        email.message_from_bytes(converted).as_bytes()
