"""DMARC: which policy, which domains belong together, what is to be done."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.zone import TIMEOUT, Zone

from smtpmail.auth.dmarc import DmarcResult, Identifier, author_domains, evaluate
from smtpmail.auth.dmarc_record import MAX_QUERIES, Record, Tree, parse_record, walk
from smtpmail.auth.fields import split_header


def records(**policies: str | list[str]) -> dict[str, Any]:
    """`com__example="p=none"` is a record at _dmarc.example.com."""
    found: dict[str, Any] = {}
    for name, texts in policies.items():
        domain = ".".join(reversed(name.split("__")))
        listed = [texts] if isinstance(texts, str) else texts
        found[f"_dmarc.{domain}"] = {"TXT": [t if "v=" in t or not t else f"v=DMARC1; {t}" for t in listed]}
    return found


# -- the record


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("v=DMARC1; p=reject", ("reject", "reject", "reject", False, False, "u", False)),
        ("v=DMARC1;p=reject;sp=none", ("reject", "none", "none", False, False, "u", False)),
        ("v=DMARC1; p=none; np=reject; t=y", ("none", "none", "reject", False, False, "u", True)),
        ("v=DMARC1; p=Reject; ADKIM=S; aspf=s; psd=n;", ("reject", "reject", "reject", True, True, "n", False)),
        ("v = DMARC1 ; p = quarantine ; psd=y; t=n", ("quarantine",) * 3 + (False, False, "y", False)),
        ("v=DMARC1; p=reject; pct=0; rf=x; ri=y; unknown", ("reject",) * 3 + (False, False, "u", False)),
        ("v=DMARC1", ("none",) * 3 + (False, False, "u", False, False)),
        ("v=DMARC1; p=nonsense; rua=,!; ruf=mailto:x@y", ("none",) * 3 + (False, False, "u", False, False)),
        ("v=DMARC1; rua=nonsense , mailto:x@y!10m", ("none",) * 3 + (False, False, "u", False)),
        ("v=DMARC1; p=nonsense; rua=mailto:x@y", ("none",) * 3 + (False, False, "u", False)),
        ("v=DMARC1; p=reject; sp=nonsense", ("none",) * 3 + (False, False, "u", False, False)),
        ("v=DMARC1; p=reject; psd=x; t=maybe", ("reject",) * 3 + (False, False, "u", False)),
        ("v=DMARC1; p=reject; p=none", ("reject",) * 3 + (False, False, "u", False)),
    ],
)
def test_records(text: str, record: tuple[Any, ...]) -> None:
    assert parse_record(text) == Record(*record)


@pytest.mark.parametrize("text", ["", "v=DMARC2; p=none", "v=DMARC10", "p=none; v=DMARC1", "v=spf1 -all", "v=dmarc1"])
def test_what_is_no_record(text: str) -> None:
    assert parse_record(text) is None


# -- the tree (examples of RFC 9989 4.10, appendix B)


def test_the_walk() -> None:
    assert list(walk("a.mail.example.com")) == ["a.mail.example.com", "mail.example.com", "example.com", "com"]
    assert list(walk("a.b.c.d.e.f.g.h.i.j.mail.example.com")) == [
        "a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "g.h.i.j.mail.example.com",
        "h.i.j.mail.example.com",
        "i.j.mail.example.com",
        "j.mail.example.com",
        "mail.example.com",
        "example.com",
        "com",
    ]
    assert len(list(walk(".".join("abcdefgh")))) == MAX_QUERIES
    assert list(walk("com")) == ["com"]


@pytest.mark.parametrize(
    ("zone", "domain", "organization"),
    [
        (records(com__example__mail="p=none", com__example="p=none"), "a.mail.example.com", "example.com"),
        (records(com__example__mail="p=none; psd=n", com__example="p=none"), "a.mail.example.com", "mail.example.com"),
        (records(com="p=none; psd=y"), "a.mail.example.com", "example.com"),
        (records(com="p=none; psd=y"), "com", "com"),
        (records(com__example="p=none; psd=y", com="p=none"), "example.com", "com"),
        ({}, "a.mail.example.com", "a.mail.example.com"),
        (records(com__example=["p=none", "p=reject"]), "a.example.com", "a.example.com"),
        (records(com__example=["p=none", "v=spf1 -all"]), "a.example.com", "example.com"),
        (records(com__example__g__f__e__d__c="p=none"), "mail.a.b.c.d.e.f.g.example.com", "c.d.e.f.g.example.com"),
    ],
)
def test_organizational_domains(zone: dict[str, Any], domain: str, organization: str) -> None:
    assert Tree(Zone(zone)).organizational_domain(domain) == organization


@pytest.mark.parametrize(
    ("zone", "domain", "where", "policy"),
    [
        (records(com__example="p=reject; sp=none"), "example.com", "example.com", "reject"),
        (records(com__example="p=reject; sp=none"), "a.example.com", "example.com", "none"),
        (records(com__example="p=none; np=reject"), "nothing.example.com", "example.com", "reject"),
        (
            {**records(com__example="p=none; np=reject"), "a.example.com": {"A": ["192.0.2.1"]}},
            "a.example.com", "example.com", "none",
        ),
        (
            {**records(com__example="p=none; np=reject"), "a.example.com": {"MX": ["10 a."]}},
            "a.example.com", "example.com", "none",
        ),
        (records(com__example__a="p=none", com__example="p=reject"), "a.example.com", "a.example.com", "none"),
        (records(com__example__b="p=none", com__example="p=reject"), "a.b.example.com", "example.com", "reject"),
        (records(bank="p=reject; sp=quarantine; psd=y"), "my.bank", "bank", "quarantine"),
        (records(bank="p=reject; psd=y", bank__my="p=none"), "mail.my.bank", "my.bank", "none"),
    ],
)  # fmt: skip
def test_discovery(zone: dict[str, Any], domain: str, where: str, policy: str) -> None:
    found = Tree(Zone(zone)).discover(domain)
    assert found
    assert (found.domain, found.policy) == (where, policy)


def test_no_policy() -> None:
    zone = Zone({"example.com": {"A": ["192.0.2.1"]}})
    assert Tree(zone).discover("a.example.com") is None
    assert zone.asked == [(f"_dmarc.{name}", "TXT") for name in ("a.example.com", "example.com", "com")]


@given(st.integers(1, 120))
def test_a_walk_is_bounded(labels: int) -> None:
    zone = Zone({})
    Tree(zone).discover(".".join(["a"] * labels))
    assert len(zone.asked) <= MAX_QUERIES


# -- alignment and the result

REJECT = records(example__bank="p=reject", example__bank__strict="p=reject; adkim=s; aspf=s")


def judge(author: str, *identifiers: tuple[str, str, str], zone: dict[str, Any] | None = None) -> DmarcResult:
    return evaluate([author], [Identifier(*i) for i in identifiers], Tree(Zone(REJECT if zone is None else zone)))


@pytest.mark.parametrize(
    ("author", "identifiers", "result", "disposition"),
    [
        ("bank.example", [("spf", "pass", "bank.example")], "pass", "none"),
        ("bank.example", [("spf", "pass", "mail.bank.example")], "pass", "none"),
        ("mail.bank.example", [("dkim", "pass", "bank.example")], "pass", "none"),
        ("a.bank.example", [("dkim", "pass", "b.bank.example")], "pass", "none"),
        ("bank.example", [("dkim", "fail", "bank.example"), ("spf", "pass", "bank.example")], "pass", "none"),
        ("bank.example", [("spf", "fail", "x.example"), ("dkim", "pass", "bank.example")], "pass", "none"),
        ("bank.example", [], "fail", "reject"),
        ("bank.example", [("spf", "pass", "xbank.example")], "fail", "reject"),
        ("bank.example", [("spf", "pass", "example")], "fail", "reject"),
        ("bank.example", [("spf", "pass", "evil.example"), ("dkim", "pass", "evil.com")], "fail", "reject"),
        ("bank.example", [("spf", "softfail", "bank.example")], "fail", "reject"),
        ("bank.example", [("dkim", "policy", "bank.example")], "fail", "reject"),
        ("strict.bank.example", [("dkim", "pass", "bank.example")], "fail", "reject"),
        ("strict.bank.example", [("spf", "pass", "a.strict.bank.example")], "fail", "reject"),
        ("strict.bank.example", [("spf", "pass", "strict.bank.example")], "pass", "none"),
        ("bank.example", [("spf", "temperror", "bank.example")], "temperror", "none"),
        ("bank.example", [("dkim", "temperror", "mail.bank.example")], "temperror", "none"),
        ("bank.example", [("dkim", "temperror", "evil.example")], "fail", "reject"),
        ("bank.example", [("dkim", "temperror", "bank.example"), ("spf", "pass", "bank.example")], "pass", "none"),
        ("other.example", [], "none", "none"),
    ],
)
def test_results(author: str, identifiers: list[tuple[str, str, str]], result: str, disposition: str) -> None:
    found = judge(author, *identifiers)
    assert (found.result, found.disposition) == (result, disposition), found
    assert found.domain == author


@pytest.mark.parametrize(
    ("policy", "disposition"),
    [
        ("p=reject", "reject"), ("p=reject; t=y", "quarantine"), ("p=quarantine", "quarantine"),
        ("p=quarantine; t=y", "none"), ("p=none", "none"), ("p=none; t=y", "none"), ("p=reject; pct=0", "reject"),
    ],
)  # fmt: skip
def test_dispositions(policy: str, disposition: str) -> None:
    assert judge("bank.example", zone=records(example__bank=policy)).disposition == disposition


@pytest.mark.parametrize("name", ["_dmarc.bank.example", "_dmarc.a.bank.example", "_dmarc.example"])
def test_a_dns_failure_is_no_refusal(name: str) -> None:
    zone = {**REJECT, name: TIMEOUT}
    if name == "_dmarc.example":
        found = judge("a.bank.example", ("spf", "pass", "b.bank.example"), zone=zone)
    else:
        found = judge("a.bank.example", zone=zone)
    assert (found.result, found.disposition) == ("temperror", "none")


def test_a_psd_below_which_others_live() -> None:
    """Two customers of a suffix that has a policy are not one organization."""
    zone = records(example="p=reject; psd=y")
    assert judge("a.example", ("spf", "pass", "b.example"), zone=zone).result == "fail"
    assert judge("x.a.example", ("spf", "pass", "y.a.example"), zone=zone).result == "pass"


def test_several_authors() -> None:
    zone = Tree(Zone({**REJECT, **records(example__mild="p=none", example__q="p=quarantine")}))
    proofs = [Identifier("spf", "pass", "mild.example")]
    found = evaluate(["mild.example", "bank.example", "q.example"], proofs, zone)
    assert (found.result, found.domain, found.disposition) == ("fail", "bank.example", "reject")
    many = [f"x{i}.example" for i in range(9)] + ["bank.example"]
    found = evaluate(many, proofs, zone)
    assert (found.result, found.disposition) == ("permerror", "quarantine")
    assert evaluate([], proofs, zone).result == "permerror"


def test_reasons() -> None:
    found = judge("bank.example", ("spf", "pass", "evil.example"), ("dkim", "fail", "bank.example"))
    assert found.reason == (
        "nothing proves that it is from bank.example (SPF pass for evil.example; DKIM fail for bank.example)"
    )
    assert judge("bank.example", ("spf", "none", "bank.example")).reason == (
        "nothing proves that it is from bank.example (no SPF policy; no DKIM signature)"
    )
    assert judge("bank.example").reason == (
        "nothing proves that it is from bank.example (SPF not checked; no DKIM signature)"
    )
    assert judge("bank.example", ("spf", "pass", "bank.example")).reason == "it is from bank.example: SPF pass"


# -- who the author is


@pytest.mark.parametrize(
    ("header", "domains"),
    [
        ("From: a@Bank.Example\n", ["bank.example"]),
        ("From: Bank <a@bank.example>\n", ["bank.example"]),
        ('From: "x@evil.example" <a@bank.example>\n', ["bank.example"]),
        ("From: (x@evil.example) a@bank.example\n", ["bank.example"]),
        ("From: a@bank.example, b@evil.example\n", ["bank.example", "evil.example"]),
        ("From: a@bank.example\nFROM : b@evil.example\n", ["bank.example", "evil.example"]),
        ("From: group: a@bank.example;\n", ["bank.example"]),
        ("From: a@bank.example some words\n", ["bank.example"]),
        ("From: =?utf-8?q?x=40evil.example?= <a@bank.example>\n", ["bank.example"]),
        ("From:\n a@bank\n .example\n", ["bank.example"]),
        ("From: a@bücher.example\n", ["xn--bcher-kva.example"]),
        ("From: a@bank.example.\n", ["bank.example"]),
        ("From: root\n", []),
        ("From: root@localhost\n", []),
        ("From: a@[192.0.2.1]\n", []),
        ("From: undisclosed:;\n", []),
        ("To: a@bank.example\n", []),
    ],
)
def test_authors(header: str, domains: list[str]) -> None:
    assert author_domains(split_header(header.encode())) == domains


@given(st.binary(max_size=80))
def test_any_author_is_no_crash(value: bytes) -> None:
    author_domains(split_header(b"From: " + value.replace(b"\n", b"\n ") + b"\n"))


@given(st.text(max_size=60))
def test_any_record_is_no_crash(text: str) -> None:
    judge("bank.example", zone={"_dmarc.bank.example": {"TXT": [f"v=DMARC1;{text}"]}})
