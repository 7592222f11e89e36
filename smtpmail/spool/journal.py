"""The journal of one process: what it promises is appended here with one sync; the files themselves follow later.

A record lasts once `Entry.sync` has returned. Then names are put in place, and then a client is answered; what is in
place stands in the page cache, and the records bring it back after a power cut (replay.py). Every few seconds, or when
a segment is full, a thread in the background has the file systems written out (syncfs(2)) and forgets the records
that this has made needless. Nobody ever waits for that: while one segment is written out, another takes the records,
and when there is no room at all, `enter` says so and the caller syncs its files itself.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from smtpmail.log import log
from smtpmail.spool.files import sync_file_system
from smtpmail.spool.journals import live_generations, segment_paths, segment_size
from smtpmail.spool.record import Kind, Record
from smtpmail.spool.segment import Segment

REMOVALS = (Kind.REMOVED, Kind.CANCELLED, Kind.FINISHED)

CHECKPOINT_SECONDS = 5.0
"""Seconds after which a record is no longer needed, for its file has been written out."""

RETRY_SECONDS = 5.0
"""Seconds until a checkpoint that failed is tried again."""

REMOVAL_PATIENCE = 5.0
"""Seconds that a removal without room waits for what is under way."""

LARGEST_SHARE = 4
"""A record may fill this part of a segment: larger messages are synced themselves."""

RESERVED_SHARE = 8
"""This part of a segment is for removals: they should find room when deliveries do not."""


@dataclass(slots=True, frozen=True)
class Carried:
    """Removals that must outlive their segment: a journal of another process may hold what they remove."""

    records: Sequence[Record]
    watch: frozenset[bytes]
    """The generations that held records elsewhere. When all are gone, the removals mean nothing any more."""


@dataclass(slots=True)
class _Use:
    """A segment in use."""

    segment: Segment
    since: float = 0.0
    """When the first record came (monotonic time)."""
    pending: int = 0
    """Entries whose names are not in place yet."""
    synced: int = 0
    """Up to where it is on disk."""
    removals: list[Record] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)


class Entry:
    """Records that were written; a context manager, to be left when what they describe is in place or given up."""

    __slots__ = ("_journal", "_use", "synced")

    def __init__(self, journal: Journal, use: _Use) -> None:
        self._journal = journal
        self._use = use
        self.synced = False
        """Whether `sync` has returned."""

    def sync(self) -> None:
        """Returns when the records are on disk. Raises OSError: then they may be, or not."""
        self._journal.sync()
        self.synced = True

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.settle(self._use)


class Journal:
    """One for each process. `file_systems` are descriptors of those that a checkpoint writes out.

    `rewrite` is called with the records of a segment whose files the disk did not take, and makes new ones, synced.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        size: int,
        file_systems: Iterable[int],
        rewrite: Callable[[Sequence[Record]], None],
    ) -> None:
        self._folder = folder
        self._name = name
        self._segment_size = segment_size(size)
        self.largest = self._segment_size // LARGEST_SHARE
        """Octets of the largest message that it takes."""
        self._file_systems = tuple(file_systems)
        self._devices = frozenset(os.fstat(fd).st_dev for fd in self._file_systems)
        self._rewrite = rewrite
        self._lock = threading.Lock()
        # What is waited for: a sync of another thread, the names of what is under way, work for the thread.
        self._synced = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._due = threading.Condition(self._lock)
        self._checkpoints = threading.Lock()
        self._active: _Use | None = None
        self._sealed: list[_Use] = []
        self._free: list[Segment] = []
        self._syncing = False
        self._wanted = 0
        self._done = 0
        self._failed = False
        self._stopping = False
        self._retry_at = 0.0
        self._thread: threading.Thread | None = None

    # -- life

    def prepare(self) -> None:
        """Makes the segments, which must hold nothing that is still needed. Raises OSError."""
        # Never what is above it: a queue whose file system has gone would come back empty.
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
        segments: list[Segment] = []
        try:
            for path in segment_paths(self._folder, self._name):
                segments.append(Segment(path, self._segment_size))
        except BaseException:
            for segment in segments:
                segment.close()
            raise
        with self._lock:
            self._free = segments
            self._use_next()

    def start(self) -> None:
        """Prepares, and keeps checkpoints in a thread."""
        try:
            self.prepare()
        except OSError as error:
            log.error("journal.failed", error=str(error), hint="each file is synced by itself until the next start")
            return
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def stop(self, patience: float = 10.0) -> bool:
        """A last checkpoint; whether the journal is empty then. It takes no more records.

        `patience` is for what is under way, in seconds; what has not ended by then stays in the journal.
        """
        with self._lock:
            self._stopping = True
            self._due.notify_all()
        if self._thread is not None:
            self._thread.join(patience)
        empty = self.checkpoint(patience)
        with self._lock:
            segments = [*self._free, *(use.segment for use in self._sealed)]
            if self._active is not None:
                segments.append(self._active.segment)
            self._active, self._free, self._sealed = None, [], []
            for segment in segments:
                segment.close()
        return empty

    # -- records

    def takes(self, device: int, size: int) -> bool:
        """Whether it carries messages of so many octets for a file system (st_dev)."""
        return size <= self.largest and device in self._devices

    def remove(self, records: Sequence[Record]) -> Entry | None:
        """Writes removals, not yet synced. There is room for them alone; if it is used up, this waits for a checkpoint.

        None when even then there is none, or the journal does not work: what is removed may come back after a crash.
        """
        entry = self.enter(records, reserve=0)
        if entry is None:
            self.checkpoint(REMOVAL_PATIENCE)
            entry = self.enter(records, reserve=0)
        return entry

    def enter(self, records: Sequence[Record], reserve: int | None = None) -> Entry | None:
        """Writes records, not yet synced; None when they find no room now, or the journal does not work."""
        if reserve is None:
            reserve = self._segment_size // RESERVED_SHARE
        with self._lock:
            use = self._active
            if use is None or self._failed:
                return None
            try:
                while not use.segment.write(records, reserve):
                    if use.segment.is_empty or not self._free:
                        return None
                    self._seal()
                    use = self._active
                    assert use is not None
            except OSError as error:
                self._fail(error)
                return None
            if not use.since:
                use.since = time.monotonic()
                self._due.notify()
            use.pending += 1
            use.removals += [r for r in records if r.kind in REMOVALS]
            self._wanted += 1
            return Entry(self, use)

    def settle(self, use: _Use) -> None:
        """What an entry describes is in place, or given up."""
        with self._lock:
            use.pending -= 1
            if not use.pending and use is not self._active:
                self._settled.notify_all()

    def sync(self) -> None:
        """Returns when everything that was written before the call is on disk: one sync for all who wait.

        Raises OSError.
        """
        with self._lock:
            wanted = self._wanted
            while self._done < wanted:
                if self._failed:
                    raise OSError("the journal has failed")
                if self._syncing:
                    self._synced.wait()
                    continue
                self._syncing = True
                reached = self._wanted
                uses = [use for use in (*self._sealed, self._active) if use and use.synced < use.segment.end]
                ends = [use.segment.end for use in uses]
                self._lock.release()
                failure = None
                try:
                    for use in uses:
                        use.segment.sync()
                except OSError as error:
                    failure = error
                finally:
                    self._lock.acquire()
                    self._syncing = False
                    self._synced.notify_all()
                if failure is not None:
                    self._fail(failure)
                    raise failure
                for use, end in zip(uses, ends, strict=True):
                    use.synced = max(use.synced, end)
                self._done = max(self._done, reached)

    # -- checkpoints

    def checkpoint(self, patience: float = 60.0) -> bool:
        """Writes out what the records describe, and forgets them; whether all that were there at the call are gone.

        `patience` is for what is under way, in seconds.
        """
        with self._checkpoints:
            well = self._write_out_sealed(patience)
            with self._lock:
                if self._active is not None and not self._active.segment.is_empty:
                    if not self._free:
                        return False
                    self._seal()
            return self._write_out_sealed(patience) and well

    def _write_out_sealed(self, patience: float) -> bool:
        with self._lock:
            uses = list(self._sealed)
        results = [self._write_out(use, patience) for use in uses]
        return all(results)

    def _write_out(self, use: _Use, patience: float) -> bool:
        with self._lock:
            # What is under way gets its names in a moment.
            if not self._settled.wait_for(lambda: not use.pending, patience):
                return False
            while self._syncing:
                self._synced.wait()
        # Looked at before the sync: so a segment that seems empty is so on disk, too, when this one is forgotten.
        watch = live_generations(self._folder, without=self._name)
        try:
            self._sync_files(use)
            carried = [Carried(c.records, c.watch & watch) for c in use.carried if c.watch & watch]
            if use.removals and watch:
                carried.append(Carried(_merged(use.removals), watch))
            if carried and not self._carry(carried):
                return False
            use.segment.renew()
        except OSError as error:
            log.error("journal.checkpoint_failed", error=str(error), hint="tried again; nothing is forgotten meanwhile")
            return False
        with self._lock:
            self._sealed.remove(use)
            if self._failed:
                use.segment.close()
            else:
                self._free.append(use.segment)
                if self._active is None:
                    self._use_next()
        return True

    def _sync_files(self, use: _Use) -> None:
        """Raises OSError."""
        try:
            for fd in self._file_systems:
                sync_file_system(fd)
        except OSError as error:
            # The kernel takes the pages for written now, and would say so when it is asked once more.
            log.error(
                "journal.rewriting", error=str(error), hint="the disk failed; files are made anew from the journal"
            )
            self._rewrite(use.segment.records())
            for fd in self._file_systems:
                sync_file_system(fd)

    def _carry(self, carried: Sequence[Carried]) -> bool:
        """Writes removals into the segment that is in use now; whether there was room. Raises OSError."""
        with self._lock:
            use = self._active
            if use is None or not use.segment.write([record for c in carried for record in c.records]):
                return False
            use.carried += carried
            use.since = use.since or time.monotonic()
            self._wanted += 1
        self.sync()
        return True

    # -- inside, with the lock held

    def _use_next(self) -> None:
        self._active = _Use(self._free.pop(0)) if self._free else None
        if self._active is not None:
            self._active.synced = self._active.segment.end

    def _seal(self) -> None:
        assert self._active is not None
        self._sealed.append(self._active)
        self._use_next()
        self._due.notify()

    def _fail(self, error: OSError) -> None:
        """Takes no more records: each file is synced from now on."""
        if not self._failed:
            self._failed = True
            log.error("journal.failed", error=str(error), hint="each file is synced by itself until the next start")
            if self._active is not None and not self._active.segment.is_empty:
                self._sealed.append(self._active)
                self._active = None
            self._synced.notify_all()
            self._due.notify()

    # -- the thread

    def _run(self) -> None:
        while self._wait_until_due():
            try:
                well = self.checkpoint()
            except Exception:
                log.exception("journal.error")
                well = False
            self._retry_at = 0.0 if well else time.monotonic() + RETRY_SECONDS

    def _wait_until_due(self) -> bool:
        """False when it is time to stop."""
        with self._lock:
            while not self._stopping:
                since = self._active.since if self._active is not None else 0.0
                if not self._sealed and not since:
                    self._due.wait()
                    continue
                due = 0.0 if self._sealed else since + CHECKPOINT_SECONDS
                left = max(due, self._retry_at) - time.monotonic()
                if left <= 0:
                    return True
                self._due.wait(left)
            return False


@contextlib.contextmanager
def removing(journal: Journal | None, record: Record, *, durably: bool = True) -> Iterator[bool]:
    """Around a removal: a crash does not bring back what is removed. Gives whether it is recorded.

    Unless `durably`, the record lasts only when the journal is synced next.
    """
    entry = journal.remove([record]) if journal is not None else None
    if entry is None:
        yield False
        return
    with entry:
        yield True
        if durably:
            with contextlib.suppress(OSError):
                entry.sync()


def _merged(removals: Sequence[Record]) -> list[Record]:
    """The same removals in few records."""
    pieces: dict[tuple[Kind, str], list[bytes | bytearray]] = {}
    for record in removals:
        pieces.setdefault((record.kind, record.place), []).extend(record.parts)
    return [Record(kind, place, parts=parts) for (kind, place), parts in pieces.items()]
