"""smtpmail dkim and smtpmail verify: keys, records, rotation; what is said of a stored message."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.zone import TIMEOUT, Zone

from smtpmail.admin.dkim_rotation import REVOKED, Rotation
from smtpmail.admin.dns_records import text_of
from smtpmail.auth.dkim_keys import NEXT, SIGNING, KeyFolder
from smtpmail.cli import cli
from smtpmail.settings.values import ConfigError

DAY = 86400.0


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["dkim", *arguments, "--dkim-keys", str(folder)])


# -- new, list, show


def test_a_new_key_and_its_record(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    result = run(folder, "new", "Dom.FR", "--selector", "mail")
    assert result.exit_code == 0, result.output
    name, ttl, in_, kind, value = result.stdout.rstrip().split(" ", 4)
    assert (name, ttl, in_, kind) == ("mail._domainkey.dom.fr.", "3600", "IN", "TXT")
    (key,) = KeyFolder(str(folder)).signing("dom.fr")
    assert text_of(value) == key.record
    assert all(len(part) <= 255 for part in value.split('"')[1::2])
    assert run(folder, "show", "dom.fr").stdout == result.stdout
    assert run(folder, "list").stdout.split()[:4] == ["dom.fr", "mail", "rsa", "signs"]
    (described,) = json.loads(run(folder, "list", "--json").stdout)
    assert (described["state"], described["name"], described["value"]) == ("signs", name, value)


def test_a_second_key(tmp_path: Path) -> None:
    run(tmp_path, "new", "dom.fr", "--selector", "a")
    result = run(tmp_path, "new", "dom.fr", "--selector", "b")
    assert result.exit_code == 1
    assert "dom.fr has a key already, a; smtpmail dkim rotate dom.fr replaces it" in result.output
    assert run(tmp_path, "new", "dom.fr", "--algorithm", "ed25519").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["new", "a..b"], 2, "not a domain name"),
        (["new", "../etc"], 2, "not a domain name"),
        (["new", "dom.fr", "--selector", "../x"], 1, "is no selector"),
        (["show", "dom.fr"], 1, "there is no such key"),
        (["rotate", "dom.fr"], 1, "dom.fr has no key; smtpmail dkim new dom.fr makes one"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: list[str], status: int, text: str) -> None:
    result = run(tmp_path, *arguments)
    assert (result.exit_code, text in result.output) == (status, True), result.output


def test_without_a_folder() -> None:
    result = CliRunner().invoke(cli, ["dkim", "list"])
    assert isinstance(result.exception, ConfigError)
    assert "--dkim-keys" in str(result.exception)


# -- rotation


class Published:
    """Stands for dynamic updates: what is published is seen at once."""

    def __init__(self, records: dict[str, Any]) -> None:
        self.records = records

    def publish(self, records: list[Any]) -> None:
        for record in records:
            self.records[record.name.rstrip(".")] = {"TXT": [text_of(record.value)]}

    def wait(self, records: list[Any], seconds: float) -> None:
        pass


def rotation(
    folder: KeyFolder, records: dict[str, Any], *, now: float, publisher: Any = None, younger_stays: float = 0
) -> Rotation:
    lookup = lambda name, kind: Zone(records)(name, kind)  # noqa: E731
    return Rotation(folder, lookup, publisher, wait=1, keep=7 * DAY, younger_stays=younger_stays, now=now)


def states(folder: KeyFolder) -> list[tuple[str, str]]:
    return [(key.selector, key.state) for key in folder.keys("dom.fr")]


def test_rotation_by_hand(tmp_path: Path) -> None:
    """The record is shown until it is seen; the old key's is withdrawn when no message of it is under way."""
    folder = KeyFolder(str(tmp_path))
    old = folder.create("dom.fr", "rsa", "old")
    records: dict[str, Any] = {old.record_name: {"TXT": [old.record]}}
    now = time.time()
    steps = list(rotation(folder, records, now=now).go_on("dom.fr"))
    assert [step.action for step in steps] == ["made", "publish"]
    coming = steps[1].selector
    assert coming in steps[1].record
    assert states(folder) == [(coming, ".next"), ("old", ".pem")]
    assert [step.action for step in rotation(folder, records, now=now).go_on("dom.fr")] == ["publish"]
    (new,) = [key for key in folder.keys("dom.fr") if key.selector == coming]
    records[new.record_name] = {"TXT": [new.record]}
    assert [step.action for step in rotation(folder, records, now=now).go_on("dom.fr")] == ["switched"]
    assert states(folder) == [(coming, ".pem"), ("old", ".retired")]
    assert [key.selector for key in folder.signing("dom.fr")] == [coming]
    again = rotation(folder, records, now=now + 6 * DAY, younger_stays=180 * DAY)
    assert list(again.go_on("dom.fr")) == []
    later = rotation(folder, records, now=now + 8 * DAY, younger_stays=180 * DAY)
    (step,) = later.go_on("dom.fr")
    assert (step.action, '"v=DKIM1; p="' in step.record) == ("withdraw", True)
    records[old.record_name] = {"TXT": [REVOKED]}
    assert [step.action for step in later.go_on("dom.fr")] == ["removed"]
    assert states(folder) == [(coming, ".pem")]


def test_rotation_with_dynamic_updates(tmp_path: Path) -> None:
    folder = KeyFolder(str(tmp_path))
    old = folder.create("dom.fr", "ed25519", "old")
    records: dict[str, Any] = {}
    publisher = Published(records)
    steps = list(rotation(folder, records, now=time.time(), publisher=publisher).go_on("dom.fr"))
    assert [step.action for step in steps] == ["made", "switched"]
    (new,) = folder.signing("dom.fr")
    assert records[new.record_name] == {"TXT": [new.record]}
    later = rotation(folder, records, now=time.time() + 8 * DAY, publisher=publisher, younger_stays=180 * DAY)
    assert [step.action for step in later.go_on("dom.fr")] == ["removed"]
    assert records[old.record_name] == {"TXT": [REVOKED]}


def test_a_switch_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    """Both keys are in place: the newer one signs, and the old one goes its way."""
    folder = KeyFolder(str(tmp_path))
    folder.create("dom.fr", "ed25519", "old")
    folder.move(folder.create("dom.fr", "ed25519", "new", NEXT), SIGNING)
    os.utime(tmp_path / "dom.fr" / "old.pem", (time.time() - 100 * DAY,) * 2)
    (step,) = rotation(folder, {}, now=time.time(), younger_stays=90 * DAY).go_on("dom.fr")
    assert (step.action, step.selector) == ("switched", "new")
    assert states(folder) == [("new", ".pem"), ("old", ".retired")]


def test_a_record_that_one_server_of_the_zone_lacks(tmp_path: Path) -> None:
    """The resolver has asked another one: to switch now would make signatures false for some."""
    folder = KeyFolder(str(tmp_path))
    folder.create("dom.fr", "ed25519", "old")
    (step, _) = rotation(folder, {}, now=time.time()).go_on("dom.fr")
    (new,) = [key for key in folder.keys("dom.fr") if key.selector == step.selector]
    turning = rotation(folder, {new.record_name: {"TXT": [new.record]}}, now=time.time())
    turning._lacking = lambda record: f"ns2 lacks {record.name}"
    assert [step.action for step in turning.go_on("dom.fr")] == ["publish"]
    turning._lacking = lambda record: ""
    assert [step.action for step in turning.go_on("dom.fr")] == ["switched"]


def test_a_domain_that_fails_keeps_no_other_waiting(tmp_path: Path) -> None:
    """What was done is told, also of the failing one; the exit status says that there was one."""
    folder = KeyFolder(str(tmp_path))
    for domain in ("a.test", "b.test"):
        folder.create(domain, "ed25519", "old")
    (tmp_path / "a.test" / "x.pem").write_text("no key")
    (tmp_path / "a.test" / "x.pem").chmod(0o600)
    result = run(tmp_path, "rotate", "--resolver", "127.0.0.1:9")
    assert result.exit_code == 1
    assert "a.test: " in result.stderr and "x.pem is no private key" in result.stderr
    assert "b.test: the next key is " in result.stdout
    # What is to be published is shown whatever the DNS does.
    assert "publish this record" in result.stdout
    assert "_domainkey.b.test. 3600 IN TXT " in result.stdout
    listed = run(tmp_path, "list")
    assert listed.exit_code == 1
    assert "x.pem is no private key" in listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["a.test", "b.test", "b.test"]


def test_a_young_key_stays(tmp_path: Path) -> None:
    folder = KeyFolder(str(tmp_path))
    folder.create("dom.fr", "ed25519", "k")
    now = time.time()
    assert list(rotation(folder, {}, now=now, younger_stays=DAY).go_on("dom.fr")) == []
    os.utime(tmp_path / "dom.fr" / "k.pem", (now - 2 * DAY, now - 2 * DAY))
    assert [s.action for s in rotation(folder, {}, now=now, younger_stays=DAY).go_on("dom.fr")] == ["made", "publish"]


# -- verify

STORED = (
    "Return-Path: <eve@bank.example>\nDelivered-To: bob@dom.fr\n"
    "Received: from mx.eve.example ([198.51.100.1])\n\tby mx.dom.fr with ESMTP id 1;\n\tnow\n"
    "From: ceo@bank.example\n\nHi.\n"
)
RECORDS: dict[str, Any] = {
    "bank.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.bank.example": {"TXT": ["v=DMARC1; p=reject"]},
}


def verify(monkeypatch: pytest.MonkeyPatch, text: str, records: dict[str, Any], *arguments: str) -> Result:
    monkeypatch.setattr("smtpmail.admin.verify.Resolver.lookup", lambda _, name, kind, **__: Zone(records)(name, kind))
    return CliRunner().invoke(cli, ["verify", *arguments], input=text)


@pytest.mark.parametrize(
    ("records", "arguments", "status", "said"),
    [
        (RECORDS, [], 1, "nothing proves that it is from bank.example"),
        (RECORDS, ["--ip", "192.0.2.1"], 0, "It is from bank.example."),
        ({}, [], 0, "has no DMARC policy"),
        ({"_dmarc.bank.example": TIMEOUT}, [], 75, "the DNS did not answer"),
        (RECORDS, ["--sender", "x@eve.example"], 1, "sender     <x@eve.example>"),
        (RECORDS, ["--ip", "nonsense"], 2, "'nonsense' is no IP address"),
    ],
)
def test_verify(
    monkeypatch: pytest.MonkeyPatch, records: dict[str, Any], arguments: list[str], status: int, said: str
) -> None:
    result = verify(monkeypatch, STORED, records, *arguments)
    assert (result.exit_code, said in result.output) == (status, True), result.output


def test_verify_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a file with CRLF, and out of an mbox."""
    for text in (STORED, STORED.replace("\n", "\r\n"), f"From eve now\n{STORED}"):
        result = verify(monkeypatch, text, RECORDS, "--json")
        found = json.loads(result.stdout)
        assert (found["client"], found["helo"], found["sender"]) == (
            "198.51.100.1",
            "mx.eve.example",
            "eve@bank.example",
        )
        assert (found["spf"]["result"], found["dmarc"]["result"], found["disposition"]) == ("fail", "fail", "reject")


def test_verify_of_who_is_exempted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "exempt").write_text("bank.example\n")
    result = verify(monkeypatch, STORED, RECORDS, "--verify-exempt", str(tmp_path / "exempt"))
    assert "It is let through whatever the checks say: bank.example is exempted" in result.output
    assert result.exit_code == 1
