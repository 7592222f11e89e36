"""The queue of the real program through crashes, pauses and crowds."""

from __future__ import annotations

import random
import socket
import threading
import time
from pathlib import Path

from support.client import Client
from support.faultserver import FaultServer, hang, late, say
from support.outbound import item
from support.server import Server, Servers, wait_until

from smtpmail.mail.queued import encode_envelope


def options(port: int, *more: str) -> list[str]:
    return ["--smarthost", f"127.0.0.1:{port}", "--resolver", "127.0.0.1:1", "--reply-timeout", "5",
            "--retry-schedule", "1s", *more]  # fmt: skip


def waiting(server: Server) -> list[str]:
    folder = server.spool / ".queue"
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.suffix != ".log")


def submit(server: Server, recipient: str = "bob@one.test", message_id: str = "1", body: bytes = b"x\r\n") -> str:
    with server.client() as client:
        client.begin(recipient, sender="alice@dom.fr")
        return client.data(f"Message-ID: <{message_id}>\r\nSubject: x\r\n\r\n".encode() + body).text.split()[-1]


def put_many(folder: Path, count: int, log: bytes = b"") -> None:
    """Messages as they lie in the queue after a long pause."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        made = item(f"{number}@one.test", "second@one.test")
        (folder / made.id).write_bytes(encode_envelope(made) + b"Message-ID: <%d>\nSubject: x\n\nx\n" % number)
        if log:
            (folder / f"{made.id}.log").write_bytes(log)


class Load:
    """Clients that send one message after the other and remember which were acknowledged."""

    def __init__(self, acknowledged: list[str], name: str, server: Server) -> None:
        self._acknowledged = acknowledged
        self._address = server.address()
        self._name = name
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int) -> None:
        count = 0
        try:
            with Client(self._address) as client:
                client.ehlo()
                while True:
                    message_id = f"{self._name}.{number}.{count}"
                    client.transaction("bob@one.test", "carol@two.test", sender="alice@dom.fr")
                    if client.data(f"Message-ID: <{message_id}>\r\n\r\nx\r\n".encode()).code == 250:
                        self._acknowledged.append(f"<{message_id}>")
                    count += 1
        except Exception:  # the server has been killed
            return

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)


def test_killed_at_random_moments_under_load(servers: Servers) -> None:
    """Everything acknowledged arrives; again only what was on its way at the moment of a kill."""
    moments = random.Random(3)
    acknowledged: list[str] = []
    kills, at_once = 5, 10
    with FaultServer({".": [say("451 4.3.0 not yet") if n % 5 == 0 else None for n in range(400)]}) as sink:
        for kill in range(kills):
            server = servers.start(*options(sink.address[1]), environment={"PYTHONUNBUFFERED": "1"})
            load = Load(acknowledged, str(kill), server)
            time.sleep(moments.uniform(0.2, 0.9))
            server.kill()
            load.join()
        server = servers.start(*options(sink.address[1]))
        wait_until(lambda: not waiting(server), 60)
        server.stop()
    assert len(acknowledged) > 50, "it was under load"
    arrived = sink.deliveries
    missing = [m for m in acknowledged for r in ("bob@one.test", "carol@two.test") if not arrived[r, m]]
    assert missing == []
    # Whoever sends the next message over a connection has taken note of the one before: that is never sent again.
    sent = [[m.message_id for m in session.messages if m.acknowledged] for session in sink.sessions]
    for number, ids in enumerate(sent):
        later = {message_id for others in sent[number + 1 :] for message_id in others}
        assert not later.intersection(ids[:-1])
    assert sum(arrived.values()) - len(arrived) <= 2 * kills * at_once
    assert sink.violations == []


def test_tried_again_when_the_other_side_is_back(servers: Servers) -> None:
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    server = servers.start(*options(reserved.getsockname()[1]))
    ids = [submit(server, message_id=str(n)) for n in range(3)]
    for id_ in ids:
        deferred = server.wait_event("delivery.deferred", id=id_)
        assert "refused" in deferred["reply"].lower() and deferred["attempt"] == 1
    assert waiting(server) == sorted(ids)
    reserved.listen()
    with FaultServer(listeners=[reserved]) as sink:
        sink.wait_until(lambda s: len(s.accepted) == 3)
        wait_until(lambda: not waiting(server))
    assert sorted(sink.deliveries.values()) == [1, 1, 1]
    wait_until(lambda: not list((server.spool / ".queue").glob("*.log")))


def test_a_start_with_many_overdue_messages(servers: Servers, tmp_path: Path) -> None:
    """They are spread over a while, with few connections."""
    put_many(tmp_path / "spool" / ".queue", 60, b'{"attempts": 3, "next_attempt": 1000.0}\n')
    with FaultServer() as sink:
        server = servers.start(*options(sink.address[1]))
        began = time.monotonic()
        assert server.wait_event("queue.loaded")["messages"] == 60
        sink.wait_until(lambda s: len(s.accepted) == 60, 20)
        assert time.monotonic() - began > 1
        assert sink.peak_sessions <= 10
        wait_until(lambda: not waiting(server))
    assert set(sink.deliveries.values()) == {1}


def test_ten_thousand_messages_in_bounded_memory(servers: Servers, tmp_path: Path) -> None:
    """All of them at once in line for a server that never answers: the worst case."""
    with FaultServer({"EHLO": hang()}) as sink:
        empty = servers.start(*options(sink.address[1]), "--processes", "1", spool=tmp_path / "empty")
        at_rest = empty.resident()
        empty.stop()
        put_many(tmp_path / "spool" / ".queue", 10_000)
        server = servers.start(*options(sink.address[1], "--reply-timeout", "120"), "--processes", "1")
        sink.wait_until(lambda s: s.sessions, 30)
        time.sleep(2)
        resident = server.resident()
        began = time.monotonic()
        submit(server, "bob@dom.fr")
        assert time.monotonic() - began < 3, "others are served meanwhile"
        server.kill()
    print(f"at rest {at_rest >> 20} MiB, with 10,000 messages {resident >> 20} MiB")
    assert sink.peak_sessions <= 10
    assert resident - at_rest < 24 * 1024**2


def test_a_graceful_stop_during_a_delivery(servers: Servers) -> None:
    with FaultServer({".": late(1.0)}) as sink:
        server = servers.start(*options(sink.address[1]))
        submit(server)
        sink.wait_until(lambda s: s.messages)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert waiting(server) == [], "what the other side has is no longer ours"
        again = servers.start(*options(sink.address[1]))
        time.sleep(0.5)
        again.stop()
    assert len(sink.messages) == 1


def test_a_stop_does_not_wait_for_who_never_answers(servers: Servers) -> None:
    with FaultServer({"MAIL": hang()}) as sink:
        server = servers.start(*options(sink.address[1], "--reply-timeout", "3"))
        id_ = submit(server)
        sink.wait_until(lambda s: s.sessions and "MAIL" in s.sessions[0].verbs)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20
    assert waiting(server) == [id_]


def test_left_behind_by_a_crash(servers: Servers, tmp_path: Path) -> None:
    """Logs without a message, cut lines, junk and foreign files: the server starts and sends what there is to send."""
    folder = tmp_path / "spool" / ".queue"
    put_many(folder, 3, b'{"recipient": 1, "state": "delivered"}\n{"recipient": 0, "sta')
    (folder / "0660000000000000000.log").write_text("{}\n")
    (folder / "README").write_text("what is this?")
    (folder / "syslog.log").write_text("foreign")
    junk, made = "0660000000000000001", "0660000000000000002"
    (folder / junk).write_bytes(b"\0" * 100)
    (folder / made).mkdir()
    with FaultServer() as sink:
        server = servers.start(*options(sink.address[1]))
        sink.wait_until(lambda s: len(s.accepted) == 3)
        wait_until(lambda: waiting(server) == [junk, made, "README"])
        unreadable = {e["id"] for e in server.events_named("queue.unreadable")}
    assert sorted(r for m in sink.accepted for r in m.recipients) == ["0@one.test", "1@one.test", "2@one.test"]
    assert unreadable == {junk, made}
    assert (folder / "README").exists() and (folder / "syslog.log").exists(), "they are not ours"
    assert not (folder / "0660000000000000000.log").exists()


def test_a_bounce_outlives_a_crash(servers: Servers) -> None:
    """Killed while it is being told: the sender hears of the failure all the same."""
    with FaultServer({"RCPT": say("550 5.1.1 no")}) as sink:
        moments = random.Random(4)
        for _ in range(3):
            server = servers.start(*options(sink.address[1]))
            submit(server)
            time.sleep(moments.uniform(0, 0.02))
            server.kill()
        server = servers.start(*options(sink.address[1]))
        wait_until(lambda: not waiting(server))
        reports = len(server.messages("alice"))
    assert 3 <= reports <= 6
