"""What strangers write, and publish, to burn a server's time and memory: the right answer, and little of either."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.nameserver import NameServer
from support.server import Server, Servers

from smtpmail.admin.dns_records import quoted

MIB = 1024**2
MEMORY = 16 * MIB
"""What a message may cost beside itself on the disk; their largest is 30 MiB."""
CPU_SECONDS = 20.0
QUESTIONS = 160
BH = base64.b64encode(hashlib.sha256(b"Hi.\r\n").digest()).decode()


def key_record(bits: int) -> str:
    numbers = RSAPublicNumbers(65537, int.from_bytes(os.urandom(bits // 8)) | 1 << bits - 1 | 1)
    key = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return quoted(f"v=DKIM1; p={base64.b64encode(key).decode()}")


def zone() -> str:
    lines = [
        'bank.test. 60 TXT "v=spf1 ip4:192.0.2.1 -all"',
        '_dmarc.bank.test. 60 TXT "v=DMARC1; p=reject"',
        f"long.test. 60 TXT {quoted('v=spf1 ' + 'a ' * 30_000)}",
        "loop.test. 60 CNAME loop2.test.",
        "loop2.test. 60 CNAME loop.test.",
        '_dmarc.loop.test. 60 TXT "v=DMARC1; p=reject"',
        f"small._domainkey.bank.test. 60 TXT {key_record(512)}",
        f"large._domainkey.bank.test. 60 TXT {key_record(16384)}",
        f"long._domainkey.bank.test. 60 TXT {quoted('v=DKIM1; p=' + 'A' * 60_000)}",
        "loop._domainkey.bank.test. 60 CNAME loop.test.",
    ]
    lines += [f'many.test. 60 TXT "v=spf1 ip4:192.0.2.{n} -all"' for n in range(250)]
    for n in range(20):
        includes = " ".join(f"include:i{(n * 10 + m) % 20}.bomb.test mx:i{m}.bomb.test" for m in range(10))
        lines.append(f"i{n}.bomb.test. 60 TXT {quoted(f'v=spf1 {includes}')}")
        lines += [f"i{n}.bomb.test. 60 MX {m} h{n}-{m}.bomb.test." for m in range(10)]
    return "\n".join(lines)


def signature(selector: str, *, algorithm: str = "rsa-sha256", domain: str = "bank.test", more: str = "") -> bytes:
    tags = f"v=1; a={algorithm}; c=relaxed/relaxed; d={domain}; s={selector}; h=from; bh={BH}; b=AAAA{more}"
    return f"DKIM-Signature: {tags}\r\n".encode()


def signatures(*selectors: str) -> bytes:
    return b"".join(signature(selector) for selector in selectors)


TEXT = b"From: ceo@bank.test\r\nSubject: x\r\n\r\nHi.\r\n"
LINE = b"a \t b  c  " * 90 + b"\r\n"

Pieces = Sequence[bytes]
MESSAGES: dict[str, tuple[str, Pieces, int]] = {
    "100 signatures": ("x@bank.test", [signatures(*(f"s{n}" for n in range(100))), TEXT], 550),
    "keys of all sizes": ("x@bank.test", [signatures("small", "large", "long"), TEXT], 550),
    "a key behind aliases in a circle": ("x@bank.test", [signatures("loop"), TEXT], 250),
    "sha1": ("x@bank.test", [signature("s", algorithm="rsa-sha1"), TEXT], 550),
    "x= past": ("x@bank.test", [signature("s", more="; x=1600000000"), TEXT], 550),
    "parts of a long body": (
        "x@bank.test", [*(signature(f"s{n}", more=f"; l={n * 999}") for n in range(10)), TEXT, *[LINE] * 30_000], 550,
    ),
    "10 MB of header": ("x@bank.test", [*[b"X: " + b"x" * 996 + b"\r\n"] * 10_000, TEXT], 550),
    "10 MB in one field": ("x@bank.test", [b"X: a\r\n", *[b" " + b"x" * 900 + b"\r\n"] * 11_000, TEXT], 550),
    "an SPF bomb": ("x@i1.bomb.test", [TEXT], 550),
    "64 KB of SPF": ("x@long.test", [TEXT], 550),
    "250 SPF records": ("x@many.test", [TEXT], 550),
    "aliases in a circle": ("x@loop.test", [TEXT.replace(b"bank.test", b"loop.test")], 250),
    "keys that do not come": ("x@bank.test", [*(signature(f"s{n}", domain="d.mute") for n in range(100)), TEXT], 550),
    "a key of the author that does not come": ("x@bank.test", [signature("s", domain="mute.bank.test"), TEXT], 250),
    "a policy that does not come": ("x@bank.test", [TEXT.replace(b"bank.test", b"bank.mute")], 250),
}  # fmt: skip


@pytest.fixture(scope="module")
def dns() -> Iterator[NameServer]:
    with NameServer(zone()) as server:
        yield server


@pytest.fixture(scope="module")
def server(dns: NameServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Servers(tmp_path_factory.mktemp("hostile")) as servers:
        server = servers.start("--resolver", str(dns.endpoint), "--verify", "enforce", "--processes", "1")
        # What is loaded for the first of all is there from now on.
        send(server, "x@bank.test", [signatures("small"), TEXT])
        yield server


def send(server: Server, sender: str, pieces: Pieces) -> int:
    with server.client("network", timeout=60) as client:
        client.begin("bob@dom.fr", sender=sender)
        client.expect("DATA", 354)
        for piece in chain(pieces, [b".\r\n"]):
            client.send(piece)
        return client.read().code


def cpu_seconds(server: Server) -> float:
    ticks = 0
    for pid in server.processes():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", MESSAGES)
def test_hostile_mail(server: Server, dns: NameServer, name: str) -> None:
    sender, pieces, code = MESSAGES[name]
    dns.asked.clear()
    server.forget_peak()
    before, cpu = server.peak(), cpu_seconds(server)
    assert send(server, sender, pieces) == code
    assert server.peak() - before < MEMORY
    assert cpu_seconds(server) - cpu < CPU_SECONDS
    assert dns.asked.total() <= QUESTIONS
