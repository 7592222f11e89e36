"""TLS and passwords on the way out, and the queue's runner with a clock that runs fast."""

from __future__ import annotations

import datetime
import email
import io
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.faultserver import EXTENSIONS, Fault, FaultServer, Then, close, hang, late, say
from support.outbound import MESSAGE, Hosts, courier, deliver, item, put, queue, target

from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED, QueuedRecipient
from smtpmail.mail.retry import RetryPolicy
from smtpmail.outbound import tls
from smtpmail.outbound.client import Credentials
from smtpmail.outbound.courier import Courier, Session
from smtpmail.outbound.target import RoutingError, Target
from smtpmail.settings import sources
from smtpmail.settings.values import ConfigError, Endpoint

# -- TLS


def signed(
    folder: Path, name: str, ca: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> ssl.SSLContext:
    """A server's context with a certificate for `name`, by `ca` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca[0].subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    made = builder.sign(ca[1] if ca else key, hashes.SHA256())
    file = folder / f"{name}-{'ca' if ca else 'self'}.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


class Certificates:
    """Servers' contexts: `trusted` and `wrong_name` by an authority that the client knows, `itself` by none."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        now = datetime.datetime.now(datetime.UTC)
        ca = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.authority = folder / "ca.pem"
        self.authority.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        self.trusted = signed(folder, "fault.test", (ca, key))
        self.wrong_name = signed(folder, "other.test", (ca, key))
        self.itself = signed(folder, "fault.test")


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
    from smtpmail.outbound import courier as module

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


@pytest.mark.parametrize(
    "fault",
    [
        close(),
        Fault(b"\x15\x03\x03\x00\x02\x02\x28", Then.CLOSE, delay=0.1),
        Fault(b"no TLS here\r\n", delay=0.1),
        hang(),
    ],
    ids=["close", "alert", "nonsense", "silence"],
)
def test_a_failed_handshake_is_followed_by_clear_text(
    certificates: Certificates, weakened: list[str], fault: object
) -> None:
    with FaultServer({"handshake": fault}, tls=certificates.trusted) as server:  # type: ignore[dict-item]
        (outcome,) = deliver(target(server)).values()
    assert outcome.state == DELIVERED and outcome.tls is None
    assert not server.accepted[0].tls
    assert weakened == ["delivery.tls_weakened clear text"]


def test_starttls_that_is_refused_is_followed_by_clear_text(certificates: Certificates, weakened: list[str]) -> None:
    with FaultServer({"STARTTLS": say("454 4.7.0 not today")}, tls=certificates.trusted) as server:
        assert deliver(target(server))[0].state == DELIVERED
    assert weakened == ["delivery.tls_weakened clear text"]


def test_a_server_that_wants_a_client_certificate(certificates: Certificates, weakened: list[str]) -> None:
    """TLS 1.3: the client learns of it only with the first reply."""
    context = certificates.trusted
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        with FaultServer(tls=context) as server:
            (outcome,) = deliver(target(server)).values()
    finally:
        context.verify_mode = ssl.CERT_NONE
    assert outcome.state == DELIVERED and outcome.tls is None
    assert weakened == ["delivery.tls_weakened clear text"]


def test_nothing_is_taken_from_before_the_handshake(certificates: Certificates, weakened: list[str]) -> None:
    """CVE-2021-38371 and others: what came ahead is no reply to anything that is said under TLS."""
    injected = say(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n")
    with FaultServer({"STARTTLS": injected}, tls=certificates.trusted, accounts={"alice": "secret"}) as server:
        outcome = through(by_smarthost(server))
        assert outcome.state == DEFERRED and "between STARTTLS and the handshake" in outcome.reply
        assert not any({"AUTH", "MAIL"} & set(session.verbs) for session in server.sessions)
    with FaultServer({"STARTTLS": injected}, tls=certificates.trusted) as server:
        (outcome,) = deliver(target(server)).values()
    assert outcome.state == DELIVERED and outcome.tls is None, "as after any handshake that failed"
    assert weakened == ["delivery.tls_weakened clear text"]


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
        session = Session("one.test")
        assert deliver(by=by, session=session)[0].state == DELIVERED
        assert deliver(by=by, session=session, message=item(requiretls=True))[0].status == "5.7.30"
        assert deliver(by=by, session=session)[0].state == DELIVERED, "and those behind it are not held back"
        session.close()


# -- the smarthost and its password


def by_smarthost(server: FaultServer, *, port: int | None = None, password: str | None = "secret") -> Courier:
    host, real = server.address
    return courier(
        Hosts({"fault.test": [Target("fault.test", host, real)]}),
        smarthost=Endpoint("fault.test", port or real),
        credentials=lambda: Credentials("alice", password) if password else None,
    )


def through(by: Courier):  # type: ignore[no-untyped-def]
    session = Session(by.destination("bob@one.test"))
    try:
        return by.deliver(session, item(), [0], io.BytesIO(MESSAGE))[0]
    finally:
        session.close()


def test_password_over_verified_tls(certificates: Certificates) -> None:
    with FaultServer(tls=certificates.trusted, accounts={"alice": "secret"}) as server:
        assert through(by_smarthost(server)).state == DELIVERED
    assert server.sessions[0].user == "alice"
    assert server.violations == []


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


# -- the runner


def to(server: FaultServer, *domains: str) -> dict[str, list[Target]]:
    return {domain: [target(server)] for domain in domains}


def test_delivered_at_once_and_gone(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        q.submit(item())
        q.wait_empty()
        assert [n.name for n in Path(q.store.path).iterdir() if not n.name.startswith(".")] == []
    assert len(server.accepted) == 1


def test_recipients_of_one_destination_share_a_transaction(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test", "two.test"))) as q:
        q.submit(item("a@one.test", "b@ONE.test", "c@two.test"))
        q.wait_empty()
    assert sorted(m.recipients for m in server.accepted) == [["a@one.test", "b@ONE.test"], ["c@two.test"]]


def test_many_recipients_in_portions(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        q.submit(item(*(f"{n}@one.test" for n in range(250))))
        q.wait_empty()
    assert sorted(len(m.recipients) for m in server.accepted) == [50, 100, 100]
    assert len({r for m in server.accepted for r in m.recipients}) == 250


def test_tried_again_only_for_those_left(tmp_path: Path) -> None:
    with (
        FaultServer({"RCPT b@one.test": [say("450 4.2.0 later")]}) as server,
        queue(tmp_path, Hosts(to(server, "one.test", "two.test"))) as q,
    ):
        message = q.submit(item("a@one.test", "b@one.test", "c@two.test"))
        q.wait_for(lambda: q.store.load(message.id).attempts == 1)
        loaded = q.store.load(message.id)
        assert [r.state for r in loaded.recipients] == [DELIVERED, DEFERRED, DELIVERED]
        assert loaded.recipients[1].reply == "450 4.2.0 later"
        q.wait_empty()
    assert sorted(server.deliveries.values()) == [1, 1, 1]


def test_failures_reach_a_local_sender(tmp_path: Path) -> None:
    script = {"RCPT a@one.test": say("550 5.1.1 no such user"), "RCPT b@one.test": say("552 5.2.2 full")}
    with FaultServer(script) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        message = q.submit(item("a@one.test", "b@one.test", "c@one.test", sender="Alice+x@dom.fr", envid="E1"))
        q.wait_empty()
        (report,) = q.mailbox("alice")
    head, _, _ = report.partition(b"\n\n")
    assert head.startswith(b"Return-Path: <>\nDelivered-To: Alice+x@dom.fr\nReceived: by mail.dom.fr id ")
    read = email.message_from_bytes(report)
    blocks = read.get_payload(1).get_payload()  # type: ignore[union-attr]
    assert [b["Final-Recipient"] for b in blocks[1:]] == ["rfc822; a@one.test", "rfc822; b@one.test"]  # type: ignore[union-attr,index]
    assert message.id in report.decode()
    assert [m.recipients for m in server.accepted] == [["c@one.test"]]


def test_failures_reach_another_sender_through_the_queue(tmp_path: Path) -> None:
    with (
        FaultServer({"RCPT a@one.test": say("550 5.1.1 no")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test", "far.test"))) as q,
    ):
        q.submit(item("a@one.test", sender="carol@far.test"))
        q.wait_for(lambda: server.accepted)
        q.wait_empty()
    (bounce,) = server.accepted
    assert (bounce.sender, bounce.recipients) == ("", ["carol@far.test"])
    assert bounce.content.startswith(b"Received: by mail.dom.fr id ")
    assert server.violations == []


@pytest.mark.parametrize("reply", ["550 5.1.1 no", "550"])
def test_never_a_bounce_of_a_bounce(tmp_path: Path, reply: str) -> None:
    with (
        FaultServer({"RCPT": say(reply)}) as server,
        queue(tmp_path, Hosts(to(server, "one.test", "far.test"))) as q,
    ):
        q.submit(item("a@one.test", sender="carol@far.test"))
        q.wait_for(lambda: len(server.sessions) >= 1)
        q.wait_empty()
        q.submit(item("b@one.test", sender=""))
        q.wait_empty()
        time.sleep(0.2)
        assert q.store.ids() == []
        assert [p.name for p in q.spool_path.iterdir() if not p.name.startswith(".")] == []
    assert server.accepted == []


@pytest.mark.parametrize(
    ("notify", "reply", "dsn_offered", "told"),
    [
        ((), "250 ok", False, None),
        (("SUCCESS",), "250 ok", False, "relayed"),
        (("SUCCESS",), "250 ok", True, None),
        (("NEVER",), "250 ok", False, None),
        ((), "550 no", True, "failed"),
        (("FAILURE",), "550 no", True, "failed"),
        (("NEVER",), "550 no", True, None),
        (("SUCCESS",), "550 no", True, None),
        (("DELAY",), "550 no", True, None),
    ],
)
def test_notify_is_obeyed(
    tmp_path: Path, notify: tuple[str, ...], reply: str, dsn_offered: bool, told: str | None
) -> None:
    extensions = EXTENSIONS if dsn_offered else tuple(e for e in EXTENSIONS if e != "DSN")
    with (
        FaultServer({"RCPT": say(reply)}, extensions=extensions) as server,
        queue(tmp_path, Hosts(to(server, "one.test"))) as q,
    ):
        q.submit(item(QueuedRecipient("bob@one.test", notify)))
        q.wait_empty()
        reports = q.mailbox("alice")
    assert [f"Action: {told}\n".encode() in r for r in reports] == ([True] if told else [])


@pytest.mark.parametrize(
    ("ret", "size", "requiretls", "whole"),
    [(None, 0, False, True), ("FULL", 0, False, True), ("HDRS", 0, False, False), ("FULL", 60_000, False, False)],
)
def test_ret_is_obeyed(tmp_path: Path, ret: str | None, size: int, requiretls: bool, whole: bool) -> None:
    content = MESSAGE + b"The very body\n" + b"x" * 70 + b"\n" + b"y" * 60 * (size // 60) + b"\n"
    with FaultServer({"RCPT": say("550 no")}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        q.submit(item(ret=ret, content=content), content)
        q.wait_empty()
        (report,) = q.mailbox("alice")
    assert (b"The very body" in report) is whole
    assert b"Subject: test" in report


def test_a_delay_is_told_once(tmp_path: Path) -> None:
    policy = RetryPolicy(schedule=(0.1,), lifetime=60, delay_notice=0.2)
    with (
        FaultServer({"RCPT": [say("450 4.2.0 later")] * 8}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), policy) as q,
    ):
        q.submit(item())
        q.wait_empty()
        (report,) = q.mailbox("alice")
    assert b"Action: delayed" in report and b"Will-Retry-Until: " in report and b"450 4.2.0 later" in report
    assert len(server.accepted) == 1


def test_given_up_when_the_lifetime_ends(tmp_path: Path) -> None:
    policy = RetryPolicy(schedule=(0.2,), lifetime=0.7, delay_notice=99)
    with (
        FaultServer({"RCPT": say("450 4.2.0 later")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), policy) as q,
    ):
        began = time.time()
        q.submit(item())
        q.wait_empty()
        assert time.time() - began > 0.6
        (report,) = q.mailbox("alice")
    assert b"Status: 5.4.7" in report and b"450 4.2.0 later" in report and b"given up" in report


def test_a_sender_who_cannot_be_told_now_is_told_later(tmp_path: Path) -> None:
    """The list of users could not be read for a moment: that is no reason to lose the report."""
    from smtpmail.mail.route import Local
    from smtpmail.smtp import replies
    from smtpmail.smtp.replies import Refusal

    answers = [Refusal(replies.USERS_UNREADABLE)]

    def routes(address: object) -> tuple[Local, ...]:
        if answers:
            raise answers.pop()
        return (Local("alice"),)

    with FaultServer({"RCPT": say("550 no")}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        q.router.routes = routes  # type: ignore[method-assign]
        q.submit(item())
        q.wait_empty()
        assert len(q.mailbox("alice")) == 1


def test_a_dead_destination_delays_no_other(tmp_path: Path) -> None:
    """Nine of ten destinations do not notice the tenth, which never answers."""
    domains = [f"d{n}.test" for n in range(9)]
    with FaultServer() as server, FaultServer({"connect": hang()}) as dead:
        hosts = Hosts(to(server, *domains) | {"dead.test": [target(dead)]})
        with queue(tmp_path, hosts, max_workers=15, max_per_destination=5) as q:
            began = time.monotonic()
            for n in range(30):
                q.submit(item(f"{n}@dead.test"))
                q.submit(item(*(f"{n}@{domain}" for domain in domains)))
            server.wait_until(lambda s: len(s.accepted) == 270, 20)
            assert time.monotonic() - began < 30
            assert dead.peak_sessions <= 5


def test_limits_in_all_and_for_a_destination(tmp_path: Path) -> None:
    domains = [f"d{n}.test" for n in range(6)]
    with (
        FaultServer({".": late(0.05)}) as server,
        queue(tmp_path, Hosts(to(server, *domains)), max_workers=4, max_per_destination=2) as q,
    ):
        for n in range(10):
            q.submit(item(*(f"{n}@{domain}" for domain in domains)))
        q.wait_empty(20)
    assert len(server.accepted) == 60
    assert server.peak_sessions <= 5, "one may still be saying good-bye"


def test_a_busy_destination_leaves_room(tmp_path: Path) -> None:
    """With no thread left, one that has much to send lets another one have its turn."""
    with FaultServer({".": late(0.05)}) as slow, FaultServer() as server:
        hosts = Hosts({"slow.test": [target(slow)], "one.test": [target(server)]})
        with queue(tmp_path, hosts, max_workers=2, max_per_destination=2) as q:
            for n in range(60):
                q.submit(item(f"{n}@slow.test"))
            q.submit(item("bob@one.test"))
            server.wait_until(lambda s: s.accepted, 5)
            assert len(slow.accepted) < 30
            q.wait_empty(20)
    assert len(slow.accepted) == 60


def test_one_bad_message_does_not_hold_back_the_others(tmp_path: Path) -> None:
    """A server that hangs up on one recipient says nothing about the rest of the mail for it."""
    with FaultServer({"RCPT poison@one.test": close()}) as server:
        policy = RetryPolicy(schedule=(60,), lifetime=600, delay_notice=600)
        with queue(tmp_path, Hosts(to(server, "one.test")), policy, max_per_destination=1) as q:
            for n in range(10):
                q.submit(item("poison@one.test" if n == 0 else f"{n}@one.test"))
            server.wait_until(lambda s: len(s.accepted) == 9, 10)
            q.wait_for(lambda: len(q.store.ids()) == 1)


def test_those_in_line_for_a_dead_host_are_put_off_together(tmp_path: Path) -> None:
    policy = RetryPolicy(schedule=(60,), lifetime=600, delay_notice=600)
    with (
        FaultServer({"connect": [hang()]}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), policy, max_per_destination=1) as q,
    ):
        ids = [q.submit(item(f"{n}@one.test")).id for n in range(20)]
        q.wait_for(lambda: all(q.store.load(i).attempts == 1 for i in ids))
    assert len(server.sessions) == 1


def test_hold_release_retry_remove(tmp_path: Path) -> None:
    policy = RetryPolicy(schedule=(60,), lifetime=600, delay_notice=600)
    with (
        FaultServer({"RCPT a@one.test": [say("450 x")] * 2, "RCPT b@one.test": say("450 x")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), policy) as q,
    ):
        message = q.submit(item("a@one.test"))
        gone = q.submit(item("b@one.test"))
        q.wait_for(lambda: q.store.load(message.id).attempts == 1 == q.store.load(gone.id).attempts)
        q.store.record(q.store.load(message.id), [{"next_attempt": 0.0}])
        q.store.wake(message.id)
        q.wait_for(lambda: q.store.load(message.id).attempts == 2)
        q.store.record(q.store.load(message.id), [{"hold": True, "next_attempt": 0.0}])
        q.store.wake(message.id)
        q.store.remove(gone.id)
        q.store.wake(gone.id)
        time.sleep(0.3)
        assert server.accepted == [] and q.store.ids() == [message.id]
        q.store.record(q.store.load(message.id), [{"hold": False, "next_attempt": 0.0}])
        q.store.wake(message.id)
        q.wait_empty()
    assert len(server.accepted) == 1


def test_a_hold_during_an_attempt_counts_after_it(tmp_path: Path) -> None:
    with (
        FaultServer({"RCPT": [say("450 x")], "MAIL": [late(0.4)]}) as server,
        queue(tmp_path, Hosts(to(server, "one.test"))) as q,
    ):
        message = q.submit(item())
        time.sleep(0.1)
        q.store.record(q.store.load(message.id), [{"hold": True}])
        q.store.wake(message.id)
        q.wait_for(lambda: q.store.load(message.id).attempts == 1)
        time.sleep(0.8)
        assert q.store.load(message.id).attempts == 1 and server.accepted == []


def test_named_before_it_is_submitted_it_is_still_sent_once(tmp_path: Path) -> None:
    """`smtpmail queue retry --all` sees a message on disk before its session has told the runner of it."""
    with FaultServer({".": late(0.2)}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        message = put(q.store, item())
        q.runner.wake(message.id)
        q.runner.submit(message)
        q.runner.wake(message.id)
        q.wait_empty()
        time.sleep(0.2)
    assert len(server.messages) == 1


def test_what_is_on_disk_is_taken_up_at_start(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test")), start=False) as q:
        new = put(q.store, item("a@one.test"))
        overdue = put(q.store, item("b@one.test", "c@one.test"))
        q.store.record(overdue, [{"recipient": 0, "state": DELIVERED}, {"attempts": 3, "next_attempt": 5.0}])
        done = put(q.store, item("d@one.test"))
        q.store.record(done, [{"recipient": 0, "state": DELIVERED}])
        later = put(q.store, item("e@one.test"))
        q.store.record(later, [{"attempts": 1, "next_attempt": time.time() + 600}])
        held = put(q.store, item("f@one.test"))
        q.store.record(held, [{"hold": True}])
        (Path(q.store.path) / "junk").write_text("no message")
        q.start()
        q.wait_for(lambda: set(q.store.ids()) == {later.id, held.id, "junk"})
    assert sorted(r for m in server.accepted for r in m.recipients) == ["a@one.test", "c@one.test"]
    assert new.id not in q.store.ids()


def test_time_goes_on_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that can't be read for a moment stops neither the clock nor the ear of the queue."""
    with FaultServer({"RCPT": [say("450 x")]}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        load = q.store.load
        failures = [OSError(5, "Input/output error"), RuntimeError("what?"), RecursionError()]

        def broken(id_: str):  # type: ignore[no-untyped-def]
            if failures:
                raise failures.pop()
            return load(id_)

        message = q.submit(item())
        q.wait_for(lambda: load(message.id).attempts == 1)
        monkeypatch.setattr(q.store, "load", broken)
        q.wait_for(lambda: not failures)
        q.wait_empty()
        q.store.wake("nothing")
        q.store.wake(put(q.store, item("x@one.test")).id)
        q.wait_empty()
    assert len(server.accepted) == 2


def test_a_progress_that_cannot_be_written_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer({"RCPT": [say("450 x")]}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        record = q.store.record
        failures: list[Exception] = [OSError(28, "No space left on device")]

        def full(*arguments: object) -> None:
            if failures:
                raise failures.pop()
            record(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(q.store, "record", full)
        q.submit(item())
        q.wait_empty()
    assert len(server.accepted) == 1


def test_no_more_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is accepted all the same, and leaves when there are threads again."""
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if "_work" in thread.name:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        q.runner.submit(put(q.store, item()))
        time.sleep(0.3)
        assert q.store.ids()
        monkeypatch.undo()
        q.wait_empty()
        server.wait_until(lambda s: s.accepted)


def test_delivered_is_on_disk_before_the_sender_is_told_of_others(tmp_path: Path) -> None:
    """A crash while the report is written sends nothing a second time."""
    with (
        FaultServer({"RCPT b@one.test": say("550 no")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test"))) as q,
    ):
        seen: list[list[str]] = []
        send = q.bouncer.send

        def look(kind, original, fates, **more):  # type: ignore[no-untyped-def]
            seen.append([r.state for r in q.store.load(original.id).recipients])
            send(kind, original, fates, **more)

        q.bouncer.send = look  # type: ignore[method-assign]
        q.submit(item("a@one.test", "b@one.test"))
        q.wait_empty()
    assert seen == [[DELIVERED, DEFERRED]]
    assert len(server.accepted) == 1


def test_stop_waits_for_what_is_being_sent(tmp_path: Path) -> None:
    with (
        FaultServer({".": late(0.5)}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), max_per_destination=1) as q,
    ):
        for n in range(5):
            q.submit(item(f"{n}@one.test"))
        server.wait_until(lambda s: s.messages)
        q.runner.stop(5)
        left = q.store.ids()
    assert 1 <= len(server.accepted) <= 2
    assert len(left) == 5 - len(server.accepted), "what was taken is gone, the rest is there"
