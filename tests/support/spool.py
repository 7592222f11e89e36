"""Delivers into a spool without a server: the one place that knows how."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smtpmail.spool.commit import commit
from smtpmail.spool.durability import use_journal
from smtpmail.spool.journal import Journal
from smtpmail.spool.mailbox import Copy, Spool
from smtpmail.spool.queue import QueueStore

HEADER = b"Return-Path: <alice@example.org>\n"


def deliver(
    spool: Spool, *users: str, content: bytes = b"Subject: x\n\nx\n", pieces: int = 1, folder: str = ""
) -> list[int]:
    """Stores a message for the users; the numbers it got. Raises OSError."""
    copies = [Copy(user, HEADER + b"Delivered-To: %s@dom.fr\n" % user.encode(), folder) for user in users]
    message = spool.content()
    try:
        step = max(1, -(-len(content) // pieces))
        for start in range(0, len(content), step):
            message.write(content[start : start + step])
        drafts = spool.prepare(message, copies)
        try:
            commit(drafts)
            return [draft.number for draft in drafts]
        finally:
            for draft in drafts:
                draft.close()
    finally:
        message.close()


def with_journal(spool: Spool, queue: QueueStore | None = None, size: int = 1 << 20) -> Journal:
    """Gives the spool (and the queue) a journal that is ready, but keeps no checkpoints by itself."""
    if queue is None:
        queue = QueueStore(os.path.join(spool.path, ".queue"))
        os.makedirs(queue.path, exist_ok=True)
    journal = use_journal(spool, queue, 0, size)
    assert journal is not None, "tests need a local file system under the temporary folder"
    journal.prepare()
    return journal


def visible(folder: Path) -> set[str]:
    """What a reader sees: everything whose name is not hidden."""
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.is_dir() else set()


def with_status(numbers: Iterable[int]) -> set[str]:
    """The names of messages and their statuses."""
    return {name for n in numbers for name in (str(n), f"{n}.status")}


def _hold(path: str, locked, release) -> None:  # type: ignore[no-untyped-def]
    import fcntl

    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        locked.set()
        release.wait(60)


@contextmanager
def locked_by_another_process(lock: Path) -> Iterator[None]:
    """Holds the lock of a mailbox as another program would, in the way the contract says."""
    context = multiprocessing.get_context("spawn")
    locked, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(lock), locked, release))
    process.start()
    try:
        assert locked.wait(20)
        yield
    finally:
        release.set()
        process.join(20)


def token_of_whole(folder: Path, number: int, pattern: re.Pattern[bytes], body: Callable[[str], bytes]) -> str:
    """The token in a stored message, which tells what its body must be; fails when message or state are not whole."""
    text = (folder / str(number)).read_bytes()
    found = pattern.search(text)
    assert found, f"{folder}/{number} is not whole: {text[:300]!r}"
    token = found[1].decode()
    assert text.endswith(b"\n\n" + body(token) + b"\n"), f"{folder}/{number} is not whole"
    assert (folder / f"{number}.status").read_bytes() == b"\\Recent\n", f"{folder}/{number}.status"
    return token
