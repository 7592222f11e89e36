"""Metrics: what events count for, over processes, and how it reads."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from smtpmail.metrics.counts import Counts
from smtpmail.metrics.endpoint import Endpoint, open_socket
from smtpmail.metrics.exposition import expose
from smtpmail.metrics.families import FAMILIES, arrival

ID = f"{int(1_800_000_000 * 1e6):014x}00001"


@pytest.fixture
def counts() -> Counts:
    return Counts(3)


def samples(counts: Counts, *, openmetrics: bool = True, **gauges: float) -> dict[tuple[str, tuple[Any, ...]], float]:
    text = expose(counts, gauges, openmetrics=openmetrics, version="1.2")
    families = list((parse_openmetrics if openmetrics else parse_prometheus)(text))
    found = {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}
    return {key: value for key, value in found.items() if value}


@pytest.mark.parametrize(
    ("event", "fields", "counted"),
    [
        ("session.opened", {"listener": "network"}, {("smtpmail_sessions_total", "network")}),
        ("session.refused", {}, {("smtpmail_sessions_refused_total",)}),
        ("message.received", {"listener": "network", "tls": "TLSv1.3", "size": 5000},
         {("smtpmail_messages_received_total", "network", "yes"), ("smtpmail_message_size_bytes_count",)}),
        ("message.received", {"listener": None, "tls": None, "size": 5},
         {("smtpmail_messages_received_total", "itself", "no")}),
        ("message.stored", {}, {("smtpmail_messages_stored_total",)}),
        ("message.queued", {}, {("smtpmail_messages_queued_total",)}),
        ("message.refused", {}, {("smtpmail_messages_refused_total",)}),
        ("recipient.refused", {"reply": "550 5.1.1 No such user"}, {("smtpmail_recipients_refused_total", "5.1.1")}),
        ("recipient.refused", {"reply": "550 5.9.9 Other"}, {("smtpmail_recipients_refused_total", "other")}),
        ("recipient.refused", {"reply": "what"}, {("smtpmail_recipients_refused_total", "other")}),
        ("delivery.succeeded", {"id": ID, "tls": "TLSv1.3 X verified"},
         {("smtpmail_deliveries_total", "delivered"), ("smtpmail_deliveries_tls_total", "verified")}),
        ("delivery.succeeded", {"id": "x", "tls": "TLSv1.3 X"}, {("smtpmail_deliveries_tls_total", "unverified")}),
        ("delivery.succeeded", {"id": "x", "tls": None}, {("smtpmail_deliveries_tls_total", "none")}),
        ("delivery.deferred", {}, {("smtpmail_deliveries_total", "deferred")}),
        ("delivery.failed", {}, {("smtpmail_deliveries_total", "failed")}),
        ("bounce.queued", {"kind": "delay"}, {("smtpmail_notifications_total", "delay")}),
    ],
)  # fmt: skip
def test_events(counts: Counts, event: str, fields: dict[str, Any], counted: set[tuple[str, ...]]) -> None:
    counts.watch("info", event, fields)
    found = {(name, *(value for _, value in labels)) for name, labels in samples(counts)}
    assert counted <= found


@pytest.mark.parametrize(
    ("event", "fields"),
    [("session.opened", {"listener": "evil"}), ("session.opened", {}), ("message.received", {"size": "x"}),
     ("session.closed", {"seconds": None}), ("bounce.queued", {"kind": []}), ("other.event", {})],
)  # fmt: skip
def test_no_event_makes_a_label_or_an_error(counts: Counts, event: str, fields: dict[str, Any]) -> None:
    before = set(samples(counts))
    counts.watch("info", event, fields)
    assert {name for name, _ in set(samples(counts)) - before} <= {"smtpmail_sessions_ended_total"} | {
        "smtpmail_messages_received_total"
    }


def test_errors_are_counted(counts: Counts) -> None:
    counts.watch("error", "queue.error", {})
    assert samples(counts)["smtpmail_errors_total", ()] == 1


def test_histogram(counts: Counts) -> None:
    for size in (1, 1024, 1025, 10**9):
        counts.observe("smtpmail_message_size_bytes", size)
    found = samples(counts)
    assert found["smtpmail_message_size_bytes_bucket", (("le", "1024.0"),)] == 2
    assert found["smtpmail_message_size_bytes_bucket", (("le", "4096.0"),)] == 3
    assert found["smtpmail_message_size_bytes_bucket", (("le", "+Inf"),)] == 4
    assert found["smtpmail_message_size_bytes_count", ()] == 4
    assert found["smtpmail_message_size_bytes_sum", ()] == 10**9 + 2050


def test_processes_add_up(counts: Counts) -> None:
    children = []
    for process in range(3):
        pid = os.fork()
        if not pid:
            counts.use_row(process)
            for _ in range(1000):
                counts.count("smtpmail_messages_stored")
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    assert counts.value("smtpmail_messages_stored") == 3000


@pytest.mark.parametrize("openmetrics", [True, False])
def test_both_formats(counts: Counts, openmetrics: bool) -> None:
    counts.watch("info", "message.stored", {})
    found = samples(counts, openmetrics=openmetrics, smtpmail_queue_messages=7.0)
    assert found["smtpmail_messages_stored_total", ()] == 1
    assert found["smtpmail_queue_messages", ()] == 7
    assert found["smtpmail_build_info", (("version", "1.2"),)] == 1


def test_names_follow_the_rules() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"smtpmail_[a-z_]+", family.name)
        assert not family.name.endswith("_total")
        assert not family.unit or family.name.endswith(f"_{family.unit}")


def test_arrival() -> None:
    assert arrival(ID) == 1_800_000_000
    assert arrival("x" * 19) is None
    assert arrival("") is None


# -- the endpoint


def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics")
    socket.socket(socket.AF_UNIX).bind(path)  # left by a server that was killed
    sock = open_socket(path)
    Endpoint(sock, lambda openmetrics: f"openmetrics {openmetrics}\n").start()
    assert os.stat(path).st_mode & 0o777 == 0o660
    curl = ["curl", "-sS", "--max-time", "20", "--unix-socket", path]
    for header, said in ((b"", "openmetrics False\n"), (b"application/openmetrics-text;q=0.9", "openmetrics True\n")):
        ran = subprocess.run(
            [*curl, "-H", b"Accept: " + header, "http://x/metrics"], capture_output=True, text=True, check=True
        )
        assert ran.stdout == said


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        open_socket(str(path))
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"HEAD / HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"EHLO x\r\n", b"400"),
        (b"", b"400"),
        (bytes(range(256)), b"400"),
    ],
)
def test_requests(request_: bytes, status: bytes) -> None:
    with socket.socket() as sock:
        answer = Endpoint(sock, lambda _: "x\n").answer(request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(b"x\n") is (status == b"200" and request_.startswith(b"GET"))


def test_a_silent_client_holds_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpmail.metrics.endpoint.TIMEOUT", 0.2)
    sock = open_socket(("127.0.0.1", 0))
    Endpoint(sock, lambda _: "x\n").start()
    with (
        socket.create_connection(sock.getsockname()),
        socket.create_connection(sock.getsockname(), timeout=20) as other,
    ):
        other.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 200")
    sock.close()
