"""Mail from real foreign servers arrives in our mailboxes."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest
from support.tls import Authority

from .conftest import TLS_OPTIONS
from .lab import Lab
from .mailservers import MailServer
from .program import Program


@pytest.fixture(scope="module", params=[True, False], ids=["starttls", "clear"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Whether ours offers STARTTLS."""
    return bool(request.param)


@pytest.fixture(scope="module")
def ours(
    lab: Lab,
    authority: Authority,
    mailservers: dict[str, MailServer],
    tmp_path_factory: pytest.TempPathFactory,
    tls: bool,
) -> Iterator[Program]:
    for server in mailservers.values():
        server.forget_hosts()
    program = Program(lab["ours"], tmp_path_factory.mktemp("ours"), *(TLS_OPTIONS if tls else ()))
    program.start()
    yield program
    assert program.stop() == 0


def send(remote: MailServer, content: str, *recipients: str, sender: str = "", options: tuple[str, ...] = ()) -> None:
    """Give a message to a foreign server on its own loopback interface."""
    octets = content.replace("\n", "\r\n").encode()
    with remote.host.call(smtplib.SMTP, "127.0.0.1", 25, "localhost", 15) as client:
        assert client.sendmail(sender or f"carol@{remote.domain}", recipients, octets, options) == {}


@pytest.mark.parametrize(("domain", "family"), [("v4.dom.test", "ipv4"), ("v6.dom.test", "ipv6")])
def test_mail_arrives(ours: Program, remote: MailServer, tls: bool, domain: str, family: str) -> None:
    subject = f"{remote.name} to {domain} {tls}"
    send(remote, f"From: carol@{remote.domain}\nSubject: {subject}\n\nOne.\n.\n..Three.\n", f"bob@{domain}")
    message = ours.wait_for_subject("bob", subject)
    assert message["Return-Path"] == f"<carol@{remote.domain}>"
    assert message["Delivered-To"] == f"bob@{domain}"
    assert message.get_content() == "One.\n.\n..Three.\n"
    received = message.get_all("Received", [])[0]
    assert f"with {'ESMTPS' if tls else 'ESMTP'}" in received
    v4, v6 = remote.host.addresses[:2]
    assert f"[{v4}]" in received if family == "ipv4" else f"[IPv6:{v6}]" in received
    # The mailbox may show a message a moment before the log tells of it.
    entry = ours.wait_for("message.received", id=received.split(" id ")[1].split(";")[0].split()[0])
    assert entry["listener"] == "network"
    assert bool(entry["tls"]) == tls


def test_several_recipients_get_a_copy_each(ours: Program, remote: MailServer, tls: bool) -> None:
    subject = f"{remote.name} to several {tls}"
    send(remote, f"Subject: {subject}\n\nx\n", "alice@dom.test", "bob+list@v4.dom.test", "carol@v6.dom.test")
    for user in ("alice", "bob", "carol"):
        assert ours.wait_for_subject(user, subject)


def test_an_unknown_user_comes_back_to_its_sender(ours: Program, remote: MailServer, tls: bool) -> None:
    """Our 550 5.1.1 becomes a bounce in the foreign server's mailbox."""
    recipient = f"nobody-{remote.name}-{tls}@dom.test".lower()
    send(remote, "Subject: to nobody\n\nx\n", recipient)
    entry = ours.wait_for("recipient.refused", recipient=recipient)
    assert entry["reply"].startswith("550 5.1.1")
    bounced = remote.wait_for_content("carol", recipient)
    assert "5.1.1" in bounced


def test_smtputf8(ours: Program, mailservers: dict[str, MailServer], tls: bool) -> None:
    """A recipient, a sender and a header that are not ASCII, from each server that has SMTPUTF8."""
    for remote in mailservers.values():
        if not remote.smtputf8:
            continue
        subject = f"{remote.name} très bien {tls}"
        sender = f"josé@{remote.domain}"
        send(
            remote,
            f"From: {sender}\nSubject: {subject}\n\nça va\n",
            "josé@dom.test",
            sender=sender,
            options=("SMTPUTF8", "BODY=8BITMIME"),
        )
        message = ours.wait_for_subject("josé", subject)
        assert message["Return-Path"] == f"<{sender}>"
        assert "with UTF8SMTP" in message.get_all("Received", [])[0]


def test_a_large_message_arrives_whole(ours: Program, remote: MailServer, tls: bool) -> None:
    subject = f"{remote.name} large {tls}"
    body = "".join(f"{number} {'x' * 70}\n" for number in range(40_000))
    send(remote, f"Subject: {subject}\n\n{body}", "bob@dom.test")
    assert ours.wait_for_subject("bob", subject, timeout=30).get_content() == body


def test_the_network_never_relays(ours: Program, remote: MailServer, tls: bool) -> None:
    """From another host every foreign recipient is refused, whatever the client calls itself; in the same
    transaction a local one is taken."""
    for server in ("192.0.2.10", "2001:db8::10"):
        with remote.host.call(smtplib.SMTP, server, 25, "localhost", 15) as client:
            client.ehlo("mail.dom.test")
            for sender in ("", "alice@dom.test", f"carol@{remote.domain}"):
                client.rset()
                assert client.mail(sender)[0] == 250
                for recipient in (f"alice@{remote.domain}", "x@one.test", "x@[192.0.2.81]", "x@[IPv6:2001:db8::81]"):
                    code, text = client.rcpt(recipient)
                    assert (code, text.split()[0]) == (550, b"5.7.1"), recipient
                assert client.rcpt("bob@dom.test")[0] == 250


def test_our_network_address_is_the_network_even_from_our_own_host(ours: Program, tls: bool) -> None:
    """The listener decides, not the client's address."""
    with ours.host.call(smtplib.SMTP, "192.0.2.10", 25, "localhost", 15) as client:
        client.ehlo("localhost")
        client.mail("alice@dom.test")
        assert client.rcpt("alice@one.test")[0] == 550
