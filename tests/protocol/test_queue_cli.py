"""`smtpmail queue`: what a person and a program see, with the server running and without."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from support.faultserver import FaultServer, late, say
from support.outbound import item, put
from support.server import Server, Servers, clean_environment, program, wait_until

from smtpmail.cli import main
from smtpmail.spool.queue import QueueStore

LATER = "450 4.2.0 come again"


def command(folder: Path, *arguments: str) -> list[str]:
    return ["--spool", str(folder), "-s", "dom.fr", "-H", "mail.dom.fr", "queue", *arguments]


def in_a_process(folder: Path, *arguments: str) -> str:
    """The command as a person starts it."""
    ended = subprocess.run(
        [*program(), *command(folder, *arguments)], capture_output=True, text=True, timeout=30, env=clean_environment()
    )
    assert ended.returncode == 0, ended
    return ended.stdout


def run(folder: Path, *arguments: str, status: int = 0) -> str:
    """The same within this process, which is faster: what it prints, on standard error when it fails."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["smtpmail", *command(folder, *arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == status, (out.getvalue(), err.getvalue())
    return err.getvalue() if status else out.getvalue()


def listed(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in run(folder, "list", "--json").splitlines()]


@pytest.fixture
def store(tmp_path: Path) -> QueueStore:
    (tmp_path / "spool" / ".queue").mkdir(parents=True)
    return QueueStore(str(tmp_path / "spool" / ".queue"))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def start(servers: Servers, sink: FaultServer) -> Server:
    return servers.start(
        "--smarthost", f"127.0.0.1:{sink.address[1]}", "--resolver", "127.0.0.1:1", "--retry-schedule", "1h"
    )


def submit(server: Server, recipient: str = "bob@one.test") -> str:
    with server.client() as client:
        client.begin(recipient, sender="alice@dom.fr")
        return client.data(b"Subject: hello\r\n\r\nThe body.\r\n").text.split()[-1]


# -- without a server


def test_an_empty_queue(spool: Path, store: QueueStore) -> None:
    assert "is empty" in run(spool, "list")
    assert listed(spool) == []
    assert "nothing" in run(spool, "retry", "--all").lower()


def test_a_queue_that_was_never_made(tmp_path: Path) -> None:
    assert "is empty" in run(tmp_path / "none", "list")


def test_list_and_show(spool: Path, store: QueueStore) -> None:
    first = put(store, item("bob@one.test", "carol@two.test"))
    store.record(first, [{"recipient": 1, "state": "deferred", "reply": "450 \x1b[31mred", "mx": "mx.two.test"},
                         {"attempts": 2, "next_attempt": time.time() + 600}])  # fmt: skip
    second = put(store, item(sender="", bounce_of=first.id))
    text = run(spool, "list")
    assert text.index(first.id) < text.index(second.id)
    assert "bob@one.test +1" in text and "<alice@dom.fr>" in text
    rows = listed(spool)
    assert [r["id"] for r in rows] == [first.id, second.id]
    assert rows[0]["attempts"] == 2 and rows[0]["hold"] is False
    assert [r["address"] for r in rows[0]["recipients"]] == ["bob@one.test", "carol@two.test"]  # type: ignore[attr-defined]
    assert rows[1]["bounce_of"] == first.id
    shown = run(spool, "show", first.id)
    assert "Subject: test" in shown and "carol@two.test" in shown and "mx.two.test" in shown
    assert "\x1b" not in shown + text, "nothing of another server steers a terminal"
    assert json.loads(run(spool, "show", first.id, "--json"))["id"] == first.id


@pytest.mark.parametrize("command", ["show", "retry", "hold", "release", "remove"])
@pytest.mark.parametrize("id_", ["nosuch", "../../etc/passwd", ".wake"])
def test_an_unknown_id_is_one_clear_line(spool: Path, store: QueueStore, command: str, id_: str) -> None:
    error = run(spool, command, id_, status=2)
    assert error.count("\n") == 1 and error.startswith("smtpmail: ") and id_ in error


@pytest.mark.parametrize("arguments", [("retry",), ("retry", "x", "--all"), ("hold",), ("nonsense",), ("remove",)])
def test_a_wrong_call_is_one_clear_line(spool: Path, store: QueueStore, arguments: tuple[str, ...]) -> None:
    error = run(spool, *arguments, status=2)
    assert error.count("\n") == 1 and error.startswith("smtpmail: ")


def test_a_change_without_a_server_counts_at_the_next_start(servers: Servers, spool: Path, store: QueueStore) -> None:
    later = put(store, item("later@one.test"))
    store.record(later, [{"attempts": 1, "next_attempt": time.time() + 3600}])
    held = put(store, item("held@one.test"))
    gone = put(store, item("gone@one.test"))
    assert "not running" in run(spool, "retry", later.id)
    assert "not running" in run(spool, "hold", held.id)
    run(spool, "remove", gone.id)
    assert [r["id"] for r in listed(spool)] == [later.id, held.id]
    with FaultServer() as sink:
        start(servers, sink)
        sink.wait_until(lambda s: s.accepted)
        wait_until(lambda: store.ids() == [held.id])
    assert [m.recipients for m in sink.accepted] == [["later@one.test"]]


@pytest.mark.parametrize("sender", ["alice@dom.fr", ""])
def test_removed_with_a_bounce(spool: Path, store: QueueStore, sender: str) -> None:
    message = put(store, item("bob@one.test", "carol@two.test", sender=sender))
    store.record(message, [{"recipient": 0, "state": "delivered"}])
    in_a_process(spool, "remove", message.id, "--bounce")
    assert store.ids() == []
    reports = [p.read_text() for p in (spool / "alice").glob("1")]
    assert len(reports) == (1 if sender else 0), "never a bounce of a bounce"
    for report in reports:
        assert "Final-Recipient: rfc822; carol@two.test" in report and "bob@one.test" not in report
        assert "removed from the queue by the administrator" in report


# -- with a running server


def test_at_once(servers: Servers, spool: Path) -> None:
    with FaultServer({"RCPT bob@one.test": [say(LATER)], "RCPT carol@one.test": [say(LATER)] * 3}) as sink:
        server = start(servers, sink)
        bob, carol = submit(server, "bob@one.test"), submit(server, "carol@one.test")
        for id_ in (bob, carol):
            server.wait_event("delivery.deferred", id=id_)
        wait_until(lambda: all(r["attempts"] == 1 for r in listed(spool)))
        assert LATER in run(spool, "list")
        assert "not running" not in in_a_process(spool, "retry", bob)
        server.wait_event("delivery.succeeded", id=bob)
        run(spool, "hold", carol)
        assert "on hold" in run(spool, "list")
        run(spool, "retry", "--all")
        time.sleep(0.3)
        assert len(server.events_named("delivery.deferred", id=carol)) == 1, "held back from --all"
        run(spool, "release", carol)
        server.wait_event("delivery.deferred", id=carol, attempt=2)
        in_a_process(spool, "remove", carol, "--bounce")
        assert listed(spool) == []
        wait_until(lambda: server.messages("alice"))
    assert [m.recipients for m in sink.accepted] == [["bob@one.test"]]


def test_retry_all_while_messages_leave(servers: Servers, spool: Path) -> None:
    """One that is gone when its turn comes is no error, and the others are still tried."""
    with FaultServer({"RCPT": [say(LATER)] * 30, ".": late(0.02)}) as sink:
        server = start(servers, sink)
        for n in range(30):
            submit(server, f"{n}@one.test")
        wait_until(lambda: len(server.events_named("delivery.deferred")) == 30)
        wait_until(lambda: all(r["attempts"] == 1 for r in listed(spool)))
        for _ in range(3):
            run(spool, "retry", "--all")
        sink.wait_until(lambda s: len(s.accepted) == 30)
        wait_until(lambda: not listed(spool))
    assert set(sink.deliveries.values()) == {1}


def test_a_held_message_is_not_said_to_be_tried(spool: Path, store: QueueStore) -> None:
    message = put(store, item())
    run(spool, "hold", message.id)
    said = run(spool, "retry", message.id, status=2)
    assert said.count("\n") == 1 and "hold" in said and "release" in said
