"""TLS on the way out: opportunistic without a policy, strict with REQUIRETLS and before credentials."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faultserver import EXTENSIONS, Fault, FaultServer, close, hang, reset, say
from support.tls import Authority, make_certificate

from .conftest import IMPATIENT, TLS_OPTIONS
from .lab import Lab
from .mailservers import MailServer
from .program import Program
from .reports import concerns, recipients

RECIPIENT = "bob@one.test"
EXCHANGER = "sink1v4.test"

Serve = Callable[..., FaultServer]


@pytest.fixture
def serve(lab: Lab) -> Iterator[Serve]:
    """Starts a fault server on the sink host, by default as the MX of one.test."""
    servers: list[FaultServer] = []

    def start(script: dict[str, Any] | None = None, *, port: int = 25, **options: Any) -> FaultServer:
        server = FaultServer(script, listeners=[lab["sink"].listener("192.0.2.81", port)], **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def good(authority: Authority) -> ssl.SSLContext:
    """A certificate that our host can verify for the MX of one.test."""
    return authority.issue(EXCHANGER).server_context()


@pytest.fixture(scope="module")
def wrong_name(authority: Authority) -> ssl.SSLContext:
    return authority.issue("somebody-else.test").server_context()


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return make_certificate(tmp_path_factory.mktemp("self-signed"), EXCHANGER).server_context()


@pytest.fixture
def ours(start_ours: Callable[..., Program]) -> Program:
    """A server that remembers nothing yet of how TLS went with others."""
    return start_ours(*TLS_OPTIONS, *IMPATIENT)


@pytest.mark.parametrize("certificate", ["good", "wrong_name", "self_signed"])
def test_encrypts_with_any_certificate(
    ours: Program, serve: Serve, certificate: str, request: pytest.FixtureRequest
) -> None:
    """Without a policy an unverifiable certificate is still better than clear text."""
    server = serve(tls=request.getfixturevalue(certificate))
    sent = ours.post(RECIPIENT)
    ours.wait_for("delivery.succeeded", id=sent.id)
    assert server.accepted[0].tls
    assert server.sessions[-1].verbs[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
    assert server.violations == []


@pytest.mark.parametrize(
    ("point", "fault"),
    [
        pytest.param("STARTTLS", say("454 4.7.0 not now"), id="refused for the time being"),
        pytest.param("STARTTLS", say("500 5.5.1 what?"), id="refused for good"),
        pytest.param("STARTTLS", close(), id="closed at STARTTLS"),
        pytest.param("handshake", close(), id="closed at the handshake"),
        pytest.param("handshake", reset(), id="reset at the handshake"),
        pytest.param("handshake", close(b"this is no TLS at all\r\n" * 10), id="garbage"),
    ],
)
def test_a_failed_handshake_is_put_off_and_then_tried_in_clear_text(
    ours: Program, serve: Serve, good: ssl.SSLContext, point: str, fault: Fault
) -> None:
    server = serve({point: fault}, tls=good)
    sent = ours.post(RECIPIENT)
    ours.wait_for("delivery.deferred", id=sent.id)
    ours.wait_for("delivery.succeeded", id=sent.id)
    assert [message.tls for message in server.accepted] == [False]
    assert server.violations == []


def test_a_handshake_that_hangs(start_ours: Callable[..., Program], serve: Serve, good: ssl.SSLContext) -> None:
    server = serve({"handshake": hang()}, tls=good)
    ours = start_ours(*IMPATIENT, "--reply-timeout", "1s")
    sent = ours.post(RECIPIENT)
    ours.wait_for("delivery.succeeded", id=sent.id)
    assert [message.tls for message in server.accepted] == [False]


def test_old_tls_is_better_than_none(ours: Program, serve: Serve, authority: Authority) -> None:
    old = authority.issue(EXCHANGER).server_context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    server = serve(tls=old)
    sent = ours.post(RECIPIENT)
    ours.wait_for("delivery.succeeded", id=sent.id)
    assert [message.tls for message in server.accepted] == [True]


# --- REQUIRETLS (RFC 8689)


def submit_requiretls(ours: Program, authority: Authority, recipient: str) -> None:
    """Hand over a message with REQUIRETLS, after STARTTLS with our own server."""
    with ours.host.call(smtplib.SMTP, "127.0.0.1", 25, "localhost", 15) as client:
        trusting = ssl.create_default_context(cafile=str(authority.certificate))
        trusting.check_hostname = False
        client.ehlo()
        assert not client.has_extn("requiretls")
        client.starttls(context=trusting)
        client.ehlo()
        assert client.has_extn("requiretls")
        client.sendmail("alice@dom.test", [recipient], b"Subject: secret\r\n\r\nx\r\n", ["REQUIRETLS"])


def test_requiretls_goes_on_with_the_message(
    ours: Program, serve: Serve, authority: Authority, good: ssl.SSLContext
) -> None:
    server = serve(tls=good, extensions=[*EXTENSIONS, "REQUIRETLS"])
    submit_requiretls(ours, authority, RECIPIENT)
    server.wait_until(lambda it: it.accepted)
    assert server.accepted[0].tls
    assert "REQUIRETLS" in server.accepted[0].mail_parameters


@pytest.mark.parametrize(
    ("certificate", "extensions", "script"),
    [
        pytest.param("self_signed", [*EXTENSIONS, "REQUIRETLS"], {}, id="self-signed"),
        pytest.param("wrong_name", [*EXTENSIONS, "REQUIRETLS"], {}, id="another's certificate"),
        pytest.param("good", EXTENSIONS, {}, id="REQUIRETLS not offered"),
        pytest.param(None, EXTENSIONS, {}, id="no STARTTLS"),
    ],
)
def test_requiretls_bounces_rather_than_leak(
    ours: Program, serve: Serve, authority: Authority, request: pytest.FixtureRequest,
    certificate: str | None, extensions: list[str], script: dict[str, Any],
) -> None:  # fmt: skip
    tls = request.getfixturevalue(certificate) if certificate else None
    server = serve(script, tls=tls, extensions=extensions)
    recipient = f"secret-{request.node.callspec.id.replace(' ', '-').replace(chr(39), '')}@one.test".lower()
    submit_requiretls(ours, authority, recipient)
    notice = ours.wait_for_mail("alice", lambda message: concerns(message, recipient), f"a bounce of {recipient}")
    assert recipients(notice)[recipient].status == "5.7.30"
    assert server.messages == []


@pytest.mark.parametrize("name", ["postfix", "exim"])
def test_real_servers_without_requiretls_bounce_it(
    ours: Program, authority: Authority, mailservers: dict[str, MailServer], name: str
) -> None:
    """Postfix 3.7 and Exim 4.96 do not know it."""
    recipient = f"carol@{mailservers[name].domain}"
    submit_requiretls(ours, authority, recipient)
    notice = ours.wait_for_mail("alice", lambda message: concerns(message, recipient), "a bounce")
    assert recipients(notice)[recipient].status == "5.7.30"


# --- the smart host


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "smarthost-auth"
    path.write_text("ann:secret\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("port", "implicit"), [(587, False), (465, True)])
def test_everything_goes_to_the_smart_host(
    start_ours: Callable[..., Program], serve: Serve, good: ssl.SSLContext, credentials: Path, port: int, implicit: bool
) -> None:
    server = serve(port=port, tls=good, implicit_tls=implicit, accounts={"ann": "secret"})
    options = ["--smarthost", f"{EXCHANGER}:{port}", "--smarthost-auth", str(credentials)]
    ours = start_ours(*IMPATIENT, *options)
    ours.post("a@missing.test", "b@null.test", "c@postfix.test")
    server.wait_until(lambda it: it.accepted)
    assert sorted(server.accepted[0].recipients) == ["a@missing.test", "b@null.test", "c@postfix.test"]
    assert server.sessions[-1].user == "ann"
    assert server.violations == []


@pytest.mark.parametrize("certificate", ["wrong_name", "self_signed", None])
def test_credentials_stay_home_without_a_verified_certificate(
    start_ours: Callable[..., Program], serve: Serve, credentials: Path, certificate: str | None,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    tls = request.getfixturevalue(certificate) if certificate else None
    server = serve(port=587, tls=tls, accounts={"ann": "secret"})
    ours = start_ours(*IMPATIENT, "--smarthost", f"{EXCHANGER}:587", "--smarthost-auth", str(credentials))
    sent = ours.post(RECIPIENT)
    assert ours.wait_for("delivery.deferred", "delivery.failed", id=sent.id)["reply"]
    assert all("AUTH" not in session.verbs for session in server.sessions)
    assert server.messages == []


def test_a_smart_host_without_credentials(start_ours: Callable[..., Program], serve: Serve) -> None:
    server = serve(port=2500)
    ours = start_ours("--smarthost", "192.0.2.81:2500")
    sent = ours.post("a@missing.test")
    ours.wait_for("delivery.succeeded", id=sent.id)
    assert server.accepted[0].recipients == ["a@missing.test"]
