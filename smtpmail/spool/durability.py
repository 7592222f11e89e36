"""Which way a spool is made to survive a power cut: the one place that chooses.

With a journal, where the file systems are local ones on which syncfs(2) is known to do what fsync(2) does: ext4, xfs,
btrfs, f2fs. Else, over NFS or FUSE, where other hosts write, too: each file is synced, then named, then its folder is
synced. So are messages that are too large for the journal.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

from smtpmail import mounts
from smtpmail.log import log
from smtpmail.spool import restore
from smtpmail.spool.files import is_local, sync_file_system
from smtpmail.spool.folder import Folder
from smtpmail.spool.journal import Journal
from smtpmail.spool.journals import FOLDER, is_segment, live_generations, make_segments
from smtpmail.spool.lock import locked
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueError, QueueStore
from smtpmail.spool.record import Record
from smtpmail.spool.turns import Turns

LOCK_PATIENCE = 10.0
"""Seconds that files which are made anew wait for the lock of their mailbox."""


def recover(spool: str, queue: str, *, shared: bool = False) -> None:
    """Before anybody is served: what the journals tell is made so, and they are empty. Raises OSError, FormatError.

    `shared`: other hosts deliver into the spool, too.
    """
    done = restore.restore_queue(queue) if shared else restore.restore(spool, queue)
    if done.records:
        log.info("journal.replayed", records=done.records, files=done.files, kept=len(done.kept))


def recover_if_stopped(spool: str, queue: str, *, shared: bool = False) -> None:
    """For another program than the server: after a crash, and before the next start, what the journals tell is made so.

    Else the start would undo what the program does. Raises OSError, FormatError.
    """
    if has_records(queue):
        with contextlib.suppress(QueueError):
            # Until this process ends. If a server holds it, there is nothing to do.
            QueueStore(queue, shared=mounts.is_shared(queue)).claim()
            recover(spool, queue, shared=shared)


def prepare(spool: str, queue: str, processes: int, size: int) -> bool:
    """Makes the journals of so many processes, which takes time only at the first start; whether they can be used.

    All or none: what one process takes into the queue another one removes, and its journal must be able to tell.
    """
    file_systems = _file_systems(spool, queue) if size else []
    for fd in file_systems:
        os.close(fd)
    if not file_systems:
        return False
    folder = os.path.join(queue, FOLDER)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        for process in range(processes):
            make_segments(folder, str(process), size)
    except OSError as error:
        log.error("journal.failed", error=str(error), hint="each file is synced by itself until the next start")
        return False
    return True


def _file_systems(spool: str, queue: str) -> list[int]:
    """Descriptors of the file systems that a journal serves; none where there can't be one."""
    opened = [_open(path) for path in (queue, spool)]
    local = [fd for fd in opened if is_local(fd)]
    if local[:1] == opened[:1]:
        return local
    for fd in opened:
        os.close(fd)
    return []


def use_journal(spool: Spool, queue: QueueStore, process: int, size: int) -> Journal | None:
    """Gives spool and queue the journal of a process of the server, where that is the way; `start` it.

    `size`: octets that it may take on disk; 0 is none.
    """
    file_systems = _file_systems(spool.path, queue.path) if size else []
    if not file_systems:
        return None

    def rewrite(records: Sequence[Record]) -> None:
        restore.rewrite(spool.path, queue.path, records, lambda place: _hold(spool, place))

    journal = Journal(os.path.join(queue.path, FOLDER), str(process), size, file_systems, rewrite)
    queue.journal = journal
    # Of removals from a shared spool nothing is told either: by the next start they may be another host's business.
    spool.journal = None if spool.shared else journal
    # The lock of a mailbox is held through a sync: for so long the processes are in each other's way.
    with contextlib.suppress(OSError):
        spool.turns = Turns(queue.path)
    return journal


def has_records(queue: str) -> bool:
    """Whether the journals tell anything: a server runs, or has crashed. Raises OSError, FormatError."""
    return bool(live_generations(os.path.join(queue, FOLDER)))


def checkpoint(spool: str, queue: str, patience: float) -> bool:
    """Waits until what the journals tell now is in files on disk; whether it was within `patience` seconds.

    For another program than the server, whose journals they are. Raises OSError, FormatError.
    """
    for path in (spool, queue):
        fd = _open(path)
        try:
            if is_local(fd):
                sync_file_system(fd)
        finally:
            os.close(fd)
    folder = os.path.join(queue, FOLDER)
    before = live_generations(folder)
    give_up = time.monotonic() + patience
    while before & live_generations(folder):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def remove_others(queue: str, processes: int) -> None:
    """Removes journals, which must be empty, of processes that there are no more. Raises OSError."""
    folder = os.path.join(queue, FOLDER)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if is_segment(name) and int(name.partition(".")[0]) >= processes:
                os.unlink(os.path.join(folder, name))


@contextlib.contextmanager
def _hold(spool: Spool, place: str) -> Iterator[Folder]:
    user, _, below = place.partition("/")
    mailbox = spool.mailbox(user, below)
    folder = Folder(mailbox.path)
    try:
        with locked(folder, time.monotonic() + LOCK_PATIENCE):
            yield folder
    finally:
        folder.close()


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
