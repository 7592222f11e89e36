"""The queue outlives the program: after a stop, and after SIGKILL at any moment."""

from __future__ import annotations

import random
import smtplib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faultserver import FaultServer, say

from .conftest import IMPATIENT
from .lab import Lab
from .program import Program

RECIPIENT = "bob@one.test"
KILLS = 8
CLIENTS = 6


@pytest.fixture
def program(lab: Lab, tmp_path: Path) -> Iterator[Program]:
    """smtpmail, not yet started."""
    program = Program(lab["ours"], tmp_path, *IMPATIENT)
    yield program
    program.stop()


def test_what_was_deferred_is_delivered_after_a_restart(program: Program, lab: Lab) -> None:
    with FaultServer({"MAIL": say("451 4.3.0 later")}, listeners=[lab["sink"].listener("192.0.2.81")]) as server:
        program.start()
        sent = program.post(RECIPIENT, "carol@dom.test")
        program.wait_for("delivery.deferred", id=sent.id)
        assert program.stop() == 0
        server.script.clear()
        program.start()
        program.wait_for("delivery.succeeded", id=sent.id, recipient=RECIPIENT)
        assert [message.recipients for message in server.accepted] == [[RECIPIENT]]
    assert len(program.mailbox("carol")) == 1


def test_progress_per_recipient_survives_a_kill(program: Program, lab: Lab) -> None:
    """Whoever has the message does not get it again."""
    script = {f"RCPT late{number}@one.test": say("450 4.2.0 later") for number in range(3)}
    names = [f"{when}{number}@one.test" for when in ("late", "soon") for number in range(3)]
    with FaultServer(script, listeners=[lab["sink"].listener("192.0.2.81")]) as server:
        program.start()
        sent = program.post(*names)
        for name in names[3:]:
            program.wait_for("delivery.succeeded", id=sent.id, recipient=name)
        # The second try shows that the outcome of the first is on disk.
        for name in names[:3]:
            program.wait_for("delivery.deferred", id=sent.id, recipient=name, attempt=2)
        program.kill()
        server.script.clear()
        program.start()
        for name in names[:3]:
            program.wait_for("delivery.succeeded", id=sent.id, recipient=name)
        assert set(server.deliveries.values()) == {1}
        assert sorted(recipient for recipient, _ in server.deliveries) == sorted(names)


class Client(threading.Thread):
    """Sends messages one after the other, whatever happens to the server; remembers what was acknowledged."""

    def __init__(self, lab: Lab, number: int) -> None:
        super().__init__()
        self._host = lab["ours"]
        self._number = number
        self.acknowledged: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        self._host.call(self._send_all)

    def _send_all(self) -> None:
        sent = 0
        while not self.enough.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", 25, "localhost", 10) as client:
                    while not self.enough.is_set():
                        sent += 1
                        message_id = f"<{self._number}.{sent}@dom.test>"
                        content = f"Message-ID: {message_id}\r\nSubject: under load\r\n\r\nx\r\n".encode()
                        client.sendmail("alice@dom.test", [RECIPIENT, "bob@dom.test"], content)
                        self.acknowledged.append(message_id)
            except (OSError, smtplib.SMTPException):
                time.sleep(0.02)


def test_killed_at_random_moments_under_load(program: Program, lab: Lab) -> None:
    """Everything acknowledged arrives, outside and in the local mailbox; twice only what was on the wire at a kill."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    clients = [Client(lab, number) for number in range(CLIENTS)]
    with FaultServer(listeners=[lab["sink"].listener("192.0.2.81")]) as server:
        program.start()
        for client in clients:
            client.start()
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.05, 0.5))
            program.kill()
            program.start()
        for client in clients:
            client.enough.set()
        for client in clients:
            client.join(30)
        acknowledged = {message_id for client in clients for message_id in client.acknowledged}
        assert len(acknowledged) > 10 * KILLS
        server.wait_until(lambda it: acknowledged <= {message_id for _, message_id in it.deliveries}, timeout=60)
        assert program.stop() == 0
        assert server.violations == []
        twice = sum(count - 1 for count in server.deliveries.values())
        assert twice <= KILLS * server.peak_sessions
    stored = [message["Message-ID"] for message in program.mailbox("bob")]
    assert acknowledged <= set(stored)
