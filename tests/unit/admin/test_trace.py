"""`smtpmail trace`: finds the messages that are wanted and tells all of their story, whatever the log looks like."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.commands import runner
from support.faultserver import FaultServer, say
from support.server import Servers

from smtpmail.admin.log_reader import LINE_LIMIT, lines_of
from smtpmail.admin.stories import Tracer, Wanted
from smtpmail.admin.trace import trace

LOCAL = "0647f2a9c0ffee00001"
RELAYED = "0647f2a9c0ffee00002"
BOUNCE = "0647f2a9c0ffee00003"
REFUSED = "0647f2a9c0ffee00004"
FOREIGN_BOUNCE = "0647f2a9c0ffee00005"


def line(second: float, event: str, level: str = "info", **fields: Any) -> bytes:
    timestamp = f"2026-11-23T10:{int(second) // 60:02d}:{second % 60:09.6f}Z"
    return json.dumps({"timestamp": timestamp, "level": level, "event": event, **fields}).encode() + b"\n"


def received(second: float, id_: str, client: str, sender: str, *recipients: str, **fields: Any) -> bytes:
    fields = {"size": 4211, "listener": "loopback", "helo": "laptop", "tls": None, **fields}
    return line(
        second, "message.received", id=id_, sender=sender, recipients=list(recipients), client=client, **fields
    )  # fmt: skip


LAPTOP, REMOTE, SPAMMER = "127.0.0.1:40000", "[2001:db8::7]:51000", "192.0.2.66:6666"
TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"

LOG: list[tuple[str, bytes]] = [
    # Name of the entry, line. Three connections at a time, their entries mixed.
    ("start", line(0, "server.started", version="0.1.0", hostname="mx.dom.fr")),
    ("open remote", line(1, "session.opened", client=REMOTE, listener="network")),
    ("open laptop", line(2, "session.opened", client=LAPTOP, listener="loopback")),
    ("open spammer", line(2.5, "session.opened", client=SPAMMER, listener="network")),
    ("tls spammer", line(2.6, "tls.failed", client=SPAMMER, error="unsupported protocol")),
    (
        "received local",
        received(
            3, LOCAL, REMOTE, "Erika@Remote.example", "bob@dom.fr", listener="network", tls=TLS,
            helo="mail.remote.example", message_id="<a.1@remote.example>",
        ),
    ),
    ("stored local", line(3.001, "message.stored", id=LOCAL, user="bob", number=12)),
    (
        "received relayed",
        received(
            4, RELAYED, LAPTOP, "alice@dom.fr", "carl@example.org", "dora@example.net", message_id="<b.2@laptop>"
        ),
    ),
    ("queued relayed", line(4.001, "message.queued", id=RELAYED, recipients=["carl@example.org", "dora@example.net"])),
    (
        "refused",
        line(
            4.5, "recipient.refused", id=REFUSED, sender="x@spam.example", recipient="victim@example.com",
            client=SPAMMER, listener="network", reply="550 5.7.1 Relaying denied",
        ),
    ),
    ("close laptop", line(5, "session.closed", client=LAPTOP, listener="loopback", messages=1, reason="quit")),
    ("close remote", line(5.5, "session.closed", client=REMOTE, listener="network", messages=1, reason="quit")),
    ("close spammer", line(5.7, "session.closed", client=SPAMMER, listener="network", messages=0, reason="quit")),
    (
        "delivered carl",
        line(
            6, "delivery.succeeded", id=RELAYED, recipient="carl@example.org", mx="mx.example.org",
            address="198.51.100.1", reply="250 2.0.0 Ok: queued as 4F0A2B9C1D", attempt=1,
        ),
    ),
    (
        "deferred dora",
        line(
            7, "delivery.deferred", "warning", id=RELAYED, recipient="dora@example.net", mx="mx1.example.net",
            address="2001:db8::25", tls="TLSv1.2 X", reply="451 4.7.1 Greylisted", attempt=1,
            next_try="2026-11-23T10:01:09.5Z",
        ),
    ),
    (
        "failed dora",
        line(
            69.5, "delivery.failed", "warning", id=RELAYED, recipient="dora@example.net", mx="mx1.example.net",
            address="2001:db8::25", reply="550 5.1.1 No such user (1rZabc-0005xy-2B)", attempt=2,
        ),
    ),
    ("stored bounce", line(69.6, "message.stored", id=BOUNCE, user="alice", number=3)),
    (
        "bounce",
        line(
            69.7, "bounce.queued", id=BOUNCE, of=RELAYED, kind="failure", recipient="alice@dom.fr",
            about=["dora@example.net"],
        ),
    ),
]  # fmt: skip

OF_LOCAL = ["open remote", "received local", "stored local", "close remote"]
OF_RELAYED = [
    "open laptop", "received relayed", "queued relayed", "close laptop", "delivered carl", "deferred dora",
    "failed dora", "stored bounce", "bounce",
]  # fmt: skip
OF_REFUSED = ["open spammer", "tls spammer", "refused", "close spammer"]


def stories(text: str, lines: Iterable[bytes], **limits: Any) -> list[list[dict[str, Any]]]:
    return list(Tracer(Wanted(text), **limits).read(lines))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LOCAL, [OF_LOCAL]),
        (RELAYED, [OF_RELAYED]),
        (BOUNCE, [OF_RELAYED]),
        (REFUSED, [OF_REFUSED]),
        # Message-IDs, with and without brackets
        ("<a.1@remote.example>", [OF_LOCAL]),
        ("b.2@laptop", [OF_RELAYED]),
        # addresses: of the sender, a recipient, in brackets, in any case, refused
        ("erika@remote.example", [OF_LOCAL]),
        ("<BOB@dom.fr>", [OF_LOCAL]),
        ("alice@dom.fr", [OF_RELAYED]),
        ("dora@example.net", [OF_RELAYED]),
        (" x@spam.example ", [OF_REFUSED]),
        # the remote's name of the message
        ("4F0A2B9C1D", [OF_RELAYED]),
        ("1rZabc-0005xy-2B", [OF_RELAYED]),
        # parts of these are something else
        ("4F0A2", []),
        ("4f0a2b9c1d", []),
        ("1rZabc-0005xy", []),
        (RELAYED[:-1], []),
        ("ob@dom.fr", []),
        ("dom.fr", []),
        ("<>", []),
        (".*", []),
    ],
)
def test_finds_the_whole_story(text: str, expected: list[list[str]]) -> None:
    entries = {name: json.loads(raw) for name, raw in LOG}
    assert stories(text, [raw for _, raw in LOG]) == [[entries[name] for name in names] for names in expected]


def test_many_messages_of_an_address_come_in_order_of_time() -> None:
    lines = [received(n, f"id{n}", LAPTOP, "alice@dom.fr", "bob@dom.fr") for n in (5, 1, 3)]
    assert [story[0]["id"] for story in stories("bob@dom.fr", lines)] == ["id1", "id3", "id5"]


def test_time_orders_a_story_whatever_the_order_of_lines() -> None:
    """Threads log side by side, and old logs may be put behind new ones."""
    entries = {name: json.loads(raw) for name, raw in LOG}
    lines = [raw for _, raw in LOG]
    moved = [*lines[:-3], lines[-1], lines[-2], lines[-3]]
    assert stories(BOUNCE, moved) == [[entries[name] for name in OF_RELAYED]]


def test_a_bounce_whose_message_is_in_an_older_log() -> None:
    lines = [raw for name, raw in LOG if name in ("bounce", "stored bounce")]
    for text in (RELAYED, BOUNCE):
        assert [[e["event"] for e in s] for s in stories(text, lines)] == [["message.stored", "bounce.queued"]]


def test_a_bounce_that_leaves_is_found_by_what_the_remote_calls_it() -> None:
    lines = [
        received(1, LOCAL, REMOTE, "erika@remote.example", "bob@dom.fr"),
        # The queue may log the bounce before what it is about.
        line(2, "message.queued", id=FOREIGN_BOUNCE, recipients=["erika@remote.example"]),
        line(2.1, "bounce.queued", id=FOREIGN_BOUNCE, of=LOCAL, recipient="erika@remote.example"),
        line(3, "delivery.succeeded", id=FOREIGN_BOUNCE, recipient="erika@remote.example", reply="250 OK id=1rZ-2"),
    ]
    assert [len(story) for story in stories("1rZ-2", lines)] == [4]


def test_a_client_port_used_again_belongs_to_the_new_connection() -> None:
    lines = [
        line(1, "session.opened", client=LAPTOP, listener="network"),
        # The server was killed: nobody closed it.
        line(2, "server.started", version="0.1.0"),
        received(3, "id1", LAPTOP, "alice@dom.fr", "bob@dom.fr"),
        line(4, "session.opened", client=LAPTOP, listener="loopback"),
        received(5, "id2", LAPTOP, "alice@dom.fr", "bob@dom.fr"),
    ]
    assert [[e["event"] for e in s] for s in stories("alice@dom.fr", lines)] == [
        ["message.received"],
        ["session.opened", "message.received"],
    ]


@pytest.mark.parametrize(
    "broken",
    [
        b"Started smtpmail.service - Mail.\n",
        LOG[5][1][:80] + b"\n",
        LOG[5][1][:80],
        b"\xff\xfe\x00\n",
        b"[1, 2]\n",
        b"null\n",
        b'"text"\n',
        b'{"id": "' + LOCAL.encode() + b'"}\n',
        b"[" * 100_000 + b"\n",
        b"9" * 10_000 + b"\n",
        b'{"event": "message.stored", "timestamp": "' + b"x" * LINE_LIMIT + b'"}\n',
    ],
)
def test_broken_lines_are_counted_and_skipped(broken: bytes) -> None:
    good = [raw for _, raw in LOG]
    file = BytesIO(
        b"".join([*good[:8], broken if broken.endswith(b"\n") else broken + b"\n", *good[8:], b"\n", broken])
    )
    tracer = Tracer(Wanted(RELAYED))
    assert [len(story) for story in tracer.read(lines_of(file))] == [len(OF_RELAYED)]
    assert (tracer.skipped, tracer.entries) == (2, len(LOG))


@pytest.mark.parametrize(
    "fields",
    [
        {"recipients": "bob@dom.fr"},
        {"recipients": [None, 1, {"a": []}]},
        {"recipients": {"bob@dom.fr": 1}},
        {"sender": None, "recipient": 5, "reply": ["250"], "client": ["x"], "of": 3},
        {"of": "self"},
    ],
)
@pytest.mark.parametrize("event", ["message.queued", "message.received", "delivery.failed", "bounce.queued", "new.one"])
def test_fields_of_another_shape_do_no_harm(event: str, fields: dict[str, Any]) -> None:
    log = line(1, event, id="self", **fields) + line(2, "message.stored", id="self", user="bob", number=1)
    result = run(["self", "-"], log)
    assert result.exit_code == 0
    assert "stored in the mailbox of bob as 1" in result.stdout


def relayed_messages(count: int) -> Iterator[bytes]:
    """A long log: each message is delivered at once, and its story over."""
    for n in range(count):
        client = f"127.0.0.1:{n % 60000}"
        yield line(n % 3600, "session.opened", client=client, listener="loopback")
        yield received(n % 3600, f"id{n}", client, f"sender{n}@dom.fr", f"r{n}@example.org")
        yield line(n % 3600, "message.queued", id=f"id{n}", recipients=[f"r{n}@example.org"])
        yield line(n % 3600, "session.closed", client=client, listener="loopback", reason="quit")
        reply = f"250 queued as REMOTE{n}"
        yield line(n % 3600, "delivery.succeeded", id=f"id{n}", recipient=f"r{n}@example.org", reply=reply)


def test_a_long_log_takes_bounded_memory_and_loses_nothing_of_what_is_under_way() -> None:
    def log() -> Iterator[bytes]:
        yield from [raw for _, raw in LOG[:9]]
        yield from relayed_messages(2_000)
        yield from [raw for _, raw in LOG[9:]]

    tracer = Tracer(Wanted("4F0A2B9C1D"), held_octets=250_000)
    tracemalloc.start()
    try:
        found = list(tracer.read(log()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Five days lie between a message and its last reply at worst: all other mail of that time passes by.
    assert [entry["event"] for entry in found[0]][:3] == ["session.opened", "message.received", "message.queued"]
    assert len(found[0]) == len(OF_RELAYED)
    assert tracer.forgotten == 0
    assert peak < 2_000_000


def test_more_messages_under_way_than_can_be_kept_are_admitted() -> None:
    log = [received(1, f"id{n}", LAPTOP, "a@dom.fr", "b@x.org") + b"" for n in range(500)]
    queued = [line(2, "message.queued", id=f"id{n}", recipients=["b@x.org"]) for n in range(500)]
    last = line(3, "delivery.succeeded", id="id499", recipient="b@x.org", reply="250 queued as LAST")
    tracer = Tracer(Wanted("LAST"), held_octets=50_000)
    mixed = [entry for pair in zip(log, queued, strict=True) for entry in pair]
    assert [len(story) for story in tracer.read([*mixed, last])] == [3]
    assert tracer.forgotten > 0


def test_everything_matches_and_nothing_is_lost_or_doubled() -> None:
    """More matches than memory: told in parts."""
    log = [received(n, f"id{n}", LAPTOP, "a@dom.fr", "b@x.org") for n in range(500)]
    log += [line(600, "message.queued", id=f"id{n}", recipients=["b@x.org"]) for n in range(500)]
    log += [line(700, "delivery.succeeded", id=f"id{n}", recipient="b@x.org", reply="250 ok") for n in range(500)]
    found = [entry for story in stories("a@dom.fr", log, held_octets=50_000) for entry in story]
    assert len(found) == len({(entry["id"], entry["event"]) for entry in found})
    assert {entry["id"] for entry in found} == {f"id{n}" for n in range(500)}


BOUNCED = [
    received(0, "m", LAPTOP, "erika@remote.example", "bob@example.org", message_id="<m@laptop>"),
    line(0, "message.queued", id="m", recipients=["bob@example.org"]),
    line(1, "delivery.failed", id="m", recipient="bob@example.org", reply="550 5.1.1 no"),
    line(1, "message.queued", id="b", recipients=["erika@remote.example"]),
    line(1, "bounce.queued", id="b", of="m", recipient="erika@remote.example"),
    line(2, "delivery.succeeded", id="b", recipient="erika@remote.example", reply="250 OK id=1rZ-2"),
]


@pytest.mark.parametrize("gap", range(2, len(BOUNCED)))
@pytest.mark.parametrize("phase", range(0, 40, 8))
def test_a_bounce_and_its_message_stay_together_while_other_mail_passes(gap: int, phase: int) -> None:
    # What waits for a delivery is kept for long, the rest until other mail has taken its room.
    waits = BOUNCED[gap - 1] in (BOUNCED[1], BOUNCED[4])
    before, between = 100 + phase, 300 if waits else 10
    noise = list(relayed_messages(before + between))
    log = [*BOUNCED[:2], *noise[: 5 * before], *BOUNCED[2:gap], *noise[5 * before :], *BOUNCED[gap:]]
    assert [len(story) for story in stories("1rZ-2", log, held_octets=100_000)] == [6]


def test_a_bounce_may_arrive_before_its_queueing_is_logged() -> None:
    log = [*BOUNCED[:4], BOUNCED[5], BOUNCED[4]]
    assert [len(story) for story in stories("1rZ-2", log)] == [6]


def test_many_bounces_make_no_room_too_early() -> None:
    def log() -> Iterator[bytes]:
        yield from [raw for _, raw in LOG[:9]]
        for n in range(300):
            for raw in BOUNCED:
                names = ((b'"m"', b'"m%d"' % n), (b'"b"', b'"b%d"' % n))
                for old, new in names:
                    raw = raw.replace(old, new)
                yield raw
        yield from [raw for _, raw in LOG[9:]]

    tracer = Tracer(Wanted("4F0A2B9C1D"), held_octets=100_000)
    assert [len(story) for story in tracer.read(log())] == [len(OF_RELAYED)]
    assert tracer.forgotten == 0


def test_a_message_told_in_parts_is_told_to_its_end() -> None:
    """Its last entries do not name what was looked for."""
    noise = [line(1, "message.queued", id=f"id{n}", recipients=["r@example.org"]) for n in range(500)]
    parts = stories("<m@laptop>", [*BOUNCED[:2], *noise, *BOUNCED[2:]], held_octets=50_000)
    assert [entry for part in parts for entry in part] == [json.loads(raw) for raw in BOUNCED]


def test_a_client_that_only_makes_noise_takes_bounded_memory() -> None:
    def log() -> Iterator[bytes]:
        yield line(0, "session.opened", client=LAPTOP, listener="network")
        for _ in range(5_000):
            yield line(1, "tls.failed", client=LAPTOP, error="x" * 500)
        yield received(2, "id1", LAPTOP, "alice@dom.fr", "bob@dom.fr")
        yield line(3, "session.closed", client=LAPTOP, listener="network", reason="quit")
        for n in range(14_000):
            yield line(4, "session.opened", client=f"192.0.2.1:{n}", listener="network")

    tracemalloc.start()
    try:
        (story,) = stories("id1", log())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (story[0]["event"], story[-1]["event"]) == ("session.opened", "session.closed")
    assert len(story) < 30
    assert peak < 8_000_000


# -- the command


def run(arguments: list[str], log: bytes | None = None) -> Result:
    return runner().invoke(trace, arguments, input=log)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            LOCAL,
            [
                "Message 0647f2a9c0ffee00001",
                "10:00:01.000  connection from [2001:db8::7]:51000 to the network listener",
                "10:00:03.000  received from [2001:db8::7]:51000, which calls itself mail.remote.example, over "
                "TLSv1.3 TLS_AES_256_GCM_SHA384: <Erika@Remote.example> to bob@dom.fr, 4211 octets, "
                "Message-ID <a.1@remote.example>",
                "10:00:03.001  stored in the mailbox of bob as 12",
                "10:00:05.500  connection closed: quit",
            ],
        ),
        (
            BOUNCE,
            [
                "Message 0647f2a9c0ffee00002",
                "10:00:02.000  connection from 127.0.0.1:40000 to the loopback listener",
                "10:00:04.000  received from 127.0.0.1:40000, which calls itself laptop, in clear text: <alice@dom.fr> "
                "to carl@example.org, dora@example.net, 4211 octets, Message-ID <b.2@laptop>",
                "10:00:04.001  queued for carl@example.org, dora@example.net",
                "10:00:05.000  connection closed: quit",
                "10:00:06.000  delivered to carl@example.org by mx.example.org (198.51.100.1), attempt 1: "
                "250 2.0.0 Ok: queued as 4F0A2B9C1D",
                "10:00:07.000  not yet delivered to dora@example.net by mx1.example.net (2001:db8::25) over TLSv1.2 X, "
                "attempt 1: 451 4.7.1 Greylisted; next try at 2026-11-23 10:01:09.500",
                "10:01:09.500  failed for dora@example.net by mx1.example.net (2001:db8::25), attempt 2: "
                "550 5.1.1 No such user (1rZabc-0005xy-2B)",
                "10:01:09.600  the notice: stored in the mailbox of alice as 3",
                "10:01:09.700  notice (failure) to alice@dom.fr about dora@example.net; its id is 0647f2a9c0ffee00003",
            ],
        ),
        (
            REFUSED,
            [
                "Message 0647f2a9c0ffee00004",
                "10:00:02.500  connection from 192.0.2.66:6666 to the network listener",
                "10:00:02.600  TLS handshake failed: unsupported protocol",
                "10:00:04.500  refused <x@spam.example> to victim@example.com: 550 5.7.1 Relaying denied",
                "10:00:05.700  connection closed: quit",
            ],
        ),
    ],
)
def test_tells_it_in_plain_words(tmp_path: Path, text: str, expected: list[str]) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(raw for _, raw in LOG))
    result = run([text, str(log)])
    assert (result.exit_code, result.stderr) == (0, "")
    said = [x.strip().removeprefix("2026-11-23 ").removesuffix(" (times in UTC)") for x in result.stdout.splitlines()]
    assert said == expected


def test_an_event_of_another_version_is_told_with_its_fields() -> None:
    result = run([LOCAL, "-"], line(1, "message.held", id=LOCAL, by="root", count=2))
    assert "message.held by=root count=2" in result.stdout


def test_json_is_the_entries_themselves() -> None:
    result = run([RELAYED, "-", "--json"], b"".join(raw for _, raw in LOG))
    entries = {name: json.loads(raw) for name, raw in LOG}
    assert [json.loads(x) for x in result.stdout.splitlines()] == [entries[name] for name in OF_RELAYED]


@pytest.mark.parametrize(
    "nasty", ["\x1b[2J\x1b]0;owned\x07", "a\r\nb", "\x9b31m", "\u202egpj.exe", "\ud800", "\x7f", "\x00"]
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_control_characters_do_not_reach_the_terminal(nasty: str, options: list[str]) -> None:
    log = line(0, "session.opened", client=nasty, listener=nasty)
    log += received(1, "id1", nasty, nasty, nasty, helo=nasty, tls=nasty, message_id=nasty)
    log += line(2, "delivery.failed", id="id1", recipient=nasty, mx=nasty, address=nasty, reply=nasty, attempt=nasty)
    log += line(3, "delivery.deferred", id="id1", recipient="r", reply="450", next_try=nasty)
    log += line(3, "bounce.queued", id="id1", of=nasty, recipient=nasty, kind=nasty)
    log += line(4, nasty, id="id1", **{nasty: nasty})
    log += line(5, "message.stored", id="id1", user=nasty, number=nasty).replace(
        b"2026-11", json.dumps(nasty).encode()[1:-1]
    )
    result = run(["id1", "-", *options], log)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == (7 if options else 8)
    assert all(x.isprintable() for x in result.stdout.splitlines())


def test_says_how_many_lines_were_skipped() -> None:
    result = run([LOCAL, "-"], b"".join([*(raw for _, raw in LOG), b"-- Boot --\n", LOG[0][1][:30]]))
    assert result.exit_code == 0
    assert result.stderr == "smtpmail: 2 lines skipped that are no entries of a JSON log\n"


@pytest.mark.parametrize(
    ("text", "log", "complaint"),
    [
        ("nobody@dom.fr", LOG[0][1], "smtpmail: nothing about nobody@dom.fr in standard input\n"),
        ("\x1b[2J", LOG[0][1], "smtpmail: nothing about ?[2J in standard input\n"),
        (
            "x",
            b"",
            "smtpmail: nothing about x in standard input: it has no entries (is it written with --log-format json?)\n",
        ),
    ],
)
def test_no_match_is_one_line_and_status_1(text: str, log: bytes, complaint: str) -> None:
    result = run([text, "-"], log)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", complaint)


# -- the real program, where its input comes from


def smtpmail(*arguments: str, path: str | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path if path is not None else os.environ["PATH"]}
    command = [sys.executable, "-m", "smtpmail", "trace", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, **options)


def test_reads_standard_input_when_told_to() -> None:
    done = smtpmail(LOCAL, "-", input=b"".join(raw for _, raw in LOG).decode())
    assert (done.returncode, done.stderr) == (0, "")
    assert "stored in the mailbox of bob as 12" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_standard_input_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    """Under ssh and cron it is a pipe or a socket that nobody writes to."""
    (tmp_path / "log").write_bytes(b"".join(raw for _, raw in LOG))
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path}/log\n")
    (tmp_path / "journalctl").chmod(0o755)
    reading, writing = os.pipe()
    try:
        for files in ([], [str(tmp_path / "log")]):
            done = smtpmail(LOCAL, *files, path=str(tmp_path), stdin=reading)
            assert (done.returncode, done.stderr) == (0, "")
    finally:
        os.close(reading)
        os.close(writing)


def test_several_files_packed_ones_too(tmp_path: Path) -> None:
    """As logrotate leaves them: the story goes on from one to the next."""
    half = len(LOG) // 2
    (tmp_path / "log.1.gz").write_bytes(gzip.compress(b"".join(raw for _, raw in LOG[:half])))
    (tmp_path / "log").write_bytes(b"".join(raw for _, raw in LOG[half:]))
    whole = run([RELAYED, "-"], b"".join(raw for _, raw in LOG)).stdout
    assert run([RELAYED, str(tmp_path / "log.1.gz"), str(tmp_path / "log")]).stdout == whole
    assert run([RELAYED, str(tmp_path / "log.1.gz"), "-"], (tmp_path / "log").read_bytes()).stdout == whole
    (tmp_path / "cut.gz").write_bytes((tmp_path / "log.1.gz").read_bytes()[:-20])
    cut = smtpmail(RELAYED, str(tmp_path / "cut.gz"))
    assert cut.returncode == 2 and len(cut.stderr.splitlines()) == 1 and "cut.gz" in cut.stderr


def test_between_two_times() -> None:
    log = b"".join(raw for _, raw in LOG)
    told = run([LOCAL, "-", "--since", "2026-11-23T10:00:03Z", "--until", "2026-11-23T10:00:05Z"], log).stdout
    assert [line.split()[1] for line in told.splitlines()[1:]] == ["10:00:03.000", "10:00:03.001"]
    assert run([LOCAL, "-", "--since", "2026-11-24"], log).exit_code == 1
    wrong = run([LOCAL, "-", "--until", "sometime"], log)
    assert wrong.exit_code == 2 and "sometime" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "found"),
    [("bob", True), ("BOB", True), ("bo", False), ("erika", True), ("dom.fr", False), ("plus", True), ("plus+x", True)],
)
def test_a_bare_local_part(text: str, found: bool) -> None:
    log = b"".join(raw for _, raw in LOG) + received(50, "id9", LAPTOP, "Plus+X@dom.fr", "someone@else.test")
    assert (run([text, "-"], log).exit_code == 0) == found


def test_changes_by_hand() -> None:
    log = [
        received(1, "id1", LAPTOP, "alice@dom.fr", "carl@example.org"),
        line(1, "message.queued", id="id1", recipients=["carl@example.org"]),
        line(2, "queue.changed", id="id1", change="held", by="root"),
        line(3, "queue.changed", id="id1", change="removed", by=None),
        line(4, "message.refused", id="id2", sender="alice@dom.fr", recipients=["x@y.test"], reply="554 5.6.0 No"),
    ]
    told = run(["alice", "-"], b"".join(log)).stdout
    assert "held by hand, by root" in told
    assert "removed by hand\n" in told
    assert "not taken: <alice@dom.fr> to x@y.test; the client was told: 554 5.6.0 No" in told


def test_reads_the_journal_without_a_shell(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"".join(raw for _, raw in LOG))
    journalctl = tmp_path / "journalctl"
    journalctl.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexec /bin/cat {tmp_path}/log\n')
    journalctl.chmod(0o755)
    done = smtpmail(LOCAL, path=str(tmp_path), stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stored in the mailbox of bob as 12" in done.stdout
    assert (tmp_path / "arguments").read_text() == "--unit=smtpmail --output=cat --no-pager\n"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (None, "smtpmail: cannot run journalctl (No such file or directory): name the file"),
        ("#!/bin/sh\nexit 3\n", "smtpmail: journalctl failed with exit status 3"),
    ],
)
def test_without_a_journal_it_says_what_to_do(tmp_path: Path, script: str | None, complaint: str) -> None:
    if script is not None:
        (tmp_path / "journalctl").write_text(script)
        (tmp_path / "journalctl").chmod(0o755)
    done = smtpmail(LOCAL, path=str(tmp_path), stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.startswith(complaint)
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_there_is_status_2(tmp_path: Path) -> None:
    done = smtpmail(LOCAL, str(tmp_path / "missing"))
    assert done.returncode == 2
    assert str(tmp_path / "missing") in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    log = [received(n % 60, f"id{n}", LAPTOP, "alice@dom.fr", "bob@dom.fr") for n in range(2_000)]
    (tmp_path / "log").write_bytes(b"".join(log))
    command = [sys.executable, "-m", "smtpmail", "trace", "bob@dom.fr", str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("text", ["", " ", "<>", "-"])
def test_a_text_that_names_nothing_is_status_2(text: str) -> None:
    done = smtpmail("--", text, os.devnull)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_the_log_of_the_real_server(servers: Servers) -> None:
    script = {"RCPT bad@one.test": say("550 5.1.1 Nobody here"), ".": say("250 2.0.0 Ok: queued as 4F0A2B9C1D")}
    with FaultServer(script) as remote:
        server = servers.start("--smarthost", f"127.0.0.1:{remote.address[1]}")
        with server.client() as client:
            client.ehlo()
            content = b"Message-ID: <1.2@laptop>\r\nSubject: test\r\n\r\nHello\r\n"
            client.transaction("good@one.test", "bad@one.test", "bob@dom.fr", sender="alice@dom.fr")
            id_ = client.data(content).text.split()[-1]
        server.wait_event("bounce.queued", of=id_)
        server.wait_event("session.closed")
        server.stop()
    log = b"".join(json.dumps(entry).encode() + b"\n" for entry in server.events)
    expected = sorted(
        [
            "session.opened", "message.received", "message.stored", "message.queued", "delivery.succeeded",
            "delivery.failed", "message.received", "message.stored", "bounce.queued", "session.closed",
        ]
    )  # fmt: skip
    notice = server.events_named("bounce.queued", of=id_)[0]["id"]
    for text in (id_, "1.2@laptop", "alice@dom.fr", "BAD@one.test", "4F0A2B9C1D", notice):
        (story,) = stories(text, log.splitlines())
        assert sorted(entry["event"] for entry in story) == expected, text
        assert [entry["timestamp"] for entry in story] == sorted(entry["timestamp"] for entry in story)
    told = run([id_, "-"], log).stdout
    assert "Message-ID <1.2@laptop>" in told
    assert "delivered to good@one.test by 127.0.0.1 (127.0.0.1), attempt 1: 250 2.0.0 Ok: queued as 4F0A2B9C1D" in told
    assert "failed for bad@one.test by 127.0.0.1 (127.0.0.1), attempt 1: 550 5.1.1 Nobody here" in told
    assert "the notice: stored in the mailbox of alice as 1" in told
    assert "notice (failure) to alice@dom.fr about bad@one.test" in told
