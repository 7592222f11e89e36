"""Mail that foreign programs believe, foreign mail that we believe, and forged mail that neither takes."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import smtplib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpmail.admin.dns_records import quoted
from smtpmail.auth.dkim_keys import NEXT, KeyFolder
from smtpmail.dns.wire import authoritative

from . import certificates, nameservers
from .conftest import TLS_OPTIONS
from .judge import Judge
from .lab import Lab, LabError, wait_until
from .program import CHECKOUT, DOMAINS, HOSTNAME, Program

OURS, JUDGE = "192.0.2.10", "192.0.2.50"
TEN_DAYS = 10 * 86400.0
PASSED = {"dkim": "pass", "spf": "pass", "dmarc": "pass"}
BOTH, LAGGING = "v4.dom.test", "v6.dom.test"
"""Domains of ours: with a key of each algorithm; with two name servers, one of which lags."""


@pytest.fixture(scope="module")
def secondary(lab: Lab) -> nameservers.Secondary:
    return nameservers.Secondary(lab["dns"])


@pytest.fixture(scope="module")
def keys(lab: Lab, secondary: nameservers.Secondary, tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    """The keys of our domains, published."""
    folder = KeyFolder(str(tmp_path_factory.mktemp("keys")))
    for domain, algorithm in (("dom.test", "rsa"), (BOTH, "rsa"), (BOTH, "ed25519"), (LAGGING, "rsa")):
        key = folder.create(domain, algorithm)
        nameservers.publish(lab["dns"], f"_domainkey.{domain}.", key.selector, quoted(key.record))
    secondary.refresh()
    return folder


@pytest.fixture(scope="module")
def ours(
    lab: Lab,
    authority: certificates.Authority,
    keys: KeyFolder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Program]:
    """smtpmail, which signs and enforces."""
    options = (*TLS_OPTIONS, "--dkim-keys", keys.path, "--dkim-required", "--verify", "enforce")
    program = Program(lab["ours"], tmp_path_factory.mktemp("ours"), *options)
    program.start()
    yield program
    assert program.stop() == 0


def deliver(lab: Lab, text: bytes, *, sender: str = "alice@judge.test", to: str = OURS) -> None:
    """Hands a message to us, or to the judge, from the host of the sinks, which nobody's policy allows."""
    recipient = "bob@dom.test" if to == OURS else "alice@judge.test"
    with lab["sink"].call(smtplib.SMTP, to, 25, "sink1.test", 15) as client:
        assert client.sendmail(sender, [recipient], text.replace(b"\n", b"\r\n")) == {}


def test_what_we_sign_is_believed(ours: Program, judge: Judge) -> None:
    """By OpenDKIM and OpenDMARC in front of Postfix, by Mail::DKIM and by rspamd; p=reject."""
    sent = ours.post("alice@judge.test", body="Hi  Alice.\n\n\n.dots.  \n\tend \n\n\n")
    path = judge.file(sent.subject)
    assert judge.results(path) == PASSED, path.read_text()
    message = path.read_bytes()
    assert "verify result: pass" in judge.mail_dkim(message)
    assert "R_DKIM_ALLOW" in judge.rspamd(message)
    changed = message.replace(b"Hi  Alice", b"Hi Mallory")
    assert "verify result: pass" not in judge.mail_dkim(changed)
    assert "R_DKIM_REJECT" in judge.rspamd(changed)


def test_what_we_sign_with_ed25519_is_believed(ours: Program, judge: Judge, keys: KeyFolder) -> None:
    """By rspamd and dkimpy; who knows RSA alone, as OpenDKIM does, finds that signature beside it."""
    sent = ours.post("alice@judge.test", sender=f"alice@{BOTH}")
    path = judge.file(sent.subject)
    assert judge.results(path) == PASSED, path.read_text()
    message = path.read_bytes()
    selectors = {key.algorithm: key.selector for key in keys.signing(BOTH)}
    found = judge.rspamd(message)
    for algorithm in ("rsa", "ed25519"):
        assert f"a={algorithm}-sha256;".encode() in message
        assert f"{BOTH}:s={selectors[algorithm]}" in found, found
    records = {key.record_name: key.record for key in keys.signing(BOTH)}
    assert judge.dkimpy(message, records) == [True, True]
    changed = message.replace(b"A body", b"No body")
    assert judge.dkimpy(changed, records) == [False, False]
    assert "R_DKIM_ALLOW" not in judge.rspamd(changed)


def test_a_notification_of_ours_is_believed(ours: Program, judge: Judge) -> None:
    """It has no sender: SPF looks at the name in EHLO."""
    content = b"From: alice@judge.test\r\nSubject: to nobody\r\n\r\nx\r\n"
    ours.submit(content, "nobody@judge.test", sender="alice@judge.test")
    notice = judge.file("Your message could not be delivered")
    assert judge.results(notice) == PASSED


def test_what_opendkim_signs_is_believed(ours: Program, judge: Judge) -> None:
    with judge.host.call(smtplib.SMTP, "127.0.0.1", 25, "localhost", 15) as client:
        content = b"From: alice@judge.test\r\nTo: bob@dom.test\r\nSubject: signed by OpenDKIM\r\n\r\n Hi  Bob.\r\n\r\n"
        assert client.sendmail("alice@judge.test", ["bob@dom.test"], content) == {}
    message = ours.wait_for_subject("bob", "signed by OpenDKIM")
    found = message["Authentication-Results"]
    for result in ("spf=pass", "dkim=pass header.d=judge.test header.s=s", "dmarc=pass", "iprev=pass"):
        assert result in " ".join(found.split())


def test_what_mail_dkim_signs_is_believed(lab: Lab, ours: Program, judge: Judge) -> None:
    text = b"From: alice@judge.test\nTo: bob@dom.test\nSubject: signed by Perl\n\n Hi  Bob. \n\n"
    signed = judge.mail_dkim_signs(text) + text
    assert signed.startswith(b"DKIM-Signature:")
    deliver(lab, signed)
    message = ours.wait_for_subject("bob", "signed by Perl")
    found = " ".join(message["Authentication-Results"].split())
    assert "spf=fail" in found and "dkim=pass header.d=judge.test" in found and "dmarc=pass" in found


@pytest.mark.parametrize("program", ["rspamd", "dkimpy"])
def test_what_others_sign_with_ed25519_is_believed(lab: Lab, ours: Program, judge: Judge, program: str) -> None:
    subject = f"Ed25519 by {program}"
    text = f"From: alice@judge.test\nTo: bob@dom.test\nSubject: {subject}\n\n Hi  Bob. \n\n".encode()
    signed = judge.rspamd_signs(text) if program == "rspamd" else judge.dkimpy_signs(text)
    assert b"a=ed25519-sha256" in signed
    deliver(lab, signed + text)
    found = " ".join(ours.wait_for_subject("bob", subject)["Authentication-Results"].split())
    assert "spf=fail" in found
    assert "dkim=pass header.d=judge.test header.s=ed;" in found
    assert "dmarc=pass" in found
    with pytest.raises(smtplib.SMTPDataError):
        deliver(lab, signed + text.replace(b"Hi  Bob", b"Pay  me"))


def test_forged_mail_is_refused(lab: Lab, ours: Program, judge: Judge) -> None:
    """By us as by OpenDMARC; our reply says which check failed, and why."""
    with pytest.raises(smtplib.SMTPDataError) as caught:
        deliver(lab, b"From: ceo@judge.test\nSubject: forged\n\nPay!\n")
    assert caught.value.smtp_code == 550
    said = caught.value.smtp_error.decode() if isinstance(caught.value.smtp_error, bytes) else caught.value.smtp_error
    assert said.startswith("5.7.1 ")
    assert "judge.test" in said and "SPF" in said and "DKIM" in said
    assert not [m for m in ours.mailbox("bob") if m["Subject"] == "forged"]
    with pytest.raises(smtplib.SMTPDataError) as caught:
        text = b"From: alice@dom.test\nSubject: forged\n\nPay!\n"
        deliver(lab, text, sender="alice@dom.test", to=JUDGE)
    assert caught.value.smtp_code == 550


def test_quarantine(lab: Lab, ours: Program) -> None:
    deliver(lab, b"From: ceo@quarantine.test\nSubject: doubtful\n\nPay!\n", sender="x@quarantine.test")
    stored = ours.wait_for("message.stored", folder="Junk")
    text = (ours.spool / "bob" / "Junk" / str(stored["number"])).read_text()
    assert "dmarc=fail header.from=quarantine.test (p=quarantine:" in " ".join(text.split())
    assert not [m for m in ours.mailbox("bob") if m["Subject"] == "doubtful"]


# -- rotation


def smtpmail(ours: Program, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    settings = [word for domain in DOMAINS for word in ("-s", domain)]
    command = [sys.executable, "-m", "smtpmail", *arguments, *settings, "--hostname", HOSTNAME]
    done = ours.host.run(*command, "--resolver", nameservers.RESOLVER, env=environment)
    return done.stdout


class Traffic:
    """Messages to the judge, several a second, until it ends."""

    def __init__(self, ours: Program) -> None:
        self._ours = ours
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.subjects: list[str] = []

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.wait(0.1):
            self.subjects.append(self._ours.post("carol@judge.test").subject)


def _selector(path: Path) -> str:
    found = re.search(r"a=rsa-sha256;[^;]*; d=\S+;\s+s=([^;]+);", path.read_text(errors="replace"))
    assert found
    return found[1]


def rotate(ours: Program, keys: KeyFolder, domain: str, *options: str) -> list[dict[str, str]]:
    """The steps that were taken. Raises LabError with what the command said when it failed."""
    arguments = ["dkim", "rotate", domain, "--json", "--dkim-keys", keys.path, *options]
    return list(json.loads(smtpmail(ours, *arguments)))


@pytest.fixture
def tsig(tmp_path: Path) -> str:
    """The file of the key for dynamic updates."""
    path = tmp_path / "tsig"
    path.write_text(nameservers.TSIG_KEY)
    return str(path)


def test_a_key_is_rotated_under_traffic(lab: Lab, ours: Program, judge: Judge, keys: KeyFolder, tsig: str) -> None:
    """Once by dynamic updates, once by hand; nobody tells the server, and no verification fails."""

    def signs(selector: str) -> None:
        wait_until(
            lambda: any(_selector(path) == selector for path in judge.files("carol")[-5:]),
            f"mail signed with {selector}",
        )

    def rsa() -> str:
        return keys.signing("dom.test")[0].selector

    first = rsa()
    with Traffic(ours) as traffic:
        signs(first)
        steps = rotate(ours, keys, "dom.test", "--key-file", tsig)
        assert [step["action"] for step in steps] == ["made", "switched"]
        second = rsa()
        signs(second)
        # By hand: the record is shown until it is seen.
        for _ in range(2):
            shown = rotate(ours, keys, "dom.test")[-1]
            assert shown["action"] == "publish"
        assert rsa() == second
        value = shown["record"].partition(" TXT ")[2]
        assert value in smtpmail(ours, "dkim", "show", "--dkim-keys", keys.path)
        nameservers.publish(lab["dns"], "_domainkey.dom.test.", shown["selector"], value)
        time.sleep(2)  # that there was no record is known for a second
        assert [step["action"] for step in rotate(ours, keys, "dom.test")] == ["switched"]
        third = rsa()
        signs(third)
    assert len({first, second, third}) == 3
    for subject in traffic.subjects:
        path = judge.file(subject, "carol")
        assert judge.results(path) == PASSED, path.read_text()
    # After the queue's lifetime and two days the first two are withdrawn; nothing else is due.
    for path in Path(keys.path, "dom.test").glob("*.retired"):
        os.utime(path, (time.time() - TEN_DAYS,) * 2)
    steps = rotate(ours, keys, "dom.test", "--key-file", tsig, "--older-than", "90")
    assert [step["action"] for step in steps] == ["removed"] * 2
    authority = ipaddress.ip_address(nameservers.AUTHORITY[0])
    for selector in (first, second):
        found = ours.host.call(authoritative, authority, f"{selector}._domainkey.dom.test", "TXT")
        assert found == ['"v=DKIM1; p="']


def test_a_key_signs_when_all_name_servers_have_it(
    ours: Program, judge: Judge, keys: KeyFolder, secondary: nameservers.Secondary, tsig: str
) -> None:
    """One of two lags, then one is silent: whoever asks that one must find the key that signs."""

    def signs() -> str:
        sent = ours.post("carol@judge.test", sender=f"alice@{LAGGING}")
        path = judge.file(sent.subject, "carol")
        assert judge.results(path) == PASSED, path.read_text()
        return _selector(path)

    by_update = ("--key-file", tsig, "--wait", "1")
    (first,) = (key.selector for key in keys.signing(LAGGING))
    with pytest.raises(LabError, match=r"ns2\.test\. \(\S+\) does not have"):
        rotate(ours, keys, LAGGING, *by_update)
    (coming,) = (key for key in keys.keys(LAGGING) if key.state == NEXT)
    primary, second = (ipaddress.ip_address(found[0]) for found in (nameservers.AUTHORITY, nameservers.SECONDARY))

    def known_by(server: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[str]:
        return ours.host.call(authoritative, server, coming.record_name, "TXT")

    assert known_by(primary) and not known_by(second)
    # By hand the same: that one server has it is not enough.
    assert [step["action"] for step in rotate(ours, keys, LAGGING)] == ["publish"]
    assert signs() == first
    secondary.refresh()
    assert known_by(second) == known_by(primary)
    assert [step["action"] for step in rotate(ours, keys, LAGGING, *by_update)] == ["switched"]
    wait_until(lambda: signs() == coming.selector, f"mail signed with {coming.selector}")
    secondary.stop()
    with pytest.raises(LabError, match=nameservers.SECONDARY[1]):
        rotate(ours, keys, LAGGING, *by_update)
    assert [key.selector for key in keys.signing(LAGGING)] == [coming.selector]
