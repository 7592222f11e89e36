"""Mail that is believed, and mail that can be believed, through the real program and a name server of the test."""

from __future__ import annotations

import json
import re
import smtplib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dkim as oracle
import pytest
from support.client import Answer
from support.faultserver import EXTENSIONS, FaultServer, say
from support.nameserver import NameServer
from support.server import Server, Servers, clean_environment, program, split_address
from support.tls import Certificate
from support.zone import Zone

from smtpmail.admin.dns_records import quoted
from smtpmail.auth.dkim_keys import KeyFolder

ZONE = """
bank.test. 60 TXT "v=spf1 ip4:192.0.2.1 -all"
_dmarc.bank.test. 60 TXT "v=DMARC1; p=reject"
shop.test. 60 TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.shop.test. 60 TXT "v=DMARC1; p=reject"
_dmarc.quarantine.test. 60 TXT "v=DMARC1; p=quarantine"
1.0.0.127.in-addr.arpa. 60 PTR localhost.test.
localhost.test. 60 A 127.0.0.1
"""


def content(author: str) -> bytes:
    return (
        f"Authentication-Results: mail.dom.fr; dmarc=pass\r\nFrom: {author}\r\nSubject: x\r\n"
        "Authentication-Results: other.test; spf=pass\r\n\r\nHi.\r\n"
    ).encode()


def send(server: Server, author: str, listener: str = "network", *, to: str = "bob@dom.fr") -> Answer:
    with server.client(listener) as client:
        client.begin(to, sender=author)
        return client.data(content(author))


def options(dns: NameServer, *more: str) -> list[str]:
    return ["--resolver", str(dns.endpoint), *more]


def test_marked(servers: Servers) -> None:
    with NameServer(ZONE) as dns:
        server = servers.start(*options(dns, "--verify", "mark"))
        assert send(server, "eve@bank.test").code == 250
        assert send(server, "anna@shop.test").code == 250
        first, second = (message.decode().replace("\n\t", " ") for _, message in sorted(server.messages("bob").items()))
    fields = [line.partition(":")[0] for line in first.partition("\n\n")[0].splitlines()]
    assert fields == ["Return-Path", "Delivered-To", "Received", "Authentication-Results", "From", "Subject",
                      "Authentication-Results"]  # fmt: skip
    assert (
        "\nAuthentication-Results: mail.dom.fr; spf=fail smtp.mailfrom=eve@bank.test "
        "(127.0.0.1 may not send mail of bank.test \\(-all\\)); dkim=none; dmarc=fail header.from=bank.test (p=reject: "
    ) in first
    assert (
        "\nAuthentication-Results: mail.dom.fr; spf=pass smtp.mailfrom=anna@shop.test; dkim=none; "
        "dmarc=pass header.from=shop.test; iprev=pass policy.iprev=127.0.0.1\nFrom:"
    ) in second
    verified = server.wait_event("message.verified", author="bank.test")
    assert (verified["dmarc"], verified["policy"], verified["disposition"]) == ("fail", "reject", "none")


def test_enforced(servers: Servers, tmp_path: Path) -> None:
    exempt = tmp_path / "exempt"
    exempt.write_text("friend@bank.test\n")
    with NameServer(ZONE, {}) as dns:
        server = servers.start(*options(dns, "--verify", "enforce", "--verify-exempt", str(exempt)))
        refused = send(server, "eve@bank.test")
        assert (refused.code, refused.enhanced) == (550, "5.7.1")
        assert "nothing proves that it is from bank.test" in refused.text
        assert server.messages("bob") == {}
        assert send(server, "eve@quarantine.test").code == 250
        assert send(server, "friend@bank.test").code == 250
        assert send(server, "eve@broken.test").code == 250  # no answer is no refusal
        stored = server.wait_event("message.stored", folder="Junk")
    assert (stored["user"], stored["number"]) == ("bob", 1)
    junk = (server.spool / "bob" / "Junk" / "1").read_text()
    assert "dmarc=fail header.from=quarantine.test (p=quarantine:" in junk.replace("\n\t", " ")
    assert len(server.messages("bob")) == 2
    assert (server.spool / "bob" / "Junk" / "1.status").read_text() == "\\Recent\n"


def test_mail_of_programs_on_the_host_is_not_checked(servers: Servers) -> None:
    with NameServer(ZONE) as dns:
        server = servers.start(*options(dns, "--verify", "enforce"))
        assert send(server, "eve@bank.test", "loopback").code == 250
        (message,) = server.messages("bob").values()
        assert b"spf=" not in message.partition(b"Subject")[0]
        assert not dns.asked


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    folder = KeyFolder(str(tmp_path / "keys"))
    Path(folder.path).mkdir()
    folder.create("dom.fr", "rsa", "s")
    return folder


def test_signed_when_it_leaves(servers: Servers, keys: KeyFolder) -> None:
    (key,) = keys.signing("dom.fr")
    with FaultServer() as sink, NameServer(ZONE) as dns:
        way_out = ["--smarthost", f"127.0.0.1:{sink.address[1]}", "--dkim-keys", keys.path]
        server = servers.start(*options(dns, *way_out))
        assert send(server, "anna@dom.fr", "loopback", to="bob@elsewhere.test").code == 250
        assert send(server, "eve@bank.test", "loopback", to="bob@elsewhere.test").code == 250
        assert send(server, "anna@dom.fr", "loopback").code == 250  # a copy that stays needs none
        sink.wait_until(lambda s: len(s.accepted) == 2)
        ours, theirs = sorted((m.content for m in sink.accepted), key=lambda text: b"bank.test" in text)
        (stays,) = server.messages("bob").values()
    assert ours.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=dom.fr;\r\n\ts=s;")
    record = Zone({key.record_name: {"TXT": [key.record]}})
    assert oracle.verify(ours, dnsfunc=lambda name, **_: record(name.decode(), "TXT")[0].encode())
    assert b"DKIM-Signature" not in theirs + stays


def test_what_we_sign_comes_back_verified(servers: Servers, keys: KeyFolder) -> None:
    """Out of one server, into the mailbox of another, which believes it by the signature alone."""
    (key,) = keys.signing("dom.fr")
    zone = f'{ZONE}{key.record_name}. 60 TXT {quoted(key.record)}\n_dmarc.dom.fr. 60 TXT "v=DMARC1; p=reject"\n'
    with NameServer(zone) as dns:
        reader = servers.start(*options(dns, "--verify", "enforce", "-s", "elsewhere.test", "-H", "mx.elsewhere.test"))
        port = reader.address("network")[1]
        spool = reader.spool.with_name("writer")
        way_out = ["--smarthost", f"127.0.0.1:{port}", "--dkim-keys", keys.path]
        writer = servers.start(*options(dns, *way_out), spool=spool)
        assert send(writer, "anna@dom.fr", "loopback", to="bob@elsewhere.test").code == 250
        verified = reader.wait_event("message.verified")
        reader.wait_event("message.stored")
        (number,) = reader.messages("bob")
        result = subprocess.run(
            [*program(), "verify", "--json", "--resolver", str(dns.endpoint), str(reader.spool / "bob" / str(number))],
            capture_output=True, text=True, env=clean_environment(),
        )  # fmt: skip
    assert (verified["dkim"], verified["dmarc"]) == (["pass dom.fr"], "pass")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["dkim"] == [{"result": "pass", "domain": "dom.fr", "selector": "s", "reason": ""}]


def test_required_signatures(servers: Servers, keys: KeyFolder) -> None:
    Path(keys.path, "dom.fr", "s.pem").chmod(0o640)
    with NameServer(ZONE) as dns:
        server = servers.start(*options(dns, "--dkim-keys", keys.path, "--dkim-required"))
        assert "chmod 600" in server.wait_event("dkim.key_unreadable")["error"]
        refused = send(server, "anna@dom.fr", "loopback", to="bob@elsewhere.test")
        assert (refused.code, refused.enhanced) == (451, "4.7.5")


SEVEN_BIT = [extension for extension in EXTENSIONS if extension not in ("8BITMIME", "SMTPUTF8")]
LONG = "Müßiggang " * 130


@pytest.mark.parametrize(
    ("extensions", "body", "same"),
    [
        pytest.param(EXTENSIONS, "Müßiggang\r\n", True, id="8-bit text where it is taken: as it was signed"),
        pytest.param(SEVEN_BIT, "Müßiggang\r\n", False, id="converted"),
        pytest.param(SEVEN_BIT, "Müßiggang\r\n" * 20_000, False, id="converted on disk"),
        pytest.param(SEVEN_BIT, "seven bits\r\n", True, id="7-bit text"),
        pytest.param(EXTENSIONS, f"{LONG}\r\n", False, id="long lines"),
    ],
)
def test_what_is_converted_is_signed_for_what_is_sent(
    servers: Servers, keys: KeyFolder, extensions: Sequence[str], body: str, same: bool
) -> None:
    (key,) = keys.signing("dom.fr")
    with FaultServer(extensions=extensions) as sink, NameServer(ZONE) as dns:
        way_out = ["--smarthost", f"127.0.0.1:{sink.address[1]}", "--dkim-keys", keys.path]
        server = servers.start(*options(dns, *way_out))
        subject = "plain" if body.isascii() else "Grüße"
        with server.client() as client:
            client.begin("bob@elsewhere.test", sender="anna@dom.fr")
            assert client.data(f"From: anna@dom.fr\r\nSubject: {subject}\r\n\r\n{body}".encode()).code == 250
        sink.wait_until(lambda s: len(s.accepted) == 1)
    (sent,) = sink.accepted
    record = Zone({key.record_name: {"TXT": [key.record]}})
    assert sent.content.count(b"DKIM-Signature:") == 1
    assert oracle.verify(sent.content, dnsfunc=lambda name, **_: record(name.decode(), "TXT")[0].encode())
    assert sent.content.endswith(body.encode()) is same
    assert extensions is EXTENSIONS or sent.content.isascii()
    assert sent.mail_parameters["SIZE"] == str(len(sent.content))


def test_what_others_have_signed_is_not_converted(servers: Servers, keys: KeyFolder) -> None:
    """Their signature would be false; the sender is told."""
    with FaultServer(extensions=SEVEN_BIT) as sink, NameServer(ZONE) as dns:
        way_out = ["--smarthost", f"127.0.0.1:{sink.address[1]}", "--dkim-keys", keys.path]
        server = servers.start(*options(dns, *way_out))
        with server.client() as client:
            client.begin("carol@elsewhere.test", sender="bob@dom.fr")
            foreign = "DKIM-Signature: v=1; a=rsa-sha256; d=bank.test; b=x\r\nFrom: eve@bank.test\r\n\r\nMüßiggang\r\n"
            assert client.data(foreign.encode()).code == 250
        failed = server.wait_event("delivery.failed")
        assert "signed 8-bit text" in failed["reply"]
        server.wait_event("message.stored", user="bob")
    assert sink.accepted == []
    (notice,) = server.messages("bob").values()
    assert b"Status: 5.6.3" in notice


def test_whose_mail_is_signed(servers: Servers, keys: KeyFolder, certificate: Certificate, tmp_path: Path) -> None:
    """That of devices, of programs, and notifications; what others wrote leaves as it came, signature and all."""
    (key,) = keys.signing("dom.fr")
    (tmp_path / "users").write_text("bob\n")
    devices = str(tmp_path / "devices")
    made = subprocess.run(
        [*program(), "device", "add", "bob", "phone", "--devices", devices, "-s", "dom.fr"],
        capture_output=True, text=True, check=True, env=clean_environment(),
    ).stdout  # fmt: skip
    found = re.search(r"^Password: +(\S+)$", made, re.MULTILINE)
    assert found
    password = found[1]
    theirs = KeyFolder(str(tmp_path / "theirs"))
    Path(theirs.path).mkdir()
    their_key = theirs.create("shop.test", "rsa", "t")
    text = b"From: eve@shop.test\r\nSubject: M\xc3\xbc\xc3\x9fig  x\r\n\r\n\xc3\xbc \r\n"
    foreign = oracle.sign(text, b"t", b"shop.test", Path(theirs.path, "shop.test", "t.pem").read_bytes()) + text
    with FaultServer() as sink, NameServer(ZONE) as dns:
        server = servers.start(
            *options(dns, "--smarthost", f"127.0.0.1:{sink.address[1]}", "--dkim-keys", keys.path),
            *certificate.options, "--submission-listen", "127.0.0.1:0", "--devices", devices,
            "--users", str(tmp_path / "users"),
        )  # fmt: skip
        (server.spool / "bob").mkdir()
        (server.spool / "bob" / ".forward").write_text("x@elsewhere.test\n")
        context = certificate.client_context()
        context.check_hostname = False
        host, port = split_address(server.wait_event("server.started")["submission"][0])
        with smtplib.SMTP_SSL(host, port, context=context, timeout=60) as client:
            client.login("bob", password)
            client.sendmail(
                "bob@dom.fr", ["device@elsewhere.test"], b"From: Bob <bob@dom.fr>\r\nSubject: x\r\n\r\nx\r\n"
            )
        loopback = "{}:{}".format(*server.address())
        subprocess.run(
            [sys.executable, "-c", "from smtpmail.admin.sendmail import main; main()", "-f", "bob@dom.fr",
             "program@elsewhere.test"],
            input=b"Subject: x\n\nx\n", check=True, timeout=60,
            env=clean_environment({"SMTPMAIL_LOOPBACK": loopback, "SMTPMAIL_SUFFIX": "dom.fr"}),
        )  # fmt: skip
        sink.wait_until(lambda s: len(s.accepted) == 2)
        with server.client("network") as network:
            network.begin("bob@dom.fr", sender="eve@shop.test", parameters=" BODY=8BITMIME")
            assert network.data(foreign).code == 250
        sink.wait_until(lambda s: len(s.accepted) == 3)
        with server.client("network") as network:
            network.begin("bob@dom.fr", sender="list@shop.test")
            assert network.data(b"From: bob@dom.fr\r\nList-Id: <l.shop.test>\r\n\r\nx\r\n").code == 250
        sink.wait_until(lambda s: len(s.accepted) == 4)
        sink.script["RCPT"] = say("550 5.1.1 no")
        with server.client() as submitter:
            submitter.begin("gone@elsewhere.test", sender="eve@shop.test")
            assert submitter.data(b"From: eve@shop.test\r\n\r\nx\r\n").code == 250
        server.wait_event("delivery.failed")
        sink.script.clear()
        sink.wait_until(lambda s: len(s.accepted) == 5)
    device, programs, forwarded, by_list, notice = (message.content for message in sink.accepted)
    records = Zone({k.record_name: {"TXT": [k.record]} for k in (key, their_key)})

    def verifies(message: bytes) -> bool:
        return bool(oracle.verify(message, dnsfunc=lambda name, **_: records(name.decode(), "TXT")[0].encode()))

    for message in (device, programs, notice):
        assert b"; d=dom.fr;" in message.partition(b"Received:")[0]
        assert verifies(message)
    assert b"d=dom.fr" not in forwarded + by_list
    assert forwarded.endswith(foreign)
    assert verifies(forwarded)
