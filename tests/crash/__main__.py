"""Many SIGKILLs under load, several servers side by side: `PYTHONPATH=tests python -m tests.crash --help`."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import click

from tests.crash.lives import JOURNALS, Tally, live

LIFE = 25
"""Kills of one spool: then a fresh one, so that looking through it takes no longer from kill to kill."""


@click.command()
@click.option("--kills", type=click.IntRange(1), default=1000, show_default=True, help="How many, under load.")
@click.option("--lanes", type=click.IntRange(1), help="Servers side by side. Default: two for each processor.")
@click.option("--seed", help="Of an earlier run, to do the same again as far as time and threads allow.")
@click.option(
    "--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path), default="/var/tmp",
    show_default=True, help="Where the spools lie; those that failed stay there.",
)  # fmt: skip
def main(kills: int, lanes: int | None, seed: str | None, parent: Path) -> None:
    """Kill servers under load, look at what they have promised, and say how many there were.

    Exits with 1 when anything was lost, doubled, half there or moved. A thousand take about a quarter of an hour on
    two processors with nothing else to do.
    """
    seed = seed or str(random.SystemRandom().randrange(10**6))
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="smtpmail-kills-", dir=parent))
    lives = [min(LIFE, kills - first) for first in range(0, kills, LIFE)]
    total, failed, begin = Tally(), 0, time.monotonic()
    # Each in an interpreter of its own: clients of several servers in one would be in each other's way.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(lanes or 2 * (os.cpu_count() or 1), context, max_tasks_per_child=1) as pool:
        running = {
            pool.submit(live, folder / str(n), f"{seed}.{n}", count, JOURNALS[n % len(JOURNALS)]): n
            for n, count in enumerate(lives)
        }
        for life in as_completed(running):
            number = running[life]
            try:
                total += life.result()
            except Exception:
                failed += 1
                print(f"LIFE {number} FAILED (journal {JOURNALS[number % len(JOURNALS)]}; {folder / str(number)}):")
                traceback.print_exc(file=sys.stdout)
            print(f"{(time.monotonic() - begin) / 60:.1f} min, seed {seed}: {total}", flush=True)
    if failed:
        sys.exit(f"{failed} of {len(lives)} lives failed, see above; the rest: {total}")
    shutil.rmtree(folder)
    print(f"all well: {total}")


if __name__ == "__main__":
    main(prog_name="python -m tests.crash")
