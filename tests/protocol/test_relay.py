"""Mail for elsewhere through the real program: what goes in at the loopback listener comes out at the other server."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import require
from support.client import Answer
from support.faultserver import EXTENSIONS, FaultServer, say
from support.server import Server, Servers, clean_environment, program, wait_until

COMPLETE = b"From: a@dom.fr\r\nDate: Wed, 25 Nov 2026 20:00:00 +0000\r\nMessage-ID: <1@dom.fr>\r\n"
CONTENT = COMPLETE + b"Subject: test\r\n\r\n..two dots\r\n..\r\nend\r\n"
ARRIVES = CONTENT.replace(b"\r\n..", b"\r\n.")


def relay(sink: FaultServer | int) -> list[str]:
    """Options that send everything to the test's own server; a DNS query would go nowhere."""
    port = sink if isinstance(sink, int) else sink.address[1]
    return ["--smarthost", f"127.0.0.1:{port}", "--resolver", "127.0.0.1:1", "--reply-timeout", "5",
            "--retry-schedule", "1s"]  # fmt: skip


def waiting(server: Server) -> list[str]:
    """The messages in the queue."""
    folder = server.spool / ".queue"
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.suffix != ".log")


def submit(server: Server, *recipients: str, content: bytes = CONTENT) -> Answer:
    with server.client() as client:
        client.begin(*recipients, sender="alice@dom.fr")
        return client.data(content)


def id_of(answer: Answer) -> str:
    assert answer.code == 250, answer
    return answer.text.split()[-1]


@pytest.mark.parametrize("extensions", [EXTENSIONS, ()], ids=["all extensions", "none"])
def test_out_it_goes(servers: Servers, extensions: tuple[str, ...]) -> None:
    """Octet for octet, with one Received field more; reply, log and that field have one id."""
    with FaultServer(extensions=extensions) as sink:
        server = servers.start(*relay(sink))
        message_id = id_of(submit(server, "bob@one.test", "carol@two.test"))
        (message,) = sink.wait_until(lambda s: s.accepted)
        server.wait_event("delivery.succeeded", id=message_id, recipient="bob@one.test")
        event = server.wait_event("delivery.succeeded", id=message_id, recipient="carol@two.test")
        wait_until(lambda: not waiting(server))
    assert (message.sender, message.recipients) == ("alice@dom.fr", ["bob@one.test", "carol@two.test"])
    received, rest = message.content[: -len(ARRIVES)], message.content[-len(ARRIVES) :]
    assert rest == ARRIVES
    assert re.fullmatch(
        rb"Received: from client\.example \(\[127\.0\.0\.1\]\)\r\n"
        rb"\tby mail\.dom\.fr with ESMTP id \w+;\r\n\t[^\r\n]+\r\n",
        received,
    )
    assert message_id.encode() in received
    assert event["reply"].startswith("250") and event["attempt"] == 1 and event["mx"] == "127.0.0.1"
    assert server.wait_event("message.queued", id=message_id)["recipients"] == ["bob@one.test", "carol@two.test"]
    assert sink.violations == []


def test_never_from_the_network(servers: Servers) -> None:
    with FaultServer() as sink:
        server = servers.start(*relay(sink))
        with server.client("network") as client:
            client.ehlo()
            client.expect("MAIL FROM:<bob@dom.fr>", 250)
            client.expect("RCPT TO:<eve@one.test>", 550, "5.7.1")
        assert waiting(server) == [] and sink.sessions == []


def test_here_and_elsewhere_at_once(servers: Servers) -> None:
    with FaultServer() as sink:
        server = servers.start(*relay(sink))
        submit(server, "bob@dom.fr", "carol@two.test")
        sink.wait_until(lambda s: s.accepted)
        (stored,) = server.messages("bob").values()
    assert stored.endswith(ARRIVES.replace(b"\r\n", b"\n"))
    assert sink.accepted[0].recipients == ["carol@two.test"]


def test_a_large_message(servers: Servers) -> None:
    body = b"".join(b"%07d %s\r\n" % (n, b"x" * 60) for n in range(70_000))
    content = COMPLETE + b"Subject: large\r\n\r\n" + body
    for extensions in (EXTENSIONS, tuple(e for e in EXTENSIONS if e != "CHUNKING")):
        with FaultServer(extensions=extensions) as sink:
            server = servers.start(*relay(sink))
            submit(server, "bob@one.test", "bob@dom.fr", content=content)
            (message,) = sink.wait_until(lambda s: s.accepted, 20)
            assert message.content.endswith(content)
            assert message.mail_parameters.get("SIZE") == str(len(message.content))
            server.stop()


def test_a_header_in_pieces_needs_smtputf8_as_well(servers: Servers) -> None:
    """However the network cuts it: UTF-8 in the last header field counts."""
    with FaultServer(extensions=("PIPELINING", "8BITMIME")) as sink:
        server = servers.start(*relay(sink))
        with server.client() as client:
            client.begin("bob@one.test", sender="alice@dom.fr", parameters=" SMTPUTF8")
            client.expect("DATA", 354)
            client.send("From: alice@dom.fr\r\n")
            time.sleep(0.1)
            client.send("Subject: hé")
            time.sleep(0.1)
            client.send("llo\r\n\r\nbody\r\n.\r\n")
            message_id = id_of(client.read())
        failed = server.wait_event("delivery.failed", id=message_id)
        assert "SMTPUTF8" in failed["reply"]
    assert sink.messages == []


def test_a_bounce_comes_back(servers: Servers) -> None:
    with FaultServer({"RCPT nobody@one.test": say("550 5.1.1 no such user")}) as sink:
        server = servers.start(*relay(sink))
        message_id = id_of(submit(server, "nobody@one.test", "bob@one.test"))
        server.wait_event("bounce.queued", of=message_id)
        wait_until(lambda: server.messages("alice"))
        (report,) = server.messages("alice").values()
        wait_until(lambda: not waiting(server))
    assert report.startswith(b"Return-Path: <>\nDelivered-To: alice@dom.fr\n")
    assert b"Final-Recipient: rfc822; nobody@one.test\nAction: failed\nStatus: 5.1.1\n" in report
    assert b"bob@one.test" not in report.replace(CONTENT, b"")
    assert [m.recipients for m in sink.accepted] == [["bob@one.test"]]


def test_success_in_the_mailbox_and_handed_on(servers: Servers) -> None:
    with FaultServer(extensions=("PIPELINING",)) as sink:
        server = servers.start(*relay(sink))
        with server.client() as client:
            client.ehlo()
            client.expect("MAIL FROM:<alice@dom.fr> RET=HDRS ENVID=Q1", 250)
            client.expect("RCPT TO:<bob@dom.fr> NOTIFY=SUCCESS ORCPT=rfc822;Bob@dom.fr", 250)
            client.expect("RCPT TO:<carol@two.test> NOTIFY=SUCCESS,FAILURE", 250)
            client.expect("RCPT TO:<dave@dom.fr> NOTIFY=NEVER", 250)
            client.data(CONTENT)
        sink.wait_until(lambda s: s.accepted)
        wait_until(lambda: len(server.messages("alice")) == 2)
    reports = b"".join(server.messages("alice").values())
    assert reports.count(b"Action: delivered\n") == 1 and reports.count(b"Action: relayed\n") == 1
    assert reports.count(b"Original-Envelope-Id: Q1\n") == 2
    assert b"Original-Recipient: rfc822; Bob@dom.fr\n" in reports
    assert b"dave" not in reports


# -- accepted for both or for none


def test_a_queue_that_is_gone_takes_nothing(servers: Servers) -> None:
    with FaultServer() as sink:
        server = servers.start(*relay(sink))
        folder, aside = server.spool / ".queue", server.spool / ".aside"
        folder.rename(aside)
        answer = submit(server, "bob@dom.fr", "carol@two.test")
        assert answer.code == 451, answer
        assert server.messages("bob") == {}
        assert submit(server, "carol@two.test").code == 451
        assert submit(server, "bob@dom.fr").code == 250, "local mail does not need the queue"
        aside.rename(folder)
        assert submit(server, "bob@dom.fr", "carol@two.test").code == 250
        sink.wait_until(lambda s: s.accepted)
        assert len(server.messages("bob")) == 2
    assert len(sink.accepted) == 1


def test_a_mailbox_that_takes_nothing_is_known_at_rcpt(servers: Servers) -> None:
    """Its sender may try again for it alone; the others get the message now."""
    with FaultServer() as sink:
        server = servers.start(*relay(sink))
        (server.spool / "bob").write_text("a file where a folder should be")
        with server.client() as client:
            client.ehlo()
            client.expect("MAIL FROM:<alice@dom.fr>", 250)
            client.expect("RCPT TO:<bob@dom.fr>", 451)
            client.expect("RCPT TO:<carol@two.test>", 250)
            client.expect("RCPT TO:<dave@dom.fr>", 250)
            assert client.data(b"Subject: x\r\n\r\nx\r\n").code == 250
        sink.wait_until(lambda s: s.accepted)
        assert len(server.messages("dave")) == 1
        assert server.events_named("mailbox.unavailable")
    assert [m.recipients for m in sink.accepted] == [["carol@two.test"]]


def test_a_full_disk_takes_both_or_none(servers: Servers, tmp_path: Path) -> None:
    """The queue on a small file system of its own: what is acknowledged is in both places, what is not in neither."""
    require.root()
    unshare = require.tool("unshare", "util-linux")
    folder = tmp_path / "queue"
    folder.mkdir()
    script = 'mount -t tmpfs -o size=512k tmpfs "$0" && exec "$@"'
    server = servers.start(
        *relay(1),
        "--queue",
        str(folder),
        "--processes",
        "1",
        "--min-free",
        "1",
        wrapper=[unshare, "-m", "sh", "-c", script, str(folder)],
    )
    inside = Path(f"/proc/{server.pid}/root") / folder.relative_to("/")
    body = b"Subject: x\r\n\r\n" + b"x" * 70 * 1000 + b"\r\n"
    answers = [submit(server, "bob@dom.fr", "carol@two.test", content=body) for _ in range(12)]
    taken = [a for a in answers if a.code == 250]
    assert {a.code for a in answers} == {250, 452}, answers
    assert len(server.messages("bob")) == len(taken)
    assert sorted(p.name for p in inside.iterdir() if p.name.isalnum()) == sorted(id_of(a) for a in taken)


# -- passwords


@pytest.mark.parametrize(
    ("mode", "text", "said"),
    [(0o644, "alice:secret\n", "others can read"), (0o600, "alice\n", "user:password"), (None, "", "cannot read")],
)
def test_a_bad_password_file_is_one_clear_line(tmp_path: Path, mode: int | None, text: str, said: str) -> None:
    file = tmp_path / "auth"
    if mode is not None:
        file.write_text(text)
        file.chmod(mode)
    command = [*program(), "--spool", str(tmp_path / "spool"), "-s", "dom.fr", "--smarthost", "127.0.0.1:1"]
    ended = subprocess.run(
        [*command, "--smarthost-auth", str(file)], capture_output=True, text=True, timeout=30, env=clean_environment()
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and said in ended.stderr and str(file) in ended.stderr
    assert "secret" not in ended.stderr


@pytest.mark.parametrize(("there", "own"), [("127.0.0.1", "192.0.2.9"), ("::1", "2001:db8::9")], ids=["IPv4", "IPv6"])
def test_a_neighbour_that_reaches_the_loopback_listener(servers: Servers, there: str, own: str) -> None:
    """As where route_localnet is on: a peer whose address is no loopback address is closed, and hears nothing."""
    require.root()
    unshare, nsenter = require.tool("unshare"), require.tool("nsenter")
    network = "ip link set lo up && ip address add 192.0.2.9/32 dev lo && ip address add 2001:db8::9/128 dev lo nodad"
    server = servers.start(wrapper=[unshare, "--net", "sh", "-c", f'{network} && exec "$@"', "sh"])
    port = server.address("loopback", ipv6=":" in there)[1]
    code = (
        "import socket, sys\n"
        f"sock = socket.create_connection(({there!r}, {port}), 20, (sys.argv[1], 0))\n"
        "print(sock.recv(100))"
    )
    for source, heard in ((own, b""), (there, b"220 mail.dom.fr ESMTP smtpmail\r\n")):
        command = [nsenter, "--target", str(server.pid), "--net", sys.executable, "-c", code, source]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert ran.stdout.strip() == repr(heard), source
    assert own in server.wait_event("session.refused", listener="loopback")["client"]
