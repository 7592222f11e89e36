"""SIGKILL to all processes at random moments under load: nothing acknowledged is lost, doubled or half there.

SMTPMAIL_KILLS: how many; a few in CI, 1,000 with `make test-crash`.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from support.faultserver import FaultServer
from support.server import Servers, wait_until

from tests.crash.load import Book, Checker, Load, check_sink, options

KILLS = int(os.environ.get("SMTPMAIL_KILLS", "8"))
SEED = int(os.environ.get("SMTPMAIL_SEED", str(random.SystemRandom().randrange(10**6))))


def empty(servers_spool: os.PathLike[str]) -> bool:
    """Whether nothing waits in the queue."""
    return not [n for n in os.listdir(os.path.join(servers_spool, ".queue")) if not n.startswith(".")]


@pytest.mark.parametrize("journal", ["16M", "1M", "0"])
def test_killed(servers: Servers, journal: str) -> None:
    """With a journal that is never full, one that always is, and none."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    book = Book()
    kills = KILLS if journal == "16M" else max(2, KILLS // 4)
    with FaultServer() as sink:
        checker = None
        for round_ in range(kills):
            server = servers.start("--journal-size", journal, *options(sink))
            checker = checker or Checker(server.spool, book)
            checker.check()
            load = Load(server, book, round_)
            # Sometimes at once, sometimes in full flow, sometimes in the middle of a checkpoint.
            if rng.random() < 0.8:
                wait_until(lambda: load.accepted >= 5, 60)  # noqa: B023
            time.sleep(rng.choice([rng.uniform(0, 0.1), rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.6)]))
            server.kill()
            load.join()
            checker.check(restarted=False)
        # In the middle of a replay, too.
        for _ in range(3):
            server = servers.launch("--journal-size", journal, *options(sink))
            time.sleep(rng.uniform(0.2, 0.6))
            server.process.kill()
            server.process.wait()
        server = servers.start("--journal-size", journal, *options(sink))
        assert checker is not None
        checker.check()
        wait_until(lambda: empty(server.spool), 120)
        assert server.stop() == 0
        checker.forget()
        surplus = check_sink(sink, book, kills + 3)
    assert book.count() > 3 * kills, "it was under load"
    print(f"{kills} kills, journal {journal}: {book.count()} accepted, none lost, none doubled; sent again {surplus}")
