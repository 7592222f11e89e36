"""Questions to DNS, asked of real servers on loopback that the test writes itself."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
from support.nameserver import NameServer

from smtpmail.dns import resolver as module
from smtpmail.dns.errors import DNSError, NoSuchName, NoSuchRecord
from smtpmail.dns.resolver import Resolver, name_servers
from smtpmail.settings.values import Endpoint

ZONE = """
one.test.       60 MX 10 mx1.one.test.
mx1.one.test.   60 A 192.0.2.1
one.test.       60 SOA ns.one.test. root.one.test. 1 2 3 4 5
alias.test.     60 CNAME one.test.
fleeting.test.  0 MX 10 mx1.one.test.
text.test.      60 TXT "v=spf1 " "mx -all"
"""


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_SECONDS", 0.2)
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.7)


def test_values(names: NameServer) -> None:
    asked = Resolver([names.endpoint])
    assert asked.lookup("One.test.", "MX") == ("10 mx1.one.test.",)
    assert asked.lookup("alias.test", "MX") == ("10 mx1.one.test.",)
    assert asked.lookup("text.test", "TXT") == ("v=spf1 mx -all",)
    assert asked.records("text.test", "TXT") == ['"v=spf1 " "mx -all"']
    assert asked.records("nothing.test", "A") == asked.records("one.test", "A") == []
    assert asked.addresses("mx1.one.test") == ["192.0.2.1"]
    assert asked.zone_of("deep.below.mx1.one.test") == "one.test."


@pytest.mark.parametrize(
    ("name", "error"),
    [("nothing.test", NoSuchName), ("mx1.one.test", NoSuchRecord), ("x.broken.test", DNSError), ("x.mute", DNSError),
     ("a" * 64 + ".test", DNSError), ("a..b", DNSError)],
)  # fmt: skip
def test_no_value(names: NameServer, name: str, error: type[DNSError]) -> None:
    with pytest.raises(DNSError) as caught:
        Resolver([names.endpoint]).lookup(name, "MX")
    assert type(caught.value) is error
    assert str(caught.value).isprintable()


def test_answers_are_kept_for_their_ttl(names: NameServer) -> None:
    now = [0.0]
    asked = Resolver([names.endpoint], clock=lambda: now[0])
    for _ in range(5):
        asked.lookup("one.test", "MX")
    assert names.asked["one.test", "MX"] == 1
    now[0] = 61
    asked.lookup("one.test", "MX")
    assert names.asked["one.test", "MX"] == 2
    for _ in range(3):
        asked.lookup("fleeting.test", "MX")
    assert names.asked["fleeting.test", "MX"] == 3, "a TTL of 0 is for this once"


def test_one_wrong_type_says_nothing_about_another() -> None:
    """NXDOMAIN for AAAA, from a server that knows only A, may not hide the A record behind a cache."""
    with NameServer(ZONE, {"AAAA": dns.rcode.NXDOMAIN}) as names:
        asked = Resolver([names.endpoint])
        with pytest.raises(NoSuchName):
            asked.lookup("mx1.one.test", "AAAA")
        assert asked.lookup("mx1.one.test", "A") == ("192.0.2.1",)


def test_a_dead_server_costs_its_patience_once(names: NameServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        asked = Resolver([Endpoint(*deaf.getsockname()), names.endpoint])
        assert asked.lookup("one.test", "MX")
        deaf.setblocking(False)
        deaf.recv(4096)
        assert asked.lookup("mx1.one.test", "A") and asked.lookup("text.test", "TXT")
        with pytest.raises(BlockingIOError):
            deaf.recv(4096)


def test_a_server_that_fails_is_not_the_last_word(names: NameServer) -> None:
    with NameServer("", {"MX": dns.rcode.SERVFAIL}) as broken:
        assert Resolver([broken.endpoint, names.endpoint]).lookup("one.test", "MX")


def test_silence_is_asked_about_once(names: NameServer) -> None:
    """Mail for many users of a domain whose servers are dead does not wait for each of them."""
    asked = Resolver([names.endpoint])
    for _ in range(2):
        with pytest.raises(DNSError):
            asked.lookup("x.mute", "MX")
    before = names.asked.total()
    began = time.monotonic()
    with pytest.raises(DNSError):
        asked.lookup("x.mute", "MX")
    assert names.asked.total() == before and time.monotonic() - began < 3.0  # QUERY_SECONDS


def test_resolv_conf_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search example\nnameserver 192.0.2.53 # first\nnameserver 2001:db8::53\nnameserver what\n")
    assert name_servers(str(file)) == ["192.0.2.53", "2001:db8::53"]
    assert name_servers(str(tmp_path / "none")) == ["127.0.0.1"], "as the C library has it"
    with NameServer(ZONE) as first, NameServer(ZONE) as second:
        ports: dict[str, Any] = {"127.0.0.1": first.endpoint.port, "127.0.0.2": second.endpoint.port}
        from smtpmail.dns import wire

        ask = wire.query
        monkeypatch.setattr(wire, "query", lambda n, k, server, port, t: ask(n, k, "127.0.0.1", ports[server], t))
        file.write_text("nameserver 127.0.0.1\n")
        asked = Resolver(resolv_conf=str(file))
        asked.lookup("one.test", "MX")
        file.write_text("nameserver 127.0.0.2  \n")
        asked.lookup("one.test", "MX")
    assert first.asked.total() == second.asked.total() == 1


def test_dnspython_comes_with_the_first_question() -> None:
    """A server that only receives does without its memory."""
    import subprocess
    import sys

    code = "import sys, smtpmail.dns.resolver, smtpmail.outbound.destinations; sys.exit('dns.message' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_cache_is_bounded_in_octets(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's records of 64 KiB push out others; they fill no memory."""
    monkeypatch.setattr(module, "CACHE_OCTETS", 100)
    asked = Resolver([names.endpoint])
    for _ in range(3):
        asked.lookup("text.test", "TXT")
    assert names.asked["text.test", "TXT"] == 1
    for _ in range(2):
        for name in ("one.test", "mx1.one.test", "alias.test"):
            asked.lookup(name, "A" if name.startswith("mx1") else "MX")
    asked.lookup("text.test", "TXT")
    assert names.asked["text.test", "TXT"] == 2
    monkeypatch.setattr(module, "CACHE_OCTETS", 10)
    for _ in range(2):
        asked.lookup("one.test", "MX")
    assert names.asked["one.test", "MX"] > 2
    assert asked._cached_octets == 0
