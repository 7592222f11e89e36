"""What the door does with a verdict: header fields, replies, the log; and what it signs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.zone import TIMEOUT, Zone

from smtpmail import log as log_module
from smtpmail.auth.dkim_keys import KeyFolder
from smtpmail.auth.inspector import ExemptionsFile, Incoming, Inspector, Outgoing
from smtpmail.auth.signing import Signer
from smtpmail.mail.address import NULL_PATH, parse_address
from smtpmail.mail.envelope import Envelope, Peer, Recipient
from smtpmail.mail.route import Local, Remote
from smtpmail.smtp.replies import Refusal

RECORDS: dict[str, Any] = {
    "_dmarc.bank.example": {"TXT": ["v=DMARC1; p=reject"]},
    "bank.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.q.example": {"TXT": ["v=DMARC1; p=reject; t=y"]},
    "_dmarc.silent.example": TIMEOUT,
}


def message(author: str) -> bytes:
    return f"Authentication-Results: mx.dom.fr; dmarc=pass\nFrom: {author}\nSubject: x\n\nHi.\n".encode()


def inspector(mode: str = "enforce", *, exempt: Path | None = None, signer: Signer | None = None) -> Inspector:
    return Inspector("mx.dom.fr", signer, mode, 5.0, Zone(RECORDS), ExemptionsFile(str(exempt) if exempt else None))


def envelope(client: str | None = "192.0.2.9", listener: str = "network", *, remote: bool = False) -> Envelope:
    peer = Peer(client, 4711, listener) if client else None
    made = Envelope(parse_address("x@bank.example") if client else NULL_PATH, peer, "h.example", esmtp=True)
    to = parse_address("bob@elsewhere.example" if remote else "bob@dom.fr")
    made.recipients.append(Recipient(to, (Remote(to) if remote else Local("bob"),)))
    return made


def inspect(door: Inspector, text: bytes, made: Envelope):
    inspection = door.inspection(made)
    assert inspection is not None
    inspection.write(text)
    return inspection.finish(text.partition(b"\n\n")[0] + b"\n")


def test_marked() -> None:
    found = inspect(inspector("mark"), message("ceo@bank.example"), envelope())
    assert found.header == b"From: ceo@bank.example\nSubject: x\n"
    assert b"dmarc=fail header.from=bank.example (p=reject:" in found.results
    assert (found.junk, found.signatures) == (False, b"")


def test_enforced() -> None:
    with pytest.raises(Refusal) as refused:
        inspect(inspector(), message("ceo@bank.example"), envelope())
    assert str(refused.value.reply) == (
        "550 5.7.1 Refused by the DMARC policy of bank.example: nothing proves that it is from bank.example "
        "(SPF fail for bank.example; no DKIM signature); SPF: 192.0.2.9 may not send mail of bank.example (-all)"
    )


@pytest.mark.parametrize(
    ("author", "client", "junk"),
    [
        ("a@bank.example", "192.0.2.1", False),
        ("a@q.example", "192.0.2.1", True),
        ("a@silent.example", "192.0.2.9", False),
        ("a@none.example", "192.0.2.9", False),
    ],
)
def test_what_is_not_refused(author: str, client: str, junk: bool) -> None:
    assert inspect(inspector(), message(author), envelope(client)).junk == junk


def test_who_is_exempted(tmp_path: Path) -> None:
    file = tmp_path / "exempt"
    file.write_text("192.0.2.9 # a forwarder\nnon sense\n")
    door = inspector(exempt=file)
    assert b"(let through: 192.0.2.9 is exempted)" in inspect(door, message("a@bank.example"), envelope()).results
    file.write_text("other.example\n")
    with pytest.raises(Refusal):
        inspect(door, message("a@bank.example"), envelope())
    file.unlink()  # what was known stays
    with pytest.raises(Refusal):
        inspect(door, message("a@bank.example"), envelope())


def test_who_is_looked_at() -> None:
    assert isinstance(inspector().inspection(envelope()), Incoming)
    assert inspector("off").inspection(envelope()) is None
    assert inspector().inspection(envelope("127.0.0.1", "loopback")) is None
    assert inspector().inspection(envelope(None)) is None


def test_what_is_signed(tmp_path: Path) -> None:
    KeyFolder(str(tmp_path)).create("dom.fr", "ed25519", "k")
    signer = Signer(str(tmp_path), ["dom.fr"], "mx.dom.fr", required=True)
    door = inspector(signer=signer)
    local = ("127.0.0.1", "loopback")
    assert isinstance(door.inspection(envelope(*local, remote=True)), Outgoing)
    assert door.inspection(envelope(*local)) is None
    assert isinstance(door.inspection(envelope("192.0.2.1", remote=True)), Incoming)  # a forward is not ours
    found = inspect(door, message("anna@dom.fr"), envelope(*local, remote=True))
    assert re.match(rb"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=dom\.fr;\n", found.signatures)
    assert found.header == message("anna@dom.fr").partition(b"\n\n")[0] + b"\n"
    assert inspect(door, message("eve@bank.example"), envelope(*local, remote=True)).signatures == b""
    assert inspect(door, message("daemon@mx.dom.fr"), envelope(None, remote=True)).signatures


@pytest.mark.parametrize("required", [True, False])
def test_what_cannot_be_signed(tmp_path: Path, required: bool) -> None:
    door = inspector(signer=Signer(str(tmp_path), ["dom.fr"], "mx.dom.fr", required=required))
    made = envelope("127.0.0.1", "loopback", remote=True)
    if required:
        with pytest.raises(Refusal, match=r"451 4\.7\.5"):
            inspect(door, message("anna@dom.fr"), made)
    else:
        assert inspect(door, message("anna@dom.fr"), made).signatures == b""


def test_the_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("smtpmail.auth.inspector.log.info", lambda event, **values: told.append((event, values)))
    inspect(inspector("mark"), message("ceo@bank.example"), envelope())
    ((event, values),) = told
    assert event == "message.verified"
    assert log_module
    assert {k: values[k] for k in ("author", "spf", "dkim", "dmarc", "iprev", "policy", "disposition")} == {
        "author": "bank.example", "spf": "fail", "dkim": [], "dmarc": "fail", "iprev": "permerror",
        "policy": "reject", "disposition": "none",
    }  # fmt: skip


def test_a_fault_keeps_no_message_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("smtpmail.auth.verify.MessageCheck.finish", broken)
    found = inspect(inspector(), message("ceo@bank.example"), envelope())
    assert (found.header, found.results) == (b"From: ceo@bank.example\nSubject: x\n", b"")


@pytest.mark.parametrize("mode", ["mark", "enforce"])
def test_forged_results_where_nobody_looks(mode: str) -> None:
    """Behind 256 KiB of header they can't be taken out, and a reader may believe them."""
    filling = b"X: " + b"x" * 996 + b"\n"
    forged = b"authentication-results : mx.dom.fr; dmarc=pass\n"
    text = b"From: a@other.example\n" + filling * 300 + forged + b"\nHi.\n"
    with pytest.raises(Refusal) as refused:
        inspect(inspector(mode), text, envelope())
    assert str(refused.value.reply).startswith("552 5.3.4 ")
    assert not inspect(inspector(mode), text.replace(forged, b"") + forged, envelope()).junk
