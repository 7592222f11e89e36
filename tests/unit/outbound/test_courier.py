"""TLS and passwords on the way out."""

from __future__ import annotations

import io
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faultserver import EXTENSIONS, Fault, FaultServer, Script, Then, close, hang, reset, say
from support.outbound import MESSAGE, Hosts, courier, deliver, item, target
from support.tls import Authority, make_certificate

from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED, Item
from smtpmail.outbound import tls
from smtpmail.outbound.client import Credentials, Timeouts
from smtpmail.outbound.courier import Courier
from smtpmail.outbound.kept import Kept
from smtpmail.outbound.mailhost import MailHost, RoutingError
from smtpmail.outbound.outcome import Finality
from smtpmail.settings import sources
from smtpmail.settings.values import ConfigError, Endpoint

# -- TLS


class Certificates:
    """Servers' contexts: `trusted` and `wrong_name` by an authority that the client knows, `itself` by none."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.authority = authority.certificate
        self.trusted = authority.issue("fault.test").server_context()
        self.wrong_name = authority.issue("other.test").server_context()
        self.itself = make_certificate(folder, "fault.test").server_context()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def roots(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client knows the test's authority alone."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    tls.context.cache_clear()
    yield
    tls.context.cache_clear()


@pytest.fixture
def weakened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was logged of steps down."""
    from smtpmail.outbound import ways as module

    seen: list[str] = []
    monkeypatch.setattr(module.log, "warning", lambda event, **fields: seen.append(f"{event} {fields['now']}"))
    return seen


def test_starttls_whenever_offered(certificates: Certificates, weakened: list[str]) -> None:
    with FaultServer(tls=certificates.trusted) as server:
        (outcome,) = deliver(target(server)).values()
    assert outcome.state == DELIVERED and outcome.tls is not None
    assert outcome.tls.startswith("TLSv1.") and outcome.tls.endswith("verified")
    assert server.accepted[0].tls
    assert server.sessions[0].verbs[:3] == ["EHLO", "STARTTLS", "EHLO"]
    assert weakened == [] and server.violations == []


@pytest.mark.parametrize("which", ["itself", "wrong_name"])
def test_an_unverifiable_certificate_is_better_than_clear_text(
    certificates: Certificates, weakened: list[str], which: str
) -> None:
    with FaultServer(tls=getattr(certificates, which)) as server:
        by = courier(Hosts({"one.test": [target(server)]}))
        (outcome,) = deliver(by=by).values()
        assert outcome.state == DELIVERED and outcome.tls and "verified" not in outcome.tls
        assert server.accepted[0].tls
        assert weakened == ["delivery.tls_weakened unverified"]
        deliver(by=by)
    assert len(server.sessions) == 3, "what was learnt is remembered: no handshake in vain the second time"


HICCUPS = pytest.mark.parametrize(
    "script",
    [
        {"handshake": close()},
        {"handshake": reset()},
        {"handshake": Fault(b"\x15\x03\x03\x00\x02\x02\x28", Then.CLOSE, delay=0.1)},
        {"handshake": Fault(b"no TLS here\r\n", delay=0.1)},
        {"handshake": hang()},
        {"STARTTLS": say("454 4.7.0 not today")},
        {"STARTTLS": close("421 4.7.0 not today")},
        {"STARTTLS": say(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n")},
    ],
    ids=["close", "reset", "alert", "nonsense", "silence", "454", "421", "injected"],
)


def put_off() -> Item:
    """A message that has been tried before."""
    return item(attempts=1)


@HICCUPS
def test_a_failed_handshake_puts_mail_off_before_clear_text_is_tried(
    certificates: Certificates, weakened: list[str], script: Script
) -> None:
    """As Postfix does. What was said ahead of the handshake is no reply under TLS, either (CVE-2021-38371)."""
    with FaultServer(script, tls=certificates.trusted) as server:
        by = courier(Hosts({"one.test": [target(server)]}))
        (outcome,) = deliver(by=by).values()
        assert outcome.state == DEFERRED and outcome.finality is Finality.UNREACHABLE
        assert server.messages == []
        (outcome,) = deliver(by=by, message=put_off()).values()
        assert outcome.state == DELIVERED and outcome.tls is None
        assert not server.accepted[0].tls
        assert weakened[-1] == "delivery.tls_weakened clear text"
        # What has worked is remembered: the next message does not wait.
        assert deliver(by=by)[0].state == DELIVERED
    assert not any("AUTH" in session.verbs for session in server.sessions)


@HICCUPS
@pytest.mark.parametrize("refusal", ["530 5.7.0 Must issue a STARTTLS command first", "550 5.7.1 no", "554 no"])
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "."])
def test_a_hiccup_of_a_server_that_demands_tls_bounces_nothing(
    certificates: Certificates, script: Script, refusal: str, point: str
) -> None:
    """What clear text is refused for says nothing about the message, nor about the next one."""
    (where, hiccup), *_ = script.items()
    with FaultServer({where: hiccup, point: say(refusal)}, tls=certificates.trusted) as server:
        by = courier(Hosts({"one.test": [target(server)]}), timeouts=Timeouts(1, 0.3))
        for message in (item(), put_off(), item(), put_off()):
            (outcome,) = deliver(by=by, message=message).values()
            assert outcome.state == DEFERRED
        server.script = {}
        (outcome,) = deliver(by=by).values()
        assert outcome.state == DELIVERED and outcome.tls


def test_starttls_that_is_not_offered_for_once(certificates: Certificates) -> None:
    with FaultServer({"MAIL": [say("530 5.7.0 Must issue a STARTTLS command first")]}) as server:
        assert deliver(target(server))[0].state == DEFERRED


def test_a_refusal_in_clear_text_counts_where_clear_text_has_worked(certificates: Certificates) -> None:
    with FaultServer({"handshake": close(), "RCPT": [None, say("550 5.1.1 who?")]}, tls=certificates.trusted) as server:
        by = courier(Hosts({"one.test": [target(server)]}))
        assert deliver(by=by, message=put_off())[0].state == DELIVERED
        assert deliver(by=by)[0].state == FAILED


def test_another_host_with_tls_comes_before_clear_text(certificates: Certificates) -> None:
    with (
        FaultServer({"handshake": close()}, tls=certificates.trusted) as broken,
        FaultServer(tls=certificates.trusted) as sound,
    ):
        (outcome,) = deliver(target(broken), target(sound)).values()
    assert outcome.state == DELIVERED and outcome.tls and broken.messages == []


def test_tls_that_works_and_then_always_dies(certificates: Certificates, weakened: list[str]) -> None:
    with FaultServer(tls=certificates.trusted) as server:
        by = courier(Hosts({"one.test": [target(server)]}))
        server.script = {"MAIL": [close()] * 3}
        for attempts in range(3):
            assert deliver(by=by, message=item(attempts=attempts))[0].state == DEFERRED
        (outcome,) = deliver(by=by, message=item(attempts=3)).values()
    assert outcome.state == DELIVERED and outcome.tls is None


def test_a_server_that_wants_a_client_certificate(certificates: Certificates, weakened: list[str]) -> None:
    """TLS 1.3: the client learns of it only with the first reply."""
    context = certificates.trusted
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        with FaultServer(tls=context) as server:
            assert deliver(target(server))[0].state == DEFERRED
            (outcome,) = deliver(target(server), message=put_off()).values()
    finally:
        context.verify_mode = ssl.CERT_NONE
    assert outcome.state == DELIVERED and outcome.tls is None
    assert weakened[-1] == "delivery.tls_weakened clear text"


def test_no_password_after_words_from_before_the_handshake(certificates: Certificates) -> None:
    injected = say(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n")
    with FaultServer({"STARTTLS": injected}, tls=certificates.trusted, accounts={"alice": "secret"}) as server:
        outcome = through(by_smarthost(server))
        assert outcome.state == DEFERRED and "between STARTTLS and the handshake" in outcome.reply
        assert not any({"AUTH", "MAIL"} & set(session.verbs) for session in server.sessions)


def test_old_ciphers_are_better_than_clear_text(tmp_path: Path) -> None:
    context = make_certificate(tmp_path, "fault.test").server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with FaultServer(tls=context) as server:
        (outcome,) = deliver(target(server)).values()
    assert outcome.state == DELIVERED and outcome.tls == "TLSv1.2 ECDHE-ECDSA-AES128-SHA"


@pytest.mark.parametrize("hiccup", [close(), reset(), hang()], ids=["close", "reset", "silence"])
def test_a_hiccup_does_not_bounce_requiretls(certificates: Certificates, hiccup: Fault) -> None:
    with FaultServer({"handshake": hiccup}, tls=certificates.trusted, extensions=(*EXTENSIONS, "REQUIRETLS")) as server:
        (outcome,) = deliver(target(server), message=item(requiretls=True)).values()
        assert outcome.state == DEFERRED and server.messages == []


@pytest.mark.parametrize(
    ("which", "extensions", "delivered"),
    [
        ("trusted", (*EXTENSIONS, "REQUIRETLS"), True),
        ("trusted", EXTENSIONS, False),
        ("itself", (*EXTENSIONS, "REQUIRETLS"), False),
        ("wrong_name", (*EXTENSIONS, "REQUIRETLS"), False),
        (None, (*EXTENSIONS, "REQUIRETLS"), False),
    ],
)
def test_requiretls(
    certificates: Certificates, which: str | None, extensions: tuple[str, ...], delivered: bool
) -> None:
    """RFC 8689: verified at every hop, or a bounce; nothing of the message is said to another server."""
    context = getattr(certificates, which) if which else None
    message = item(requiretls=True)
    with (
        FaultServer(tls=context, extensions=extensions) as server,
        FaultServer(tls=certificates.trusted, extensions=(*EXTENSIONS, "REQUIRETLS")) as fit,
    ):
        (outcome,) = deliver(target(server), message=message).values()
        if not delivered:
            assert (outcome.state, outcome.status) == (FAILED, "5.7.30")
            assert not any("MAIL" in session.verbs for session in server.sessions)
            # Another host of the domain may be fit.
            assert deliver(target(server), target(fit), message=message)[0].state == DELIVERED
            server = fit
        else:
            assert outcome.state == DELIVERED
    assert "REQUIRETLS" in server.accepted[0].mail_parameters and server.accepted[0].tls


def test_requiretls_does_not_use_a_weak_connection_that_is_open(certificates: Certificates) -> None:
    with FaultServer(tls=certificates.itself, extensions=(*EXTENSIONS, "REQUIRETLS")) as server:
        by = courier(Hosts({"one.test": [target(server)]}))
        session = Kept("one.test")
        assert deliver(by=by, session=session)[0].state == DELIVERED
        assert deliver(by=by, session=session, message=item(requiretls=True))[0].status == "5.7.30"
        assert deliver(by=by, session=session)[0].state == DELIVERED, "and those behind it are not held back"
        session.close()


# -- the smarthost and its password


def by_smarthost(server: FaultServer, *, port: int | None = None, password: str | None = "secret") -> Courier:
    host, real = server.address
    return courier(
        Hosts({"fault.test": [MailHost("fault.test", host, real)]}),
        smarthost=Endpoint("fault.test", port or real),
        credentials=lambda: Credentials("alice", password) if password else None,
    )


def through(by: Courier):  # type: ignore[no-untyped-def]
    session = Kept(by.destination("bob@one.test"))
    try:
        return by.deliver(session, item(), [0], io.BytesIO(MESSAGE))[0]
    finally:
        session.close()


def test_password_over_verified_tls(certificates: Certificates) -> None:
    with FaultServer(tls=certificates.trusted, accounts={"alice": "secret"}) as server:
        assert through(by_smarthost(server)).state == DELIVERED
    assert server.sessions[0].user == "alice"
    assert server.violations == []


@pytest.mark.parametrize(
    ("lines", "verb"),
    [
        (["AUTH CRAM-MD5 GSSAPI", "AUTH PLAIN", "AUTH XOAUTH2"], "PLAIN"),
        (["AUTH PLAIN", "AUTH CRAM-MD5"], "PLAIN"),
        (["AUTH CRAM-MD5", "AUTH=LOGIN"], "LOGIN"),
        (["AUTH=LOGIN PLAIN", "AUTH LOGIN"], "PLAIN"),
        (["AUTH=", "auth login"], "LOGIN"),
        (["AUTH", "AUTH\tPLAIN"], "PLAIN"),
        (["AUTH   NTLM    LOGIN  "], "LOGIN"),
        (["AUTH CRAM-MD5", "AUTH NTLM", "AUTHENTIC PLAIN"], None),
    ],
)
def test_mechanisms_of_all_auth_lines(certificates: Certificates, lines: list[str], verb: str | None) -> None:
    """The last line won."""
    reply = "\r\n".join(f"250-{line}" for line in ["fault.test", *lines]) + "\r\n250 SIZE"
    with FaultServer({"EHLO": [None, say(reply)]}, tls=certificates.trusted, accounts={"alice": "secret"}) as server:
        outcome = through(by_smarthost(server))
    if verb is None:
        assert outcome.state == DEFERRED and "neither AUTH PLAIN nor LOGIN" in outcome.reply
        return
    assert outcome.state == DELIVERED
    assert any(line.startswith(f"C: AUTH {verb}") for line in server.sessions[0].transcript)
    assert server.sessions[0].user == "alice"


@pytest.mark.parametrize("which", ["itself", "wrong_name", None])
def test_no_password_without_verified_tls(certificates: Certificates, which: str | None) -> None:
    context = getattr(certificates, which) if which else None
    with FaultServer(tls=context, accounts={"alice": "secret"}) as server:
        outcome = through(by_smarthost(server))
    assert outcome.state == DEFERRED
    assert not any("AUTH" in session.verbs or "MAIL" in session.verbs for session in server.sessions)


def test_no_password_without_tls_even_if_asked_for_in_clear_text() -> None:
    with FaultServer(extensions=(*EXTENSIONS, "AUTH PLAIN LOGIN")) as server:
        outcome = through(by_smarthost(server))
    assert outcome.state == DEFERRED and "no password is sent" in outcome.reply
    assert "AUTH" not in server.sessions[0].verbs


def test_a_wrong_password_bounces_nothing(certificates: Certificates) -> None:
    with FaultServer(tls=certificates.trusted, accounts={"alice": "other"}) as server:
        outcome = through(by_smarthost(server))
    assert (outcome.state, outcome.status) == (DEFERRED, "4.7.8")
    assert "535" in outcome.reply and "secret" not in outcome.reply
    assert server.messages == []


def test_a_smarthost_without_password(certificates: Certificates) -> None:
    with FaultServer(tls=certificates.itself) as server:
        outcome = through(by_smarthost(server, password=None))
    assert outcome.state == DELIVERED and server.accepted[0].tls


def test_a_smarthost_that_does_not_exist_bounces_nothing() -> None:
    by = courier(
        Hosts({"fault.test": RoutingError(True, "5.1.2", "the domain fault.test does not exist")}),
        smarthost=Endpoint("fault.test", 587),
    )
    assert through(by).state == DEFERRED


@pytest.mark.parametrize(
    ("mode", "text", "error"),
    [
        (0o600, "alice:se:cret\n", None),
        (0o400, "alice:se:cret", None),
        (0o640, "alice:x\n", "others can read"),
        (0o604, "alice:x\n", "others can read"),
        (0o644, "alice:x\n", "others can read"),
        (0o600, "", "must be user:password"),
        (0o600, "alice\n", "must be user:password"),
        (0o600, ":x\n", "must be user:password"),
        (0o600, "alice:\n", "must be user:password"),
    ],
)
def test_the_file_with_the_password(tmp_path: Path, mode: int, text: str, error: str | None) -> None:
    file = tmp_path / "auth"
    file.write_text(text)
    file.chmod(mode)
    settings = sources.load({"smarthost": "fault.test:587", "smarthost_auth": str(file)}, {}, None)
    if error is None:
        assert settings.read_smarthost_auth() == ("alice", "se:cret")
    else:
        with pytest.raises(ConfigError, match=error) as caught:
            settings.read_smarthost_auth()
        assert str(file) in str(caught.value) and "alice:x" not in str(caught.value)


def test_a_password_file_that_became_unusable_puts_mail_off(certificates: Certificates) -> None:
    def unusable() -> Credentials:
        raise ConfigError("--smarthost-auth: others can read /etc/auth; chmod 600 it")

    with FaultServer(tls=certificates.trusted, accounts={"alice": "secret"}) as server:
        host, port = server.address
        by = courier(Hosts({"fault.test": [target(server)]}), smarthost=Endpoint(host, port), credentials=unusable)
        outcome = through(by)
    assert outcome.state == DEFERRED and "others can read" in outcome.reply
    assert server.messages == []
