"""What one process of the server has taken gets to the one that runs the queue, over a pair of sockets."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.outbound.handover import LARGEST, Handover


def item(recipients: int) -> Item:
    to = [QueuedRecipient(f"user{n}@elsewhere.example", ("SUCCESS",)) for n in range(recipients)]
    return Item("0661250853b876c864a", 1234.5, "alice@dom.fr", to, size=4096, eightbit=True, content_offset=0)


@pytest.mark.parametrize("recipients", [1, 10])
def test_an_envelope_arrives_whole(recipients: int) -> None:
    handover, came = Handover(), queue.SimpleQueue[Any]()
    threading.Thread(target=handover.run, args=(came.put, came.put), daemon=True).start()
    sent = item(recipients)
    handover.put(sent)
    got = came.get(timeout=30)
    assert got.content_offset > 0  # where the message begins in its file, behind the envelope
    got.content_offset = 0
    assert got == sent


def test_of_a_large_one_the_name_is_enough() -> None:
    handover, came = Handover(), queue.SimpleQueue[Any]()
    threading.Thread(target=handover.run, args=(came.put, came.put), daemon=True).start()
    handover.put(item(LARGEST // 50))
    assert came.get(timeout=30) == "0661250853b876c864a"
