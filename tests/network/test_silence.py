"""Servers that say nothing cost the configured patience: not the worker, and nobody else's time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.faultserver import FaultServer, hang

from .conftest import IMPATIENT, ServeOne
from .lab import Lab
from .program import Program
from .test_faults import COMMAND_POINTS, NO_CHUNKING, RECIPIENT, deferred_then_delivered


@pytest.mark.parametrize("point", [*COMMAND_POINTS, "content"])
def test_silence(start_ours: Callable[..., Program], serve_one: ServeOne, point: str) -> None:
    """A reply that never comes costs the configured patience, not the worker."""
    server = serve_one({point: [hang()]}, extensions=NO_CHUNKING)
    ours = start_ours(*IMPATIENT, "--reply-timeout", "1s")
    content = b"Subject: large\r\n\r\n" + b"0123456789\r\n" * (400_000 if point == "content" else 1)
    deferred_then_delivered(ours, server, ours.submit(content, RECIPIENT))


def test_a_yes_whose_end_never_comes_is_one(start_ours: Callable[..., Program], serve_one: ServeOne) -> None:
    """The content was taken: sent again, it would be there twice."""
    server = serve_one({".": [hang(b"250-and\r\n")]}, extensions=NO_CHUNKING)
    ours = start_ours(*IMPATIENT, "--reply-timeout", "1s")
    sent = ours.post(RECIPIENT)
    ours.wait_for("delivery.succeeded", id=sent.id, recipient=RECIPIENT, timeout=40)
    assert not ours.events("delivery.deferred", id=sent.id)
    assert len(server.messages) == 1


@pytest.mark.parametrize("point", [point for point in COMMAND_POINTS if point != "."])
def test_half_a_reply_and_silence(start_ours: Callable[..., Program], serve_one: ServeOne, point: str) -> None:
    server = serve_one({point: [hang(b"250-and")]}, extensions=NO_CHUNKING)
    ours = start_ours(*IMPATIENT, "--reply-timeout", "1s")
    deferred_then_delivered(ours, server, ours.post(RECIPIENT))


def test_a_hanging_server_does_not_delay_another(
    start_ours: Callable[..., Program], serve_one: ServeOne, lab: Lab
) -> None:
    """More messages for a silent server than there are ways to it, then one for a living server."""
    serve_one({"connect": hang()})
    ours = start_ours()
    with FaultServer(listeners=[lab["sink"].listener("192.0.2.82")]) as living:
        lab["ours"].run(
            "smtp-source",
            "-m",
            "200",
            "-s",
            "10",
            "-f",
            "alice@dom.test",
            "-t",
            RECIPIENT,
            "-M",
            "localhost",
            "127.0.0.1:25",
        )
        sent = ours.post("bob@two.test")
        ours.wait_for("delivery.succeeded", id=sent.id, timeout=3)
        assert len(living.accepted) == 1


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_hundreds_of_dead_domains_beside_a_healthy_one(
    start_ours: Callable[..., Program], lab: Lab, known: bool
) -> None:
    """With the default limits. A destination that could be reached lately waits for none of them, a new one not for
    long: 600 of them delayed it by 90 s."""
    ours = start_ours("--retry-schedule", "1h")
    with FaultServer(listeners=[lab["sink"].listener("192.0.2.82")]) as living:
        if known:
            ours.wait_for("delivery.succeeded", id=ours.post("bob@two.test").id)
        for start in range(0, 600, 100):
            ours.post(*(f"bob@d{n}.blackholed.test" for n in range(start, start + 100)))
        sent = ours.post("bob@two.test")
        began = time.monotonic()
        ours.wait_for("delivery.succeeded", id=sent.id, timeout=60)
        # A machine that has more to do takes longer.
        assert time.monotonic() - began < (10 if known else 50)
        assert len(ours.events("delivery.deferred")) < 600, "it did not wait for all of them"
        assert len(living.accepted) == 1 + known


def test_name_servers_that_never_answer(start_ours: Callable[..., Program], lab: Lab) -> None:
    """A matter of time for their domain; for the other recipient of the message they do not matter."""
    ours = start_ours("--retry-schedule", "1h")
    with FaultServer(listeners=[lab["sink"].listener("192.0.2.82")]):
        sent = ours.post("bob@silent.test", "bob@two.test")
        ours.wait_for("delivery.succeeded", id=sent.id, recipient="bob@two.test", timeout=3)
    assert ours.wait_for("delivery.deferred", id=sent.id, recipient="bob@silent.test", timeout=40)["reply"]
