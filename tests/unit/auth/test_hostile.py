"""What strangers write to burn our time, memory and questions to the DNS: bounded, and with the right verdict."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.zone import TIMEOUT, Zone

from smtpmail.auth import dkim_sign
from smtpmail.auth.dkim import MAX_HASHES, MAX_SIGNATURES
from smtpmail.auth.dkim_keys import Key, KeyFolder
from smtpmail.auth.fields import split_header
from smtpmail.auth.verify import MessageCheck, Verdict
from smtpmail.dns.errors import DNSError

NOW = 1_700_000_000.0
CPU_SECONDS = 5.0
"""Ten times what the worst of them needs on a slow machine. What is not bounded needs minutes."""
QUESTIONS = 160
MEMORY = 8 * 1024**2
"""Octets, twice what the worst of them needs: less than its message takes."""

TEXT = b"From: ceo@bank.example\nSubject: x\n\nHi.\n"
BH = base64.b64encode(hashlib.sha256(b"Hi.\r\n").digest()).decode()
BANK: dict[str, Any] = {
    "bank.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.bank.example": {"TXT": ["v=DMARC1; p=reject"]},
}
LONG = 15_900


def check(message: bytes, lookup: Any, *, sender: str = "x@evil.example", timeout: float = 30.0) -> Verdict:
    checked = MessageCheck(ipaddress.ip_address("198.51.100.1"), "mx.evil.example", sender, NOW)
    for i in range(0, len(message), 65536):
        checked.write(message[i : i + 65536])
    return checked.finish(lookup, timeout)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return KeyFolder(str(tmp_path_factory.mktemp("keys"))).create("bank.example", "rsa", "s")


def signed(key: Key, message: bytes = TEXT) -> bytes:
    header, _, body = message.partition(b"\n\n")
    hashed = dkim_sign.body_hash()
    hashed.update(body)
    return dkim_sign.sign(split_header(header + b"\n"), hashed.digest(), [key], NOW) + message


def fake(number: int, tags: str = "") -> bytes:
    return f"DKIM-Signature: v=1; a=rsa-sha256; d=d{number}.example; s=s; h=from; bh={BH}; b=AAAA{tags}\n".encode()


def evil(*texts: str, **more: Any) -> dict[str, Any]:
    return {**BANK, "evil.example": {"TXT": list(texts)}, **more}


def policies(*texts: str) -> dict[str, Any]:
    return {**BANK, "_dmarc.bank.example": {"TXT": list(texts)}}


@dataclass(frozen=True)
class Case:
    """A message and a DNS; the result of SPF, those of DKIM, of DMARC, and what becomes of the message."""

    spf: str
    dkim: set[str]
    dmarc: str
    disposition: str
    message: bytes = TEXT
    zone: dict[str, Any] = field(default_factory=lambda: BANK)
    sender: str = "x@evil.example"


def bomb(depth: int) -> dict[str, Any]:
    """Every name includes ten others and asks for the mail hosts of ten."""
    return {
        f"i{n}.example": {
            "TXT": [
                "v=spf1 " + " ".join(f"include:i{(n * 10 + m) % depth}.example mx:i{m}.example" for m in range(10))
            ],
            "MX": [f"10 h{m}.example." for m in range(10)],
        }
        for n in range(depth)
    }


NOTHING = ("none", {"none"}, "fail", "reject")
CASES = {
    "100 signatures": Case("none", {"permerror"}, "fail", "reject", b"".join(map(fake, range(100))) + TEXT),
    "a header full of signatures": Case(
        "none", {"permerror"}, "fail", "reject", b"".join(map(fake, range(2500))) + TEXT
    ),
    "10 MB of header": Case("none", {"permerror"}, "fail", "reject", (b"X: " + b"x" * 996 + b"\n") * 10_000 + TEXT),
    "10 MB in one line of header": Case("none", {"permerror"}, "fail", "reject", b"X: " + b"x" * 10**7 + b"\n" + TEXT),
    "signatures of parts": Case(
        "none", {"policy", "fail"}, "fail", "reject",
        b"".join(fake(n, f"; c=relaxed/relaxed; l={n}") for n in range(10)) + TEXT + b"a \t b  c\n" * 600_000,
    ),
    "5,000 authors": Case(
        "none", {"none"}, "permerror", "reject",
        b"From: " + b", ".join(b"a@b%d.example" % n for n in range(1000)) + b"\n" + TEXT,
        {**BANK, "_dmarc.b0.example": {"TXT": ["v=DMARC1; p=reject"]}},
    ),
    "an author of 120 labels": Case(
        "none", {"none"}, "none", "none", b"From: x@" + b"a." * 120 + b"example\n\nHi.\n",
    ),
    "sha1": Case("none", {"policy"}, "fail", "reject", fake(1).replace(b"sha256", b"sha1") + TEXT),
    "x= past": Case("none", {"fail"}, "fail", "reject", fake(1, "; x=1600000000") + TEXT),
    "no number": Case("none", {"permerror"}, "fail", "reject", fake(1, "; l=" + "9" * 500) + TEXT),
    "two SPF records": Case("permerror", {"none"}, "fail", "reject", zone=evil("v=spf1 +all", "v=spf1 -all")),
    "64 KB of SPF": Case("permerror", {"none"}, "fail", "reject", zone=evil("v=spf1 " + "a " * 32_000)),
    "more than 64 KB": Case("none", {"none"}, "fail", "reject", zone=evil("v=spf1 " + "a " * 40_000)),
    "1,000 TXT records": Case("none", {"none"}, "fail", "reject", zone=evil(*(f"text {n}" for n in range(1000)))),
    "an SPF bomb": Case("permerror", {"none"}, "fail", "reject", zone={**BANK, **bomb(50)}, sender="x@i1.example"),
    "SPF in a circle": Case("permerror", {"none"}, "fail", "reject", zone=evil("v=spf1 include:evil.example")),
    "an alias in a circle": Case(
        "temperror", {"none"}, "fail", "reject", zone={**BANK, "evil.example": {"CNAME": ["evil.example"]}}
    ),
    "macros that grow": Case(
        "softfail", {"none"}, "fail", "reject", zone=evil("v=spf1 exists:" + "%{d}.%{s}." * 1500 + "example ~all"),
        sender="a." * 30 + "a@evil.example",
    ),
    "an explanation that grows": Case(
        "fail", {"none"}, "fail", "reject",
        zone=evil("v=spf1 -all exp=e.example", **{"e.example": {"TXT": ["%{s}" * 10_000]}}),
    ),
    "1,000 mail hosts": Case(
        "permerror", {"none"}, "fail", "reject",
        zone={**BANK, "evil.example": {"TXT": ["v=spf1 mx -all"], "MX": [f"1 h{n}." for n in range(1000)]}},
    ),
    "1,000 names of the client": Case(
        "neutral", {"none"}, "fail", "reject",
        zone=evil("v=spf1 ptr ?all", **{"1.100.51.198.in-addr.arpa": {"PTR": [f"h{n}.example." for n in range(1000)]}}),
    ),
    "a policy of 64 KB": Case(
        "none", {"none"}, "fail", "reject", zone=policies("v=DMARC1; p=reject;" + " " * 65_000)
    ),
    "two policies": Case(
        "none", {"none"}, "none", "none", zone=policies("v=DMARC1; p=reject", "v=DMARC1; p=none")
    ),
    "a policy that does not come": Case(
        "none", {"none"}, "temperror", "none", zone={**BANK, "_dmarc.bank.example": TIMEOUT}
    ),
}  # fmt: skip
for number, term in enumerate(
    [
        "a:." + "a" * LONG + "!", "a:." + "a-" * (LONG // 2) + "!", "a:" + ".a" * (LONG // 2) + "!", "a:." + "1" * LONG,
        "a:" + "%{d}" * (LONG // 4) + "!", "redirect=" + ".1a" * (LONG // 3) + "%", "ip6:" + ":" * LONG,
        "ip4:" + "1." * (LONG // 2), "a/" + "/" * LONG, "x=" + "%{d}" * (LONG // 4) + "%", "a" * LONG,
    ]
):  # fmt: skip
    CASES[f"a term of 16 KB, {number}"] = Case(
        "permerror", {"none"}, "fail", "reject", zone=evil(f"v=spf1 {term} -all")
    )


@pytest.mark.parametrize("name", CASES)
def test_bounded(name: str) -> None:
    case = CASES[name]
    zone = Zone(case.zone)
    begun = time.process_time()
    found = check(case.message, zone, sender=case.sender)
    field = found.field("mx.dom.fr")
    assert time.process_time() - begun < CPU_SECONDS
    assert len(zone.asked) <= QUESTIONS
    assert len(found.dkim) <= MAX_SIGNATURES
    assert found.spf
    results = {one.result for one in found.dkim} or {"none"}
    assert (found.spf.result, results, found.dmarc.result, found.disposition) == (
        case.spf, case.dkim, case.dmarc, case.disposition,
    )  # fmt: skip
    assert len(field) < 8192
    assert len(found.reason) < 2000


@pytest.mark.parametrize("name", CASES)
def test_memory_is_bounded(name: str) -> None:
    case = CASES[name]
    tracemalloc.start()
    try:
        check(case.message, Zone(case.zone), sender=case.sender)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


def test_the_authors_signature_among_100(key: Key) -> None:
    zone = Zone({**BANK, key.record_name: {"TXT": [key.record]}})
    found = check(b"".join(map(fake, range(100))) + signed(key), zone)
    assert (found.dmarc.result, found.disposition) == ("pass", "none")


@pytest.mark.parametrize(
    ("records", "result"),
    [
        (["{key}"], "pass"),
        (["text", "v=DKIM1; p=AAAA", "{key}"], "pass"),
        (["{key}" + " " * 65_536], "permerror"),
        (["v=DKIM1; p=" + base64.b64encode(b"\x30" * 2048).decode()], "policy"),
        (["v=DKIM1; p=" + base64.b64encode(b"\x30" * 80).decode()], "policy"),
        (["v=DKIM1; p="], "permerror"),
        ([], "permerror"),
    ],
)
def test_keys(key: Key, records: list[str], result: str) -> None:
    zone = Zone({**BANK, key.record_name: {"TXT": [text.replace("{key}", key.record) for text in records]}})
    if not records:
        zone = Zone(BANK)
    found = check(signed(key), zone)
    assert [one.result for one in found.dkim] == [result], found.dkim
    assert found.disposition == ("none" if result == "pass" else "reject")


def test_parts_of_a_body_are_hashed_a_few_times_only(key: Key) -> None:
    fields = b"".join(fake(n, f"; l={n}") for n in range(10))
    found = check(fields + TEXT, Zone(BANK))
    assert len([one for one in found.dkim if "too many different parts" in one.reason]) == 10 - MAX_HASHES


class Slow:
    """A DNS that takes its time for each question."""

    def __init__(self, zone: Zone, seconds: float) -> None:
        self._zone = zone
        self._seconds = seconds
        self.asked = 0

    def __call__(self, name: str, kind: str) -> Sequence[str]:
        self.asked += 1
        time.sleep(self._seconds)
        return self._zone(name, kind)


def test_a_dns_that_is_slow_for_every_question() -> None:
    """Each answers in time, all together do not; what is late is no refusal, and it ends."""
    slow = Slow(Zone(evil("v=spf1 " + "a:h.example " * 9 + "-all")), 0.2)
    begun = time.monotonic()
    found = check(b"".join(map(fake, range(100))) + TEXT, slow, timeout=0.5)
    assert time.monotonic() - begun < 20
    assert found.spf and found.spf.result == "temperror"
    assert found.disposition in ("none", "reject")
    asked = slow.asked
    time.sleep(0.5)
    assert slow.asked == asked


def test_a_dns_that_is_slow_only_in_the_end(key: Key) -> None:
    """The alignment of a signature is looked up last; that is given up, too."""
    records = {**BANK, "_dmarc.bank.example": {"TXT": ["v=DMARC1; p=reject"]}, key.record_name: {"TXT": [key.record]}}
    records["_dmarc.a.bank.example"] = {"TXT": ["v=DMARC1; p=reject"]}
    text = TEXT.replace(b"ceo@bank", b"ceo@a.bank")

    def lookup(name: str, kind: str) -> Sequence[str]:
        if name == "_dmarc.bank.example":
            time.sleep(2)
            raise DNSError("late")
        return Zone(records)(name, kind)

    begun = time.monotonic()
    found = check(signed(key, text), lookup, timeout=0.3)
    assert time.monotonic() - begun < 1.9
    assert (found.dmarc.result, found.disposition) == ("temperror", "none")
