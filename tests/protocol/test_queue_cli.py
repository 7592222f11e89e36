"""`smtpmail queue`: what a person and a program see, with the server running and without."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from support.faultserver import FaultServer, late, say
from support.outbound import item, put
from support.server import Server, Servers, clean_environment, program, wait_until

from smtpmail.cli import main
from smtpmail.mail.queued import QueuedRecipient
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


def run(folder: Path, *arguments: str, status: int = 0, options: bool = False) -> str:
    """The same within this process, which is faster: what it prints, on standard error when it fails.

    With `options`, the first two arguments stand before `queue`.
    """
    out, err = io.StringIO(), io.StringIO()
    umask = os.umask(0o077)
    os.umask(umask)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        words = command(folder, *arguments[2 * options :])
        patch.setattr(sys, "argv", ["smtpmail", *arguments[: 2 * options], *words])
        with pytest.raises(SystemExit) as ended:
            main()
    os.umask(umask)
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


@pytest.mark.parametrize(
    "command", [["list"], ["summary"], ["show", "0" * 19], ["retry", "--all"], ["remove", "--all"]]
)
def test_a_queue_that_was_never_made(tmp_path: Path, command: list[str]) -> None:
    """Or that of another configuration: it is not said to be empty."""
    said = run(tmp_path / "none", *command, status=2)
    assert said == f"smtpmail: there is no queue {tmp_path}/none/.queue\n"


def test_a_queue_without_rights(spool: Path, store: QueueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, item())

    def denied(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    said = run(spool, "list", status=2)
    assert said == f"smtpmail: cannot read the queue {store.path}: Permission denied\n"


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


def test_a_corrupt_file_is_listed_and_can_be_removed(spool: Path, store: QueueStore) -> None:
    whole = put(store, item())
    names = ["0660f49b352707d0001", "0660f49b352707d0002", "0660f49b352707d0003"]
    for name, content in zip(names, [b"", b"{}\n\n", b'{"id": 3}\n'], strict=True):
        (Path(store.path) / name).write_bytes(content)
    text = run(spool, "list")
    assert all(name in text for name in names) and "can't be read" in text
    assert "4 messages" in text.splitlines()[-1] and "3 can't be read" in text.splitlines()[-1]
    assert [row["id"] for row in listed(spool) if "error" in row] == names
    assert "3 can't be read" in run(spool, "summary")
    run(spool, "show", names[0], status=2)
    assert run(spool, "remove", names[0]).startswith(f"{names[0]} is removed")
    run(spool, "hold", "--from", "alice@dom.fr")
    assert "nobody is told" in run(spool, "remove", "--all", "--bounce")
    assert store.ids() == [] and not (spool / "alice" / "2").exists()
    assert (spool / "alice" / "1").exists(), "that of the whole one"
    assert whole.id in (spool / "alice" / "1").read_text()


def test_what_is_not_ours_is_neither_listed_nor_touched(spool: Path, store: QueueStore) -> None:
    for name in ("syslog", "dpkg.log", "README", "0660f49b352707d0001.log.1", "x" * 19, "lost+found"):
        (Path(store.path) / name).write_text("theirs")
    before = sorted(Path(store.path).iterdir())
    assert "is empty" in run(spool, "list")
    run(spool, "remove", "--all")
    assert store.repair() == 0
    assert sorted(Path(store.path).iterdir()) == before


@pytest.fixture
def several(store: QueueStore) -> dict[str, str]:
    """Messages by a name for each."""
    day = 86400
    made = {
        "new": (30, item("bob@one.test")),
        "old": (2 * day, item("bob@one.test", "carol@two.test")),
        "from eve": (3600, item("dan@two.test", sender="Eve@evil.example")),
        "bounce": (3 * day, item("eve@bücher.example", sender="", bounce_of="x")),
    }
    return {name: put(store, replace(message, arrived=time.time() - age)).id for name, (age, message) in made.items()}


SELECTIONS: list[tuple[list[str], list[str]]] = [
    (["--all"], ["new", "old", "from eve", "bounce"]),
    (["--from", "alice@dom.fr"], ["new", "old"]),
    (["--from", "dom.fr"], ["new", "old"]),
    (["--from", "eve@EVIL.example"], ["from eve"]),
    (["--from", "<>"], ["bounce"]),
    (["--to", "two.test"], ["old", "from eve"]),
    (["--to", "TWO.test", "--older", "1d"], ["old"]),
    (["--to", "carol@two.test"], ["old"]),
    (["--to", "xn--bcher-kva.example"], ["bounce"]),
    (["--older", "2h"], ["old", "bounce"]),
    (["--older", "100d"], []),
    (["--from", "nobody@dom.fr"], []),
    (["--to", "wo.test"], []),
]


@pytest.mark.parametrize(("options", "names"), SELECTIONS, ids=[" ".join(options) for options, _ in SELECTIONS])
def test_selections(spool: Path, several: dict[str, str], options: list[str], names: list[str]) -> None:
    """The same for all commands."""
    ids = sorted(several[name] for name in names)
    shown = [json.loads(line)["id"] for line in run(spool, "list", "--json", *options).splitlines()]
    assert sorted(shown) == ids
    run(spool, "hold", *options)
    assert sorted(str(row["id"]) for row in listed(spool) if row["hold"]) == ids
    run(spool, "release", *options)
    assert not [row for row in listed(spool) if row["hold"]]
    run(spool, "remove", *options)
    assert sorted(str(row["id"]) for row in listed(spool)) == sorted(set(several.values()) - set(ids))


def test_several_ids(spool: Path, several: dict[str, str]) -> None:
    """One that is not there stops none of the others, and is said."""
    gone = "0" * 19
    error = run(spool, "hold", several["new"], gone, several["old"], status=2)
    assert error == f"smtpmail: there is no message {gone} in the queue {spool}/.queue\n"
    assert sum(bool(row["hold"]) for row in listed(spool)) == 2
    run(spool, "remove", several["new"], several["new"], several["old"])
    assert len(listed(spool)) == 2


def test_nothing_is_taken_for_all(spool: Path, several: dict[str, str]) -> None:
    for name in ("retry", "hold", "release", "remove"):
        assert "--all" in run(spool, name, status=2)
        assert "not both" in run(spool, name, several["new"], "--all", status=2)
    assert len(listed(spool)) == 4
    assert "--older" in run(spool, "list", "--older", "soon", status=2)


def test_the_list_fits_the_terminal(spool: Path, several: dict[str, str]) -> None:
    code = "import sys; from smtpmail.cli import main; main()"
    child, fd = os.forkpty()
    if not child:
        os.environ["COLUMNS"] = "60"
        os.execv(sys.executable, [sys.executable, "-c", code, *command(spool, "list")])
    text = b""
    with contextlib.suppress(OSError):
        while data := os.read(fd, 65536):
            text += data
    assert os.waitpid(child, 0)[1] == 0
    os.close(fd)
    lines = re.sub(r"\x1b\[[0-9]*m", "", text.decode()).splitlines()
    assert len(lines) == 6 and max(map(len, lines[:-1])) <= 60
    assert lines[-1].startswith("4 messages, ") and f"{spool}/.queue" in lines[-1]
    assert any(line.endswith("…") for line in lines)


def test_summary(spool: Path, several: dict[str, str]) -> None:
    """As qshape: domains, the largest first, by age in minutes."""
    table = run(spool, "summary").splitlines()
    assert table[0].split() == ["T", "5", "10", "20", "40", "80", "160", "320", "640", "1280", "1280+"]
    cells = {line.split()[0]: line.split()[1:] for line in table[1:-1]}
    assert list(cells) == ["TOTAL", "one.test", "two.test", "bücher.example"]
    assert cells["TOTAL"] == ["5", "1", "0", "0", "0", "1", "0", "0", "0", "0", "3"]
    assert "4 messages" in table[-1]
    found = json.loads(run(spool, "summary", "--json", "--senders"))
    assert [(row["domain"], row["total"]) for row in found["domains"]] == [
        ("TOTAL", 4), ("dom.fr", 2), ("-", 1), ("evil.example", 1),
    ]  # fmt: skip


def test_alone_it_prints_its_help(spool: Path) -> None:
    """In lines, with its commands."""
    ran = subprocess.run(
        [*program(), "queue"], capture_output=True, text=True, timeout=60, env=clean_environment(), check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Usage:") and ran.stdout.count("\n") > 10
    for name in ("list", "summary", "retry", "remove"):
        assert re.search(rf"^  {name} ", ran.stdout, re.MULTILINE)


def test_tabs_and_escapes(spool: Path, store: QueueStore) -> None:
    """A TAB is a gap; nothing steers the terminal, wherever it stands."""
    evil = '"\x1b]0;x\x07"@one.test'
    message = put(store, item(evil, sender=evil), b"Subject: a\tb\x1b[2J\n\n1\t2\n")
    for text in (run(spool, "show", message.id), run(spool, "list"), run(spool, "hold", message.id)):
        assert all(c.isprintable() or c == "\n" for c in text), text
    assert "1       2" in run(spool, "show", message.id)
    assert "Subject: a      b?[2J" in run(spool, "show", message.id)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"sender": ""}, "nobody is told: it has no sender"),
        (
            {"recipients": [QueuedRecipient("bob@one.test", ("NEVER",))]},
            "nobody is told: no notification was asked for",
        ),
        ({"sender": "no-such-user@dom.fr"}, "nobody is told: no-such-user@dom.fr takes no mail here"),
        ({"sender": "alice@dom.fr"}, "alice@dom.fr is told"),
    ],
)
def test_remove_says_who_is_told(spool: Path, store: QueueStore, message: dict[str, object], said: str) -> None:
    recipients = message.pop("recipients", ["bob@one.test"])
    queued = put(store, item(*recipients, **message))  # type: ignore[arg-type, misc]
    (spool / "users").write_text("alice\n")
    text = run(spool, "--users", str(spool / "users"), "remove", queued.id, "--bounce", options=True)
    assert text.splitlines()[0] == f"{queued.id} is removed, {said}"
    assert (spool / "alice" / "1").exists() == (said == "alice@dom.fr is told")
    assert store.ids() == []


def test_a_sender_that_cannot_be_told_now_keeps_the_message(spool: Path, store: QueueStore) -> None:
    """As it was: not on hold, and not taken for failed."""
    queued = put(store, item())
    (spool / "users").mkdir()
    error = run(spool, "--users", str(spool / "users"), "remove", queued.id, "--bounce", status=2, options=True)
    assert error.count("\n") == 1 and queued.id in error and "stays" in error
    (row,) = listed(spool)
    assert row["hold"] is False
    assert store.load(queued.id).pending == [0]


@pytest.mark.parametrize("kind", ["message", "log"])
def test_links_lead_nowhere(spool: Path, store: QueueStore, tmp_path: Path, kind: str) -> None:
    """Planted in the folder: root's command would write to, or show, what the link names."""
    target = tmp_path / "of root"
    target.write_text("secret\n")
    queued = put(store, item())
    path = Path(store.path) / (queued.id if kind == "message" else f"{queued.id}.log")
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    shown = run(spool, "show", queued.id, status=2)
    assert "secret" not in shown
    run(spool, "hold", queued.id, status=2)
    assert "secret" not in run(spool, "list")
    assert target.read_text() == "secret\n"
    run(spool, "remove", queued.id)
    assert target.read_text() == "secret\n" and not path.is_symlink()


def test_a_fifo_does_not_block(spool: Path, store: QueueStore) -> None:
    os.mkfifo(Path(store.path) / "0660f49b352707d0001")
    queued = put(store, item())
    os.mkfifo(Path(store.path) / f"{queued.id}.log")
    assert "can't be read" in run(spool, "list")
    run(spool, "hold", "--all", status=2)
    run(spool, "remove", "--all")
    assert store.ids() == []


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
        for change, id_ in (("retried", bob), ("held", carol), ("released", carol), ("removed", carol)):
            assert server.wait_event("queue.changed", id=id_, change=change)["by"]
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
