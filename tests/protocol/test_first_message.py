"""The promise in one test: a message sent lies in the mailbox, whichever way the server is reached."""

from __future__ import annotations

import re
from email.parser import BytesParser
from mailbox import MH
from typing import Any

import pytest
from support.server import Server


@pytest.mark.parametrize("listener", ["loopback", "network"])
@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_stored_as_documented(server: Server, listener: str, ipv6: bool) -> None:
    """Number, status, header added, content byte for byte; one id in reply, log and Received."""
    complete = b"From: a@b.example\r\nDate: Wed, 25 Nov 2026 20:00:00 +0000\r\nMessage-ID: <1@b.example>\r\n"
    content = complete + b"Subject: test\r\n\r\n..two dots, and \xff\r\n\r\nend\r\n"
    with server.client(listener, ipv6=ipv6) as client:
        client.begin("Bob@DOM.fr")
        answer = client.data(content)
    assert (answer.code, answer.enhanced) == (250, "2.0.0")

    (message,) = server.messages("bob").values()
    head = re.fullmatch(
        rb"Return-Path: <alice@example\.org>\n"
        rb"Delivered-To: Bob@DOM\.fr\n"
        rb"(Received: from client\.example \(\[([^]]+)\]\)\n\tby mail\.dom\.fr with ESMTP id (\w+)\n?"
        rb"\s+for <Bob@DOM\.fr>;\n\t[^\n]+\n)"
        rb"From: a@b\.example\nDate: Wed, 25 Nov 2026 20:00:00 \+0000\nMessage-ID: <1@b\.example>\n"
        rb"Subject: test\n\n\.two dots, and \xff\n\nend\n",
        message,
    )
    assert head, message
    assert head[2] == (b"IPv6:::1" if ipv6 else b"127.0.0.1")
    message_id = head[3].decode()
    assert message_id in answer.text
    received = server.wait_event("message.received", id=message_id)
    assert received["sender"] == "alice@example.org"
    assert received["recipients"] == ["Bob@DOM.fr"]
    assert received["tls"] is None
    assert server.wait_event("message.stored", id=message_id, user="bob")["number"] == 1


def test_spool_on_disk(server: Server) -> None:
    """Names, modes and what else may lie in the folder."""
    with server.client() as client:
        client.ehlo()
        for _ in range(3):
            client.deliver()
    folder = server.spool / "bob"
    visible = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert visible == {"1", "2", "3", "1.status", "2.status", "3.status"}
    assert folder.stat().st_mode & 0o7777 == 0o700
    for name in visible:
        assert (folder / name).stat().st_mode & 0o7777 == 0o600
    assert (folder / ".lock").is_file()
    assert {p.name for p in server.spool.iterdir() if not p.name.startswith(".")} == {"bob"}


def test_a_reader_of_mh_opens_it(server: Server) -> None:
    with server.client() as client:
        client.ehlo()
        client.deliver(b"Subject: first\r\n\r\n1\r\n")
        client.deliver(b"Subject: second\r\n\r\n2\r\n")
    folder: Any = MH(server.spool / "bob", BytesParser().parse, create=False)  # type: ignore[arg-type]
    assert [folder[key]["Subject"] for key in sorted(folder.keys())] == ["first", "second"]
