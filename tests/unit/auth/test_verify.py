"""All checks of a message together: right verdicts, whatever the DNS does, in bounded time."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from support.zone import TIMEOUT, Zone

from smtpmail.auth import dkim_sign, exempt
from smtpmail.auth.dkim_keys import Key, KeyFolder
from smtpmail.auth.exempt import Exemptions
from smtpmail.auth.fields import split_header
from smtpmail.auth.lookup import Lookup
from smtpmail.auth.verify import MessageCheck, Verdict
from smtpmail.dns.errors import DNSError

CLIENT = ipaddress.ip_address("192.0.2.1")
NOW = 1_700_000_000.0
PLAIN = b"From: Bank <ceo@bank.example>\nTo: bob@dom.fr\nSubject: x\n\nHi.\n"


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return KeyFolder(str(tmp_path_factory.mktemp("keys"))).create("bank.example", "rsa", "s")


@pytest.fixture
def records(key: Key) -> dict[str, Any]:
    return {
        "bank.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
        "_dmarc.bank.example": {"TXT": ["v=DMARC1; p=reject"]},
        key.record_name: {"TXT": [key.record]},
        "1.2.0.192.in-addr.arpa": {"PTR": ["mx.bank.example."]},
        "mx.bank.example": {"A": ["192.0.2.1"], "TXT": ["v=spf1 a -all"]},
        "evil.example": {"TXT": ["v=spf1 +all"]},
    }


def signed(key: Key, message: bytes = PLAIN) -> bytes:
    header, _, body = message.partition(b"\n\n")
    hashed = dkim_sign.body_hash()
    hashed.update(body)
    return dkim_sign.sign(split_header(header + b"\n"), hashed.digest(), [key], NOW) + message


def verdict(
    message: bytes,
    lookup: Lookup,
    *,
    client: str | None = "192.0.2.1",
    sender: str = "ceo@bank.example",
    timeout: float = 10.0,
    exemptions: Exemptions | None = None,
) -> Verdict:
    check = MessageCheck(ipaddress.ip_address(client) if client else None, "mx.bank.example", sender, NOW)
    for i in range(0, len(message), 1000):
        check.write(message[i : i + 1000])
    return check.finish(lookup, timeout, exemptions)


def test_a_good_message(key: Key, records: dict[str, Any]) -> None:
    found = verdict(signed(key), Zone(records))
    assert found.field("mx.dom.fr").replace(b"\n\t", b" ").decode() == (
        "Authentication-Results: mx.dom.fr; spf=pass smtp.mailfrom=ceo@bank.example; "
        "dkim=pass header.d=bank.example header.s=s; dmarc=pass header.from=bank.example; "
        "iprev=pass policy.iprev=192.0.2.1\n"
    )
    assert (found.disposition, found.reason) == ("none", "it is from bank.example: DKIM and SPF pass")


def test_a_forged_message(records: dict[str, Any]) -> None:
    found = verdict(PLAIN, Zone(records), client="198.51.100.1", sender="x@evil.example")
    assert (found.dmarc.result, found.disposition) == ("fail", "reject")
    assert found.reason == (
        "nothing proves that it is from bank.example (SPF pass for evil.example; no DKIM signature)"
    )
    found = verdict(PLAIN, Zone(records), client="198.51.100.1")
    assert found.reason.endswith("SPF: 198.51.100.1 may not send mail of bank.example (-all)")


def test_a_forwarded_message(key: Key, records: dict[str, Any]) -> None:
    found = verdict(signed(key), Zone(records), client="198.51.100.1", sender="list@evil.example")
    assert (found.dmarc.result, found.disposition) == ("pass", "none")


def test_a_notification(key: Key, records: dict[str, Any]) -> None:
    found = verdict(signed(key), Zone(records), sender="")
    assert "; spf=pass smtp.helo=mx.bank.example;" in found.field("m").decode().replace("\n\t", " ")


def test_exemptions(records: dict[str, Any]) -> None:
    exemptions, _ = exempt.parse(["bank.example"])
    found = verdict(PLAIN, Zone(records), client="198.51.100.1", exemptions=exemptions)
    assert (found.dmarc.result, found.disposition, found.exempted) == ("fail", "none", "bank.example")
    assert found.field("m").decode().endswith("(let through: bank.example is exempted)\n")


@pytest.mark.parametrize(
    ("silent", "results"),
    [
        ("bank.example", ("temperror", ["pass"], "pass", "pass")),
        ("s._domainkey.bank.example", ("pass", ["temperror"], "pass", "pass")),
        ("_dmarc.bank.example", ("pass", ["pass"], "temperror", "pass")),
        ("1.2.0.192.in-addr.arpa", ("pass", ["pass"], "pass", "temperror")),
    ],
)
def test_one_name_that_does_not_answer(
    key: Key, records: dict[str, Any], silent: str, results: tuple[str, list[str], str, str]
) -> None:
    found = verdict(signed(key), Zone({**records, silent: TIMEOUT}))
    assert found.spf
    assert found.iprev
    assert (found.spf.result, [d.result for d in found.dkim], found.dmarc.result, found.iprev.result) == results
    assert found.disposition == "none"


class Silent:
    """A DNS that never answers for names with one of these ends; all others at once."""

    def __init__(self, zone: Zone, *ends: str) -> None:
        self._zone = zone
        self._ends = ends
        self.over = threading.Event()
        self.asked = 0

    def __call__(self, name: str, kind: str) -> Sequence[str]:
        self.asked += 1
        if name.endswith(self._ends):
            self.over.wait(60)
            raise DNSError("at last")
        return self._zone(name, kind)


def test_a_dns_that_never_answers(key: Key, records: dict[str, Any]) -> None:
    silent = Silent(Zone(records), "")
    start = time.monotonic()
    found = verdict(signed(key), silent, timeout=0.3)
    assert time.monotonic() - start < 20
    assert found.field("m").decode().replace("\n\t", " ").count("temperror") == 4
    assert found.disposition == "none"
    asked = silent.asked
    silent.over.set()
    time.sleep(0.1)
    assert silent.asked == asked  # what came too late asks nothing more


@pytest.mark.parametrize("sender", ["x@evil.example", "x@slow.com"])
def test_a_forger_wins_nothing_by_silence(records: dict[str, Any], sender: str) -> None:
    """His own name servers never answer, and he has ten signatures; the bank's policy is known all the same."""
    records = {**records, "_dmarc.bank.example": {"TXT": ["v=DMARC1; p=reject"]}}
    forged = b"".join(
        b"DKIM-Signature: v=1; a=rsa-sha256; d=evil.example; s=s%d; h=from; "
        b"bh=%b; b=AAAA\n" % (i, base64.b64encode(hashlib.sha256(b"Hi.\r\n").digest()))
        for i in range(100)
    )
    silent = Silent(Zone(records), "evil.example", "slow.com")
    found = verdict(forged + PLAIN, silent, client="198.51.100.1", sender=sender, timeout=3.0)
    silent.over.set()
    assert {d.result for d in found.dkim} == {"temperror"}
    assert (found.dmarc.result, found.disposition) == ("fail", "reject")


def test_a_huge_header(records: dict[str, Any]) -> None:
    """The author behind 10 MB is found; who hides it is not believed."""
    filling = b"X: " + b"x" * 996 + b"\n"
    found = verdict(filling * 10_000 + PLAIN, Zone(records), client="198.51.100.1", sender="x@evil.example")
    assert (found.dmarc.result, found.disposition) == ("fail", "reject")
    found = verdict(filling * 300 + b"To: x\n\n", Zone(records), client="198.51.100.1")
    assert (found.dmarc.result, found.disposition) == ("permerror", "quarantine")
    assert [d.result for d in found.dkim] == ["permerror"]


@pytest.mark.parametrize("message", [b"", b"\n", b"no header\n\nx\n", b"To: x\n\nHi.\n"])
def test_without_an_author(records: dict[str, Any], message: bytes) -> None:
    found = verdict(message, Zone(records))
    assert (found.dmarc.result, found.disposition) == ("permerror", "none")


def test_without_a_client(key: Key, records: dict[str, Any]) -> None:
    found = verdict(signed(key), Zone(records), client=None)
    assert (found.spf, found.iprev, found.dmarc.result) == (None, None, "pass")
    assert "spf=" not in found.field("m").decode()


def test_rows_for_people(key: Key, records: dict[str, Any]) -> None:
    rows = verdict(signed(key), Zone(records)).rows()
    assert rows == [
        ("spf", "pass", "192.0.2.1 may send mail of bank.example (ip4:192.0.2.1)"),
        ("dkim", "pass", "signature of bank.example with the key s"),
        ("dmarc", "pass", "it is from bank.example: DKIM and SPF pass"),
        ("iprev", "pass", "192.0.2.1 is mx.bank.example, and back"),
    ]


def test_mistakes_are_not_hidden(key: Key) -> None:
    def broken(name: str, kind: str) -> Sequence[str]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        verdict(signed(key), broken)


def test_a_host_without_a_thread_to_spare(key: Key, records: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert verdict(signed(key), Zone(records)).dmarc.result == "pass"
