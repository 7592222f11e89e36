"""Which messages are signed, with which key."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from support.zone import Zone

from smtpmail.auth.dkim import Verification
from smtpmail.auth.dkim_keys import RETIRED, Key, KeyFolder
from smtpmail.auth.fields import MAX_HEADER, split_header
from smtpmail.auth.signing import CannotSign, Signer, Signing

DOMAINS = ["dom.fr", "other.org"]


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    folder = KeyFolder(str(tmp_path))
    for domain in ("dom.fr", "strict.dom.fr", "foreign.example"):
        folder.create(domain, "ed25519", "k")
    return folder


@pytest.fixture
def signer(folder: KeyFolder) -> Signer:
    return Signer(folder.path, DOMAINS, "mx.dom.fr", required=False)


@pytest.mark.parametrize(
    ("author", "domain"),
    [
        ("anna@dom.fr", "dom.fr"),
        ("Anna <anna@DOM.fr>", "dom.fr"),
        ("anna@sub.dom.fr", "dom.fr"),
        ("anna@strict.dom.fr", "strict.dom.fr"),
        ("anna@a.strict.dom.fr", "strict.dom.fr"),
        ("anna@foreign.example", None),
        ("anna@xdom.fr", None),
        ("anna@fr", None),
        ("anna@dom.fr, eve@foreign.example", None),
        ("anna", None),
    ],
)
def test_whose_mail_is_signed(signer: Signer, author: str, domain: str | None) -> None:
    keys = signer.keys_for(split_header(f"From: {author}\n".encode()), own=False)
    assert [key.domain for key in keys] == ([domain] if domain else [])


@pytest.mark.parametrize(
    ("author", "hostname", "domain"),
    [
        ("mailer-daemon@mx.dom.fr", "mx.dom.fr", "dom.fr"),
        ("mailer-daemon@mx.host.net", "mx.host.net", "dom.fr"),
        ("mailer-daemon@mx.foreign.example", "mx.foreign.example", "foreign.example"),
    ],
)
def test_notifications(folder: KeyFolder, author: str, hostname: str, domain: str) -> None:
    signer = Signer(folder.path, DOMAINS, hostname, required=False)
    (key,) = signer.keys_for(split_header(f"From: {author}\n".encode()), own=True)
    assert key.domain == domain


def test_a_domain_without_a_key(signer: Signer) -> None:
    with pytest.raises(CannotSign, match=r"other\.org has no key"):
        signer.keys_for(split_header(b"From: bob@other.org\n"), own=False)


def test_a_key_that_cannot_be_read_is_no_other_domains_concern(signer: Signer, folder: KeyFolder) -> None:
    Path(folder.path, "dom.fr", "k.pem").chmod(0o644)
    keys, errors = signer.reload()
    assert [key.domain for key in keys] == ["foreign.example", "strict.dom.fr"]
    assert "k.pem (mode 0644); chmod 600 it" in errors[0]
    with pytest.raises(CannotSign, match="chmod 600"):
        signer.keys_for(split_header(b"From: anna@dom.fr\n"), own=False)
    assert signer.keys_for(split_header(b"From: anna@strict.dom.fr\n"), own=False)


def test_keys_are_read_again(signer: Signer, folder: KeyFolder) -> None:
    signer.reload()
    key = folder.create("dom.fr", "ed25519", "new")
    os.utime(Path(folder.path, "dom.fr", "k.pem"), (1, 1))
    assert signer.keys_for(split_header(b"From: a@dom.fr\n"), own=False)[0].selector == "k"
    signer.reload()
    assert signer.keys_for(split_header(b"From: a@dom.fr\n"), own=False)[0].selector == key.selector


def test_a_key_that_cannot_be_read_beside_one_that_can(signer: Signer, folder: KeyFolder) -> None:
    """It is named; the other one signs."""
    folder.create("dom.fr", "ed25519", "new")
    Path(folder.path, "dom.fr", "new.pem").write_text("no key")
    keys, errors = signer.reload()
    assert [key.selector for key in keys if key.domain == "dom.fr"] == ["k"]
    assert "new.pem" in errors[0]
    assert signer.keys_for(split_header(b"From: anna@dom.fr\n"), own=False)[0].selector == "k"


def test_a_rotation_is_seen_without_a_word(signer: Signer, folder: KeyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that signs was renamed; a new key alone waits until somebody asks for it to be read."""
    monkeypatch.setattr("smtpmail.auth.signing.LOOK_SECONDS", 0.0)
    signer.reload()
    new = folder.create("dom.fr", "ed25519", "new")
    assert not signer.is_outdated()
    (old,) = [key for key in folder.keys("dom.fr") if key.selector == "k"]
    folder.move(old, RETIRED)
    assert signer.is_outdated()
    signer.reload()
    assert not signer.is_outdated()
    assert signer.keys_for(split_header(b"From: anna@dom.fr\n"), own=False)[0].selector == new.selector


def test_a_folder_that_is_gone_for_a_while(signer: Signer, folder: KeyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpmail.auth.signing.LOOK_SECONDS", 0.0)
    signer.reload()
    Path(folder.path).rename(f"{folder.path}.away")
    assert not signer.is_outdated()
    Path(f"{folder.path}.away").rename(folder.path)


def test_a_folder_that_hangs_holds_nobody_up(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system of several hosts: the keys that are known sign, and one look at a time is under way."""
    monkeypatch.setattr("smtpmail.auth.signing.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("smtpmail.auth.signing.LOOK_PATIENCE", 0.01)
    answers, looks = threading.Event(), []

    def hang(folder: KeyFolder, key: Key) -> bool:
        looks.append(key)
        answers.wait(60)
        return True

    monkeypatch.setattr(KeyFolder, "has", hang)
    signer.reload()
    assert not signer.is_outdated()
    assert not signer.is_outdated()
    assert len(looks) == 1
    assert signer.keys_for(split_header(b"From: anna@dom.fr\n"), own=False)
    answers.set()


def test_without_cryptography(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    keys, errors = signer.reload()
    assert keys == []
    assert "the Python package cryptography can't be loaded" in errors[0]


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    signer = Signer(str(tmp_path / "none"), DOMAINS, "mx.dom.fr", required=True)
    with pytest.raises(CannotSign, match="cannot read"):
        signer.keys_for(split_header(b"From: a@dom.fr\n"), own=False)


def test_a_message_in_pieces(signer: Signer) -> None:
    message = b"From: anna@dom.fr\nSubject: x\n\nHi.\n" * 1
    fields = set()
    for size in (1, 5, 1000):
        signing = Signing(signer, own=False, now=1.0)
        for i in range(0, len(message), size):
            signing.write(message[i : i + size])
        fields.add(signing.finish(message.partition(b"\n\n")[0] + b"\n"))
    assert len(fields) == 1
    assert fields.pop().startswith(b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=dom.fr;\n")


def test_a_header_too_large_to_be_signed(signer: Signer) -> None:
    signing = Signing(signer, own=False, now=1.0)
    signing.write(b"From: anna@dom.fr\nX: " + b"x" * MAX_HEADER + b"\n\n")
    with pytest.raises(CannotSign, match="too large"):
        signing.finish(b"From: anna@dom.fr\n")


def test_what_the_door_completes_is_signed(signer: Signer) -> None:
    """A program's text without a header: the fields that are put before it, and all of it as the body."""
    signing = Signing(signer, own=False, now=1.0)
    signing.write(b"Plain text.\n\nMore.\n")
    signature = signing.finish(b"From: anna@dom.fr\nDate: now\n\nPlain text.\n")
    (key,) = signer.keys_for(split_header(b"From: anna@dom.fr\n"), own=False)
    whole = signature + b"From: anna@dom.fr\nDate: now\n"
    verification = Verification(split_header(whole), 1.0)
    verification.update(b"Plain text.\n\nMore.\n")
    (check,) = verification.checks()
    assert check(Zone({key.record_name: {"TXT": [key.record]}})).result == "pass"


def test_a_header_that_ends_before_its_empty_line(signer: Signer) -> None:
    signing = Signing(signer, own=False, now=1.0)
    signing.write(b"From: anna@dom.fr\nno field\n\nMore.\n")
    with pytest.raises(CannotSign, match="is no field"):
        signing.finish(b"From: anna@dom.fr\n\nno field\n")


def test_without_a_thread_it_is_looked_another_time(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that takes no more threads takes mail all the same."""
    monkeypatch.setattr("smtpmail.auth.signing.LOOK_SECONDS", 0.0)
    signer.reload()

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert not signer.is_outdated()
