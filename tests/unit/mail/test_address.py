"""Paths, addresses, domains, literals and parameters as they are written."""

from __future__ import annotations

import ipaddress

import pytest

from smtpmail.mail.address import (
    NULL_PATH,
    Address,
    AddressSyntaxError,
    literal,
    normal_domain,
    parse_address,
    parse_literal,
    parse_path,
)
from smtpmail.mail.xtext import decode_xtext, encode_xtext, is_xtext
from smtpmail.smtp.parameters import parse_parameters


@pytest.mark.parametrize(
    ("text", "address", "rest"),
    [
        ("<a@b>", Address("a", "b"), ""),
        ("<a@b> SIZE=1", Address("a", "b"), " SIZE=1"),
        ("<>", NULL_PATH, ""),
        ("<Postmaster>", Address("Postmaster", ""), ""),
        ("<a.b+c@d.example.>", Address("a.b+c", "d.example"), ""),
        ("<!#$%&'*+-/=?^_`{|}~@b>", Address("!#$%&'*+-/=?^_`{|}~", "b"), ""),
        ('<"a\\"b\\\\c@d"@e>', Address('a"b\\c@d', "e"), ""),
        ('<""@b>', Address("", "b"), ""),
        ("<@x,@y.z:a@b>", Address("a", "b"), ""),
        ("<a@[192.0.2.1]>", Address("a", "[192.0.2.1]"), ""),
        ("<a@[IPv6:2001:db8::1]>", Address("a", "[IPv6:2001:db8::1]"), ""),
        ("<δοκιμή@παράδειγμα.δοκιμή>", Address("δοκιμή", "παράδειγμα.δοκιμή"), ""),
        ("<a@_dmarc.b>", Address("a", "_dmarc.b"), ""),
        # As real senders write them
        ("a@b", Address("a", "b"), ""),
        ("a@b SIZE=1", Address("a", "b"), " SIZE=1"),
        ('"a b"@c', Address("a b", "c"), ""),
        ("<a..b@c>", Address("a..b", "c"), ""),
        ("<a.@c>", Address("a.", "c"), ""),
        ("<.a@c>", Address(".a", "c"), ""),
        ("< a@c > SIZE=1", Address("a", "c"), " SIZE=1"),
        ("< >", NULL_PATH, ""),
    ],
)
def test_path(text: str, address: Address, rest: str) -> None:
    assert parse_path(text) == (address, rest)


@pytest.mark.parametrize(
    "text",
    ["", "<", ">", "a@b>", "root", "<root>", "<a@b", "<@b>", "<a@>", "<a b@c>", "<a@b c>", "<a@b@c>", '<"a@b>',
     '<"a"b@c>', '<"a\n"@b>', "<a@b-.c>", "<a@-b>", "<a@.b>", "<a@b..c>", "<a@[1.2.3]>",
     "<a@[IPv6:1.2.3.4]>", "<a@[tag:x]>", "<a@[]>", "<a@[192.0.2.1>", "<a\r\n@b>", "<a@b\0>",
     "<<a@b>>", "<a@" + "x" * 256 + ">", "<@x:>", "<postmaster@>"],
)  # fmt: skip
def test_no_path(text: str) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_path(text)


@pytest.mark.parametrize("text", ["a@b", '"a b"@c.d', '"a..b"@c', "a@[192.0.2.1]", '"\\\\"@b', "é@dom.fr"])
def test_address_is_written_as_it_is_read(text: str) -> None:
    assert parse_address(str(parse_address(text))) == parse_address(text)


@pytest.mark.parametrize(
    ("domain", "normal"),
    [
        ("dom.fr", "dom.fr"),
        ("DOM.Fr.", "dom.fr"),
        ("château.fr", "xn--chteau-xta.fr"),
        ("CHÂTEAU.fr", "xn--chteau-xta.fr"),
        ("xn--chteau-xta.FR", "xn--chteau-xta.fr"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
    ],
)
def test_domain(domain: str, normal: str) -> None:
    assert normal_domain(domain) == normal


@pytest.mark.parametrize(
    "domain", ["", ".", "a..b", "-a", "a-", "a b", "a/b", "x" * 64, ".".join(["x" * 60] * 5), "é..fr", "a\0b"]
)
def test_no_domain(domain: str) -> None:
    with pytest.raises(AddressSyntaxError):
        normal_domain(domain)


@pytest.mark.parametrize("text", ["[127.0.0.1]", "[IPv6:::1]", "[ipv6:2001:DB8::1]"])
def test_literal(text: str) -> None:
    address = parse_literal(text)
    assert parse_literal(literal(str(address))) == address
    assert isinstance(address, ipaddress.IPv6Address if "6:" in text else ipaddress.IPv4Address)


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", {}),
        (" SIZE=1  body=8BITMIME SMTPUTF8", {"SIZE": "1", "BODY": "8BITMIME", "SMTPUTF8": None}),
        ("X-Y=ü", {"X-Y": "ü"}),
    ],
)
def test_parameters(text: str, parameters: dict[str, str | None]) -> None:
    assert parse_parameters(text) == parameters


@pytest.mark.parametrize("text", ["=1", "A=", "A=1=2", "A=1 a=2", "-A", "A=\0", "A\t=1", "é=1"])
def test_no_parameters(text: str) -> None:
    with pytest.raises(ValueError):
        parse_parameters(text)


@pytest.mark.parametrize("text", ["bob@dom.fr", "a+b=c", "\x01 é", "+2B"])
def test_xtext(text: str) -> None:
    encoded = encode_xtext(text)
    assert is_xtext(encoded)
    assert decode_xtext(encoded).encode("latin-1") == text.encode()


@pytest.mark.parametrize("text", ["", "a b", "a+2b", "a+", "a=b", "+G0", "é"])
def test_no_xtext(text: str) -> None:
    assert not is_xtext(text)
