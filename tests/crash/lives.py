"""The lives of a spool: a server is killed under load again and again, and what it has promised is looked at."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from support.faultserver import FaultServer
from support.server import Server, Servers, wait_until

from tests.crash.load import REMOTE, TOKEN, Book, Checker, Load, arrived, check_sink, options

JOURNALS = ("16M", "16M", "1M", "0")
"""One that is never full, one that always is, and none."""

AT_REPLAY = 3
"""Kills at the end of a life, in the middle of a start."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What one life, or several, came to."""

    kills: int = 0
    """Under load."""
    at_start: int = 0
    """Kills of a server that was starting."""
    accepted: int = 0
    """Messages; each was found whole, once, under one number, or had left."""
    again: int = 0
    """Messages to the outside that were on their way at a kill, and were sent once more."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.kills + other.kills, self.at_start + other.at_start,
            self.accepted + other.accepted, self.again + other.again,
        )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.kills} kills under load and {self.at_start} during a start: {self.accepted} messages accepted, "
            f"none lost, none doubled ({self.again} to the outside were on their way at a kill and went once more)"
        )


def live(folder: Path, seed: str, kills: int, journal: str) -> Tally:
    """Kills a server so often under load.

    Fails when anything that was accepted is lost, doubled, half there, or has another number than before.
    """
    folder.mkdir(exist_ok=True)
    chance = random.Random(seed)
    book = Book()
    checker = Checker(folder / "spool", book)
    with Servers(folder) as servers, FaultServer() as sink:
        words = ["--journal-size", journal, *options(sink)]
        gone = Gone(folder / "spool/.queue", sink)
        for round_ in range(kills):
            server = servers.start(*words)
            checker.check()
            load = Load(server, book, round_)
            # Sometimes at once, sometimes in full flow, sometimes in the middle of a checkpoint.
            if chance.random() < 0.8:
                wait_until(lambda: load.accepted >= 5, 120)  # noqa: B023
            time.sleep(chance.choice([chance.uniform(0, 0.05), chance.uniform(0, 0.3), chance.uniform(0, 0.3)]))
            _kill(server, chance)
            load.join()
            checker.check(restarted=False)
            gone.note()
        for _ in range(AT_REPLAY):
            starting = servers.launch(*words)
            time.sleep(chance.uniform(0.2, 0.8))
            starting.kill()
        server = servers.start(*words)
        checker.check()
        wait_until(lambda: not _waiting(folder / "spool/.queue"), 180)
        assert server.stop() == 0
        checker.forget()
        again = check_sink(sink, book, kills + AT_REPLAY)
        gone.check()
    assert book.count() > 2 * kills, "it was under load"
    return Tally(kills, AT_REPLAY, book.count(), again)


def _kill(server: Server, chance: random.Random) -> None:
    """All processes of the server; or one of them, and the others when they have noticed."""
    which = chance.random()
    if which < 0.3:
        processes = server.processes()
        with contextlib.suppress(ProcessLookupError):
            os.kill(processes[0] if which < 0.15 else processes[-1], signal.SIGKILL)
        time.sleep(chance.uniform(0, 0.2))
    server.kill()


class Gone:
    """Messages that had left: taken by the other side, and no longer in the queue after a crash. None goes again."""

    def __init__(self, queue: Path, sink: FaultServer) -> None:
        self._queue = queue
        self._sink = sink
        self._counts: dict[str, int] = {}
        """How often it had been sent by then."""

    def note(self) -> None:
        """When the server is dead."""
        contents = [(self._queue / name).read_bytes() for name in _waiting(self._queue)]
        waiting = {found[1].decode() for content in contents if (found := re.search(TOKEN, content))}
        for token, count in arrived(self._sink).items():
            if token not in waiting:
                self._counts.setdefault(token, count)

    def check(self) -> None:
        """Fails when one of them was sent again."""
        counts = arrived(self._sink)
        again = [token for token, count in self._counts.items() if counts[token] != count]
        assert not again, f"had left for {REMOTE} and were sent again: {again[:9]}"


def _waiting(queue: Path) -> list[str]:
    """The names of what is in the queue, logs left out."""
    return [name for name in os.listdir(queue) if not name.startswith(".") and not name.endswith(".log")]
