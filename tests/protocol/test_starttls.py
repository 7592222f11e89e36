"""STARTTLS with a real handshake."""

from __future__ import annotations

import smtplib
import ssl
from typing import Any

import pytest
from support.client import Closed
from support.server import Servers, wait_until
from support.tls import Certificate, make_certificate


@pytest.mark.parametrize("listener", ["loopback", "network"])
def test_message_over_tls(servers: Servers, certificate: Certificate, listener: str) -> None:
    """The certificate verifies; header and log tell of TLS; EHLO does not offer it again."""
    server = servers.start(*certificate.options)
    with server.client(listener) as client:
        assert any(line[4:] == "STARTTLS" for line in client.ehlo().lines)
        client.expect("MAIL FROM:<before@example.org>", 250)
        client.expect("STARTTLS", 503)
        client.expect("RSET", 250)
        client.expect("STARTTLS", 220)
        client.start_tls(certificate.client_context(), certificate.name)
        client.expect("MAIL FROM:<a@b>", 503)
        assert not any("STARTTLS" in line for line in client.ehlo().lines)
        client.expect("STARTTLS", 503)
        assert client.deliver(b"x" * 70_000 + b"\r\n").code == 250
        client.expect("QUIT", 221)
    (message,) = server.messages("bob").values()
    assert b" with ESMTPS (TLSv1." in message
    assert server.wait_event("message.received")["tls"].startswith("TLSv1.")


def test_without_a_certificate_it_is_not_offered(servers: Servers) -> None:
    server = servers.start()
    with server.client() as client:
        assert not any("STARTTLS" in line for line in client.ehlo().lines)
        client.expect("STARTTLS", 502, "5.5.1")


def test_injected_commands_are_discarded(servers: Servers, certificate: Certificate) -> None:
    """CVE-2011-0411: sent in one packet with STARTTLS, before the handshake."""
    server = servers.start(*certificate.options)
    with server.client() as client:
        client.ehlo()
        client.send("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.org>\r\n")
        assert client.read().code == 220
        client.start_tls(certificate.client_context(), certificate.name)
        client.expect("NOOP", 250)
        client.begin()
        assert client.data(b"x\r\n").code == 250
    server.wait_event("message.received")
    assert [e["sender"] for e in server.events_named("message.received")] == ["alice@example.org"]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_old_versions_are_better_than_clear_text(
    servers: Servers, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """What is refused here comes in clear text instead (RFC 7435)."""
    server = servers.start(*certificate.options)
    context = certificate.client_context()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with server.client() as client:
        client.ehlo()
        client.expect("STARTTLS", 220)
        client.start_tls(context, certificate.name)
        client.begin()
        assert client.data(b"x\r\n").code == 250
    assert server.wait_event("message.received")["tls"].startswith("TLSv1")


def test_no_session_tickets(servers: Servers, certificate: Certificate) -> None:
    """Senders of Outlook abort a handshake that is followed by them."""
    server = servers.start(*certificate.options)
    with server.client() as client:
        client.ehlo()
        client.expect("STARTTLS", 220)
        client.start_tls(certificate.client_context(), certificate.name)
        client.expect("NOOP", 250)
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.session is None or not client.sock.session.has_ticket


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_failed_handshake(servers: Servers, certificate: Certificate) -> None:
    """Garbage, a handshake given up, silence: that client is dropped, others are served."""
    server = servers.start(*certificate.options, "--timeout", "1")
    with server.client() as client:
        client.ehlo()
        client.expect("STARTTLS", 220)
        client.send(b"EHLO plain\r\nMAIL FROM:<a@b>\r\n" * 20)
        # An alert in TLS may come, no reply in plain text.
        try:
            rest = client.sock.recv(1000)
        except ConnectionError:
            rest = b""
        assert not rest[:1].isdigit()
    with server.client() as client:
        client.ehlo()
        client.expect("STARTTLS", 220)
        # This client trusts nobody.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            client.start_tls(ssl.create_default_context(), certificate.name)
    with server.client() as client:
        client.ehlo()
        client.expect("STARTTLS", 220)
        with pytest.raises(Closed):
            client.read()
    with server.client() as client:
        client.begin()
        assert client.data(b"x\r\n").code == 250
    wait_until(lambda: len(server.events_named("session.closed")) == 4)
    assert server.events_named("session.error") == []


def test_sighup_takes_the_new_certificate(
    servers: Servers, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Renewed files are read; broken ones leave the old certificate in use; sessions go on."""
    folder = tmp_path_factory.mktemp("renewed")
    files = make_certificate(folder, "old.dom.fr")
    server = servers.start(*files.options)

    def names_presented() -> str:
        host, port = server.address()
        with smtplib.SMTP(host, port, timeout=10) as smtp:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.load_verify_locations(files.cert)
            smtp.starttls(context=context)
            assert isinstance(smtp.sock, ssl.SSLSocket)
            shown: Any = smtp.sock.getpeercert()
            return str(shown["subject"][0][0][1])

    assert names_presented() == "old.dom.fr"
    with server.client() as session:
        session.ehlo()
        make_certificate(folder, "new.dom.fr")
        server.signal(1)
        server.wait_event("server.reloaded")
        assert names_presented() == "new.dom.fr"
        new = files.cert.read_bytes()
        files.cert.write_text("no certificate")
        server.signal(1)
        assert server.wait_event("server.reload_failed")["level"] == "error"
        files.cert.write_bytes(new)
        assert names_presented() == "new.dom.fr"
        assert session.deliver().code == 250
