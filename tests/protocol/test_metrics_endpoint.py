"""Metrics of the real server with several processes: they agree with its log."""

from __future__ import annotations

import subprocess
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support import require
from support.server import Server, Servers, wait_until


def fetch(path: Path) -> dict[str, float]:
    """Sums over labels."""
    curl = [require.tool("curl"), "-sS", "--max-time", "60", "-H", "Accept: application/openmetrics-text"]
    ran = subprocess.run([*curl, "--unix-socket", path, "http://x/metrics"], capture_output=True, text=True, check=True)
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(ran.stdout):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_they_agree_with_the_log(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    server: Server = servers.start("--metrics", str(path), "--processes", "3")
    for _ in range(12):
        with server.client("network") as client:
            client.ehlo()
            client.deliver()
            client.expect("MAIL FROM:<a@b.example>", 250)
            client.expect("RCPT TO:<x@example.net>", 550)
            client.expect("QUIT", 221)
    with server.client() as client:
        client.ehlo()
        client.deliver(b"Subject: x\r\n\r\nx\r\n", "x@example.net")
    wait_until(lambda: len(server.events_named("session.closed")) == 13)
    wait_until(lambda: server.events_named("delivery.deferred"))
    found = fetch(path)
    for metric, event in (
        ("smtpmail_sessions_total", "session.opened"),
        ("smtpmail_sessions_ended_total", "session.closed"),
        ("smtpmail_messages_received_total", "message.received"),
        ("smtpmail_messages_stored_total", "message.stored"),
        ("smtpmail_messages_queued_total", "message.queued"),
        ("smtpmail_recipients_refused_total", "recipient.refused"),
        ("smtpmail_deliveries_total", "delivery.deferred"),
    ):
        assert found[metric] == len(server.events_named(event)) > 0, metric
    assert found["smtpmail_queue_messages"] == 1
    assert 0 <= found["smtpmail_queue_oldest_seconds"] < 600
    assert server.stop() == 0
    assert not path.exists()


def test_a_place_that_cannot_be_had(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    server = servers.launch("--metrics", str(tmp_path / "file"))
    assert server.wait() == 2
    assert server.other_output == [f"smtpmail: --metrics: cannot listen on {tmp_path}/file: Address already in use"]
