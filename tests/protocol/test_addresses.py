"""Aliases, forwards and blocked senders with the real server; another one of its kind takes what is sent on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.server import Server, Servers, clean_environment

COMPLETE = b"From: alice@example.org\nDate: Wed, 25 Nov 2026 20:00:00 +0000\nMessage-ID: <1@example.org>\n\nx\n"


@pytest.fixture
def here(servers: Servers, tmp_path: Path) -> Server:
    """The server of dom.fr; what leaves goes to `elsewhere`."""
    (tmp_path / "users").write_text("bob\nanna\n")
    (tmp_path / "aliases").write_text(
        "root: bob\nsales: anna, x@example.net\nclosed: :fail: No more\nnoreply: :blackhole:\n"
        "@dom.fr: anna\nx: y\ny: x\n"
    )
    (tmp_path / "blocked").write_text("spam.example\n")
    elsewhere = servers.start("-s", "example.net", "-H", "mx.example.net", spool=tmp_path / "elsewhere")
    host, port = elsewhere.address()
    options = [f"--{name}={tmp_path / name}" for name in ("users", "aliases", "blocked")]
    made = servers.start(*options, "--smarthost", f"{host}:{port}")
    made.elsewhere = elsewhere  # type: ignore[attr-defined]
    return made


def ask(server: Server, recipient: str, sender: str = "alice@example.org", listener: str = "network") -> str:
    with server.client(listener) as client:
        client.ehlo()
        answer = client.command(f"MAIL FROM:<{sender}>")
        return str(answer if answer.code != 250 else client.command(f"RCPT TO:<{recipient}>"))


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("root@dom.fr", "250 2.1.5 "),
        ("root@mail.dom.fr", "250 2.1.5 "),
        ("root@localhost", "250 2.1.5 "),
        ("nobody@mail.dom.fr", "550 5.1.1 "),
        ("anything@dom.fr", "250 2.1.5 "),
        ("closed@dom.fr", "550 5.2.1 No more"),
        ("x@dom.fr", "451 4.3.5 "),
        ("x@example.net", "550 5.7.1 "),
    ],
)
def test_recipients(here: Server, recipient: str, reply: str) -> None:
    assert ask(here, recipient).startswith(reply)


def test_blocked_senders(here: Server) -> None:
    assert ask(here, "bob@dom.fr", "x@sub.spam.example") == "550 5.7.1 No mail is taken from this sender here"
    (here.spool / "bob").mkdir()
    (here.spool / "bob" / ".blocked").write_text("alice@example.org\n")
    assert ask(here, "bob@dom.fr") == "550 5.7.1 The recipient takes no mail from this sender"
    here.wait_event("sender.refused", sender="x@sub.spam.example")


def test_bare_addresses_are_for_programs_of_the_host(here: Server) -> None:
    assert ask(here, "root", "cron", "loopback").startswith("250 2.1.5")
    assert ask(here, "root", "cron@dom.fr", "network").startswith("501 5.1.3")


def test_an_alias_and_its_bounce(here: Server) -> None:
    """From the network to a mailbox here and a server elsewhere; a bounce finds its way back, and nobody else does."""
    with here.client("network") as client:
        client.ehlo()
        client.deliver(COMPLETE.replace(b"\n", b"\r\n"), "sales@dom.fr")
    assert here.messages("anna")
    event = here.wait_event("message.forwarded")
    here.wait_event("delivery.succeeded", id=event["id"])
    (forwarded,) = here.elsewhere.messages("x").values()  # type: ignore[attr-defined]
    lines = forwarded.decode().splitlines()
    assert lines[0].startswith("Return-Path: <SRS0=")
    assert "Delivered-To: sales@dom.fr" in lines
    assert forwarded.endswith(b"\n" + COMPLETE)
    assert ask(here, event["sender"], "spam@example.com").startswith("550 5.1.1")
    with here.client("network") as client:
        client.ehlo()
        client.expect("MAIL FROM:<>", 250)
        client.expect(f"RCPT TO:<{event['sender']}>", 250)
        assert client.data(b"Subject: bounce\r\n\r\nx\r\n").code == 250
    assert here.wait_event("message.queued")["recipients"] == ["alice@example.org"]


def test_a_forward_that_comes_back_stays(here: Server) -> None:
    (here.spool / "bob").mkdir()
    (here.spool / "bob" / ".forward").write_text("x@example.net\n")
    with here.client("network") as client:
        client.ehlo()
        client.deliver(b"Delivered-To: bob@dom.fr\r\nSubject: again\r\n\r\nx\r\n", "bob@dom.fr")
        client.deliver(b"Subject: first\r\n\r\nx\r\n", "bob@dom.fr")
    here.wait_event("delivery.succeeded")
    (stayed,) = here.messages("bob").values()
    assert b"Subject: again" in stayed
    assert len(here.elsewhere.messages("x")) == 1  # type: ignore[attr-defined]


def test_a_blackhole(here: Server) -> None:
    with here.client("network") as client:
        client.ehlo()
        assert client.deliver(b"Subject: x\r\n\r\nx\r\n", "noreply@dom.fr").code == 250
    assert here.wait_event("message.dropped")["recipients"] == ["noreply@dom.fr"]


def run(server: Server, *arguments: str, status: int = 0) -> str:
    folder = server.spool.parent
    settings = {"SPOOL": server.spool, "USERS": folder / "users", "ALIASES": folder / "aliases", "SUFFIX": "dom.fr"}
    ran = subprocess.run(
        [sys.executable, "-m", "smtpmail", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment({f"SMTPMAIL_{key}": str(value) for key, value in settings.items()}),
    )
    assert ran.returncode == status, ran
    return ran.stdout + ran.stderr


def test_aliases_explained(here: Server) -> None:
    assert run(here, "aliases", "sales@dom.fr").splitlines() == [
        "sales@dom.fr",
        "  line 2: sales: anna, x@example.net",
        "    anna: the mailbox of anna",
        "    x@example.net: elsewhere",
        f"  -> the mailbox {here.spool}/anna",
        "  -> x@example.net, elsewhere",
    ]
    told: Any = json.loads(run(here, "aliases", "--json", "closed", status=1))
    assert told["reply"] == "550 5.2.1 No more"


def test_aliases_judged(here: Server) -> None:
    said = run(here, "check", status=1)
    assert "aliases: line 6: x: loops: x -> y -> x" in said
    (here.spool.parent / "aliases").write_text("root: ghost\nx: |cmd\n")
    for command in (["check"], ["aliases"]):
        said = run(here, *command, status=1)
        assert "aliases: line 1: root: ghost: no such user" in said
        assert "/aliases: line 2: '|cmd': no programs are run from here" in said


def test_a_broken_file_changes_nothing(here: Server) -> None:
    aliases = here.spool.parent / "aliases"
    assert ask(here, "sales@dom.fr").startswith("250")
    aliases.write_text("sales: bob\noops\n")
    assert ask(here, "closed@dom.fr") == "550 5.2.1 No more"
    assert "line 2" in here.wait_event("aliases.broken")["complaint"]
    aliases.write_text("closed: bob\n")
    assert ask(here, "closed@dom.fr").startswith("250")
