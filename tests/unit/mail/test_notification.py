"""Delivery status notifications, read as other programs read them."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage

import pytest

from smtpmail.mail.notification import Fate, Kind, Original, build, header_of, wanted

TEXT = b"Received: by x id y;\n\tnow\nSubject: hello\nMessage-ID: <1@dom.fr>\n\nThe body.\n"
NOW, UNTIL = 1_700_000_000.0, 1_700_432_000.0
REFUSED = Fate("bob@one.test", None, "5.1.1", "550 5.1.1 no such user", "mx.one.test")


def original(**more: object) -> Original:
    fields: dict[str, object] = {
        "id": "0abc", "sender": "alice@dom.fr", "arrived": NOW - 100, "envid": None, "full": False, "text": TEXT,
    }  # fmt: skip
    return Original(**(fields | more))  # type: ignore[arg-type]


def read(text: bytes) -> EmailMessage:
    message = email.message_from_bytes(text, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert not part.defects, part.defects
    return message


def report(kind: Kind, fates: list[Fate], of: Original | None = None) -> EmailMessage:
    text = build(kind, of or original(), fates, "mail.dom.fr", NOW, UNTIL)
    assert b"\r" not in text and text.endswith(b"\n")
    assert max(map(len, text.split(b"\n"))) <= 998
    return read(text)


def parts(message: EmailMessage) -> tuple[EmailMessage, list[EmailMessage], EmailMessage]:
    human, machine, returned = message.iter_parts()
    return human, machine.get_payload(), returned  # type: ignore[return-value]


def test_structure() -> None:
    message = report(Kind.FAILURE, [REFUSED])
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mail.dom.fr>"
    assert message["To"] == "alice@dom.fr"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["MIME-Version"] == "1.0"
    assert message["Date"].datetime.timestamp() == NOW
    assert message["Message-ID"].endswith("@mail.dom.fr>")
    assert [p.get_content_type() for p in message.iter_parts()] == [
        "text/plain", "message/delivery-status", "text/rfc822-headers",
    ]  # fmt: skip


def test_the_part_for_programs() -> None:
    fates = [REFUSED, Fate("c@two.test", "rfc822;C+2BD@two.test", "5.1.2", "the domain two.test does not exist")]
    _, (first, bob, c), _ = parts(report(Kind.FAILURE, fates, original(envid="Q+2B7")))
    assert first["Original-Envelope-Id"] == "Q+7"
    assert first["Reporting-MTA"] == "dns; mail.dom.fr"
    assert first["Arrival-Date"]
    assert dict(bob.items()) == {
        "Final-Recipient": "rfc822; bob@one.test",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.one.test",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
    }
    assert c["Original-Recipient"] == "rfc822; C+D@two.test"
    assert c["Remote-MTA"] is None
    assert c["Diagnostic-Code"] == "X-smtpmail; the domain two.test does not exist"


@pytest.mark.parametrize(
    ("kind", "relayed", "action"),
    [(Kind.FAILURE, False, "failed"), (Kind.DELAY, False, "delayed"), (Kind.SUCCESS, True, "relayed"),
     (Kind.SUCCESS, False, "delivered")],
)  # fmt: skip
def test_action(kind: Kind, relayed: bool, action: str) -> None:
    fate = Fate("bob@one.test", None, "2.0.0", "250 ok", "mx.one.test", relayed)
    _, (_, block), _ = parts(report(kind, [fate]))
    assert block["Action"] == action
    assert (block["Will-Retry-Until"] is not None) is (kind is Kind.DELAY)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_person_can_read_it(kind: Kind) -> None:
    human, _, _ = parts(report(kind, [REFUSED]))
    text = human.get_content()
    assert "bob@one.test" in text
    assert "mail.dom.fr" in text and "0abc" in text
    if kind is Kind.SUCCESS:
        assert "delivered" in text
    else:
        assert "mx.one.test said:" in text and "550 5.1.1 no such user" in text
    if kind is Kind.FAILURE:
        assert "There is no such mailbox there" in text and "not tried again" in text
    if kind is Kind.DELAY:
        assert "tried again until" in text and "need not do anything" in text


def test_words_are_put_into_nobodys_mouth() -> None:
    """A server that hung up has said nothing."""
    silent = Fate("bob@one.test", None, "4.4.2", "mx.one.test closed the connection", "mx.one.test")
    human, (_, block), _ = parts(report(Kind.DELAY, [silent]))
    assert "said" not in human.get_content()
    assert block["Diagnostic-Code"].startswith("X-smtpmail;")


@pytest.mark.parametrize("full", [True, False])
def test_what_is_returned(full: bool) -> None:
    message = report(Kind.FAILURE, [REFUSED], original(full=full))
    returned = list(message.iter_parts())[2]
    if full:
        assert returned.get_content_type() == "message/rfc822"
        assert returned.get_content()["Subject"] == "hello"
        assert "The body." in str(returned)
    else:
        assert returned.get_content_type() == "text/rfc822-headers"
        assert "Subject: hello" in str(returned) and "The body." not in str(returned)
    assert ("header of your message" in str(next(message.iter_parts()))) is not full


def encodings(message: EmailMessage) -> None:
    """Each part is as its header says: what calls itself 7-bit is."""
    for part in [message, *message.iter_parts()]:
        if part["Content-Transfer-Encoding"] == "7bit":
            assert part.as_bytes().isascii()
        else:
            assert part["Content-Transfer-Encoding"] == "8bit"


def test_a_server_that_speaks_french() -> None:
    fate = Fate("bob@one.test", None, "5.1.1", "550 5.1.1 Boîte inconnue", "mx.one.test")
    text = build(Kind.FAILURE, original(), [fate], "mail.dom.fr", NOW, UNTIL)
    message = read(text)
    encodings(message)
    human, (_, block), _ = parts(message)
    assert "Boîte inconnue" in human.get_content()
    assert block["Diagnostic-Code"].isascii() and "Bo?te" in block["Diagnostic-Code"]
    assert message["Content-Transfer-Encoding"] == "8bit"


def test_an_8bit_message() -> None:
    text = TEXT.replace(b"hello", "é".encode()) + "é\n".encode()
    for full in (True, False):
        message = report(Kind.FAILURE, [REFUSED], original(text=text, full=full))
        encodings(message)
        assert list(message.iter_parts())[2].get_content_type() in ("message/rfc822", "text/rfc822-headers")


@pytest.mark.parametrize(("sender", "recipient"), [("rené@dom.fr", "bob@one.test"), ("alice@dom.fr", "zoé@one.test")])
def test_internationalised(sender: str, recipient: str) -> None:
    """RFC 6533."""
    text = TEXT.replace(b"hello", "é".encode())
    fate = Fate(recipient, None, "5.1.1", "550 5.1.1 no", "mx.one.test")
    made = build(Kind.FAILURE, original(sender=sender, text=text, full=True), [fate], "mail.dom.fr", NOW, UNTIL)
    assert f"To: <{sender}>\n".encode() in made
    assert b"report-type=global-delivery-status" in made
    assert b"Content-Type: message/global-delivery-status\n" in made
    assert b"Content-Type: message/global\n" in made
    kind = "utf-8" if not recipient.isascii() else "rfc822"
    assert f"Final-Recipient: {kind}; {recipient}\n".encode() in made


def test_nothing_in_a_reply_becomes_a_header_or_a_part() -> None:
    boundary = re.search(rb'boundary="([^"]+)"', build(Kind.FAILURE, original(), [REFUSED], "h", NOW, UNTIL))
    assert boundary
    evil = f"550 x\r\nBcc: eve@evil.test\r\n\r\n--{boundary[1].decode()}--\r\n\x1b[31m" + "y" * 5000
    fate = Fate("bob@one.test", "rfc822;a+0D+0ABcc:+20x@y", "5.0.0", evil, "mx\r\nX-Evil: 1")
    message = report(Kind.FAILURE, [fate], original(envid="a+0AX-Evil:+20yes"))
    assert len(list(message.iter_parts())) == 3
    _, blocks, _ = parts(message)
    for block in blocks:
        assert not {"bcc", "x-evil"} & {key.lower() for key in block.keys()}  # noqa: SIM118
    assert "\x1b" not in message.as_string()


NEVER = {Kind.FAILURE: False, Kind.DELAY: False, Kind.SUCCESS: False}


@pytest.mark.parametrize(
    ("notify", "told"),
    [
        ((), {Kind.FAILURE: True, Kind.DELAY: True, Kind.SUCCESS: False}),
        (("NEVER",), NEVER),
        (("FAILURE",), NEVER | {Kind.FAILURE: True}),
        (("DELAY",), NEVER | {Kind.DELAY: True}),
        (("SUCCESS",), NEVER | {Kind.SUCCESS: True}),
        (("SUCCESS", "FAILURE", "DELAY"), dict.fromkeys(Kind, True)),
    ],
)
def test_notify(notify: tuple[str, ...], told: dict[Kind, bool]) -> None:
    assert {kind: wanted(kind, notify) for kind in Kind} == told


@pytest.mark.parametrize(
    ("message", "header"),
    [(b"a: b\n\nbody\n\nmore\n", b"a: b\n"), (b"a: b\n", b"a: b\n"), (b"", b""), (b"\nbody\n\nmore\n", b""),
     (b"a: b\nc: d\n\n", b"a: b\nc: d\n")],
)  # fmt: skip
def test_header_of(message: bytes, header: bytes) -> None:
    assert header_of(message) == header
