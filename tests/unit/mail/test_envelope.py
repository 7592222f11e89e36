"""The trace header, the words of its protocol, and who counts as one client."""

from __future__ import annotations

import re
import time
from email import message_from_string
from email.utils import parsedate_to_datetime

import pytest

from smtpmail.mail import fields
from smtpmail.mail.address import Address
from smtpmail.mail.envelope import Envelope, Peer, Recipient, new_id
from smtpmail.mail.route import Local

ALICE, BOB, CAROL = Address("alice", "example.org"), Address("bob", "dom.fr"), Address("carol", "dom.fr")


def envelope(*recipients: Address, address: str = "192.0.2.7", **more: object) -> Envelope:
    more = {"esmtp": True} | more
    made = Envelope(ALICE, Peer(address, 4711, "network"), "client.example", **more)  # type: ignore[arg-type]
    made.recipients += [Recipient(r, (Local(r.local),)) for r in recipients]
    return made


def test_received() -> None:
    """RFC 5321 4.4: from, by, with, id, for, and the time with its zone."""
    now = time.time()
    made = envelope(BOB)
    text = fields.received(made, "mail.dom.fr", now)
    assert text.endswith("\n")
    assert "\r" not in text
    assert all(line.startswith(("Received:", "\t")) for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 120
    field = " ".join(message_from_string(text)["Received"].split())
    head, _, date = field.rpartition("; ")
    assert head == f"from client.example ([192.0.2.7]) by mail.dom.fr with ESMTP id {made.id} for <bob@dom.fr>"
    assert parsedate_to_datetime(date).timestamp() == int(now)
    assert re.search(r" [+-]\d{4}$", date)


def test_several_recipients_are_not_named() -> None:
    """Nobody learns of another (RFC 5321 7.2)."""
    text = fields.received(envelope(BOB, CAROL), "mail.dom.fr", 0)
    assert "for <" not in text
    assert "bob" not in text
    assert "carol" not in text


@pytest.mark.parametrize(
    ("address", "literal"),
    [("192.0.2.7", "[192.0.2.7]"), ("2001:db8::7", "[IPv6:2001:db8::7]"), ("fe80::1%eth0", "[IPv6:fe80::1]")],
)
def test_address_literal(address: str, literal: str) -> None:
    assert f"({literal})" in fields.received(envelope(BOB, address=address), "mail.dom.fr", 0)


@pytest.mark.parametrize(
    ("esmtp", "tls", "utf8", "word"),
    [
        (False, None, False, "SMTP"),
        (True, None, False, "ESMTP"),
        (True, "TLSv1.3 X", False, "ESMTPS"),
        (True, None, True, "UTF8SMTP"),
        (True, "TLSv1.3 X", True, "UTF8SMTPS"),
    ],
)
def test_protocol(esmtp: bool, tls: str | None, utf8: bool, word: str) -> None:
    """RFC 3848, RFC 6531 4.3."""
    made = envelope(BOB, esmtp=esmtp, tls=tls, smtputf8=utf8)
    assert f" with {word} " in " ".join(fields.received(made, "mail.dom.fr", 0).split())


def test_delivery_header() -> None:
    assert (
        fields.final_delivery("alice@example.org", ["bob@dom.fr"])
        == "Return-Path: <alice@example.org>\nDelivered-To: bob@dom.fr\n"
    )


def test_delivery_header_of_a_bounce() -> None:
    assert fields.final_delivery("", ["bob@dom.fr"]).startswith("Return-Path: <>\n")


@pytest.mark.parametrize(
    ("content", "separated"),
    [
        (b"", False), (b"\nbody\n", False), (b"Subject: x\n", False), (b"Subject : x\n", False), (b"X-1!:\n", False),
        (b"subject:", False), (b":x\n", True), (b" Subject: x\n", True), (b"\tSubject: x\n", True), (b" \n", True),
        (b"From alice Mon Nov 23 17:10:31 2026\nSubject: x\n", True), (b">From x: y\n", True), (b"plain\n", True),
        (b"plain text: with a colon\n", True), (b"Subject\n: x\n", True), (b"\xc3\xb6: x\n", True), (b"\0\n", True),
    ],
)  # fmt: skip
def test_content_that_begins_with_no_field(content: bytes, separated: bool) -> None:
    """It must not become a part of our fields; what is a field or the empty line stays where it is."""
    assert fields.separator(content) == (b"\n" if separated else b"")


def test_ids_are_unique_and_sorted() -> None:
    ids = []
    for _ in range(100):
        ids.append(new_id())
        time.sleep(0.00001)
    assert len(set(ids)) == 100
    assert ids == sorted(ids)
    assert all(i.isalnum() and i.isascii() for i in ids)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::1%eth0", True),
    ],
)
def test_who_is_one_client(one: str, other: str, same: bool) -> None:
    """An IPv4 address, an IPv6 /64."""
    assert (Peer(one, 1, "network").networks[0] == Peer(other, 2, "network").networks[0]) is same


@pytest.mark.parametrize(
    ("helo", "written"),
    [
        ("mail.example.org", "mail.example.org"),
        ("[192.0.2.7]", "[192.0.2.7]"),
        ("my pc", "my?pc"),
        ("x (may be forged) by y", "x??may?be?forged??by?y"),
        ("caf\u00e9", "caf?"),
        ("a\nReceived: b;", "a?Received:?b?"),
    ],
)
def test_a_name_makes_no_field_and_no_comment(helo: str, written: str) -> None:
    made = envelope(BOB)
    made.helo = helo
    assert fields.received(made, "mail.dom.fr", 0).startswith(f"Received: from {written} ([192.0.2.7])\n")
