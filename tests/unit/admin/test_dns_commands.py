"""smtpmail dns: the records, how they join others, SPF, the findings. DNS answers come from a table."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from smtpmail.admin import dns_check, dns_update, spf
from smtpmail.admin.dns_check import MailHost, findings
from smtpmail.admin.dns_records import Change, Record, merge, needed, quoted
from smtpmail.admin.dns_update import Key, UpdateFailed, parse_key, plan
from smtpmail.admin.lookup import Lookup
from smtpmail.cli import cli
from smtpmail.dns.errors import DNSError
from smtpmail.dns.resolver import Resolver

FOUR = ipaddress.ip_address("192.0.2.10")
SIX = ipaddress.ip_address("2001:db8::10")
FOUR_PTR = "10.2.0.192.in-addr.arpa."
SIX_PTR = SIX.reverse_pointer + "."


def table(zone: dict[tuple[str, str], list[str]]) -> Callable[[str, str], list[str]]:
    return lambda name, kind: zone.get((name, kind), [])


# -- the list


def test_a_domain_needs_mx_spf_addresses_and_spf_of_the_host() -> None:
    assert [str(record) for record in needed(["dom.fr"], "mail.dom.fr", [FOUR, SIX])] == [
        "dom.fr. 3600 IN MX 10 mail.dom.fr.",
        'dom.fr. 3600 IN TXT "v=spf1 mx -all"',
        "mail.dom.fr. 3600 IN A 192.0.2.10",
        "mail.dom.fr. 3600 IN AAAA 2001:db8::10",
        'mail.dom.fr. 3600 IN TXT "v=spf1 a -all"',
    ]


def test_a_host_called_as_its_domain_has_one_spf_record() -> None:
    texts = [record for record in needed(["dom.fr", "dom2.fr"], "dom.fr", [FOUR]) if record.type == "TXT"]
    assert [record.name for record in texts] == ["dom.fr.", "dom2.fr."]


def test_long_text_is_split_into_strings() -> None:
    assert quoted("x" * 256) == '"' + "x" * 255 + '" "x"'
    assert quoted('a"b\\') == r'"a\"b\\"'


EXISTING = {
    ("dom.fr.", "MX"): ["0 ."],
    ("dom.fr.", "TXT"): ['"v=spf1 include:partner.net ~all"', '"verified"'],
    ("mail.dom.fr.", "A"): ["192.0.2.10"],
}


def records(monkeypatch: pytest.MonkeyPatch, lookup: Lookup, *arguments: str) -> Result:
    monkeypatch.setattr("smtpmail.admin.dns.Resolver.records", lambda self, name, kind: lookup(name, kind))
    command = ["dns", "records", "-s", "dom.fr", "-H", "mail.dom.fr", "--resolver", "192.0.2.53"]
    return CliRunner().invoke(cli, [*command, "--address", "192.0.2.10", *arguments])


def test_records_say_what_to_add_replace_and_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    result = records(monkeypatch, table(EXISTING))
    assert result.exit_code == 0, result.output
    assert [line.partition("  ;")[0].rstrip() for line in result.stdout.splitlines()] == [
        "; add",
        'mail.dom.fr. 3600 IN TXT "v=spf1 a -all"',
        "; replace: one stands in the place of another",
        "; remove: dom.fr. MX 0 .",
        "dom.fr. 3600 IN MX 10 mail.dom.fr.",
        '; remove: dom.fr. TXT "v=spf1 include:partner.net ~all"',
        'dom.fr. 3600 IN TXT "v=spf1 mx include:partner.net ~all"',
        "; keep: these are right",
        "mail.dom.fr. 3600 IN A 192.0.2.10",
    ]


def test_records_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(records(monkeypatch, table(EXISTING), "--json").stdout)
    assert [(entry["name"], entry["type"], entry["action"], entry["replaces"]) for entry in found] == [
        ("dom.fr.", "MX", "replace", ["0 ."]),
        ("dom.fr.", "TXT", "replace", ['"v=spf1 include:partner.net ~all"']),
        ("mail.dom.fr.", "A", "keep", []),
        ("mail.dom.fr.", "TXT", "add", []),
    ]


def test_records_of_a_policy_that_is_right_show_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = {("dom.fr.", "TXT"): ['"v=spf1 ip4:192.0.2.1 mx ?all"']}
    found = json.loads(records(monkeypatch, table(zone), "--json").stdout)
    assert found[1]["action"] == "keep"
    assert found[1]["value"] == '"v=spf1 ip4:192.0.2.1 mx ?all"'


def test_records_without_an_answer_are_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, kind: str) -> list[str]:
        raise DNSError(f"{name}: SERVFAIL")

    result = records(monkeypatch, broken)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "; add, unless it is there: DNS did not answer"
    assert "dom.fr. 3600 IN MX 10 mail.dom.fr." in result.stdout
    assert result.stderr.splitlines() == [
        f"smtpmail dns records: {name}: SERVFAIL" for name in ("dom.fr.", "mail.dom.fr.")
    ]


def test_records_stop_at_an_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    result = records(monkeypatch, table({("mail.dom.fr.", "CNAME"): ["web.dom.fr."]}))
    assert result.exit_code != 0
    assert "mail.dom.fr. is an alias (CNAME web.dom.fr.)" in str(result.exception)


def test_an_address_that_is_none_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["dns", "records", "-s", "dom.fr", "--address", "mail"])
    assert result.exit_code == 2
    assert "'mail' is no IP address" in result.output


# -- joining what is there

SPF = Record("dom.fr.", "TXT", '"v=spf1 mx -all"', "")
MX = Record("dom.fr.", "MX", "10 mail.dom.fr.", "")
A = Record("mail.dom.fr.", "A", "192.0.2.10", "")


@pytest.mark.parametrize(
    ("record", "existing", "change"),
    [
        (SPF, [], Change("dom.fr.", "TXT", (SPF.value,))),
        (SPF, ['"site-verification=1"'], Change("dom.fr.", "TXT", (SPF.value,))),
        (SPF, ['"v=spf1 mx ~all"'], None),
        (SPF, ['"v=spf1 ip4:192.0.2.1 +MX -all"'], None),
        (
            SPF,
            ['"v=spf1 include:a.net ~all"', '"other"'],
            Change("dom.fr.", "TXT", ('"v=spf1 mx include:a.net ~all"',), ('"v=spf1 include:a.net ~all"',)),
        ),
        # Two policies are an error (RFC 7208 3.2): one is left.
        (
            SPF,
            ['"v=spf1 mx -all"', '"v=spf1 a -all"'],
            Change("dom.fr.", "TXT", ('"v=spf1 mx -all"',), ('"v=spf1 mx -all"', '"v=spf1 a -all"')),
        ),
        (MX, [], Change("dom.fr.", "MX", (MX.value,))),
        (MX, ["10 MAIL.dom.fr."], None),
        (MX, ["20 backup.dom.fr."], Change("dom.fr.", "MX", (MX.value,))),
        (MX, ["0 ."], Change("dom.fr.", "MX", (MX.value,), ("0 .",))),
        (A, ["192.0.2.80"], Change("mail.dom.fr.", "A", ("192.0.2.10",))),
        (A, ["192.0.2.10", "192.0.2.80"], None),
    ],
)
def test_merge(record: Record, existing: list[str], change: Change | None) -> None:
    result = merge(record, existing)
    assert (result and (result.add, result.remove)) == (change and (change.add, change.remove))


def test_plan_looks_once_at_each_set_and_stops_at_an_alias() -> None:
    asked = []

    def existing(name: str, kind: str) -> list[str]:
        asked.append((name, kind))
        return []

    assert len(plan([SPF, MX, A], existing)) == 3
    assert len(asked) == 3
    with pytest.raises(UpdateFailed, match=r"mail\.dom\.fr\. is an alias"):
        plan([A], lambda name, kind: ["CNAME web.dom.fr."])


# -- the key


def test_key_as_its_generators_write_it() -> None:
    key = parse_key('# comment\nkey "update.dom.fr" {\n\talgorithm hmac-sha256;\n\tsecret "c2VjcmV0";\n};\n')
    assert key == Key("update.dom.fr", "hmac-sha256", b"secret")
    assert "secret" not in repr(key)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the key file must read"),
        ('key "k" { secret "c2VjcmV0"; };', "the key file must read"),
        ('key "k" { algorithm hmac-md5; secret "c2VjcmV0"; };', "hmac-md5; one of hmac-sha256"),
        ('key "k" { algorithm hmac-sha256; secret "c2V!"; };', "secret of the key k is no base64"),
    ],
)
def test_wrong_key_is_one_clear_line_without_the_secret(text: str, message: str) -> None:
    with pytest.raises(UpdateFailed, match=message) as error:
        parse_key(text)
    assert "c2V" not in str(error.value)


# -- SPF


@pytest.mark.parametrize(
    ("policy", "address", "result"),
    [
        ("v=spf1 mx -all", FOUR, "pass"),
        ("v=spf1 mx -all", SIX, "pass"),
        ("v=spf1 a -all", FOUR, "fail"),
        ("v=spf1 a:mail.dom.fr ~all", FOUR, "pass"),
        ("v=spf1 ip4:192.0.2.0/24 -all", FOUR, "pass"),
        ("v=spf1 ip4:192.0.2.0/24 -all", SIX, "fail"),
        ("v=spf1 ip6:2001:db8::/32 ?all", SIX, "pass"),
        ("v=spf1 a/24 -all", FOUR, "pass"),
        ("v=spf1 a:mail.dom.fr//64 -all", SIX, "pass"),
        ("v=spf1 include:partner.net ~all", FOUR, "softfail"),
        ("v=spf1 include:wide.net ~all", FOUR, "pass"),
        ("v=spf1 redirect=wide.net", FOUR, "pass"),
        ("v=spf1 -mx +all", FOUR, "fail"),
        ("v=spf1", FOUR, "neutral"),
        ("something else", FOUR, "none"),
    ],
)
def test_spf(policy: str, address: ipaddress.IPv4Address, result: str) -> None:
    zone = {
        ("dom.fr.", "TXT"): [quoted("other"), quoted(policy)],
        ("dom.fr.", "MX"): ["10 mail.dom.fr."],
        ("dom.fr.", "A"): ["192.0.2.80"],
        ("mail.dom.fr.", "A"): ["192.0.2.10"],
        ("mail.dom.fr.", "AAAA"): ["2001:db8::10"],
        ("partner.net.", "TXT"): ['"v=spf1 ip4:198.51.100.1 -all"'],
        ("wide.net.", "TXT"): ['"v=spf1 ip4:192.0.2.0/28 -all"'],
    }
    assert spf.Evaluation(address, table(zone)).result("dom.fr") == result


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["v=spf1 -all", "v=spf1 mx -all"], "has 2 SPF records"),
        (["v=spf1 include:dom.fr -all"], "more than 10 look-ups"),
        (["v=spf1 include:nothing.net -all"], "include:nothing.net leads to no SPF record"),
        (["v=spf1 ip4:mail -all"], "no network"),
        (["v=spf1 exists:%{i}.dom.fr -all"], "macro"),
        (["v=spf1 mxx -all"], "unknown"),
    ],
)
def test_spf_that_cannot_be_evaluated(texts: list[str], message: str) -> None:
    zone = {("dom.fr.", "TXT"): [quoted(text) for text in texts]}
    with pytest.raises(spf.PermanentError, match=message):
        spf.Evaluation(FOUR, table(zone)).result("dom.fr")


# -- the findings

GOOD = {
    ("dom.fr.", "MX"): ["10 mail.dom.fr."],
    ("dom.fr.", "TXT"): ['"v=spf1 mx -all"'],
    ("mail.dom.fr.", "A"): ["192.0.2.10"],
    ("mail.dom.fr.", "AAAA"): ["2001:db8::10"],
    (FOUR_PTR, "PTR"): ["mail.dom.fr."],
    (SIX_PTR, "PTR"): ["mail.dom.fr."],
}


def levels(zone: dict[tuple[str, str], list[str]]) -> set[tuple[str, str]]:
    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR, SIX])
    return {(finding.check, finding.level) for finding in findings(host, table(zone), look_at_port=False)}


def test_a_good_zone_has_nothing_wrong() -> None:
    assert levels(GOOD) == {("mx", "ok"), ("address", "ok"), ("reverse", "ok"), ("spf", "ok")}


@pytest.mark.parametrize(
    ("name", "kind", "values", "expected"),
    [
        ("dom.fr.", "MX", [], ("mx", "error")),
        ("dom.fr.", "MX", ["0 ."], ("mx", "error")),
        ("dom.fr.", "MX", ["10 other.net."], ("mx", "error")),
        ("dom.fr.", "MX", ["10 mail.dom.fr.", "20 other.net."], ("mx", "warning")),
        ("mail.dom.fr.", "CNAME", ["web.dom.fr."], ("address", "error")),
        ("mail.dom.fr.", "AAAA", [], ("address", "error")),
        ("mail.dom.fr.", "A", ["192.0.2.10", "192.0.2.11"], ("address", "warning")),
        (FOUR_PTR, "PTR", [], ("reverse", "error")),
        (SIX_PTR, "PTR", ["static.provider.net."], ("reverse", "warning")),
        ("dom.fr.", "TXT", [], ("spf", "error")),
        ("dom.fr.", "TXT", ['"v=spf1 ip4:192.0.2.10 -all"'], ("spf", "error")),
        ("dom.fr.", "TXT", ['"v=spf1 mx"', '"v=spf1 a"'], ("spf", "error")),
    ],
)
def test_what_is_wrong_is_found(name: str, kind: str, values: list[str], expected: tuple[str, str]) -> None:
    assert expected in levels({**GOOD, (name, kind): values})


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR])
    found = list(findings(host, table({}), look_at_port=False))
    assert {finding.level for finding in found} == {"error"}
    assert all(finding.advice for finding in found)


def test_a_resolver_that_fails_is_a_finding() -> None:
    def broken(name: str, kind: str) -> list[str]:
        raise DNSError(f"{name}: SERVFAIL")

    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR])
    found = list(findings(host, broken, look_at_port=False))
    assert {(finding.level, finding.check) for finding in found} == {
        ("error", "mx"), ("error", "address"), ("error", "reverse"), ("error", "spf"),
    }  # fmt: skip


def test_a_name_server_counts_by_the_first_of_its_addresses_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without a route over IPv6 publishes and waits all the same."""
    has = {"AAAA": ["2001:db8::1"]}

    def reached(server: ipaddress.IPv4Address | ipaddress.IPv6Address, name: str, kind: str) -> list[str]:
        if server.version == 4:
            raise DNSError(f"{server} does not answer for {name}: No route to host")
        return has.get(kind, [])

    monkeypatch.setattr(dns_update, "authoritative", reached)
    monkeypatch.setattr(dns_update, "PAUSE", 0)
    resolver = Resolver()
    publisher = dns_update.Publisher(resolver, Key("k", "hmac-sha256", b"secret"))
    monkeypatch.setattr(resolver, "zone_of", lambda name: "dom.fr.")
    zone = {
        ("dom.fr.", "NS"): ["ns.dom.fr."],
        ("ns.dom.fr.", "A"): ["192.0.2.53"],
        ("ns.dom.fr.", "AAAA"): ["2001:db8::53"],
    }
    monkeypatch.setattr(resolver, "records", table(zone))
    publisher.wait([Record("mail.dom.fr.", "AAAA", "2001:db8::1", "")], 0)
    with pytest.raises(UpdateFailed, match=r"ns\.dom\.fr\. \(2001:db8::53\) does not have mail\.dom\.fr\. A"):
        publisher.wait([Record("mail.dom.fr.", "A", "192.0.2.1", "")], 0)
    del zone[("ns.dom.fr.", "AAAA")]
    with pytest.raises(UpdateFailed, match=r"192\.0\.2\.53 does not answer"):
        publisher.wait([Record("mail.dom.fr.", "AAAA", "2001:db8::1", "")], 0)


# -- the way out


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """The addresses and ports that can be connected to."""
    known: set[tuple[str, int]] = set()

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        if address not in known:
            raise TimeoutError(110, "Connection timed out")
        return socket.socket()

    monkeypatch.setattr(dns_check.socket, "create_connection", connect)
    return known


ELSEWHERE = {
    ("mx.one.net.", "A"): ["198.51.100.1", "198.51.100.2"],
    ("mx.one.net.", "AAAA"): ["2001:db8:1::1"],
    ("mx.two.net.", "A"): ["198.51.100.9"],
}


@pytest.mark.parametrize(
    ("known", "level", "text"),
    [
        ([("198.51.100.1", 25)], "ok", "mx.one.net answers"),
        ([("2001:db8:1::1", 25)], "ok", "mx.one.net answers"),
        ([("198.51.100.9", 25)], "ok", "mx.two.net answers"),
        ([], "error", r"no other mail server .* mx\.two\.net \[198\.51\.100\.9\]: Connection timed out; .*no address"),
    ],
)
def test_port_25_outwards(reachable: set[tuple[str, int]], known: list[tuple[str, int]], level: str, text: str) -> None:
    reachable.update(known)
    host = MailHost("mail.dom.fr", [], [], outbound=["mx.one.net", "mx.two.net", "mx.none.net"])
    (found,) = [one for one in findings(host, table(ELSEWHERE)) if one.check == "outbound"]
    assert found.level == level
    assert re.search(text, found.text)
    assert level == "ok" or "smtpmail_smarthost" in found.advice


@pytest.mark.parametrize(("port", "level"), [(587, "ok"), (465, "error")])
def test_through_a_smarthost_nobody_else_is_tried(reachable: set[tuple[str, int]], port: int, level: str) -> None:
    reachable.add(("198.51.100.1", 587))
    host = MailHost("mail.dom.fr", [], [], outbound=["mx.two.net"], smarthost=("mx.one.net", port))
    (found,) = [one for one in findings(host, table(ELSEWHERE)) if one.check == "outbound"]
    assert (found.level, found.subject) == (level, f"mx.one.net port {port}")
