"""What was sent, what report, status and metrics say of it: three ways to count, one sum."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import require
from support.client import Client
from support.server import Server, Servers, clean_environment, wait_until

from smtpmail.smtp import replies


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    host, port = server.address()
    settings = {"LOOPBACK": f"{host}:{port}", "SPOOL": str(server.spool), "SUFFIX": "dom.fr", "NO_NETWORK": "true"}
    home = {"HOME": str(server.spool.parent)}
    return subprocess.run(
        [sys.executable, "-m", "smtpmail", *arguments], capture_output=True, text=True, check=False,
        env=clean_environment({f"SMTPMAIL_{key}": value for key, value in settings.items()} | home),
    )  # fmt: skip


def fetch(path: Path) -> str:
    curl = [require.tool("curl"), "-sS", "--max-time", "60", "--unix-socket", str(path), "http://x/metrics"]
    return subprocess.run(curl, capture_output=True, text=True, check=True).stdout


def samples(text: str) -> dict[str, float]:
    """By name and labels, as they are spelled."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def deliver(client: Client, sender: str, *recipients: str) -> None:
    client.transaction(*recipients, sender=sender)
    assert client.data(b"Subject: x\r\n\r\nx\r\n").code == 250


def send_all(here: Server) -> None:
    """5 from the network, 3 from programs of the host, one of them refused at the end; 1 alias in two directions."""
    with here.client("network") as client:
        client.ehlo()
        for n in range(4):
            deliver(client, f"a{n % 2}@example.org", "bob@dom.fr")
        client.expect("MAIL FROM:<a0@example.org>", 250)
        client.expect("RCPT TO:<ghost@dom.fr>", 550)
        client.expect("RCPT TO:<x@example.net>", 550)
        client.expect("RSET", 250)
        deliver(client, "a0@example.org", "sales@dom.fr")
    with here.client() as client:
        client.ehlo()
        deliver(client, "bob@dom.fr", "x@example.net", "y@example.net")
        deliver(client, "bob@dom.fr", "gone@example.net")
        deliver(client, "bob@dom.fr", "later@example.net")


def test_they_agree(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("bob\nanna\n")
    (tmp_path / "there").write_text("x\ny\n")
    (tmp_path / "waiting").write_text("later: :include:/nowhere\n")
    (tmp_path / "aliases").write_text("sales: anna, x@example.net\n")
    elsewhere = servers.start(
        "-s", "example.net", "-H", "mx.example.net", "-u", str(tmp_path / "there"), "--aliases",
        str(tmp_path / "waiting"), spool=tmp_path / "elsewhere",
    )  # fmt: skip
    host, port = elsewhere.address("network")
    options = [f"--{name}={tmp_path / name}" for name in ("users", "aliases", "metrics")]
    here = servers.start(*options, "--smarthost", f"{host}:{port}", "--processes", "2")
    send_all(here)
    wait_until(lambda: len(here.events_named("delivery.succeeded")) == 3)
    here.wait_event("delivery.deferred")
    here.wait_event("bounce.queued")
    wait_until(lambda: len(here.messages("bob")) == 5)  # four and the notification
    wait_until(lambda: len(here.events_named("session.closed")) == 2)

    deferred = len(here.events_named("delivery.deferred"))
    log = tmp_path / "log"
    log.write_text("".join(json.dumps(event) + "\n" for event in here.events))
    report: dict[str, Any] = json.loads(run(here, "report", "--since", "yesterday", "--json", str(log)).stdout)
    found = samples(fetch(tmp_path / "metrics"))
    ran = run(here, "status", "--json")
    status = {row["name"]: row for row in json.loads(ran.stdout)["checks"]}

    for reported, metric, count in (
        (report["received"]["by_listener"]["network"], 'messages_received_total{listener="network",tls="no"}', 5),
        (report["received"]["by_listener"]["loopback"], 'messages_received_total{listener="loopback",tls="no"}', 3),
        (report["received"]["by_listener"]["itself"], 'messages_received_total{listener="itself",tls="no"}', 1),
        (report["stored"]["copies"], "messages_stored_total", 6),
        (report["queued"], "messages_queued_total", 4),
        (report["delivered"]["recipients"], 'deliveries_total{result="delivered"}', 3),
        (report["deferred"]["attempts"], 'deliveries_total{result="deferred"}', deferred),
        (report["failed"]["recipients"], 'deliveries_total{result="failed"}', 1),
        (report["notifications"]["failure"], 'notifications_total{kind="failure"}', 1),
    ):  # fmt: skip
        assert (metric, reported, found[f"smtpmail_{metric}"]) == (metric, count, count)
    assert report["stored"]["by_user"] == {"bob": 5, "anna": 1}
    assert report["refused"]["by_reason"] == {str(replies.NO_SUCH_USER): 1, str(replies.RELAY_DENIED): 1}
    assert found['smtpmail_recipients_refused_total{reason="5.1.1"}'] == 1
    assert found['smtpmail_recipients_refused_total{reason="5.7.1"}'] == 1
    senders = {"<a0@example.org>": 3, "<bob@dom.fr>": 3, "<a1@example.org>": 2, "<>": 1}
    assert report["senders"]["by_messages"] == senders
    assert status["queue"]["data"]["messages"] == found["smtpmail_queue_messages"] == 1
    assert status["queue"]["data"]["destinations"].keys() == {"example.net"}
    assert status["mailboxes"]["data"] == {"mailboxes": 2, "new": {"anna": 1, "bob": 5}}
    assert status["listeners"]["level"] == "ok"


def test_the_report_by_mail(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text("root: bob\n")
    server = servers.start("--aliases", str(tmp_path / "aliases"))
    log = tmp_path / "log"
    log.write_text("".join(json.dumps(event) + "\n" for event in server.events))
    ran = run(server, "report", "--since", "yesterday", "--mail-to", "root", str(log))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    (text,) = server.messages("bob").values()
    assert b"\nSubject: Mail report\n" in text
    assert b"\nreceived            0  0 octets" in text
    assert server.stop() == 0
    ran = run(server, "report", "--mail-to", "root", str(log))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "does not answer: is it running?" in ran.stderr


def test_promtool_has_nothing_against_the_metrics(servers: Servers, tmp_path: Path) -> None:
    """In the format that it reads; the strict one of OpenMetrics is parsed by another test."""
    promtool = require.tool("promtool", "prometheus")
    path = tmp_path / "metrics"
    servers.start("--metrics", str(path))
    command = [promtool, "check", "metrics"]
    judged = subprocess.run(command, input=fetch(path), capture_output=True, text=True, check=False)
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, "", "")
