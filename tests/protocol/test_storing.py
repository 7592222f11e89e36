"""The promises of storage, from outside: order of the calls to the kernel, many writers, crashes, full disks."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import require
from support.client import Client, Closed
from support.server import Server, Servers, read_mailbox, wait_until
from support.spool import locked_by_another_process, visible, with_status
from support.tls import Certificate

from smtpmail.mail.fields import separator


def deliver_many(server: Server, count: int, threads: int, user: str = "bob") -> list[bytes]:
    """Sends `count` messages over `threads` sessions; returns their subjects, all acknowledged."""

    def send(number: int) -> list[bytes]:
        subjects = []
        with server.client("network" if number % 2 else "loopback") as client:
            client.ehlo()
            for n in range(count // threads):
                subject = b"%s-%d-%d" % (server.spool.name.encode(), number, n)
                answer = client.deliver(b"Subject: " + subject + b"\r\n\r\nx\r\n", f"{user}@dom.fr")
                assert answer.code == 250
                subjects.append(subject)
            client.command("QUIT")
        return subjects

    with ThreadPoolExecutor(threads) as pool:
        return [s for subjects in pool.map(send, range(threads)) for s in subjects]


def subject(message: bytes) -> bytes:
    found = re.search(rb"^Subject: (.*)$", message, re.MULTILINE)
    assert found, message
    return found[1]


# -- the order of things


def calls_of_one_delivery(servers: Servers, tmp_path: Path, spool: Path, *options: str, before: int) -> list[str]:
    """The calls of the session that delivered a message after `before` others, as strace shows them."""
    strace = require.tool("strace")
    trace = tmp_path / "trace"
    calls = "trace=file,desc,network"
    server = servers.start(
        "--processes",
        "1",
        *options,
        spool=spool,
        wrapper=[strace, "-f", "-y", "-qq", "-s", "60", "-e", calls, "-o", str(trace)],
    )
    with server.client() as client:
        client.ehlo()
        for _ in range(before):
            assert client.deliver().code == 250
        client.expect("NOOP", 250)
        client.expect("HELP", 214)
        assert client.deliver().code == 250
        client.expect("NOOP", 250)
    assert server.stop() == 0
    # A line that another thread interrupted is put together: a call counts when it has returned.
    lines, open_calls = [], {}
    for line in trace.read_text().splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            open_calls[thread] = text.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
            text = open_calls.pop(thread, "") + text[resumed.end() :]
        lines.append(text)
    start = next(i for i, line in enumerate(lines) if "HELP" in line and line.startswith(("recv", "read")))
    end = next(i for i, line in enumerate(lines) if i > start and "queued as" in line and line.startswith("send"))
    return lines[start : end + 1]


def test_recorded_before_it_is_acknowledged(servers: Servers, tmp_path: Path) -> None:
    """The record written and synced, then the status named, then the message; only then 250. One sync in all."""
    calls = calls_of_one_delivery(servers, tmp_path, tmp_path / "spool", before=1)

    def only(pattern: str) -> int:
        found = [i for i, call in enumerate(calls) if re.match(pattern, call)]
        assert len(found) == 1, f"{pattern} not once in:\n" + "\n".join(calls)
        return found[0]

    bob = re.escape(str(tmp_path / "spool" / "bob"))
    journal = re.escape(str(tmp_path / "spool" / ".queue" / ".journal"))
    content = only(rf"(write|writev|pwrite64)\(\d+<{bob}/#\d+")
    record = only(rf"pwrite64\(\d+<{journal}/0\.0>.*= \d")
    synced = only(r"(fsync|fdatasync|syncfs)\(")
    assert calls[synced].startswith("fdatasync") and "/.journal/0.0>" in calls[synced]
    status = only(r'openat\(.*"2\.status", .*O_CREAT')
    message = only(r'linkat\(.*"2", ')
    assert content < record < synced < status < message < len(calls) - 1


def test_on_disk_before_it_is_acknowledged(servers: Servers, tmp_path: Path) -> None:
    """Contents synced, then the status named, then the message, then the folder synced; only then 250 (design)."""
    calls = calls_of_one_delivery(servers, tmp_path, tmp_path / "spool", "--journal-size", "0", before=1)

    def last(pattern: str) -> int:
        found = [i for i, call in enumerate(calls) if re.match(pattern, call)]
        assert found, f"{pattern} not in:\n" + "\n".join(calls)
        return found[-1]

    bob = re.escape(str(tmp_path / "spool" / "bob"))
    status = last(r'linkat\(.*"2\.status"')
    message = last(r'linkat\(.*"2", ')
    answer = len(calls) - 1
    written = last(rf"(write|writev|pwrite64)\(\d+<{bob}/#\d+")
    synced = last(rf"(fsync|fdatasync|syncfs)\(\d+<{bob}/#?\d+.*= 0")
    folder = last(rf"(fsync|fdatasync)\(\d+<{bob}>\) += 0|syncfs\(\d+<{bob}>\) += 0")
    assert written < synced < status < message < folder < answer


def test_cost_does_not_grow_with_the_mailbox(servers: Servers, tmp_path: Path) -> None:
    """The same calls to the kernel with 20,000 messages in the folder as with one, and the folder is not listed."""
    small = calls_of_one_delivery(servers, tmp_path, tmp_path / "small", before=2)
    folder = tmp_path / "large" / "bob"
    folder.mkdir(parents=True, mode=0o700)
    for number in range(1, 20_001):
        (folder / str(number)).touch()
        (folder / f"{number}.status").touch()
    large = calls_of_one_delivery(servers, tmp_path, tmp_path / "large", before=2)
    # What a thread makes once, memory and what it waits with, may fall into either.
    names = [
        [name for call in calls if (name := call.partition("(")[0]) not in ("epoll_create1", "epoll_ctl", "mmap")]
        for calls in (small, large)
    ]
    assert "getdents64" not in names[1]
    assert len(names[1]) <= len(names[0]) + 3, Counter(names[1]) - Counter(names[0])
    assert (folder / "20003").is_file()


# -- many at once


def test_processes_and_threads_in_one_mailbox(servers: Servers, tmp_path: Path) -> None:
    """8 servers, each with 8 sessions at once, one spool, one mailbox: every message once, with its own number."""
    spool = tmp_path / "spool"
    # A queue has one server, a mailbox may have many.
    queues = [tmp_path / f"queue{n}" for n in range(8)]
    made = [servers.launch("--processes", "1", "--queue", str(queue), spool=spool) for queue in queues]
    for server in made:
        server.wait_started()
    faults: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                read_mailbox(spool / "bob")
            except (AssertionError, OSError) as error:
                faults.append(repr(error))
            time.sleep(0.02)

    reader = threading.Thread(target=read)
    reader.start()
    per_server = 80
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda server: deliver_many(server, per_server, 8), made))
    done.set()
    reader.join()
    assert faults == []
    stored = read_mailbox(spool / "bob")
    assert sorted(stored) == list(range(1, 8 * per_server + 1))
    assert Counter(subject(m) for m in stored.values()) == Counter(s for subjects in sent for s in subjects)
    logged = [e["number"] for server in made for e in server.events_named("message.stored")]
    assert sorted(logged) == sorted(stored)
    assert visible(spool / "bob") == with_status(stored)
    for server in made:
        assert server.stop() == 0


def test_another_program_holds_the_lock(server: Server) -> None:
    """The client waits; as soon as the lock is free, its message has its place."""
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        client.ehlo()
        client.deliver()
        with locked_by_another_process(server.spool / "bob" / ".lock"):
            waiting = pool.submit(client.deliver)
            time.sleep(0.5)
            assert not waiting.done()
            with server.client() as other:
                other.ehlo()
                assert other.deliver(b"x\r\n", "carol@dom.fr").code == 250
            assert visible(server.spool / "bob") == with_status([1])
        assert waiting.result(60).code == 250


@pytest.mark.parametrize("file", [".lock", ".mh_sequences"])
def test_one_locked_mailbox_of_several_holds_nobody_up(server: Server, file: str) -> None:
    """Whoever holds a lock for ever harms that mailbox alone: the sender is not bothered, its copy comes later."""
    with server.client("network") as client:
        client.ehlo()
        client.deliver(b"x\r\n", "bob@dom.fr")
        with locked_by_another_process(server.spool / "bob" / file):
            since = time.monotonic()
            client.transaction("bob@dom.fr", "carol@dom.fr")
            answer = client.data(b"Subject: late\r\n\r\nx\r\n")
            assert answer.code == 250
            assert time.monotonic() - since < 30
            assert len(server.messages("carol")) == 1
            id_ = answer.text.split()[-1]
            server.wait_event("message.late", id=id_, user="bob")
            assert set(server.messages("bob")) == {1}
        server.wait_event("message.stored", id=id_, user="bob", number=2)


@pytest.mark.parametrize("recipients", [["bob@dom.fr"], ["bob@dom.fr", "carol@dom.fr"]], ids=["one", "several"])
def test_a_stop_does_not_wait_for_a_lock(servers: Servers, recipients: list[str]) -> None:
    """Neither in a session nor in the queue; nothing is lost."""
    server = servers.start("--retry-schedule", "1s")
    with server.client() as client:
        client.ehlo()
        client.deliver(b"x\r\n", "bob@dom.fr")
        with locked_by_another_process(server.spool / "bob" / ".lock"):
            client.transaction(*recipients)
            client.expect("DATA", 354)
            client.send(b"x\r\n.\r\n")
            if len(recipients) > 1:
                assert client.read().code == 250
                server.wait_event("message.late", user="bob")
            else:
                time.sleep(0.5)
            since = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - since < 20
            if len(recipients) == 1:
                assert (refused := client.read()).code == 451, refused
    assert server.events_named("session.error") == server.events_named("server.process_died") == []
    again = servers.start("--retry-schedule", "1s")
    if len(recipients) > 1:
        again.wait_event("message.stored", user="bob")
    assert len(again.messages("bob")) == len(recipients)


# -- crashes


def test_killed_under_load(servers: Servers, tmp_path: Path) -> None:
    """SIGKILL to all processes at random moments: no acknowledged message is lost, no half one is visible."""
    rng = random.Random(2)
    acknowledged: set[bytes] = set()
    sent: set[bytes] = set()

    def load(server: Server, worker: int, round_: int) -> None:
        with contextlib.suppress(OSError, Closed), server.client(timeout=30) as client:
            client.ehlo()
            for n in range(10_000):
                name = b"%d-%d-%d" % (round_, worker, n)
                sent.add(name)
                body = b"x" * (200_000 if n % 7 == 0 else 100)
                if client.deliver(b"Subject: " + name + b"\r\n\r\n" + body + b"\r\n").code == 250:
                    acknowledged.add(name)

    for round_ in range(6):
        server = servers.start()
        workers = [threading.Thread(target=load, args=(server, worker, round_)) for worker in range(8)]
        for worker in workers:
            worker.start()
        before = len(acknowledged)
        wait_until(lambda: len(acknowledged) >= before + 10, 60)  # noqa: B023
        time.sleep(rng.uniform(0.0, 0.5))
        server.kill()
        for worker in workers:
            worker.join()
        # Before any repair: what a reader sees now is whole.
        for message in server.messages("bob").values():
            length = 200_000 if message.rpartition(b"\n\n")[2].startswith(b"x" * 101) else 100
            assert message.endswith(b"\n\n" + b"x" * length + b"\n")
    server = servers.start()
    stored = server.messages("bob")
    found = Counter(subject(m) for m in stored.values())
    assert len(acknowledged) > 50
    assert acknowledged <= set(found) <= sent
    assert max(found.values()) == 1
    # Statuses without message have been cleaned away at the start, and numbers go on.
    assert visible(server.spool / "bob") == with_status(stored)
    with server.client() as client:
        client.ehlo()
        client.deliver()
    assert max(server.messages("bob")) == max(stored) + 1
    assert server.stop() == 0


def test_numbers_go_on_after_a_restart(servers: Servers) -> None:
    """Also when the reader has taken everything away meanwhile."""
    server = servers.start()
    deliver_many(server, 3, 1)
    assert server.stop() == 0
    for name in visible(server.spool / "bob"):
        (server.spool / "bob" / name).unlink()
    server = servers.start()
    deliver_many(server, 1, 1)
    assert set(server.messages("bob")) == {4}


# -- full disks


def tmpfs_server(servers: Servers, tmp_path: Path, size: str) -> tuple[Server, Path]:
    """A server with its spool on a small file system that only it has, and the path of the spool from here."""
    require.root()
    unshare = require.tool("unshare")
    spool = tmp_path / "small"
    spool.mkdir()
    mount = f'mount -t tmpfs -o size={size} none {spool} && exec "$@"'
    server = servers.start(
        "--min-free",
        "1",
        spool=spool,
        wrapper=[unshare, "--mount", "--propagation", "private", "sh", "-c", mount, "sh"],
    )
    server.spool = Path(f"/proc/{server.pid}/root{spool}")
    return server, server.spool


def test_a_disk_that_is_nearly_full(servers: Servers, tmp_path: Path) -> None:
    """452 at MAIL, before a client sends anything in vain; also for what it announces."""
    spool = tmp_path / "spool"
    spool.mkdir()
    free = os.statvfs(spool)
    room = free.f_bavail * free.f_frsize
    with servers.start("--min-free", str(room * 10)).client() as client:
        client.ehlo()
        client.expect("MAIL FROM:<a@b.test>", 452, "4.3.1")
    options = ["--min-free", str(room - 10**9), "--max-size", "900G", "--queue", str(tmp_path / "queue")]
    with servers.start(*options).client() as client:
        client.ehlo()
        client.expect("MAIL FROM:<a@b.test> SIZE=800000000000", 452, "4.3.1")
        client.transaction()
        assert client.data(b"x\r\n").code == 250


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
def test_full_disk(servers: Servers, tmp_path: Path, verb: str) -> None:
    """452 4.3.1; what is stored stays as it is; nothing half-written is visible; with room again, all is well."""
    server, spool = tmpfs_server(servers, tmp_path, "3M")
    content = b"Subject: large\r\n\r\n" + b"x" * 70 * 10_000 + b"\r\n"
    with server.client() as client:
        client.ehlo()
        codes = []
        for _ in range(8):
            client.transaction()
            if verb == "DATA":
                answer = client.data(content)
            else:
                client.send(b"BDAT %d LAST\r\n%s" % (len(content), content))
                answer = client.read()
            codes.append((answer.code, answer.enhanced))
            stored = read_mailbox(spool / "bob")
            assert len(stored) == codes.count((250, "2.0.0"))
            assert all(m.endswith(b"x\n") and len(m) > 700_000 for m in stored.values())
        assert set(codes) == {(250, "2.0.0"), (452, "4.3.1")}
        for path in (spool / "bob").iterdir():
            if path.name[0] != ".":
                path.unlink()
        client.transaction()
        assert client.data(content).code == 250
        client.command("QUIT")
    assert len(read_mailbox(spool / "bob")) == 1
    assert server.events_named("message.failed")
    assert server.events_named("session.error") == []


def test_large_files_forbidden(servers: Servers) -> None:
    """A limit on the size of files (RLIMIT_FSIZE) is told to the client as a lack of room, without root too."""
    prlimit = require.tool("prlimit", "util-linux")
    server = servers.start(wrapper=[prlimit, "--fsize=300000:300000"])
    with server.client() as client:
        client.ehlo()
        client.transaction()
        answer = client.data(b"x" * 400_000 + b"\r\n")
        assert (answer.code, answer.enhanced) == (452, "4.3.1")
        assert server.messages("bob") == {}
        assert client.deliver().code == 250


def test_spool_that_became_unusable(servers: Servers) -> None:
    """Any other fault of the disk is 451 4.3.0, and the server lives on."""
    server = servers.start()
    with server.client() as client:
        client.ehlo()
        client.transaction("bob@dom.fr")
        (server.spool / "bob").write_text("in the way")
        answer = client.data(b"x\r\n")
        assert (answer.code, answer.enhanced) == (451, "4.3.0")
        (server.spool / "bob").unlink()
        client.transaction("bob@dom.fr", "carol@dom.fr")
        assert client.data(b"x\r\n").code == 250


# -- a mailbox that is broken, by its owner say


def break_with_fifo(bob: Path) -> None:
    (bob / ".mh_sequences").unlink()
    os.mkfifo(bob / ".mh_sequences")


def break_with_fifo_for_lock(bob: Path) -> None:
    (bob / ".lock").unlink()
    os.mkfifo(bob / ".lock")


def break_with_link(bob: Path) -> None:
    (bob / ".lock").unlink()
    (bob / ".lock").symlink_to("../carol/.lock")


def break_with_link_for_mailbox(bob: Path) -> None:
    shutil.rmtree(bob)
    bob.symlink_to("carol")


@pytest.mark.parametrize(
    "trick", [break_with_fifo, break_with_fifo_for_lock, break_with_link, break_with_link_for_mailbox]
)
def test_a_broken_mailbox_harms_nobody_else(servers: Servers, trick: Callable[[Path], None]) -> None:
    """451 for its recipients, with the reason in the log; others get theirs; the server stops and starts again."""
    server = servers.start()
    with server.client() as client:
        client.ehlo()
        client.transaction("bob@dom.fr", "carol@dom.fr")
        assert client.data(b"x\r\n").code == 250
        trick(server.spool / "bob")
        time.sleep(1.1)  # what was found well stays so for a second
        client.expect("MAIL FROM:<a@b.test>", 250)
        answer = client.command("RCPT TO:<bob@dom.fr>")
        assert (answer.code, answer.enhanced) == (451, "4.3.0")
        assert "bob" in server.wait_event("mailbox.unavailable", recipient="bob@dom.fr")["error"]
        client.expect("RCPT TO:<carol@dom.fr>", 250)
        assert client.data(b"x\r\n").code == 250
    assert server.stop() == 0
    again = servers.start()
    with again.client() as client:
        client.ehlo()
        client.transaction("carol@dom.fr")
        assert client.data(b"x\r\n").code == 250
    assert sorted(again.messages("carol")) == [1, 2, 3]
    assert again.events_named("session.error") == server.events_named("session.error") == []
    assert again.stop() == 0
    assert again.other_output == []


def test_a_mailbox_on_a_read_only_mount(servers: Servers, tmp_path: Path) -> None:
    """The same, also for a start on it, and while it is in use."""
    require.root()
    unshare = require.tool("unshare")
    spool = tmp_path / "spool"
    bob = spool / "bob"
    bob.mkdir(parents=True, mode=0o700)
    mount = f'mount --bind {bob} {bob} && mount -o remount,bind,ro {bob} && exec "$@"'
    wrapper = [unshare, "--mount", "--propagation", "private", "sh", "-c", mount, "sh"]
    for round_ in (1, 2):
        server = servers.start("--retry-schedule", "1s", spool=spool, wrapper=wrapper)
        with server.client("network") as client:
            client.ehlo()
            client.expect("MAIL FROM:<a@b.test>", 250)
            client.expect("RCPT TO:<bob@dom.fr>", 451, "4.3.0")
            assert "Read-only" in server.wait_event("mailbox.unavailable", recipient="bob@dom.fr")["error"]
            client.expect("RCPT TO:<carol@dom.fr>", 250)
            assert client.data(b"x\r\n").code == 250
        assert server.stop() == 0
        assert server.events_named("session.error") == []
        assert sorted(server.messages("carol")) == list(range(1, round_ + 1))


def test_a_mailbox_that_breaks_meanwhile_gets_its_copy_later(servers: Servers) -> None:
    """The sender is not bothered: the queue keeps what could not be stored."""
    server = servers.start("--retry-schedule", "1s")
    with server.client("network") as client:
        client.ehlo()
        client.transaction("bob+x@dom.fr", "bob+y@dom.fr", "carol@dom.fr")
        (server.spool / "bob").write_text("in the way")
        answer = client.data(b"Subject: late\r\n\r\nx\r\n")
        assert answer.code == 250
        id_ = answer.text.split()[-1]
        assert len(server.messages("carol")) == 1
        assert "bob" in server.wait_event("message.late", id=id_, user="bob")["error"]
        server.wait_event("delivery.deferred", id=id_)
        (server.spool / "bob").unlink()
        server.wait_event("message.stored", id=id_, user="bob")
    (message,) = server.messages("bob").values()
    assert b"\nDelivered-To: bob+x@dom.fr\nDelivered-To: bob+y@dom.fr\nReceived: " in message
    assert message.endswith(b"Subject: late\n\nx\n")
    wait_until(lambda: not [p for p in (server.spool / ".queue").iterdir() if p.name[0] != "."])


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
def test_many_small_segments(servers: Servers, certificate: Certificate, verb: str, tls: bool) -> None:
    """More pieces than the kernel takes at once, however they come."""
    server = servers.start(*certificate.options)
    content = b"Subject: x\r\n\r\n" + b"".join(b"%04d\r\n" % n for n in range(1000))
    with server.client("network") as client:
        if tls:
            client.ehlo()
            client.expect("STARTTLS", 220)
            client.start_tls(certificate.client_context(), certificate.name)
        client.ehlo()
        client.transaction()
        if verb == "DATA":
            client.expect("DATA", 354)
            for start in range(0, len(content), 5):
                client.send(content[start : start + 5])
            client.send(b".\r\n")
        else:
            pieces = [content[start : start + 5] for start in range(0, len(content), 5)]
            for piece in pieces:
                client.send(b"BDAT %d\r\n%s" % (len(piece), piece))
            client.send(b"BDAT 0 LAST\r\n")
            for _ in pieces:
                assert client.read().code == 250
        assert client.read().code == 250
    (message,) = server.messages("bob").values()
    assert message.endswith(content.replace(b"\r\n", b"\n"))


def test_more_than_one_transaction_may_store(server: Server) -> None:
    """What a client announces is counted for each mailbox: the rest goes in another transaction."""
    with server.client() as client:
        client.ehlo()
        client.expect("MAIL FROM:<a@b.test> SIZE=50000000", 250)
        for n in range(85):
            client.expect(f"RCPT TO:<user{n}@dom.fr>", 250)
        client.expect("RCPT TO:<user85@dom.fr>", 452, "4.5.3")
        assert client.data(b"x\r\n").code == 250
        client.expect("MAIL FROM:<a@b.test> SIZE=50000000", 250)
        for n in range(200):
            client.expect(f"RCPT TO:<bob+{n}@dom.fr>", 250)


def test_a_thousand_recipients_with_the_shipped_limits(servers: Servers) -> None:
    """As the unit ships them: 16384 descriptors; here far fewer do."""
    prlimit = require.tool("prlimit", "util-linux")
    server = servers.start("--processes", "1", wrapper=[prlimit, "--nofile=200:200"])
    users = [f"user{n}@dom.fr" for n in range(1000)]
    with server.client(timeout=120) as client:
        client.ehlo()
        client.transaction(*users)
        assert client.data(b"Subject: x\r\n\r\n" + b"x" * 200 + b"\r\n").code == 250
    assert sum(1 for path in server.spool.glob("user*/1")) == 1000


# -- any content


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """One server for all examples."""
    with Servers(tmp_path_factory.mktemp("lasting")) as servers, servers.start().client("network") as client:
        client.ehlo()
        yield servers, client


blocks = st.lists(
    st.binary(max_size=60)
    | st.sampled_from([b"\r\n", b"\n", b"\r", b".", b"\r\n.", b"\r\n.\r\n", b"x" * 70_000, b"\r\n" * 50_000]),
    max_size=8,
)


@settings(max_examples=40)
@given(blocks)
def test_any_content_is_stored_as_sent(lasting: tuple[Servers, Client], parts: list[bytes]) -> None:
    """Through BDAT as it is, through DATA with its lines; in memory or streamed to disk."""
    servers, client = lasting
    server = servers._made[0]
    content = b"".join(parts)

    def stored(data: bytes) -> bytes:
        text = data.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\0", b" ")
        return separator(text) + text

    client.transaction()
    half = len(content) // 2
    client.send(b"BDAT %d\r\n%s" % (half, content[:half]))
    assert client.read().code == 250
    client.send(b"BDAT %d LAST\r\n%s" % (len(content) - half, content[half:]))
    answer = client.read()
    assert answer.code == 250
    assert newest(server, answer.text) == stored(content)

    client.transaction()
    stuffed = b"\r\n".join(b"." + x if x.startswith(b".") else x for x in content.split(b"\r\n"))
    answer = client.data(stuffed + b"\r\n")
    assert answer.code == 250
    assert newest(server, answer.text) == stored(content + b"\r\n")


def newest(server: Server, reply: str) -> bytes:
    """The content of the message that this reply acknowledged; then it is removed."""
    number = server.wait_event("message.stored", id=reply.split()[-1])["number"]
    path = server.spool / "bob" / str(number)
    message = path.read_bytes()
    path.unlink()
    head = re.match(rb"Return-Path: [^\n]*\nDelivered-To: [^\n]*\nReceived: (?:[^\n]|\n\t)*\n", message)
    assert head, message[:300]
    return message[head.end() :]
