"""SPF: the test suite of RFC 7208, what pyspf says where it is right, and policies that are made to hurt."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import Any

import pytest
import spf
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.zone import TIMEOUT, Zone

from smtpmail.auth.spf import MAX_EXPLANATION, SpfResult, check
from smtpmail.auth.spf_record import PermanentError, parse
from smtpmail.dns.errors import DNSError, NotFound

DATA = Path(__file__).parents[2] / "data" / "rfc7208"
SCENARIOS = list(yaml.safe_load_all((DATA / "rfc7208-tests.yml").read_text()))
CASES = [(scenario, name) for scenario in SCENARIOS for name in scenario["tests"]]


def zone_of(scenario: dict[str, Any]) -> Zone:
    """A scenario's records. SPF stands for TXT unless TXT is there (NONE: without a value); TIMEOUT is all the rest."""
    records: dict[str, Any] = {}
    for name, entries in scenario["zonedata"].items():
        types: dict[str, Any] = {}
        for entry in entries:
            if entry != TIMEOUT:
                ((kind, value),) = entry.items()
                if kind == "MX":
                    value = f"{value[0]} {value[1]}"
                elif isinstance(value, list):
                    value = "".join(value)
                types.setdefault(kind, []).extend([value] if value != "NONE" else [])
        if "SPF" in types:
            types.setdefault("TXT", types.pop("SPF"))
        types = {kind: values for kind, values in types.items() if values}
        if TIMEOUT in entries:
            types |= {kind: TIMEOUT for kind in ("TXT", "A", "AAAA", "MX", "PTR") if kind not in types}
        records[name] = types
    return Zone(records)


def run(host: str, helo: str, sender: str, zone: Zone, **options: Any) -> SpfResult:
    return check(ipaddress.ip_address(host), helo, sender, zone, **options)


@pytest.mark.parametrize(("scenario", "name"), CASES, ids=[name for _, name in CASES])
def test_rfc7208(scenario: dict[str, Any], name: str) -> None:
    case = scenario["tests"][name]
    found = run(case["host"], case["helo"], case["mailfrom"], zone_of(scenario))
    expected = case["result"] if isinstance(case["result"], list) else [case["result"]]
    assert found.result in expected, found
    if "explanation" in case:
        assert (found.explanation or "DEFAULT") == case["explanation"], found


def test_all_cases_are_there() -> None:
    assert len(CASES) == 203


# -- where pyspf is right


HOSTS = ["192.0.2.1", "192.0.2.77", "2001:db8::1", "198.51.100.7"]
hosts = st.sampled_from(HOSTS)
WORDS = [
    "a", "mx", "ptr", "ip4:192.0.2.0/24", "ip4:192.0.2.77", "ip6:2001:db8::/32", "a:b.example", "a/24", "a//64",
    "mx:b.example/24//32", "exists:%{i}.x.example", "exists:%{l1r-}.%{d2}", "ip4:192.0.2.256", "a:", "bogus",
    "ptr:b.example", "x=%{s}", "a:%{h}", "ip4:1.2.3.4/33",
]  # fmt: skip
OTHERS = ["include:b.example", "redirect=b.example", "include:none.example"]


def policies(words: list[str]) -> st.SearchStrategy[str]:
    """Records of these terms; `all`, if any, is the last, since pyspf judges what stands behind it by other rules."""
    qualifier = st.sampled_from(["", "+", "-", "~", "?"])
    term = st.tuples(qualifier, st.sampled_from(words)).map(lambda pair: pair[1] if "=" in pair[1] else "".join(pair))
    last = st.just("") | qualifier.map(lambda sign: sign + "all")
    return st.tuples(st.lists(term, max_size=5), last).map(lambda found: " ".join(["v=spf1", *found[0], found[1]]))


@given(hosts, policies(WORDS + OTHERS), policies(WORDS))
@settings(max_examples=150)
def test_as_pyspf_sees_it(host: str, first: str, second: str) -> None:
    assume(first.count("x=") < 2 and second.count("x=") < 2)  # RFC 7208 6 lets unknown modifiers stand twice
    # Each client has a name: we ask for it once, pyspf counts one without for each `ptr`.
    names = {ipaddress.ip_address(h).reverse_pointer: {"PTR": ["other.example."]} for h in HOSTS}
    zone = Zone(
        {
            "a.example": {"TXT": [first], "A": ["192.0.2.1"], "AAAA": ["2001:db8::1"], "MX": ["10 b.example."]},
            "b.example": {"TXT": [second], "A": ["192.0.2.9"], "AAAA": ["2001:db8::9"], "MX": ["10 a.example."]},
            "192.0.2.1.x.example": {"A": ["127.0.0.2"]},
            **names,
            "other.example": {"A": ["192.0.2.254"], "AAAA": ["2001:db8::254"]},
            "1.2.0.192.in-addr.arpa": {"PTR": ["m.b.example."]},
            "m.b.example": {"A": ["192.0.2.1"]},
            "mail.a.example": {"A": ["198.51.100.7"], "AAAA": ["2001:db8::7"]},
        }
    )
    assert run(host, "mail.a.example", "joe-x@a.example", zone).result == ask_pyspf(host, zone)


def ask_pyspf(host: str, zone: Zone) -> str:
    """pyspf's result for the same records."""

    def lookup(name: str, kind: str, *_: Any, **__: Any) -> list[Any]:
        try:
            values = zone(name, kind)
        except NotFound:
            return []
        except DNSError as error:
            raise spf.TempError(str(error)) from None
        shaped: list[Any] = []
        for value in values:
            if kind == "TXT":
                shaped.append(((name, kind), (value.encode(),)))
            elif kind == "MX":
                shaped.append(((name, kind), (10, value.split()[1].rstrip("."))))
            elif kind == "AAAA":
                shaped.append(((name, kind), ipaddress.IPv6Address(value).packed))
            else:
                shaped.append(((name, kind), value.rstrip(".")))
        return shaped

    spf.DNSLookup = lookup
    query = spf.query(i=host, s="joe-x@a.example", h="mail.a.example", strict=True)
    return query.check()[0]


# -- made to hurt


def test_too_many_lookups() -> None:
    zone = Zone({"a.example": {"TXT": ["v=spf1 " + "a:b.example " * 11 + "-all"]}, "b.example": {"A": ["192.0.2.9"]}})
    found = run("192.0.2.1", "h.example", "x@a.example", zone)
    assert (found.result, "more than 10 look-ups" in found.reason) == ("permerror", True)


def test_a_bomb_of_includes() -> None:
    """Ten includes in each of ten includes, each with mx of ten hosts: the limit is that of the whole evaluation."""
    records: dict[str, Any] = {
        f"i{n}.example": {
            "TXT": ["v=spf1 " + " ".join(f"include:i{(n * 10 + m) % 50}.example" for m in range(10))],
            "MX": [f"10 h{m}.example." for m in range(10)],
        }
        for n in range(50)
    }
    zone = Zone(records)
    assert run("192.0.2.1", "h.example", "x@i1.example", zone).result == "permerror"
    assert len(zone.asked) <= 12


@pytest.mark.parametrize("text", ["v=spf1 include:a.example", "v=spf1 redirect=a.example"])
def test_loops(text: str) -> None:
    zone = Zone({"a.example": {"TXT": [text]}})
    assert run("192.0.2.1", "h.example", "x@a.example", zone).result == "permerror"
    assert len(zone.asked) <= 12


def test_the_most_that_one_policy_may_ask() -> None:
    records: dict[str, Any] = {"a.example": {"TXT": ["v=spf1 " + " ".join(f"mx:m{n}.example" for n in range(10))]}}
    for n in range(10):
        records[f"m{n}.example"] = {"MX": [f"10 h{n}{m}.example." for m in range(10)]}
        records |= {f"h{n}{m}.example": {"A": ["192.0.2.9"]} for m in range(10)}
    zone = Zone(records)
    assert run("192.0.2.1", "h.example", "x@a.example", zone).result == "neutral"
    assert len(zone.asked) == 1 + 10 + 100


@pytest.mark.parametrize(
    ("records", "result"),
    [
        ({"a.example": {"TXT": ["v=spf1 -all", "v=spf1 +all"]}}, "permerror"),
        ({"a.example": {"TXT": ["v=spf1 -all", "google-site-verification=x"]}}, "fail"),
        ({"a.example": {"TXT": ["v=spf1 " + "ip4:192.0.2.1 " * 4000]}}, "permerror"),
        ({"a.example": {"TXT": ["v=spf1 -all " + "x" * 70_000]}}, "none"),
        ({"a.example": {"TXT": ["v=spf1 é -all"]}}, "permerror"),
        ({"a.example": {"CNAME": ["a.example"]}}, "temperror"),
        ({"a.example": TIMEOUT}, "temperror"),
        ({}, "none"),
        ({"a.example": {"TXT": ["v=spf10 -all"]}}, "none"),
    ],
)
def test_records(records: dict[str, Any], result: str) -> None:
    start = time.process_time()
    assert run("192.0.2.1", "h.example", "x@a.example", Zone(records)).result == result
    assert time.process_time() - start < 1


def test_void_lookups() -> None:
    text = "v=spf1 a:n1.example a:n2.example {} ip4:192.0.2.1 -all"
    for third, result in (("", "pass"), ("a:n3.example", "permerror"), ("exists:n3.example", "permerror")):
        zone = Zone({"a.example": {"TXT": [text.format(third)]}})
        assert run("192.0.2.1", "h.example", "x@a.example", zone).result == result


def test_hosts_of_the_other_family_are_not_void() -> None:
    """A policy of IPv4 hosts and a client of IPv6: pyspf's false permerror."""
    names = {f"h{n}.example": {"A": ["192.0.2.9"]} for n in range(5)}
    text = "v=spf1 " + " ".join(f"a:{name}" for name in names) + " ip6:2001:db8::/32 -all"
    assert (
        run("2001:db8::1", "h.example", "x@a.example", Zone({"a.example": {"TXT": [text]}, **names})).result == "pass"
    )
    nothing = {name: {"TXT": ["no address"]} for name in names}
    zone = Zone({"a.example": {"TXT": [text]}, **nothing})
    assert run("2001:db8::1", "h.example", "x@a.example", zone).result == "permerror"


def test_an_explanation_is_bounded() -> None:
    zone = Zone(
        {
            "a.example": {"TXT": ["v=spf1 exp=e.example -all"]},
            "e.example": {"TXT": ["%{s} nogo " + "%{h}" * 5000]},
        }
    )
    found = run("192.0.2.1", "h" * 60 + ".example", "x@a.example", zone)
    assert found.explanation.startswith("x@a.example nogo h")
    assert len(found.explanation) <= MAX_EXPLANATION


@pytest.mark.parametrize(
    ("helo", "sender", "result", "domain"),
    [
        ("mx.a.example", "", "pass", "mx.a.example"),
        ("mx.a.example.", "", "pass", "mx.a.example"),
        ("[192.0.2.1]", "", "none", "[192.0.2.1]"),
        ("localhost", "", "none", "localhost"),
        ("mx.a.example", "x@bücher.example", "pass", "xn--bcher-kva.example"),
        ("mx.a.example", '"a@b"@mx.a.example', "pass", "mx.a.example"),
    ],
)
def test_which_identity(helo: str, sender: str, result: str, domain: str) -> None:
    zone = Zone(
        {"mx.a.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]}, "xn--bcher-kva.example": {"TXT": ["v=spf1 +all"]}}
    )
    found = run("192.0.2.1", helo, sender, zone)
    assert (found.result, found.domain) == (result, domain)


def test_reasons() -> None:
    zone = Zone({"a.example": {"TXT": ["v=spf1 ip4:192.0.2.0/24 ~all"]}})
    found = run("198.51.100.1", "h.example", "x@a.example", zone)
    assert found.reason == "198.51.100.1 probably may not send mail of a.example (~all)"
    assert run("::ffff:192.0.2.5", "h.example", "x@a.example", zone).reason == (
        "192.0.2.5 may send mail of a.example (ip4:192.0.2.0/24)"
    )


@given(st.text(max_size=60), st.text(max_size=30))
def test_any_text_is_no_crash(text: str, sender: str) -> None:
    zone = Zone({"a.example": {"TXT": [f"v=spf1 {text}"]}})
    for address in ("192.0.2.1", "2001:db8::1"):
        found = run(address, sender, f"{sender}@a.example", zone)
        assert found.result in ("pass", "fail", "softfail", "neutral", "none", "permerror")
        assert found.reason.isascii()


@given(st.text("%{}slodp0123r-.+/:=ab", max_size=40))
def test_any_macro_is_no_crash(text: str) -> None:
    try:
        parse(f"v=spf1 exists:{text}.example")
    except PermanentError:
        return
    run("192.0.2.1", "h.example", "x@a.example", Zone({"a.example": {"TXT": [f"v=spf1 exists:{text}.example"]}}))
