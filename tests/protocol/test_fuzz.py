"""Hostile clients over real sockets, in clear text and over TLS: whatever comes, in whatever pieces, mail is kept as it
was sent, nobody else is harmed, and nothing is an internal error.

What stands in tests/data/fuzz is tried whole; then it is mixed and cut at random for SMTPMAIL_FUZZ_SECONDS (10, in CI
60; hours by hand). SMTPMAIL_FUZZ_SEED repeats a run; without it CI always has the same one.
"""

from __future__ import annotations

import ast
import contextlib
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.client import Client, Closed
from support.require import in_ci
from support.server import Server, Servers
from support.tls import Certificate

from smtpmail.mail.fields import separator

DATA = Path(__file__).parents[1] / "data" / "fuzz"
SECONDS = float(os.environ.get("SMTPMAIL_FUZZ_SECONDS", "60" if in_ci() else "10"))
SEED = os.environ.get("SMTPMAIL_FUZZ_SEED", "1" if in_ci() else str(time.time_ns()))

FRAGMENTS = [b"\r\n", b"\n", b"\r", b".", b"\r\n.\r\n", b"\n.\n", b"\0", b"\xff", b" ", b"x" * 70_000, b"\r\n" * 3000]

_ADDED = re.compile(rb"Return-Path: [^\n]*\nDelivered-To: [^\n]*\nReceived: (?:[^\n]|\n\t)*\n")


def corpus(name: str) -> list[bytes]:
    """One entry a line, with the escapes of Python; none has a quotation mark that is not escaped."""
    lines = (DATA / name).read_text().splitlines()
    return [ast.literal_eval("b'''" + line.replace("'", "\\'") + "'''") for line in lines]


def mixed(rng: random.Random, entries: Sequence[bytes]) -> bytes:
    """One or two of the entries, cut, joined, and with something put in between."""
    made = bytearray(rng.choice(entries))
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(made) + 1)
        match rng.randrange(4):
            case 0:
                made[place:place] = rng.choice(FRAGMENTS)
            case 1:
                made[place:place] = rng.randbytes(rng.randrange(12))
            case 2:
                del made[place : place + rng.randrange(20)]
            case _:
                made += rng.choice(entries)
    return bytes(made)


def pieces(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """The data, cut anywhere; large pieces too, or it would take for ever."""
    start = 0
    while start < len(data):
        size = rng.choice([1, 2, 3, 7, 100, 1460, 16_384, 70_000])
        yield data[start : start + size]
        start += size


def stored(data: bytes) -> bytes:
    """What becomes of a content in a mailbox."""
    text = data.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\0", b" ")
    return separator(text) + text


class Attack:
    """A server, and clients of all kinds."""

    def __init__(self, server: Server, certificate: Certificate) -> None:
        self.server = server
        self.certificate = certificate
        self.addresses = {name: server.address(name) for name in ("loopback", "network")}
        self.clients: dict[bool, Client] = {}

    def client(self, *, tls: bool) -> Client:
        """One encrypted, one not."""
        if tls not in self.clients:
            client = Client(self.addresses["network"])
            client.ehlo()
            if tls:
                client.expect("STARTTLS", 220)
                client.start_tls(self.certificate.client_context(), self.certificate.name)
                client.ehlo()
            self.clients[tls] = client
        return self.clients[tls]

    def deliver(self, rng: random.Random, content: bytes, verb: str, *, tls: bool) -> None:
        """Sends a message from the network, however it is cut; it must be there as it was sent."""
        client = self.client(tls=tls)
        client.transaction()
        if verb == "DATA":
            lines = content.split(b"\r\n") if content else []
            wire = b"".join((b"." + x if x.startswith(b".") else x) + b"\r\n" for x in lines)
            content = b"".join(x + b"\r\n" for x in lines)
            client.expect("DATA", 354)
            for piece in pieces(rng, wire + b".\r\n"):
                client.send(piece)
        else:
            chunks = list(pieces(rng, content))[:200]
            chunks.append(content[sum(map(len, chunks)) :])
            for chunk in chunks[:-1]:
                client.send(b"BDAT %d\r\n%s" % (len(chunk), chunk))
            client.send(b"BDAT %d LAST\r\n%s" % (len(chunks[-1]), chunks[-1]))
            for _ in chunks[:-1]:
                assert client.read().code == 250
        answer = client.read()
        assert answer.code == 250, (answer, content)
        id_ = answer.text.split()[-1].encode()
        found = {path: path.read_bytes() for path in (self.server.spool / "bob").iterdir() if path.name.isdigit()}
        ((path, message),) = ((path, text) for path, text in found.items() if b" id " + id_ in text)
        head = _ADDED.match(message)
        assert head and message[head.end() :] == stored(content), (verb, tls, content, message)
        path.unlink()

    def assault(self, rng: random.Random, data: bytes, listener: str, *, tls: bool) -> None:
        """Sends anything and goes, perhaps in the middle; other clients do not notice."""
        with (
            contextlib.suppress(OSError, ssl.SSLError, Closed, AssertionError),
            socket.create_connection(self.addresses[listener], timeout=10) as sock,
        ):
            if rng.random() < 0.7:
                sock.recv(1000)
            if tls:
                sock.sendall(b"EHLO x\r\nSTARTTLS\r\n")
                said = b""
                while b"220 2.0.0" not in said:
                    if not (more := sock.recv(4000)):
                        return
                    said += more
                sock = self.certificate.client_context().wrap_socket(sock, server_hostname=self.certificate.name)
            for piece in pieces(rng, data):
                sock.sendall(piece)
            if rng.random() < 0.5:
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(2)
                while sock.recv(4000):
                    pass

    def settle(self) -> None:
        """What the attacks have stored is taken away; nothing was an internal error."""
        events = self.server.events
        with self.server._changed:
            seen, events[:] = list(events), [e for e in events if e["event"] == "server.started"]
        assert [e for e in seen if "exception" in e or e["event"] == "message.failed"] == []
        foreign = {e["id"] for e in seen if e["event"] == "message.received" and e["listener"] == "network"}
        leaving = {e["id"] for e in seen if e["event"] in ("message.queued", "message.forwarded")}
        assert not foreign & leaving, "the network never relays"
        assert self.server.other_output == []
        assert self.server.process.poll() is None
        names = [p.name for p in self.server.spool.iterdir()]
        assert set(names) <= {"bob", ".queue", ".new"}, names
        bob = self.server.spool / "bob"
        for path in bob.iterdir():
            if path.name.isdigit():
                path.unlink()


@pytest.fixture(autouse=True)
def seed() -> None:
    print(f"SMTPMAIL_FUZZ_SEED={SEED}")  # shown when a test fails


@pytest.fixture
def attack(servers: Servers, certificate: Certificate, tmp_path: Path) -> Iterator[Attack]:
    (tmp_path / "users").write_text("bob\n")
    server = servers.start(
        *certificate.options, "--users", str(tmp_path / "users"), "--timeout", "10", "--retry-schedule", "1h"
    )
    made = Attack(server, certificate)
    yield made
    for client in made.clients.values():
        client.close()


def test_contents(attack: Attack) -> None:
    """Every content of the corpus in every way; then mixtures of them."""
    rng = random.Random(SEED)
    contents = corpus("contents")
    ways = [(verb, tls) for verb in ("DATA", "BDAT") for tls in (False, True)]
    for content in contents:
        for verb, tls in ways:
            attack.deliver(rng, content, verb, tls=tls)
    give_up = time.monotonic() + SECONDS
    while time.monotonic() < give_up:
        for _ in range(50):
            verb, tls = rng.choice(ways)
            attack.deliver(rng, mixed(rng, contents), verb, tls=tls)
        attack.settle()
    assert attack.server.stop() == 0


def test_sessions(attack: Attack) -> None:
    """Every session of the corpus; then mixtures of them. In between, mail of others arrives as it was sent."""
    rng = random.Random(SEED)
    sessions = corpus("sessions")
    kinds = [(x, tls) for x in ("network", "loopback") for tls in (False, True)]
    for session in sessions:
        for listener, tls in kinds:
            attack.assault(rng, session, listener, tls=tls)
    attack.deliver(rng, b"Subject: x\r\n\r\nx\r\n", "DATA", tls=True)
    attack.settle()
    give_up = time.monotonic() + SECONDS
    while time.monotonic() < give_up:
        for _ in range(50):
            listener, tls = rng.choice(kinds)
            attack.assault(rng, mixed(rng, sessions), listener, tls=tls)
        attack.settle()
        with Client(attack.addresses["network"]) as client:
            client.ehlo()
            assert client.deliver().code == 250
    assert attack.server.stop() == 0
