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

from smtpmail.auth.dkim_keys import KeyFolder
from smtpmail.dns.wire import authoritative

from . import certificates, nameservers
from .conftest import TLS_OPTIONS
from .judge import Judge
from .lab import Lab, wait_until
from .program import CHECKOUT, DOMAINS, HOSTNAME, Program

OURS, JUDGE = "192.0.2.10", "192.0.2.50"
TEN_DAYS = 10 * 86400.0


@pytest.fixture(scope="module")
def keys(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    """The key of dom.test, published."""
    folder = KeyFolder(str(tmp_path_factory.mktemp("keys")))
    key = folder.create("dom.test", "rsa")
    parts = [f'"{key.record[i : i + 255]}"' for i in range(0, len(key.record), 255)]
    nameservers.publish(lab["dns"], "_domainkey.dom.test.", key.selector, " ".join(parts))
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
    assert judge.results(path) == {"dkim": "pass", "spf": "pass", "dmarc": "pass"}, path.read_text()
    message = path.read_bytes()
    assert "verify result: pass" in judge.mail_dkim(message)
    assert "R_DKIM_ALLOW" in judge.rspamd(message)
    changed = message.replace(b"Hi  Alice", b"Hi Mallory")
    assert "verify result: pass" not in judge.mail_dkim(changed)
    assert "R_DKIM_REJECT" in judge.rspamd(changed)


def test_a_notification_of_ours_is_believed(ours: Program, judge: Judge) -> None:
    """It has no sender: SPF looks at the name in EHLO."""
    content = b"From: alice@judge.test\r\nSubject: to nobody\r\n\r\nx\r\n"
    ours.submit(content, "nobody@judge.test", sender="alice@judge.test")
    notice = judge.file("Your message could not be delivered")
    assert judge.results(notice) == {"dkim": "pass", "spf": "pass", "dmarc": "pass"}


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
    found = re.search(r"a=rsa-sha256;[^;]*; d=dom\.test;\s+s=([^;]+);", path.read_text(errors="replace"))
    assert found
    return found[1]


def test_a_key_is_rotated_under_traffic(lab: Lab, ours: Program, judge: Judge, keys: KeyFolder, tmp_path: Path) -> None:
    """Once by dynamic updates, once by hand; nobody tells the server, and no verification fails."""
    tsig = tmp_path / "tsig"
    tsig.write_text(nameservers.TSIG_KEY)

    def rotate(*options: str) -> list[dict[str, str]]:
        arguments = ["dkim", "rotate", "dom.test", "--json", "--dkim-keys", keys.path, *options]
        return list(json.loads(smtpmail(ours, *arguments)))

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
        steps = rotate("--key-file", str(tsig))
        assert [step["action"] for step in steps] == ["made", "switched"]
        second = rsa()
        signs(second)
        # By hand: the record is shown until it is seen.
        for _ in range(2):
            shown = rotate()[-1]
            assert shown["action"] == "publish"
        assert rsa() == second
        value = shown["record"].partition(" TXT ")[2]
        assert value in smtpmail(ours, "dkim", "show", "--dkim-keys", keys.path)
        nameservers.publish(lab["dns"], "_domainkey.dom.test.", shown["selector"], value)
        time.sleep(2)  # that there was no record is known for a second
        assert [step["action"] for step in rotate()] == ["switched"]
        third = rsa()
        signs(third)
    assert len({first, second, third}) == 3
    for subject in traffic.subjects:
        path = judge.file(subject, "carol")
        assert judge.results(path) == {"dkim": "pass", "spf": "pass", "dmarc": "pass"}, path.read_text()
    # After the queue's lifetime and two days the first two are withdrawn; nothing else is due.
    for path in Path(keys.path, "dom.test").glob("*.retired"):
        os.utime(path, (time.time() - TEN_DAYS,) * 2)
    steps = rotate("--key-file", str(tsig), "--older-than", "90")
    assert [step["action"] for step in steps] == ["removed"] * 2
    authority = ipaddress.ip_address(nameservers.AUTHORITY[0])
    for selector in (first, second):
        found = ours.host.call(authoritative, authority, f"{selector}._domainkey.dom.test", "TXT")
        assert found == ['"v=DKIM1; p="']
