"""Delivery status notifications, read as other programs read them."""

from __future__ import annotations

import email
import email.policy
import quopri
import re
from email.message import EmailMessage

import pytest

from smtpmail.mail.notification import STRANGER_LIMIT, Kind, build, header_of, wanted
from smtpmail.mail.queued import Item, QueuedRecipient

TEXT = b"Received: by x id y;\n\tnow\nSubject: hello\nMessage-ID: <1@dom.fr>\n\nThe body.\n"
NOW, UNTIL = 1_700_000_000.0, 1_700_432_000.0


def fate(
    address: str, orcpt: str | None, status: str, reply: str, mx: str = "", relayed: bool = False
) -> QueuedRecipient:
    """What became of one recipient; delivered here unless it was `relayed`."""
    user = None if relayed else "bob"
    return QueuedRecipient(address, (), orcpt, user, "delivered", reply, mx, status)


REFUSED = fate("bob@one.test", None, "5.1.1", "550 5.1.1 no such user", "mx.one.test")


class Of:
    """The message that is reported about."""

    def __init__(self, text: bytes = TEXT, full: bool = False, **more: object) -> None:
        fields: dict[str, object] = {"id": "0abc", "arrived": NOW - 100, "sender": "alice@dom.fr", "recipients": []}
        self.item = Item(**(fields | more))  # type: ignore[arg-type]
        self.text = text
        self.full = full


original = Of


def read(text: bytes) -> EmailMessage:
    message = email.message_from_bytes(text, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert not part.defects, part.defects
    return message


def made(kind: Kind, fates: list[QueuedRecipient], of: Of | None = None) -> bytes:
    of = of or Of()
    return build(kind, of.item, fates, "mail.dom.fr", NOW, UNTIL, of.text, full=of.full)


def report(kind: Kind, fates: list[QueuedRecipient], of: Of | None = None) -> EmailMessage:
    text = made(kind, fates, of)
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
    fates = [REFUSED, fate("c@two.test", "rfc822;C+2BD@two.test", "5.1.2", "the domain two.test does not exist")]
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
    outcome = fate("bob@one.test", None, "2.0.0", "250 ok", "mx.one.test", relayed)
    _, (_, block), _ = parts(report(kind, [outcome]))
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
    silent = fate("bob@one.test", None, "4.4.2", "mx.one.test closed the connection", "mx.one.test")
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
    """All of it is 7-bit, as each header says."""
    for part in [message, *message.iter_parts()]:
        assert part["Content-Transfer-Encoding"] in ("7bit", "quoted-printable")
        assert part.as_bytes().isascii()


def test_a_server_that_speaks_french() -> None:
    outcome = fate("bob@one.test", None, "5.1.1", "550 5.1.1 Boîte inconnue", "mx.one.test")
    text = made(Kind.FAILURE, [outcome])
    message = read(text)
    encodings(message)
    human, (_, block), _ = parts(message)
    assert "Boîte inconnue" in human.get_content()
    assert block["Diagnostic-Code"].isascii() and "Bo?te" in block["Diagnostic-Code"]
    assert message["Content-Transfer-Encoding"] == "7bit"


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
    refused = fate(recipient, None, "5.1.1", "550 5.1.1 no", "mx.one.test")
    notice = made(Kind.FAILURE, [refused], original(sender=sender, text=text, full=True))
    assert f"To: <{sender}>\n".encode() in notice
    assert b"report-type=global-delivery-status" in notice
    assert b"Content-Type: message/global-delivery-status\n" in notice
    assert b"Content-Type: message/global\n" in notice
    assert notice.isascii() == sender.isascii(), "a server for the sender alone need not know 8BITMIME"
    kind = "utf-8" if not recipient.isascii() else "rfc822"
    decoded = quopri.decodestring(notice) if notice.isascii() else notice
    assert f"Final-Recipient: {kind}; {recipient}\n".encode() in decoded


def test_nothing_in_a_reply_becomes_a_header_or_a_part() -> None:
    boundary = re.search(rb'boundary="([^"]+)"', made(Kind.FAILURE, [REFUSED]))
    assert boundary
    evil = f"550 x\r\nBcc: eve@evil.test\r\n\r\n--{boundary[1].decode()}--\r\n\x1b[31m" + "y" * 5000
    refused = fate("bob@one.test", "rfc822;a+0D+0ABcc:+20x@y", "5.0.0", evil, "mx\r\nX-Evil: 1")
    message = report(Kind.FAILURE, [refused], original(envid="a+0AX-Evil:+20yes"))
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


SIGNED = b"Subject: x\nContent-Type: multipart/signed; boundary=b\n\n--b\n\n\xc3\xa9\n--b--\n"


@pytest.mark.parametrize("text", [TEXT + "é".encode() * 1000, TEXT + b"x" * 5000, SIGNED, b"S\xc3\xa9: \xff\n\nx\n"])
@pytest.mark.parametrize("full", [True, False])
def test_a_notice_is_7bit_with_short_lines(text: bytes, full: bool) -> None:
    """The sender may be behind a server that takes no other."""
    notice = made(
        Kind.FAILURE, [fate("a@one.test", None, "5.0.0", "550 Boîte inconnue", "mx")], original(text=text, full=full)
    )
    assert notice.isascii()
    assert max(map(len, notice.split(b"\n"))) <= 998
    assert len(list(email.message_from_bytes(notice).walk())) >= 4


def test_a_stranger_gets_little_carried() -> None:
    """What they wrote goes to whomever they named as the sender."""
    text = b"Subject: hello\n" + b"X-Advert: buy this\n" * 500 + b"\nA long advert\n"
    of = original(text=text, full=True, stranger=True)
    *_, returned = read(made(Kind.FAILURE, [REFUSED], of)).iter_parts()
    assert returned.get_content_type() == "text/rfc822-headers"
    assert len(returned.get_content()) <= STRANGER_LIMIT
    assert b"A long advert" not in made(Kind.FAILURE, [REFUSED], of)


@pytest.mark.parametrize("kind", [Kind.DELAY, Kind.FAILURE])
@pytest.mark.parametrize(
    ("status", "reply", "text"),
    [
        ("5.7.25", "550 5.7.25 no PTR", "reverse DNS (PTR)"),
        ("5.7.26", "550 5.7.26 unauthenticated", "neither SPF nor DKIM"),
        ("5.7.29", "550 5.7.29 TLS", "without encryption"),
        ("5.7.515", "550 5.7.515 Access denied", "Microsoft"),
        ("5.4.7", "450 4.7.26 unauthenticated", "neither SPF nor DKIM"),
    ],
)
def test_what_large_receivers_mean(kind: Kind, status: str, reply: str, text: str) -> None:
    """Also while it is still tried, and when it was given up for that."""
    message = report(kind, [QueuedRecipient("x@one.test", (), None, None, "failed", reply, "mx.one.test", status)])
    human = message.get_body().get_content()  # type: ignore[union-attr]
    assert reply in human
    assert text in human
