"""smtpmail dns: the records, how they join others, SPF, the findings. DNS answers come from a table."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result
from support.commands import runner
from support.tls import Certificate, make_certificate

from smtpmail.admin import dns_check, dns_update, port_check
from smtpmail.admin.dns_check import MailHost, findings
from smtpmail.admin.dns_records import Change, Record, Service, is_spf, merge, needed, quoted, text_of, tightened
from smtpmail.admin.dns_update import Key as UpdateKey
from smtpmail.admin.dns_update import UpdateFailed, parse_key, plan
from smtpmail.admin.lookup import Lookup
from smtpmail.auth.dkim_keys import NEXT, RETIRED, SIGNING, Key, KeyFolder
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


DMARC = '"v=DMARC1; p=none; rua=mailto:postmaster@dom.fr"'
TLS_REPORTS = '"v=TLSRPTv1; rua=mailto:postmaster@dom.fr"'


def test_a_domain_needs_mx_spf_policies_keys_addresses_and_spf_of_the_host() -> None:
    found = needed(["dom.fr"], "mail.dom.fr", [FOUR, SIX], [("k._domainkey.dom.fr", "v=DKIM1; p=AAAA")])
    assert [str(record) for record in found] == [
        "dom.fr. 3600 IN MX 10 mail.dom.fr.",
        'dom.fr. 3600 IN TXT "v=spf1 mx -all"',
        f"_dmarc.dom.fr. 3600 IN TXT {DMARC}",
        f"_smtp._tls.dom.fr. 3600 IN TXT {TLS_REPORTS}",
        'k._domainkey.dom.fr. 3600 IN TXT "v=DKIM1; p=AAAA"',
        "mail.dom.fr. 3600 IN A 192.0.2.10",
        "mail.dom.fr. 3600 IN AAAA 2001:db8::10",
        'mail.dom.fr. 3600 IN TXT "v=spf1 a -all"',
    ]


IMAPS = Service("_imaps._tcp", 993, "reading")
SUBMISSIONS = Service("_submissions._tcp", 465, "sending")


def test_what_mail_programs_look_for() -> None:
    found = needed(["dom.fr", "dom2.fr"], "mail.dom.fr", [FOUR], services=[IMAPS, SUBMISSIONS])
    assert [str(record) for record in found if record.type == "SRV"] == [
        "_imaps._tcp.dom.fr. 3600 IN SRV 0 1 993 mail.dom.fr.",
        "_submissions._tcp.dom.fr. 3600 IN SRV 0 1 465 mail.dom.fr.",
        "_imaps._tcp.dom2.fr. 3600 IN SRV 0 1 993 mail.dom.fr.",
        "_submissions._tcp.dom2.fr. 3600 IN SRV 0 1 465 mail.dom.fr.",
    ]


@pytest.mark.parametrize(
    ("doors", "found"),
    [
        ([], set()),
        (["--imap-listen", "127.0.0.1"], set()),
        (["--imap-listen", "[::1]", "--imap-listen", "[::]:1993"], {"_imaps._tcp.dom.fr. SRV 0 1 1993 mail.dom.fr."}),
        (
            ["--imap-listen", "0.0.0.0", "--submission-listen", "192.0.2.10"],
            {"_imaps._tcp.dom.fr. SRV 0 1 993 mail.dom.fr.", "_submissions._tcp.dom.fr. SRV 0 1 465 mail.dom.fr."},
        ),
    ],
)
def test_only_what_is_offered_has_a_record(monkeypatch: pytest.MonkeyPatch, doors: list[str], found: set[str]) -> None:
    listed = json.loads(records(monkeypatch, table({}), "--json", *doors).stdout)
    assert {f"{e['name']} SRV {e['value']}" for e in listed if e["type"] == "SRV"} == found


def test_a_service_is_kept_as_its_owner_weighs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = {("_imaps._tcp.dom.fr.", "SRV"): ["20 7 993 Mail.dom.fr."]}
    listed = json.loads(records(monkeypatch, table(zone), "--json", "--imap-listen", "0.0.0.0").stdout)
    (found,) = [entry for entry in listed if entry["type"] == "SRV"]
    assert (found["action"], found["value"]) == ("keep", "20 7 993 Mail.dom.fr.")


def test_a_host_called_as_its_domain_has_one_spf_record() -> None:
    texts = [record for record in needed(["dom.fr", "dom2.fr"], "dom.fr", [FOUR]) if record.type == "TXT"]
    assert [record.name for record in texts if is_spf(text_of(record.value))] == ["dom.fr.", "dom2.fr."]


def test_long_text_is_split_into_strings() -> None:
    assert quoted("x" * 256) == '"' + "x" * 255 + '" "x"'
    assert quoted('a"b\\') == r'"a\"b\\"'


EXISTING = {
    ("dom.fr.", "MX"): ["0 ."],
    ("dom.fr.", "TXT"): ['"v=spf1 include:partner.net ~all"', '"verified"'],
    ("mail.dom.fr.", "A"): ["192.0.2.10"],
    ("_dmarc.dom.fr.", "TXT"): ['"v=DMARC1; p=reject"'],
}


def records(monkeypatch: pytest.MonkeyPatch, lookup: Lookup, *arguments: str) -> Result:
    monkeypatch.setattr("smtpmail.admin.dns.Resolver.records", lambda self, name, kind: lookup(name, kind))
    command = ["dns", "records", "-s", "dom.fr", "-H", "mail.dom.fr", "--resolver", "192.0.2.53"]
    return runner().invoke(cli, [*command, "--address", "192.0.2.10", *arguments])


def test_records_say_what_to_add_replace_and_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    result = records(monkeypatch, table(EXISTING))
    assert result.exit_code == 0, result.output
    assert [re.sub(r"(?<=.) +;.*", "", line) for line in result.stdout.splitlines()] == [
        "; add",
        f"_smtp._tls.dom.fr. 3600 IN TXT {TLS_REPORTS}",
        'mail.dom.fr. 3600 IN TXT "v=spf1 a -all"',
        "; replace: one stands in the place of another",
        "; remove: dom.fr. MX 0 .",
        "dom.fr. 3600 IN MX 10 mail.dom.fr.",
        '; remove: dom.fr. TXT "v=spf1 include:partner.net ~all"',
        'dom.fr. 3600 IN TXT "v=spf1 mx include:partner.net ~all"',
        "; keep: these are right",
        '_dmarc.dom.fr. 3600 IN TXT "v=DMARC1; p=reject"',
        "mail.dom.fr. 3600 IN A 192.0.2.10",
    ]


def test_records_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(records(monkeypatch, table(EXISTING), "--json").stdout)
    assert [(entry["name"], entry["type"], entry["action"], entry["replaces"]) for entry in found] == [
        ("dom.fr.", "MX", "replace", ["0 ."]),
        ("dom.fr.", "TXT", "replace", ['"v=spf1 include:partner.net ~all"']),
        ("_dmarc.dom.fr.", "TXT", "keep", []),
        ("_smtp._tls.dom.fr.", "TXT", "add", []),
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
DMARC_RECORD = Record("_dmarc.dom.fr.", "TXT", DMARC, "")
SRV = Record("_imaps._tcp.dom.fr.", "SRV", "0 1 993 mail.dom.fr.", "")
KEY_RECORD = Record("k._domainkey.dom.fr.", "TXT", '"v=DKIM1; p=AAAA"', "")


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
        (DMARC_RECORD, ['"v=DMARC1; p=reject; sp=none"', '"other"'], None),
        (DMARC_RECORD, [], Change("_dmarc.dom.fr.", "TXT", (DMARC,))),
        (
            replace(DMARC_RECORD, value='"v=DMARC1; p=quarantine; rua=mailto:postmaster@dom.fr"'),
            ['"v=DMARC1; p=none; rua=mailto:me@dom.fr"'],
            Change(
                "_dmarc.dom.fr.",
                "TXT",
                ('"v=DMARC1; p=quarantine; rua=mailto:me@dom.fr"',),
                ('"v=DMARC1; p=none; rua=mailto:me@dom.fr"',),
            ),
        ),
        (replace(DMARC_RECORD, value=TLS_REPORTS), ['"v=TLSRPTv1;rua=mailto:me@dom.fr"'], None),
        (KEY_RECORD, ['"v=DKIM1; p=AA" "AA"'], None),
        (
            KEY_RECORD,
            ['"v=DKIM1; p=BBBB"', '"v=spf1 -all"'],
            Change("k._domainkey.dom.fr.", "TXT", ('"v=DKIM1; p=AAAA"',), ('"v=DKIM1; p=BBBB"',)),
        ),
        (SRV, [], Change(SRV.name, "SRV", (SRV.value,))),
        (SRV, ["20 7 993 MAIL.dom.fr."], None),
        (SRV, ["0 0 0 ."], Change(SRV.name, "SRV", (SRV.value,), ("0 0 0 .",))),
        (SRV, ["0 1 1993 mail.dom.fr."], Change(SRV.name, "SRV", (SRV.value,), ("0 1 1993 mail.dom.fr.",))),
        (SRV, ["0 1 993 mail.dom.fr.", "0 1 143 mail.dom.fr."], Change(SRV.name, "SRV", (), ("0 1 143 mail.dom.fr.",))),
        (SRV, ["0 1 993 other.net."], Change(SRV.name, "SRV", (SRV.value,))),
        # A record without its version is a key's all the same, and blanks make no other kind of record.
        (KEY_RECORD, ['"k=rsa; p=BBBB"'], Change("k", "TXT", ('"v=DKIM1; p=AAAA"',), ('"k=rsa; p=BBBB"',))),
        (DMARC_RECORD, ['"v = DMARC1; p=reject"'], None),
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


@pytest.mark.parametrize(
    ("text", "policy", "tight"),
    [
        ("v=DMARC1; p=none; pct=5", "reject", "v=DMARC1; p=reject; pct=5"),
        ("v=DMARC1;p=none;sp=none", "quarantine", "v=DMARC1;p=quarantine;sp=none"),
        ("v=DMARC1; p=reject", "quarantine", "v=DMARC1; p=reject"),
        ("v=DMARC1; rua=mailto:a@b", "reject", "v=DMARC1; p=reject; rua=mailto:a@b"),
        ("v=DMARC1; sp=reject; p=bogus", "reject", "v=DMARC1; sp=reject; p=reject"),
    ],
)
def test_a_policy_is_tightened(text: str, policy: str, tight: str) -> None:
    assert tightened(text, policy) == tight


# -- the key


def test_key_as_its_generators_write_it() -> None:
    key = parse_key('# comment\nkey "update.dom.fr" {\n\talgorithm hmac-sha256;\n\tsecret "c2VjcmV0";\n};\n')
    assert key == UpdateKey("update.dom.fr", "hmac-sha256", b"secret")
    assert "secret" not in repr(key)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the key file must read"),
        ('key "k" { secret "c2VjcmV0"; };', "the key file must read"),
        ('key "k" { algorithm hmac-md5; secret "c2VjcmV0"; };', "hmac-md5; it must be one of hmac-sha256"),
        ('key "k" { algorithm hmac-sha256; secret "c2V!"; };', "secret of the key k is no base64"),
    ],
)
def test_wrong_key_is_one_clear_line_without_the_secret(text: str, message: str) -> None:
    with pytest.raises(UpdateFailed, match=message) as error:
        parse_key(text)
    assert "c2V" not in str(error.value)


# -- the findings

GOOD = {
    ("dom.fr.", "MX"): ["10 mail.dom.fr."],
    ("dom.fr.", "TXT"): ['"v=spf1 mx -all"'],
    ("mail.dom.fr.", "A"): ["192.0.2.10"],
    ("mail.dom.fr.", "AAAA"): ["2001:db8::10"],
    (FOUR_PTR, "PTR"): ["mail.dom.fr."],
    (SIX_PTR, "PTR"): ["mail.dom.fr."],
    ("mail.dom.fr.", "TXT"): ['"v=spf1 a -all"'],
    ("_dmarc.dom.fr.", "TXT"): [DMARC],
    ("_smtp._tls.dom.fr.", "TXT"): [TLS_REPORTS],
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return KeyFolder(str(tmp_path_factory.mktemp("keys"))).create("dom.fr", "rsa", "k")


def levels(zone: dict[tuple[str, str], list[str]], *keys: Key) -> set[tuple[str, str]]:
    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR, SIX], keys=keys)
    return {(finding.check, finding.level) for finding in findings(host, table(zone), look_at_port=False)}


def test_a_good_zone_has_nothing_wrong(key: Key) -> None:
    zone = {**GOOD, (f"{key.record_name}.", "TXT"): [quoted(key.record)]}
    assert levels(zone, key) == {
        (check, "ok") for check in ("mx", "address", "reverse", "spf", "dkim", "dmarc", "tls-rpt", "message")
    }


@pytest.mark.parametrize(
    ("changes", "state", "expected"),
    [
        ({"k": []}, SIGNING, ("dkim", "error")),
        ({"k": []}, NEXT, ("dkim", "warning")),
        ({"k": ['"v=DKIM1; p=AAAA"']}, SIGNING, ("dkim", "error")),
        ({"_dmarc": []}, SIGNING, ("dmarc", "warning")),
        ({"_dmarc": []}, SIGNING, ("message", "warning")),
        ({"_dmarc": ['"v=DMARC1; p=reject"']}, SIGNING, ("dmarc", "ok")),
        ({"_smtp._tls": []}, SIGNING, ("tls-rpt", "warning")),
        ({"": ['"v=spf1 -all"'], "k": []}, SIGNING, ("message", "error")),
        ({"": ['"v=spf1 -all"']}, SIGNING, ("message", "warning")),
        ({"k": []}, SIGNING, ("message", "warning")),
        ({"k": []}, RETIRED, ("dkim", "warning")),
        ({"k": ['"v=DKIM1; p="']}, SIGNING, ("dkim", "error")),
        ({"k": ['"v=DKIM1; p=AAAA"', "{key}"]}, SIGNING, ("dkim", "error")),
        ({"k": ["{testing}"]}, SIGNING, ("dkim", "warning")),
        ({"_dmarc": ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"']}, SIGNING, ("dmarc", "error")),
    ],
)
def test_what_receivers_would_conclude(
    key: Key, changes: dict[str, list[str]], state: str, expected: tuple[str, str]
) -> None:
    names = {"k": f"{key.record_name}.", "": "dom.fr."}
    zone = {**GOOD, (f"{key.record_name}.", "TXT"): [quoted(key.record)]}
    texts = {"{key}": quoted(key.record), "{testing}": quoted(f"{key.record}; t=y")}
    zone |= {
        (names.get(name, f"{name}.dom.fr."), "TXT"): [texts.get(value, value) for value in values]
        for name, values in changes.items()
    }
    assert expected in levels(zone, replace(key, state=state))


@pytest.mark.parametrize(
    ("values", "services", "level"),
    [
        (["0 1 993 mail.dom.fr."], [IMAPS], "ok"),
        ([], [IMAPS], "warning"),
        (["0 0 0 ."], [IMAPS], "warning"),
        (["0 1 993 other.net."], [IMAPS], "warning"),
        (["0 1 143 mail.dom.fr."], [IMAPS], "warning"),
        (["0 1 993 mail.dom.fr."], [], "warning"),
        (["0 1 993 other.net."], [], None),
        ([], [], None),
    ],
)
def test_services(values: list[str], services: list[Service], level: str | None) -> None:
    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR], services=services)
    zone = table({**GOOD, ("_imaps._tcp.dom.fr.", "SRV"): values})
    found = [finding for finding in findings(host, zone, look_at_port=False) if finding.check == "srv"]
    assert [finding.level for finding in found] == ([level] if level else [])


def serve_once(context: ssl.SSLContext | None, greeting: bytes, times: int = 4) -> int:
    """A port on 127.0.0.1 that greets some clients, with TLS from the start if there is a context."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            for _ in range(times):
                sock, _ = listener.accept()
                with contextlib.suppress(OSError), sock:
                    client = sock if context is None else context.wrap_socket(sock, server_side=True)
                    with client:
                        client.sendall(greeting)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "greeting", "found"),
    [
        ("_imaps._tcp", b"* OK [CAPABILITY IMAP4rev1] mail.dom.fr is ready\r\n", ["port ok", "certificate warning"]),
        ("_submissions._tcp", b"220 mail.dom.fr ESMTP\r\n", ["port ok", "certificate warning"]),
        ("_imaps._tcp", b"* OK other.net is ready\r\n", ["port error"]),
        ("_imaps._tcp", b"220 mail.dom.fr ESMTP\r\n", ["port error"]),
        ("_submissions._tcp", b"", ["port error"]),
    ],
)
def test_doors_are_tried(certificate: Certificate, name: str, greeting: bytes, found: list[str]) -> None:
    service = Service(name, serve_once(certificate.server_context(), greeting), "")
    seen = list(port_check.service("mail.dom.fr", ipaddress.ip_address("127.0.0.1"), service))
    assert [f"{finding.check} {finding.level}" for finding in seen] == found
    assert {finding.subject for finding in seen} == {f"127.0.0.1 port {service.port}"}


def test_a_door_for_another_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    other = make_certificate(tmp_path_factory.mktemp("other"), "other.net")
    service = Service("_submissions._tcp", serve_once(other.server_context(), b"220 mail.dom.fr ESMTP\r\n"), "")
    _, finding = port_check.service("mail.dom.fr", ipaddress.ip_address("127.0.0.1"), service)
    assert (finding.level, finding.text) == ("error", "it is not for mail.dom.fr")


def test_a_door_that_is_shut_or_without_tls() -> None:
    address = ipaddress.ip_address("127.0.0.1")
    (finding,) = port_check.service(
        "mail.dom.fr", address, Service("_imaps._tcp", serve_once(None, b"* OK mail.dom.fr\r\n"), "")
    )
    assert finding.text.startswith("what answers does not begin with TLS")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    (finding,) = port_check.service("mail.dom.fr", address, Service("_imaps._tcp", port, ""))
    assert (finding.text, finding.level) == ("no server for mail programs answers: Connection refused", "error")
    host = MailHost("mail.dom.fr", [], [address], 1, outbound=[], services=[Service("_imaps._tcp", port, "")])
    assert [f.subject for f in findings(host, table({})) if f.check == "port"] == [
        "127.0.0.1 port 1", f"127.0.0.1 port {port}",
    ]  # fmt: skip


def test_every_key_is_looked_at(key: Key, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One that does not answer keeps no other from being looked at."""
    folder = KeyFolder(str(tmp_path_factory.mktemp("more")))
    others = [folder.create("dom.fr", "ed25519", name, state) for name, state in (("n", NEXT), ("o", RETIRED))]
    zone = {**GOOD, (f"{key.record_name}.", "TXT"): [quoted(key.record)]}
    zone[f"{others[1].record_name}.", "TXT"] = ['"v=DKIM1; p="']
    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR], keys=[*others, key])

    def lookup(name: str, kind: str) -> list[str]:
        if name.startswith("n._domainkey"):
            raise DNSError("SERVFAIL")
        return table(zone)(name, kind)

    found = {f.subject: (f.level, f.text) for f in findings(host, lookup, look_at_port=False) if f.check == "dkim"}
    assert found == {
        "n._domainkey.dom.fr": ("warning", "SERVFAIL"),
        "o._domainkey.dom.fr": ("ok", "the old key is withdrawn"),
        "k._domainkey.dom.fr": ("ok", "the key's record is right: it signs"),
    }


@pytest.mark.parametrize(
    ("spf", "key_record", "policy", "text"),
    [
        ("v=spf1 mx -all", "{key}", "reject", "a receiver believes it (SPF pass, DKIM pass, DMARC pass)"),
        ("v=spf1 mx -all", "", "reject", "by SPF alone (SPF pass, DKIM permerror, DMARC pass): forwarded mail"),
        ("v=spf1 -all", "{key}", "reject", "by DKIM alone (SPF fail, DKIM pass, DMARC pass): 192.0.2.10 may not send"),
        ("v=spf1 -all", "", "reject", "a receiver refuses it (SPF fail, DKIM permerror, DMARC fail): nothing proves"),
        ("v=spf1 -all", "", "quarantine", "a receiver puts it into Junk (SPF fail"),
        ("v=spf1 -all", "", "none", "a receiver doubts it (SPF fail"),
        ("v=spf1 mx -all", "{key}", "", "can't tell whether it is from dom.fr (SPF pass, DKIM pass, DMARC none)"),
    ],
)
def test_the_message_in_mind_in_plain_words(key: Key, spf: str, key_record: str, policy: str, text: str) -> None:
    zone = {**GOOD, ("dom.fr.", "TXT"): [f'"{spf}"']}
    zone[f"{key.record_name}.", "TXT"] = [quoted(key.record)] if key_record else []
    zone["_dmarc.dom.fr.", "TXT"] = [f'"v=DMARC1; p={policy}"'] if policy else []
    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR], keys=[key])
    (found,) = [f for f in findings(host, table(zone), look_at_port=False) if f.check == "message"]
    assert text in found.text, found.text


def test_mail_that_is_not_signed() -> None:
    assert ("dkim", "warning") in levels(GOOD)


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
        ("mail.dom.fr.", "TXT", [], ("spf", "error")),
        ("dom.fr.", "TXT", ['"v=spf1 ip4:192.0.2.10 -all"'], ("spf", "error")),
        ("dom.fr.", "TXT", ['"v=spf1 mx"', '"v=spf1 a"'], ("spf", "error")),
    ],
)
def test_what_is_wrong_is_found(name: str, kind: str, values: list[str], expected: tuple[str, str]) -> None:
    assert expected in levels({**GOOD, (name, kind): values})


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR])
    found = list(findings(host, table({}), look_at_port=False))
    assert {finding.level for finding in found} == {"error", "warning"}
    assert all(finding.advice for finding in found)


def test_a_resolver_that_fails_is_a_finding() -> None:
    def broken(name: str, kind: str) -> list[str]:
        raise DNSError(f"{name}: SERVFAIL")

    host = MailHost("mail.dom.fr", ["dom.fr"], [FOUR])
    found = list(findings(host, broken, look_at_port=False))
    assert {(finding.level, finding.check) for finding in found} == {
        ("warning", "dkim"),  # without a key there is nothing to look up
        *(("error", check) for check in ("mx", "address", "reverse", "spf", "dmarc", "tls-rpt", "message")),
    }


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
    publisher = dns_update.Publisher(resolver, UpdateKey("k", "hmac-sha256", b"secret"))
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
