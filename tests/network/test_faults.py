"""Servers that behave badly, in every way that the fault server knows: nothing is lost, doubled or damaged.

The server is the MX of one.test; its faults happen once, so that the next try shows that the worker lives and the
message too.  It also watches the client's manners: `violations` stays empty.
"""

from __future__ import annotations

import pytest
from support.faultserver import EXTENSIONS, Fault, FaultServer, close, late, reset, say

from .conftest import ServeOne
from .lab import Lab
from .program import Program, Sent
from .reports import concerns, recipients

RECIPIENT = "bob@one.test"
COMMAND_POINTS = ["connect", "EHLO", "MAIL", "RCPT", "DATA", "."]

# With CHUNKING nobody would come by DATA.
NO_CHUNKING = [extension for extension in EXTENSIONS if extension != "CHUNKING"]


def deferred_then_delivered(ours: Program, server: FaultServer, sent: Sent, reason: str = "") -> None:
    """The first try fails for the time being, with the reason recorded; the second succeeds; nothing came twice."""
    first = ours.wait_for("delivery.deferred", id=sent.id, recipient=RECIPIENT, timeout=40)
    assert first["reply"]
    assert reason in first["reply"]
    ours.wait_for("delivery.succeeded", id=sent.id, recipient=RECIPIENT, timeout=40)
    arrived = [message for message in server.accepted if sent.id.encode() in message.content]
    assert [message.recipients for message in arrived] == [[RECIPIENT]]
    assert ours.mailbox("alice") == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(say("451 4.3.0 come back later"), id="4xx"),
        pytest.param(close("421 4.3.2 closing now"), id="421 and close"),
        pytest.param(close(), id="close"),
        pytest.param(reset(), id="reset"),
        pytest.param(close(b"2"), id="a digit and close"),
        pytest.param(close(b"250-half of\r\n"), id="half of several lines and close"),
        pytest.param(say("what?"), id="no code"),
        pytest.param(say("25 ok"), id="two digits"),
        pytest.param(say("2500 ok"), id="four digits"),
        pytest.param(say("999 ok"), id="no such code"),
        pytest.param(say(b"250-a\r\n450 b\r\n"), id="codes that differ"),
        pytest.param(say(b"\r\n"), id="an empty line"),
        pytest.param(say(b"\0\xff\xfe\r\n"), id="binary"),
        pytest.param(close(b"HTTP/1.1 400 Bad Request\r\n\r\n"), id="HTTP"),
        pytest.param(close(b"250 " + b"x" * 1_000_000), id="an endless line"),
        pytest.param(close(b"250-x\r\n" * 100_000), id="an endless reply"),
    ],
)
@pytest.mark.parametrize("point", COMMAND_POINTS)
def test_once_at_any_point(ours: Program, serve_one: ServeOne, point: str, fault: Fault) -> None:
    server = serve_one({point: [fault], "HELO": [fault]}, extensions=NO_CHUNKING)
    deferred_then_delivered(ours, server, ours.post(RECIPIENT))


@pytest.mark.parametrize("fault", [close(), reset()], ids=["close", "reset"])
def test_gone_in_the_middle_of_the_content(ours: Program, serve_one: ServeOne, fault: Fault) -> None:
    server = serve_one({"content": [fault]}, extensions=NO_CHUNKING)
    content = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" + b"0123456789\r\n" * 200_000
    deferred_then_delivered(ours, server, ours.submit(content, RECIPIENT))


@pytest.mark.parametrize(
    ("point", "fault"),
    [
        pytest.param("DATA", say("250 ok"), id="250 to DATA"),
        pytest.param(".", say("354 go on"), id="354 to the content"),
        pytest.param("EHLO", say("220 again"), id="220 to EHLO"),
        pytest.param("connect", say("250 ok"), id="250 as greeting"),
    ],
)
def test_the_wrong_kind_of_yes(ours: Program, serve_one: ServeOne, point: str, fault: Fault) -> None:
    server = serve_one({point: [fault], "HELO": [fault]}, extensions=NO_CHUNKING)
    deferred_then_delivered(ours, server, ours.post(RECIPIENT))


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(say(b"250-one\r\n250-two\r\n250 three\r\n"), id="several lines"),
        pytest.param(say(b"250\r\n"), id="no text"),
        pytest.param(say(b"250-\r\n250\r\n"), id="several lines without text"),
        pytest.param(say("250 café".encode("latin-1") + b"\r\n"), id="not UTF-8"),
        pytest.param(say("250 slowly", pace=0.02), id="octet by octet"),
        pytest.param(late(0.3), id="late"),
        pytest.param(say("251 2.1.5 will forward"), id="251"),
    ],
)
def test_unusual_but_a_yes(ours: Program, serve_one: ServeOne, reply: Fault) -> None:
    server = serve_one({"MAIL": reply, "RCPT": reply, ".": reply})
    sent = ours.post(RECIPIENT)
    ours.wait_for("delivery.succeeded", id=sent.id)
    assert len(server.accepted) == 1
    assert not ours.events("delivery.deferred", id=sent.id)


@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA", "."])
def test_a_5xx_bounces_with_its_words(ours: Program, serve_one: ServeOne, point: str) -> None:
    refusal = say(b"554-5.7.9 the first line\r\n554 5.7.9 and the second\r\n")
    server = serve_one({point: [refusal]}, extensions=NO_CHUNKING)
    recipient = f"bob-{COMMAND_POINTS.index(point)}@one.test"
    sent = ours.post(recipient, sender="carol@dom.test")
    ours.wait_for("delivery.failed", id=sent.id, recipient=recipient)
    notice = ours.wait_for_mail("carol", lambda message: concerns(message, recipient), f"a bounce of {recipient}")
    report = recipients(notice)[recipient]
    assert report.status == "5.7.9"
    assert "554" in report.diagnostic
    assert "the first line" in report.diagnostic and "and the second" in report.diagnostic
    explanation = next(notice.iter_parts())
    assert "and the second" in explanation.get_content()
    assert server.accepted == []


def test_recipients_are_answered_for_one_by_one(ours: Program, serve_one: ServeOne) -> None:
    """Taken, refused and put off in one transaction: only the last is tried again, and only once more."""
    server = serve_one(
        {
            "RCPT refused@one.test": say("550 5.1.1 unknown here"),
            "RCPT greylisted@one.test": [say("450 4.2.0 greylisted")],
        }
    )
    sent = ours.post("taken@one.test", "refused@one.test", "greylisted@one.test", "also-taken@one.test")
    ours.wait_for("delivery.succeeded", id=sent.id, recipient="taken@one.test")
    ours.wait_for("delivery.succeeded", id=sent.id, recipient="also-taken@one.test")
    ours.wait_for("delivery.failed", id=sent.id, recipient="refused@one.test")
    ours.wait_for("delivery.deferred", id=sent.id, recipient="greylisted@one.test")
    ours.wait_for("delivery.succeeded", id=sent.id, recipient="greylisted@one.test")
    assert [message.recipients for message in server.accepted] == [
        ["taken@one.test", "also-taken@one.test"], ["greylisted@one.test"],
    ]  # fmt: skip


def test_too_many_recipients_for_one_transaction(ours: Program, serve_one: ServeOne) -> None:
    """452 4.5.3: the rest goes in the next transaction (RFC 5321 4.5.3.1.10)."""
    names = [f"r{number}@one.test" for number in range(6)]
    server = serve_one({f"RCPT {name}": [say("452 4.5.3 too many")] for name in names[3:]})
    sent = ours.post(*names)
    for name in names:
        ours.wait_for("delivery.succeeded", id=sent.id, recipient=name)
    assert sorted(recipient for recipient, _ in server.deliveries.elements()) == names


def test_no_reply_to_the_content_is_the_one_window(ours: Program, serve_one: ServeOne) -> None:
    """The server has the message whole and says nothing: it must be sent again (RFC 5321 6.1, RFC 1047)."""
    server = serve_one({".": [close()]})
    sent = ours.post(RECIPIENT)
    ours.wait_for("delivery.succeeded", id=sent.id)
    assert [message.acknowledged for message in server.messages] == [False, True]


def test_a_yes_before_the_connection_breaks_is_a_yes(ours: Program, serve_one: ServeOne) -> None:
    """What happens after the 250, at QUIT or before it, does not matter any more."""
    for point, fault in ((".", close("250 2.0.0 taken")), ("QUIT", close()), ("QUIT", say("554 no"))):
        server = serve_one({point: fault})
        sent = ours.post(RECIPIENT)
        ours.wait_for("delivery.succeeded", id=sent.id)
        assert len(server.accepted) == 1
        server.stop()
        assert not ours.events("delivery.deferred", id=sent.id)


def test_421_on_a_reused_connection(ours: Program, serve_one: ServeOne) -> None:
    """A server that takes one message a connection: the others are not put off for long, and none comes twice."""
    server = serve_one({"MAIL": [None, close("421 4.7.0 one is enough"), None, close("421 4.7.0 one is enough")]})
    sent = [ours.post(RECIPIENT) for _ in range(4)]
    for each in sent:
        ours.wait_for("delivery.succeeded", id=each.id, timeout=40)
    assert sorted(server.deliveries.values()) == [1] * 4


# --- extensions


@pytest.mark.parametrize("extensions", [(), *[(each,) for each in EXTENSIONS], EXTENSIONS], ids=str)
def test_uses_what_is_offered_and_nothing_else(ours: Program, serve_one: ServeOne, extensions: tuple[str, ...]) -> None:
    """The server notes every use of what it has not offered."""
    server = serve_one(extensions=extensions)
    body = ".\r\n..\r\n.x\r\n" + ("x" * 900 + "\r\n") * 4
    # Complete: nothing is added to it.
    header = "From: alice@dom.test\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@dom.test>\r\n"
    content = f"{header}Subject: hello\r\n\r\n{body}".encode()
    sent = ours.submit(content, RECIPIENT, rcpt_options=["NOTIFY=FAILURE"])
    ours.wait_for("delivery.succeeded", id=sent.id)
    (message,) = server.accepted
    assert message.content.endswith(content)
    session = server.sessions[0]
    offered = {extension.split()[0] for extension in extensions}
    assert ("SIZE" in message.mail_parameters) == ("SIZE" in offered)
    assert ("NOTIFY" in message.recipient_parameters[RECIPIENT]) == ("DSN" in offered)
    assert "BDAT" not in session.verbs, "content follows only a 354"


@pytest.mark.parametrize("refusal", ["500 5.5.1 what?", "502 5.5.1 not here", "550 no"])
def test_helo_only(ours: Program, serve_one: ServeOne, refusal: str) -> None:
    server = serve_one({"EHLO": say(refusal)}, extensions=())
    sent = ours.post(RECIPIENT)
    ours.wait_for("delivery.succeeded", id=sent.id)
    assert server.sessions[-1].verbs[:2] in (["EHLO", "HELO"], ["HELO", "MAIL"])


def test_larger_than_it_takes(ours: Program, serve_one: ServeOne) -> None:
    """5.3.4, without sending the content."""
    server = serve_one(extensions=["SIZE 100000"])
    recipient = "large@one.test"
    sent = ours.submit(b"Subject: large\r\n\r\n" + b"0123456789\r\n" * 10_000, recipient)
    ours.wait_for("delivery.failed", id=sent.id)
    notice = ours.wait_for_mail("alice", lambda message: concerns(message, recipient), "a bounce")
    assert recipients(notice)[recipient].status == "5.3.4"
    assert server.messages == []


def test_8bit_to_a_server_without_8bitmime(ours: Program, serve_one: ServeOne) -> None:
    """Converted (RFC 6152 3), unless it is signed: then 5.6.3 rather than damage."""
    server = serve_one(extensions=["PIPELINING"])
    sent = ours.submit("Subject: 8 bits\r\n\r\nMüßiggang\r\n".encode(), RECIPIENT, mail_options=["BODY=8BITMIME"])
    ours.wait_for("delivery.succeeded", id=sent.id)
    (message,) = server.accepted
    assert message.content.isascii() and b"M=C3=BC=C3=9Figgang" in message.content
    recipient = "eight-bits@one.test"
    signed = "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nMüßiggang\r\n--b--\r\n"
    sent = ours.submit(f"Subject: signed\r\n{signed}".encode(), recipient, mail_options=["BODY=8BITMIME"])
    ours.wait_for("delivery.failed", id=sent.id)
    notice = ours.wait_for_mail("alice", lambda message: concerns(message, recipient), "a bounce")
    assert recipients(notice)[recipient].status == "5.6.3"
    assert len(server.messages) == 1


def test_smtputf8_to_a_server_without_it(ours: Program, serve_one: ServeOne) -> None:
    server = serve_one(extensions=["PIPELINING", "8BITMIME"])
    recipient = "mañana@one.test"
    sent = ours.submit("Subject: mañana\r\n\r\nx\r\n".encode(), recipient, mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    ours.wait_for("delivery.failed", id=sent.id)
    notice = ours.wait_for_mail("alice", lambda message: concerns(message, recipient), "a bounce")
    assert recipients(notice)[recipient].status == "5.6.7"
    assert server.messages == []


def test_relayed_is_reported_where_dsn_ends(ours: Program, serve_one: ServeOne) -> None:
    """NOTIFY=SUCCESS to a server without DSN: "relayed" (RFC 3461 5.2.2)."""
    serve_one(extensions=["PIPELINING"])
    recipient = "success@one.test"
    ours.submit(
        b"Subject: success\r\n\r\nx\r\n",
        recipient,
        sender="bob@dom.test",
        rcpt_options=["NOTIFY=SUCCESS"],
        mail_options=["ENVID=an-envelope", "RET=HDRS"],
    )
    notice = ours.wait_for_mail("bob", lambda message: concerns(message, recipient, action="relayed"), "a report")
    assert recipients(notice)[recipient].status.startswith("2.")
    assert "Original-Envelope-Id: an-envelope" in str(notice)


def test_notify_never_is_obeyed(ours: Program, serve_one: ServeOne) -> None:
    serve_one({"RCPT never@one.test": say("550 5.1.1 unknown")})
    sent = ours.submit(
        b"Subject: never\r\n\r\nx\r\n",
        "never@one.test",
        "told@one.test",
        "also@one.test",
        sender="carol@dom.test",
        rcpt_options=["NOTIFY=NEVER"],
    )
    ours.wait_for("delivery.failed", id=sent.id, recipient="never@one.test")
    ours.wait_for("delivery.succeeded", id=sent.id, recipient="told@one.test")
    assert not [message for message in ours.mailbox("carol") if "never@one.test" in str(message)]


# --- many messages


def test_a_stream_shares_connections_and_loses_nothing(ours: Program, serve_one: ServeOne, lab: Lab) -> None:
    """200 messages by smtp-source over 10 connections: each arrives once, over fewer connections than messages."""
    server = serve_one()
    lab["ours"].run(
        "smtp-source",
        "-m",
        "200",
        "-s",
        "10",
        "-l",
        "2000",
        "-f",
        "alice@dom.test",
        "-t",
        RECIPIENT,
        "-M",
        "localhost",
        "127.0.0.1:25",
    )
    server.wait_until(lambda it: len(it.accepted) >= 200, timeout=30)
    ours.wait_for("delivery.succeeded", count=200, recipient=RECIPIENT)
    ids = [next(line for line in message.content.split(b"\r\n") if b" id " in line) for message in server.accepted]
    assert len(ids) == len(set(ids)) == 200
    assert len(server.sessions) < 100
