"""sales@ leads to a server elsewhere that asks SPF: with the sender as it is that fails, rewritten (SRS) it passes."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import IMPATIENT
from .lab import Lab
from .mailservers import MailServer
from .program import Program

SENDER = "alice@strict.test"


@pytest.fixture(scope="module")
def ours(lab: Lab, mailservers: dict[str, MailServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder: Path = tmp_path_factory.mktemp("ours")
    (folder / "aliases").write_text("sales: bob, carol@checked.postfix.test\n")
    program = Program(lab["ours"], folder, *IMPATIENT, "--aliases", str(folder / "aliases"))
    program.start()
    yield program
    assert program.stop() == 0


def send(lab: Lab, recipient: str) -> str:
    """A message from a host that may send for strict.test; its subject."""
    subject = f"forwarded {time.time_ns()}"
    content = f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\nx\r\n"
    with lab["sink"].call(smtplib.SMTP, "192.0.2.10", 25, "sink1.test", 15) as client:
        assert client.sendmail(SENDER, [recipient], content) == {}
    return subject


def test_spf_fails_without_rewriting(ours: Program) -> None:
    """What is shown here by a program of our host that sends in Alice's name, as a forwarder without SRS would."""
    ours.post("carol@checked.postfix.test", sender=SENDER)
    assert ours.wait_for("delivery.failed", recipient="carol@checked.postfix.test")["reply"].startswith("550 5.7.23")


def test_spf_passes_with_it(lab: Lab, ours: Program, mailservers: dict[str, MailServer]) -> None:
    subject = send(lab, "sales@dom.test")
    assert ours.wait_for_subject("bob", subject)["Return-Path"] == f"<{SENDER}>"
    message = mailservers["postfix"].wait_for("carol", subject)
    assert message["Return-Path"].startswith("<SRS0=")
    assert message["Return-Path"].endswith("=strict.test=alice@dom.test>")
    assert message["Received-SPF"].startswith("Pass")
    assert "sales@dom.test" in message.get_all("Delivered-To", [])
    assert message["From"] == SENDER
