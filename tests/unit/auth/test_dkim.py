"""DKIM signatures: the RFCs' own, ours, dkimpy's, and those that must not be believed."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dkim as oracle
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support.zone import TIMEOUT, Zone

from smtpmail.auth import dkim_sign
from smtpmail.auth.canonical import BodyHash
from smtpmail.auth.dkim import MAX_SIGNATURES, DkimResult, Verification, header_digest
from smtpmail.auth.dkim_keys import SIGNING, Key, KeyFolder
from smtpmail.auth.fields import Field, split_header
from smtpmail.auth.lookup import Lookup

DATA = Path(__file__).parents[2] / "data" / "dkim"
NOW = 1_700_000_000.0
MESSAGE = (
    b"From: Anna <anna@dom.fr>\nTo: bob@example.net\nSubject:  A  long\n\tsubject\nDate: now\n"
    b"Message-ID: <1@dom.fr>\nReferences: <0@dom.fr>\nMIME-Version: 1.0\n\nHi  Bob.\n\n\n"
)

RFC6376_KEY = (
    "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYf"
    "cTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)
RFC8463_ED25519 = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
RFC8463_RSA = (
    "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16"
    "JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/"
    "K4w3QIDAQAB"
)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[Key]:
    """An RSA and an Ed25519 key of dom.fr."""
    folder = KeyFolder(str(tmp_path_factory.mktemp("keys")))
    return [folder.create("dom.fr", "rsa", "r"), folder.create("dom.fr", "ed25519", "e")]


def zone(*keys: Key) -> Zone:
    return Zone({key.record_name: {"TXT": [key.record]} for key in keys})


def verify(
    message: bytes, lookup: Lookup, *, now: float = NOW, piece: int = 10_000, authors: Sequence[str] = ()
) -> list[DkimResult]:
    header, _, body = message.partition(b"\n\n")
    verification = Verification(split_header(header + b"\n"), now, authors)
    for i in range(0, len(body), piece):
        verification.update(body[i : i + piece])
    return [check(lookup) for check in verification.checks()]


def results(message: bytes, lookup: Lookup, **options: Any) -> list[str]:
    return [found.result for found in verify(message, lookup, **options)]


def sign(message: bytes, keys: Sequence[Key], now: float = NOW) -> bytes:
    header, _, body = message.partition(b"\n\n")
    hashed = dkim_sign.body_hash()
    hashed.update(body)
    return dkim_sign.sign(split_header(header + b"\n"), hashed.digest(), keys, now) + message


def make(key: Key, message: bytes = MESSAGE, **tags: str | None) -> bytes:
    """A message with a signature of these tags, which are signed; None leaves one out."""
    head, _, body = message.partition(b"\n\n")
    form = (tags.get("c") or "simple").split("/")
    limit = tags.get("l") or ""
    hashed = BodyHash(relaxed=form[-1] == "relaxed" and len(form) > 1, limit=int(limit) if limit.isdigit() else None)
    hashed.update(body)
    bh = base64.b64encode(hashed.digest()).decode()
    all_tags = {"v": "1", "a": "rsa-sha256", "d": "dom.fr", "s": "r", "h": "From:To:Subject", "bh": bh, **tags}
    start = "; ".join(f"{name}={value}" for name, value in all_tags.items() if value is not None and name != "b")
    own = Field(b"dkim-signature", f"DKIM-Signature: {start}; b=".encode())
    names = (all_tags["h"] or "").lower().split(":")
    value = key.sign(header_digest(split_header(head + b"\n"), names, own, relaxed=form[0] == "relaxed"))
    return own.raw + (tags.get("b") or base64.b64encode(value).decode()).encode() + b"\n" + message


# -- the RFCs' own


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_rfc6376_a(piece: int) -> None:
    message = (DATA / "rfc6376-a.eml").read_bytes()
    answers = Zone({"brisbane._domainkey.example.com": {"TXT": [RFC6376_KEY]}})
    assert verify(message, answers, piece=piece) == [DkimResult("pass", "example.com", "brisbane", "", "AuUoFEfD")]


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_rfc8463_a3(piece: int) -> None:
    message = (DATA / "rfc8463-a3.eml").read_bytes()
    answers = Zone(
        {
            "brisbane._domainkey.football.example.com": {"TXT": [RFC8463_ED25519]},
            "test._domainkey.football.example.com": {"TXT": [RFC8463_RSA]},
        }
    )
    assert [(r.result, r.selector) for r in verify(message, answers, piece=piece)] == [
        ("pass", "brisbane"),
        ("pass", "test"),
    ]
    assert results(message.replace(b"hungry", b"angry"), answers) == ["fail", "fail"]
    assert results(message.replace(b"dinner", b"supper"), answers) == ["fail", "fail"]


# -- ours


def test_what_we_sign(keys: list[Key]) -> None:
    signed = sign(MESSAGE, keys)
    assert [(r.result, r.selector) for r in verify(signed, zone(*keys))] == [("pass", "r"), ("pass", "e")]
    tags = signed.partition(b"\n\n")[0].decode()
    assert " c=relaxed/relaxed; d=dom.fr;\n\ts=r; t=1700000000; bh=" in tags
    assert max(map(len, tags.splitlines())) < 79
    assert "l=" not in re.sub(r"\s", "", tags.split("b=")[0])


@pytest.mark.parametrize("name", [*dkim_sign.OVERSIGNED])
def test_nobody_can_add_a_field(keys: list[Key], name: str) -> None:
    signed = sign(MESSAGE, keys)
    field = f"{name}: x\n".encode()
    assert results(field + signed, zone(*keys)) == ["fail", "fail"]
    assert results(signed.replace(b"\n\n", b"\n" + field + b"\n", 1), zone(*keys)) == ["fail", "fail"]


def test_what_relays_do_is_allowed(keys: list[Key]) -> None:
    signed = b"Received: by x\n" + sign(MESSAGE, keys)
    signed = signed.replace(b"Subject:  A  long\n\tsubject", b"subject: A long subject").replace(b"Bob.\n", b"Bob. \n")
    assert results(signed + b"\n\n", zone(*keys)) == ["pass", "pass"]


@given(
    st.lists(st.sampled_from([b"To", b"From", b"Cc", b"X-A", b"Subject", b"MIME-Version"]), max_size=8),
    st.text(" \t\nab.é", max_size=30),
    st.text(" \t\nab.é", max_size=30),
)
@settings(max_examples=50)
def test_dkimpy_verifies_what_we_sign(keys: list[Key], names: list[bytes], value: str, body: str) -> None:
    folded = re.sub(rb"\n[ \t]*", b"\n x", value.encode())
    message = b"From: anna@dom.fr\n" + b"".join(name + b": " + folded + b"\n" for name in names) + b"\n" + body.encode()
    signed = sign(message, keys)
    wire = signed.replace(b"\n", b"\r\n")
    if not wire.endswith(b"\r\n"):
        wire += b"\r\n"
    records = {f"{key.record_name}.".encode(): key.record.encode() for key in keys}
    if body.strip(" \t\n"):  # of blank lines alone dkimpy hashes one, RFC 6376 3.4.4 none
        verifier = oracle.DKIM(wire)
        assert verifier.verify(0, dnsfunc=lambda name, **_: records[name])
    assert results(signed, zone(*keys)) == ["pass", "pass"]


forms = st.sampled_from([b"simple", b"relaxed"])


@given(st.text(" \t\nab.é", min_size=1, max_size=30), forms, forms)
@settings(max_examples=30)
def test_what_dkimpy_signs_is_verified(keys: list[Key], body: str, header_form: bytes, body_form: bytes) -> None:
    message = (MESSAGE + b"x" + body.encode() + b"\n").replace(b"\n", b"\r\n")
    private = keys[0].private
    assert isinstance(private, rsa.RSAPrivateKey)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    field = oracle.sign(message, b"r", b"dom.fr", pem, canonicalize=(header_form, body_form))
    assert results((field + message).replace(b"\r\n", b"\n"), zone(keys[0])) == ["pass"]


# -- what must not be believed


@pytest.mark.parametrize(
    ("tags", "result", "reason"),
    [
        ({}, "pass", ""),
        ({"v": "2"}, "permerror", "v=2 is not known"),
        ({"v": None}, "permerror", "has no v="),
        ({"a": "rsa-sha1"}, "policy", "rsa-sha1 is no longer accepted"),
        ({"a": "rsa-md5"}, "permerror", "a=rsa-md5 is not known"),
        ({"a": "ed25519-sha256"}, "permerror", "not for ed25519"),
        ({"c": "nofws"}, "permerror", "c=nofws is not known"),
        ({"d": "other.example"}, "permerror", "i=@dom.fr is not in other.example"),
        ({"d": "fr"}, "permerror", "d=fr is no domain"),
        ({"d": "a..b"}, "permerror", "is no domain"),
        ({"s": "a b/c"}, "permerror", "is no selector"),
        ({"s": "x" * 250}, "permerror", "is no selector"),
        ({"i": "@sub.dom.fr"}, "pass", ""),
        ({"i": "@xdom.fr"}, "permerror", "i=@xdom.fr is not in dom.fr"),
        ({"h": "To:Subject"}, "permerror", "the From field is not signed"),
        ({"h": "From:To:X-Absent"}, "pass", ""),
        ({"q": "dns/txt:other"}, "pass", ""),
        ({"q": "other"}, "permerror", "q=other is not known"),
        ({"x": "1699999999"}, "fail", "expired"),
        ({"x": "1700000001"}, "pass", ""),
        ({"t": "1700000001", "x": "1700000001"}, "permerror", "expired before it was made"),
        ({"x": "tomorrow"}, "permerror", "x=tomorrow is no number"),
        ({"t": "1800000000"}, "pass", ""),
        ({"l": "8"}, "policy", "only 8 of"),
        ({"l": "9" * 70}, "permerror", "is more than"),
        ({"l": "-1"}, "permerror", "is no number"),
        ({"bh": "AAAA"}, "fail", "body was changed"),
        ({"bh": "!"}, "permerror", "no base64"),
        ({"b": "AAAA"}, "fail", "does not match"),
        ({"b": "!"}, "permerror", "no base64"),
        ({"unknown": "tag"}, "pass", ""),
    ],
)
def test_tags(keys: list[Key], tags: dict[str, Any], result: str, reason: str) -> None:
    (found,) = verify(make(keys[0], **{"i": "@dom.fr", **tags}), zone(keys[0]))
    assert (found.result, reason in found.reason) == (result, True), found


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (b"DKIM-Signature: v=1; v=1; a=x\n", "stands twice"),
        (b"DKIM-Signature: nothing\n", "is not tag=value"),
        (b"DKIM-Signature:\n", "has no v="),
        (b"DKIM-Signature: v=\xff\n", "not UTF-8"),
        (b"DKIM-Signature: v=1; d=" + b"x" * 20_000 + b"\n", "too long"),
        (b"DKIM-Signature: =;;;=\n", "is not tag=value"),
    ],
)
def test_malformed_fields(field: bytes, reason: str) -> None:
    answers = Zone({})
    (found,) = verify(field + MESSAGE, answers)
    assert (found.result, reason in found.reason, answers.asked) == ("permerror", True, []), found


def test_text_behind_the_signed_length(keys: list[Key]) -> None:
    """The whole body signed with l= is a pass, until somebody adds to it."""
    body = b"Hi Bob.\n"
    header = MESSAGE.partition(b"\n\n")[0] + b"\n\n"
    signed = make(keys[0], header + body, l="9")
    assert results(signed, zone(keys[0])) == ["pass"]
    (found,) = verify(signed + b"<p>Buy!\n", zone(keys[0]))
    assert found.result == "policy"
    assert found.reason == "only 9 of the body's 18 octets are signed (l=)"


@pytest.mark.parametrize(
    ("record", "result", "reason"),
    [
        ("v=DKIM1; p={p}", "pass", ""),
        ("p={p}", "pass", ""),
        ("v=DKIM1; k=rsa; n=note; s=email; h=sha1:sha256; p={p};", "pass", ""),
        ("v=DKIM1; t=y; p={p}", "pass", "tested (t=y)"),
        ("v=DKIM1; p=", "permerror", "revoked"),
        ("v=DKIM2; p={p}", "permerror", "v=DKIM2 is not known"),
        ("v=DKIM1; k=ed25519; p={p}", "permerror", "not for rsa"),
        ("v=DKIM1; h=sha1; p={p}", "permerror", "not for sha256"),
        ("v=DKIM1; s=tlsrpt; p={p}", "permerror", "not for mail"),
        ("v=DKIM1; p=!!!", "permerror", "no base64"),
        ("v=DKIM1; p=AAAA", "policy", "smaller than 1024"),
        ("v=DKIM1; p=" + "AAAA" * 100, "permerror", "can't be read"),
        ("v=DKIM1; p=" + "AAAA" * 400, "policy", "larger than 4096"),
        ("v=DKIM1; p=" + "A" * 60_000, "permerror", "too long"),
        ("v=DKIM1; p=" + "A" * 70_000, "permerror", "there is no key"),
        ("v=spf1 -all", "permerror", "there is no key"),
        ("v=DKIM1; p={p}; p={p}", "permerror", "stands twice"),
    ],
)
def test_key_records(keys: list[Key], record: str, result: str, reason: str) -> None:
    text = record.replace("{p}", keys[0].record.partition("p=")[2])
    (found,) = verify(make(keys[0]), Zone({"r._domainkey.dom.fr": {"TXT": [text]}}))
    assert (found.result, reason in found.reason) == (result, True), found


def test_a_strict_key_is_not_for_names_below(keys: list[Key]) -> None:
    answers = Zone({"r._domainkey.dom.fr": {"TXT": [keys[0].record + "; t=s"]}})
    assert results(make(keys[0], i="@sub.dom.fr"), answers) == ["permerror"]
    assert results(make(keys[0], i="@dom.fr"), answers) == ["pass"]


def test_other_records_beside_the_key(keys: list[Key]) -> None:
    answers = Zone({"r._domainkey.dom.fr": {"TXT": ["v=spf1 -all", "x" * 65_000, RFC8463_RSA, keys[0].record]}})
    assert results(make(keys[0]), answers) == ["pass"]


@pytest.mark.parametrize(
    ("records", "result"),
    [
        ({}, "permerror"),
        ({"r._domainkey.dom.fr": {"A": ["192.0.2.1"]}}, "permerror"),
        ({"r._domainkey.dom.fr": TIMEOUT}, "temperror"),
        ({"r._domainkey.dom.fr": {"CNAME": ["r._domainkey.dom.fr"]}}, "temperror"),
    ],
)
def test_without_an_answer(keys: list[Key], records: dict[str, dict[str, list[str]]], result: str) -> None:
    assert results(make(keys[0]), Zone(records)) == [result]


@pytest.mark.parametrize(("bits", "result"), [(512, "policy"), (1023, "policy"), (1024, "pass"), (4096, "pass")])
def test_sizes_of_keys(bits: int, result: str) -> None:
    private = _weak_key(bits) if bits < 1024 else rsa.generate_private_key(65537, bits)
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    answers = Zone({"r._domainkey.dom.fr": {"TXT": [f"v=DKIM1; p={base64.b64encode(public).decode()}"]}})
    message = sign(MESSAGE, [Key("dom.fr", "r", private, SIGNING, 0.0)])
    assert results(message, answers) == [result]


def _weak_key(bits: int) -> rsa.RSAPrivateKey:
    """OpenSSL's program makes what the library refuses to make."""
    pem = subprocess.run(["openssl", "genrsa", str(bits)], check=True, capture_output=True).stdout
    private = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(private, rsa.RSAPrivateKey)
    return private


def test_a_huge_key_costs_nothing(keys: list[Key]) -> None:
    """16,384 bits, and an exponent of as many: a stranger's way to burn our time."""
    for bits, e in ((16_384, 65_537), (16_384, (1 << 16_380) + 1), (4096, (1 << 4000) + 1)):
        public = rsa.RSAPublicNumbers(e, (1 << bits - 1) + 1).public_key() if e < 1 << 33 or bits <= 4096 else None
        octets = (
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) if public else b"\x30" * (bits // 8)
        )
        answers = Zone({"r._domainkey.dom.fr": {"TXT": [f"p={base64.b64encode(octets).decode()}"]}})
        start = time.process_time()
        assert results(make(keys[0]), answers)[0] in ("policy", "permerror")
        assert time.process_time() - start < 1


def test_a_hundred_signatures(keys: list[Key]) -> None:
    """The author's is found among them; DNS is asked for ten at most, the body hashed twice at most."""
    foreign = b"".join(
        f"DKIM-Signature: v=1; a=rsa-sha256; d=x{i}.example; s=s; h=from; bh=AAAA; b=AAAA\n".encode()
        for i in range(100)
    )
    answers = zone(keys[0])
    found = verify(foreign + sign(MESSAGE, keys[:1]), answers, authors=["sub.dom.fr"])
    assert len(found) == MAX_SIGNATURES
    assert [r.domain for r in found if r.result == "pass"] == ["dom.fr"]
    assert len(answers.asked) <= MAX_SIGNATURES


def test_no_signature() -> None:
    assert verify(MESSAGE, Zone({})) == []


@given(st.text(st.characters(codec="utf-8"), max_size=80), st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_no_crash(tags: str, record: str) -> None:
    value = " ".join(tags.split())
    known = f"v=1; a=rsa-sha256; d=dom.fr; s=r; h=from; bh=AAAA; b=AAAA; {value}"
    for text in (value, known):
        (found,) = verify(
            f"DKIM-Signature: {text}\n".encode() + MESSAGE, Zone({"r._domainkey.dom.fr": {"TXT": [record]}})
        )
        assert found.result in ("fail", "permerror", "policy")
        assert found.reason.isascii()
        assert "\n" not in found.reason


def test_without_a_signature_cryptography_is_not_loaded() -> None:
    code = (
        "import sys, smtpmail.auth.dkim, smtpmail.auth.dkim_sign, smtpmail.auth.dkim_keys;"
        "sys.exit('cryptography' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_field_name_that_is_no_name(keys: list[Key]) -> None:
    """A line without a colon among the fields breaks nothing."""
    signed = sign(MESSAGE.replace(b"To:", b"no field\nTo:"), keys)
    assert results(signed, zone(*keys)) == ["pass", "pass"]
    assert replace(keys[0], selector="x").record_name == "x._domainkey.dom.fr"
