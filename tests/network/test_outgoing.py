"""Mail from our loopback listener arrives in the mailboxes of real foreign servers."""

from __future__ import annotations

import pytest

from .mailservers import INTERNATIONAL_USER, MailServer
from .program import Program
from .reports import concerns, recipients


@pytest.mark.parametrize("kind", ["tls4", "tls6", "clear4", "clear6"])
def test_mail_arrives(ours: Program, remote: MailServer, kind: str) -> None:
    """Over each family; encrypted when STARTTLS is offered and works, in clear text otherwise."""
    recipient = f"alice@{kind}.{remote.domain}"
    sent = ours.send(recipient, body="One.\n.\n..Three.", subject=f"to {kind} of {remote.name}")
    message = remote.wait_for("alice", sent.subject)
    entry = ours.wait_for("delivery.succeeded", id=sent.id, recipient=recipient)

    assert message["Return-Path"] == "<alice@dom.test>"
    assert message.get_content().startswith("One.\n.\n..Three.\n")
    theirs, ours_ = message.get_all("Received", [])[:2]
    assert sent.id in ours_ and "mail.dom.test" in ours_
    encrypted = "esmtps" in theirs.lower()
    assert encrypted == (kind.startswith("tls") and remote.handshake_works)
    offering, clear = remote.tls_addresses, remote.clear_addresses
    address = (offering if kind.startswith("tls") else clear)[0 if kind.endswith("4") else 1]
    assert entry["address"].strip("[]") == address
    assert entry["mx"].rstrip(".") == f"{kind}.mx.{remote.domain}"
    assert entry["reply"].startswith("250")
    # A handshake that fails puts a message off once, until clear text is known to work.
    assert entry["attempt"] <= (1 if remote.handshake_works else 2)


def test_to_several_domains_at_once(ours: Program, mailservers: dict[str, MailServer]) -> None:
    """One message by swaks, to two users at each foreign server and to one of ours."""
    theirs = [(user, server) for server in mailservers.values() for user in ("alice", "carol")]
    sent = ours.send(*[f"{user}@{server.domain}" for user, server in theirs], "bob@dom.test", subject="to everybody")
    for user, server in theirs:
        assert server.wait_for(user, sent.subject)
        assert ours.wait_for("delivery.succeeded", id=sent.id, recipient=f"{user}@{server.domain}")
    assert ours.wait_for_subject("bob", sent.subject)
    # A handshake that fails puts a message off once, until clear text is known to work.
    works = {server.domain for _, server in theirs if server.handshake_works}
    assert not [e for e in ours.events("delivery.deferred", id=sent.id) if e["recipient"].rpartition("@")[2] in works]


def test_recipients_of_one_destination_share_a_transaction(ours: Program, mailservers: dict[str, MailServer]) -> None:
    postfix = mailservers["postfix"]
    sent = ours.send("alice@postfix.test", "carol@postfix.test", subject="one transaction")
    ids = set()
    for user in ("alice", "carol"):
        received = postfix.wait_for(user, sent.subject).get_all("Received", [])[0]
        ids.add(received.split(" id ")[1].split()[0])
    assert len(ids) == 1


def test_one_is_refused_and_the_others_get_their_mail(ours: Program, remote: MailServer) -> None:
    """The bounce names the recipient, the server and its words, and returns to our local sender."""
    wrong = f"nobody@{remote.domain}"
    sent = ours.send(f"alice@{remote.domain}", wrong, sender="bob@dom.test", subject=f"one of two at {remote.name}")
    assert remote.wait_for("alice", sent.subject)
    assert ours.wait_for("delivery.failed", id=sent.id, recipient=wrong)["reply"].startswith("550")
    notice = ours.wait_for_mail("bob", lambda message: concerns(message, wrong), f"a bounce of {wrong}")
    reports = recipients(notice)
    assert set(reports) == {wrong}
    assert reports[wrong].status.startswith("5.")
    assert reports[wrong].remote_mta == f"mx.{remote.domain}"
    assert "550" in reports[wrong].diagnostic
    assert "MAILER-DAEMON@mail.dom.test" in notice["From"]
    assert sent.subject in str(notice)


def test_smtputf8_goes_to_those_who_have_it(ours: Program, mailservers: dict[str, MailServer]) -> None:
    content = ("From: josé@dom.test\r\nSubject: à bientôt\r\nMIME-Version: 1.0\r\n"
               "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
               "ça va\r\n").encode()  # fmt: skip
    for server in mailservers.values():
        if server.smtputf8:
            recipient = f"{INTERNATIONAL_USER}@{server.domain}"
            sent = ours.submit(content, recipient, sender="josé@dom.test", mail_options=["SMTPUTF8", "BODY=8BITMIME"])
            message = server.wait_for(INTERNATIONAL_USER, sent.subject)
            assert message["Return-Path"] == "<josé@dom.test>"
            assert message.get_content() == "ça va\n"


def test_smtputf8_to_a_server_without_it_bounces(ours: Program, mailservers: dict[str, MailServer]) -> None:
    """5.6.7 (RFC 6531 3.5): never damaged, never sent anyway."""
    server = mailservers["opensmtpd"]
    assert not server.smtputf8
    recipient = f"alice@{server.domain}"
    content = "From: josé@dom.test\r\nSubject: sans détour\r\n\r\nça va\r\n".encode()
    sent = ours.submit(content, recipient, sender="josé@dom.test", mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    assert ours.wait_for("delivery.failed", id=sent.id, recipient=recipient)
    notice = ours.wait_for_mail("josé", lambda message: concerns(message, recipient), "a bounce")
    assert recipients(notice)[recipient].status == "5.6.7"
    assert sent.subject not in [message["Subject"] for message in server.messages("alice")]


def test_8bit_content_arrives_unharmed(ours: Program, remote: MailServer) -> None:
    content = (f"From: alice@dom.test\r\nSubject: 8 bits to {remote.name}\r\nMIME-Version: 1.0\r\n"
               "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
               "Müßiggang ☃\r\n").encode()  # fmt: skip
    sent = ours.submit(content, f"alice@{remote.domain}", mail_options=["BODY=8BITMIME"])
    assert remote.wait_for("alice", sent.subject).get_content() == "Müßiggang ☃\n"


def test_a_large_message_arrives_whole(ours: Program, remote: MailServer) -> None:
    body = "".join(f"{number} {'x' * 70}\r\n" for number in range(40_000))
    content = f"From: alice@dom.test\r\nSubject: large to {remote.name}\r\n\r\n{body}".encode()
    sent = ours.submit(content, f"alice@{remote.domain}")
    message = remote.wait_for("alice", sent.subject, timeout=30)
    assert message.get_content() == body.replace("\r\n", "\n")


def test_a_bounce_for_a_foreign_sender_leaves_by_the_queue(ours: Program, mailservers: dict[str, MailServer]) -> None:
    """Sent through us by somebody of postfix.test to nobody at exim.test: Postfix's user gets our notification."""
    ours.send("nobody-here@exim.test", sender="carol@postfix.test", subject="a foreign sender")
    notice = mailservers["postfix"].wait_for_content("carol", "nobody-here@exim.test")
    assert "MAILER-DAEMON@mail.dom.test" in notice
    assert "Return-Path: <>" in notice


def test_a_notification_that_fails_is_the_end(ours: Program, mailservers: dict[str, MailServer]) -> None:
    """Never a bounce of a bounce: its sender does not exist, and postmaster hears of nothing by mail."""
    before = len(ours.mailbox("alice")), len(ours.mailbox("postmaster"))
    sent = ours.send("nobody@postfix.test", sender="nobody-either@exim.test", subject="both wrong")
    ours.wait_for("delivery.failed", id=sent.id)
    failed = ours.wait_for("delivery.failed", recipient="nobody-either@exim.test")
    # Whatever would follow had its time when a later message has gone both ways.
    ours.wait_for("delivery.succeeded", id=ours.send("alice@exim.test").id)
    assert not ours.events("message.queued", sender="", recipients=["MAILER-DAEMON@mail.dom.test"])
    assert failed["id"] != sent.id
    assert (len(ours.mailbox("alice")), len(ours.mailbox("postmaster"))) == before


def test_dsn_parameters_travel(ours: Program, mailservers: dict[str, MailServer]) -> None:
    """A server with DSN gets them and answers for itself (RFC 3461 5.2.1)."""
    content = b"Subject: with DSN\r\n\r\nx\r\n"
    options = {"mail_options": ["RET=HDRS", "ENVID=an-id"], "rcpt_options": ["NOTIFY=SUCCESS,FAILURE"]}
    postfix = mailservers["postfix"]
    assert ours.submit(content, f"alice@{postfix.domain}", sender="carol@dom.test", **options)
    notice = ours.wait_for_mail(
        "carol", lambda message: concerns(message, "alice@postfix.test", action="delivered"), "Postfix's own report"
    )
    assert "Original-Envelope-Id: an-id" in str(notice)
    assert postfix.hostname in notice["From"] or "postfix" in notice["From"].lower()
