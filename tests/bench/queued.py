"""10,000 messages that wait in the queue when the server starts: until all have left; and what a full queue takes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.bench import load, processes
from tests.bench.servers import BenchError, Postfix, Smtpmail, free_port

MESSAGES = 10_000

Point = tuple[float, float]


def smtpmail(folder: Path, messages: int) -> tuple[float, list[Point]]:
    """Messages a second from the start on; memory (octets) against messages that wait. Raises BenchError."""
    port = free_port()
    options = ["--smarthost", f"127.0.0.1:{port}", "--resolver", "127.0.0.1:9"]
    server = Smtpmail(folder, *options)
    server.start()
    memory = [(0.0, float(processes.memory(server.pid).proportional))]
    try:
        for share in (messages // 10, messages - messages // 10):
            load.finish(load.source(server.port, "anybody@remote.example", share, 20, reuse=True))
            time.sleep(1)
            memory.append((memory[-1][0] + share, float(processes.memory(server.pid).proportional)))
    finally:
        server.stop()
    _make_due(folder / "spool/.queue")
    sink = load.Sink("127.0.0.1", port)
    begin = time.time()
    try:
        server.start()
        load.wait_until(sink.received, messages, interval=0.02, what="smtpmail's queue")
        return messages / (time.time() - begin), memory
    finally:
        server.stop()
        sink.stop()


def _make_due(queue: Path) -> None:
    """As if none had been tried yet: what waits after an attempt is spread over the minutes after a start."""
    for log in queue.glob("*.log"):
        log.unlink()


def postfix(folder: Path, messages: int) -> float:
    """Messages a second from the start on. Raises BenchError."""
    port = free_port()
    server = Postfix(folder, smarthost=port, defer_transports="smtp relay")
    try:
        server.start()
        load.finish(load.source(server.port, "anybody@remote.example", messages, 20, reuse=True))
        server.stop()
        server.change(defer_transports="")
        sink = load.Sink("127.0.0.1", port)
        try:
            begin = time.time()
            server.start()
            server.flush()
            load.wait_until(sink.received, messages, interval=0.02, what="Postfix's queue")
            return messages / (time.time() - begin)
        finally:
            sink.stop()
    finally:
        server.stop()


def run(folder: Path, rounds: int, messages: int) -> tuple[dict[str, list[float]], list[Point]]:
    """Rates of both, in turn, and smtpmail's memory."""
    rates: dict[str, list[float]] = {"smtpmail": [], "Postfix": []}
    memory: list[Point] = []
    for turn in range(rounds):
        os.sync()
        rate, memory = smtpmail(folder / f"smtpmail{turn}", messages)
        rates["smtpmail"].append(rate)
        os.sync()
        rates["Postfix"].append(postfix(folder / f"postfix{turn}", messages))
    if not all(rates.values()):
        raise BenchError("nothing was measured")
    return rates, memory
