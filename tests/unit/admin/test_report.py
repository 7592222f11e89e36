"""The report: the log in sum."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.commands import runner

from smtpmail.admin.log_reader import parse_time
from smtpmail.admin.report import report
from smtpmail.admin.summary import MAX_NAMES, OTHERS, Tally

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
NOW = datetime(2026, 11, 25, 14, 30, tzinfo=timezone(timedelta(hours=1)))
ID = f"{int(START.timestamp() * 1e6):014x}00001"


def line(event: str, *, at: float = 0, level: str = "info", **fields: Any) -> bytes:
    time = (START + timedelta(seconds=at)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return json.dumps({"timestamp": time, "level": level, "event": event, **fields}).encode() + b"\n"


def received(listener: str | None, sender: str = "a@b.example", **more: Any) -> bytes:
    fields = {"listener": listener, "sender": sender, "size": 1000, "recipients": ["bob@dom.fr"]} | more
    return line("message.received", **fields)


LOG = b"".join(
    [
        received("network", tls="TLSv1.3 X"),
        received("network", tls=None),
        received("loopback", "bob@dom.fr", recipients=["x@y.example", "bob@dom.fr"]),
        received(None, ""),
        b"no JSON\n",
        line("message.stored", user="bob"),
        line("message.stored", user="bob"),
        line("message.queued"),
        line("delivery.deferred", level="warning", recipient="x@Y.example", reply="450 4.2.0 later", id=ID),
        line("delivery.succeeded", at=90, recipient="x@y.example", tls="TLSv1.3 X verified", id=ID),
        line("delivery.succeeded", at=10, recipient="x@z.example", tls=None, id=ID),
        line("delivery.failed", level="warning", recipient="q@z.example", reply="550 5.1.1 \x1b[31mno", id=ID),
        line("recipient.refused", client="192.0.2.1:99", reply="550 5.1.1 No such user here"),
        line("recipient.refused", client="[2001:db8::1]:99", reply="550 5.1.1 No such user here"),
        line("recipient.refused", client="192.0.2.1:100", reply="550 5.7.1 Relaying denied"),
        line("session.refused", level="warning", client="192.0.2.1:101", reply="421 4.7.0 Too many"),
        line("bounce.queued", kind="failure"),
        line("queue.error", level="error", exception="x"),
        line("message.received", at=86400, listener="network", sender=[], size="x", recipients=None),
    ]
)


def run(*arguments: str, log: bytes = LOG) -> str:
    result = CliRunner().invoke(report, ["-", *arguments], input=log)
    assert result.exit_code == 0, result.output
    return result.output


def as_json(*arguments: str, log: bytes = LOG) -> Any:
    return json.loads(run("--json", *arguments, log=log))


def test_the_sum() -> None:
    told = as_json("--until", "2026-11-25 00:00Z")
    assert told["received"] == {
        "messages": 4,
        "octets": 4000,
        "recipients": 5,
        "by_listener": {"network": 2, "itself": 1, "loopback": 1},
        "tls_percent": 50.0,
    }
    assert told["stored"] == {"copies": 2, "by_user": {"bob": 2}}
    assert told["queued"] == 1
    assert told["delivered"] == {
        "recipients": 2,
        "by_destination": {"y.example": 1, "z.example": 1},
        "tls_percent": 50.0,
        "tls_verified_percent": 50.0,
        "seconds_median": 90.0,
        "seconds_95_percent": 90.0,
    }
    assert told["deferred"] == {
        "attempts": 1, "by_destination": {"y.example": 1}, "last_replies": {"y.example": "450 4.2.0 later"},
    }  # fmt: skip
    assert told["failed"]["recipients"] == 1
    assert told["refused"] == {
        "total": 3,
        "by_reason": {"550 5.1.1 No such user here": 2, "550 5.7.1 Relaying denied": 1},
        "by_client": {"192.0.2.1": 3, "2001:db8::1": 1},
        "connections": 1,
    }
    assert told["notifications"] == {"failure": 1}
    assert told["senders"]["by_messages"]["<a@b.example>"] == 2
    assert told["errors"] == {"queue.error": 1}


def test_the_page() -> None:
    page = run()
    assert "received            5  3.9 KiB, 5 recipients (3 network, 1 itself, 1 loopback)" in page
    assert "          2  550 5.1.1 No such user here" in page
    assert "z.example: 550 5.1.1 ?[31mno" in page
    assert "TLS         in 33.3 %, out 50 %, of which verified 50 %" in page
    assert "\x1b" not in page


def test_times() -> None:
    assert as_json("--since", "2026-11-25 00:00Z")["received"]["messages"] == 1
    assert as_json("--since", "2026-11-26 00:00Z")["received"]["messages"] == 0
    assert run("--since", "2026-11-26 00:00Z") == "The log says nothing of this time.\n"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("now", "2026-11-25T13:30:00"),
        ("today", "2026-11-24T23:00:00"),
        ("yesterday", "2026-11-23T23:00:00"),
        ("2 h ago", "2026-11-25T11:30:00"),
        ("2h", "2026-11-25T11:30:00"),
        ("-1d", "2026-11-24T13:30:00"),
        ("10 min ago", "2026-11-25T13:20:00"),
        ("1 week ago", "2026-11-18T13:30:00"),
        ("2026-11-25", "2026-11-24T23:00:00"),
        ("2026-11-25 14:00", "2026-11-25T13:00:00"),
        ("2026-11-25T14:00:00Z", "2026-11-25T14:00:00"),
    ],
)
def test_parse_time(text: str, time: str) -> None:
    assert parse_time(text, NOW) == datetime.fromisoformat(time).replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["soon", "2026-13-01", "1 fortnight ago", "99999999999 w ago"])
def test_no_time(text: str) -> None:
    result = CliRunner().invoke(report, ["--since", text, "-"], input=b"")
    assert result.exit_code == 2
    assert "Error" in result.output


def test_files(tmp_path: Path) -> None:
    old = tmp_path / "log.1.gz"
    old.write_bytes(gzip.compress(LOG))
    new = tmp_path / "log"
    new.write_bytes(LOG)
    result = CliRunner().invoke(report, ["--json", str(old), str(new)])
    assert json.loads(result.output)["received"]["messages"] == 10


@pytest.mark.parametrize(
    "content", [None, gzip.compress(LOG, mtime=0)[:100], b"\x1f\x8bnonsense"], ids=["none", "cut", "nonsense"]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "log"
    if content is not None:
        path.write_bytes(content)
    result = CliRunner().invoke(report, [str(path)])
    assert result.exit_code == 1
    assert f"cannot read {path}: " in result.output


def test_memory_is_bounded() -> None:
    tally = Tally()
    for n in range(3 * MAX_NAMES):
        tally.add(f"name {n}")
        tally.add("often")
    assert tally.total == 6 * MAX_NAMES
    assert len(tally._counts) <= MAX_NAMES
    most = tally.most(2)
    assert most["often"] == 3 * MAX_NAMES
    assert sum(most.values()) == tally.total
    assert OTHERS in most


def test_a_log_of_nonsense() -> None:
    log = b"".join(line(event, id=5, reply=[], client=7, recipient={}, tls=3) for event in (
        "message.received", "message.stored", "delivery.succeeded", "delivery.deferred", "recipient.refused"
    ))  # fmt: skip
    assert as_json(log=log + b"[]\n{}\n" + b"[" * 100_000 + b"\n")["received"]["messages"] == 1


def test_by_mail_to_nobody_who_takes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That it reaches somebody is tried on a host."""
    monkeypatch.setenv("SMTPMAIL_LOOPBACK", "127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = runner().invoke(report, ["-", "--mail-to", "root"], input=LOG)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "the report was not sent: " in result.stderr
