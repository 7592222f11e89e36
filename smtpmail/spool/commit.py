"""Making messages survive a power cut, many at the price of one.

What several threads want on disk at the same moment is made durable together (group commit): the first to come does it
for all who came meanwhile. One alone pays only for its own. There are two ways (durability.py chooses): what is written
to the journal with one sync needs none of its own; else contents are synced, then named, then the folders are synced.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from smtpmail.spool.files import NewFile, sync_files
from smtpmail.spool.folder import Folder
from smtpmail.spool.journal import Journal
from smtpmail.spool.record import Record

GROUP_PATIENCE = 0.02
"""Seconds that a group waits for locks of other programs; then those concerned wait apart, a group for each folder."""

AT_ONCE = 16
"""Drafts of one message that have files open at a time: a thousand recipients need no more descriptors than so many."""


class Busy(OSError):
    """Another program holds the lock of a folder, or its state takes longer to find out than others should wait."""


class Taken(Busy):
    """Another program has taken the name that was recorded for a draft."""


class Target(Protocol):
    """A folder that messages are put into."""

    path: str
    patience: float
    """Seconds to wait for its lock."""

    journal: Journal | None

    apart: GroupCommit
    """Those that wait for its lock while others go on."""

    def turn(self) -> AbstractContextManager[object]:
        """Waits until no other process of this server is at work here. Raises nothing."""

    def placing(
        self, drafts: Sequence[Any], give_up: float, *, apart: bool
    ) -> AbstractContextManager[Placing]:  # fmt: skip
        """Holds the folder while its drafts get their names.

        Waits for locks until `give_up` (monotonic time); unless `apart`, others wait meanwhile. Raises Busy, OSError.
        """

    def withdraw(self, draft: Any) -> None:
        """Takes a draft out again, if it is in. Raises OSError."""


class Placing(Protocol):
    """Drafts of one folder whose names are chosen."""

    @property
    def drafts(self) -> Sequence[Draft]:
        """All of them."""

    def records(self) -> Sequence[Record]:
        """What the journal must tell of them."""

    def give_names(self, *, recorded: bool) -> Sequence[Record]:
        """Puts the drafts into the folder, under the names of their records if they are recorded.

        Sets `error` of those that can't be there, and returns what the journal must tell of them.
        """


class Draft:
    """A message on its way into a folder. It has files from `write` to `close`."""

    __slots__ = ("error", "file", "folder", "parts", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.folder: Folder | None = None
        self.file: NewFile | None = None
        self.parts: Sequence[bytes | bytearray] | None = None
        """What the file contains, if the journal is to carry it."""
        self.error: OSError | None = None
        """Why it is not in the folder."""

    def write(self) -> None:
        """Makes the files, which have no name yet. Raises OSError."""
        raise NotImplementedError

    def leave_journal(self) -> None:
        """The journal does not carry it after all: makes what must be synced besides. Raises OSError."""
        self.parts = None

    @property
    def unsynced(self) -> list[NewFile]:
        """The files that are to be made durable before they get their names."""
        return [self.file] if self.file else []

    def close(self) -> None:
        """Closes the files; what was not placed is gone. A second time does nothing."""
        if self.file is not None:
            self.file.close()
            self.file = None
        if self.folder is not None:
            self.folder.close()
            self.folder = None


class _Entry:
    """The drafts of one caller."""

    __slots__ = ("done", "drafts", "give_up", "leads")

    def __init__(self, drafts: Sequence[Draft], give_up: float) -> None:
        self.drafts = drafts
        self.give_up = give_up
        self.leads = False
        self.done = threading.Lock()
        self.done.acquire()


class GroupCommit:
    """Threads that come while a batch is at work form the next one.

    There is no thread behind it: one of the callers leads, so that a caller alone waits for nobody.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: list[_Entry] = []
        self._busy = False

    def run(self, drafts: Sequence[Draft], give_up: float = math.inf) -> float:
        """Returns when the drafts are synced and placed, or have their `error` set.

        `give_up` (monotonic time): for those that wait for a lock apart from others. Returns until when they did, which
        may be less for the sake of another one in the batch.
        """
        entry = _Entry(drafts, give_up)
        with self._mutex:
            self._waiting.append(entry)
            entry.leads = not self._busy
            self._busy = True
        if not entry.leads:
            entry.done.acquire()
        if entry.leads:
            self._lead()
        return entry.give_up

    def _lead(self) -> None:
        with self._mutex:
            batch, self._waiting = self._waiting, []
        try:
            give_up = min(entry.give_up for entry in batch)
            for entry in batch:
                entry.give_up = give_up
            _place([draft for entry in batch for draft in entry.drafts], give_up)
        finally:
            with self._mutex:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].done.release()
                else:
                    self._busy = False
            for entry in batch:
                if not entry.leads:
                    entry.done.release()


_groups: defaultdict[int, GroupCommit] = defaultdict(GroupCommit)  # by file system: one that hangs holds no other


class Unlocked:
    """What a Target has that all may use at once."""

    patience = 0.0
    apart = GroupCommit()

    def turn(self) -> AbstractContextManager[None]:
        """See Target."""
        return contextlib.nullcontext()


def commit(drafts: Sequence[Draft]) -> None:
    """Puts all drafts into their folders, or none: returns when contents and names are on disk, and closes them.

    Raises OSError, Busy among them.
    """
    commit_each(drafts, keep_open=len(drafts) <= AT_ONCE)
    error = next((draft.error for draft in drafts if draft.error is not None), None)
    try:
        if error is not None:
            withdraw(drafts)
            raise error
    finally:
        for draft in drafts:
            draft.close()


def commit_each(drafts: Sequence[Draft], *, keep_open: bool = False, patience: float | None = None) -> None:
    """Puts each draft into its folder for itself: returns when contents and names of all that could be are on disk.

    `patience` with locks of other programs is for all together, in seconds; None: that of the first folder that is
    locked. The others have their `error` set. Afterwards all are closed, unless they are to be kept open (so that one
    can be withdrawn even if no descriptor is left).
    """
    give_up: float | None = None
    for start in range(0, len(drafts), AT_ONCE):
        batch = drafts[start : start + AT_ONCE]
        try:
            there: defaultdict[int, list[Draft]] = defaultdict(list)
            for draft in batch:
                _try(draft, draft.write)
                if draft.error is None:
                    assert draft.folder is not None
                    there[draft.folder.device].append(draft)
            for device, some in there.items():
                _groups[device].run(some)
            for draft in batch:
                if isinstance(draft.error, Busy):
                    # All of a message together wait no longer than one.
                    give_up = give_up or time.monotonic() + (draft.target.patience if patience is None else patience)
                    _wait_apart(draft, give_up)
            # Placed, and then the folder could not be synced.
            withdraw([draft for draft in batch if draft.error is not None])
        finally:
            if not keep_open:
                for draft in batch:
                    draft.close()


def _wait_apart(draft: Draft, give_up: float) -> None:
    """Puts a draft into a folder that could not be had at once, or sets its `error`."""
    waited = 0.0
    while isinstance(draft.error, Busy) and waited < give_up:
        taken, draft.error = isinstance(draft.error, Taken), None
        if taken:
            _try(draft, draft.leave_journal)
        if draft.error is None:
            waited = draft.target.apart.run([draft], give_up)


def withdraw(drafts: Sequence[Draft]) -> None:
    """Takes out again what has been placed of the drafts, as far as the disk lets us."""
    for draft in drafts:
        with contextlib.suppress(OSError):
            draft.target.withdraw(draft)


def _place(drafts: Sequence[Draft], give_up: float) -> None:
    """Puts the drafts into their folders, durably, or sets their `error`; raises nothing.

    `give_up` (monotonic time): for those that wait for locks apart; with none (inf), nobody waits for long.
    """
    try:
        _place_all(drafts, give_up)
    except Exception as error:
        # One thread works for all: none of them may take for done what is not.
        _fail([draft for draft in drafts if draft.error is None], error)


def _place_all(drafts: Sequence[Draft], give_up: float) -> None:
    synced = [draft for draft in drafts if draft.parts is None]
    recorded = [draft for draft in drafts if draft.parts is not None]
    if synced:
        _sync_contents(synced)
        for group in _by_target(synced):
            with _holding([group], give_up) as placings:
                for placing in placings:
                    _give_names(placing, recorded=False)
        _sync_folders(synced)
    if recorded:
        # All folders at once: records name what their drafts will be called, and are durable before anybody sees it.
        with _holding(_by_target(recorded), give_up) as placings:
            _record_and_name(placings)


def _record_and_name(placings: Sequence[Placing]) -> None:
    records = [record for placing in placings for record in placing.records()]
    journal = next((draft.target.journal for placing in placings for draft in placing.drafts), None)
    entry = journal.enter(records) if records and journal is not None else None
    if entry is None:
        drafts = [draft for placing in placings for draft in placing.drafts]
        _sync_contents(drafts)
        for placing in placings:
            _give_names(placing, recorded=False)
        _sync_folders(drafts)
        return
    with entry:
        try:
            entry.sync()
        except OSError:
            # The records may be on disk or not: with files that are, either is right.
            _sync_contents([draft for placing in placings for draft in placing.drafts])
        cancelled = [record for placing in placings for record in _give_names(placing, recorded=True)]
        if not entry.synced:
            _sync_folders([draft for placing in placings for draft in placing.drafts])
        if cancelled:
            assert journal is not None
            _cancel(journal, cancelled)


def _cancel(journal: Journal, records: Sequence[Record]) -> None:
    """What was recorded is not so: a client is told to send it again, and a crash must not bring the first one back."""
    entry = journal.remove(records)
    if entry is not None:
        with entry, contextlib.suppress(OSError):
            entry.sync()


def _by_target(drafts: Sequence[Draft]) -> list[list[Draft]]:
    """Those without an error, in the order in which every process takes the locks: so none waits for the other."""
    groups: dict[Target, list[Draft]] = {}
    for draft in drafts:
        if draft.error is None:
            groups.setdefault(draft.target, []).append(draft)
    return sorted(groups.values(), key=lambda group: group[0].target.path)


@contextlib.contextmanager
def _holding(groups: Sequence[Sequence[Draft]], give_up: float) -> Iterator[list[Placing]]:
    """Holds the folders of the groups; the drafts of one that can't be had have their `error`."""
    with contextlib.ExitStack() as stack:
        placings = []
        apart = give_up != math.inf
        if not apart:
            # Processes of one server wait for each other, which is short; patience is for other programs.
            for group in groups:
                stack.enter_context(group[0].target.turn())
            give_up = time.monotonic() + GROUP_PATIENCE
        for group in groups:
            target = group[0].target
            try:
                placings.append(stack.enter_context(target.placing(group, give_up, apart=apart)))
            except Exception as error:
                _fail(group, error)
        yield placings


def _give_names(placing: Placing, *, recorded: bool) -> Sequence[Record]:
    try:
        return placing.give_names(recorded=recorded)
    except Exception as error:
        # The thread of one may not fail for what befell the draft of another.
        _fail(placing.drafts, error)
        return placing.records() if recorded else ()


def _fail(drafts: Sequence[Draft], error: Exception) -> None:
    for draft in drafts:
        draft.error = _as_oserror(error, draft.target)


def _sync_contents(drafts: Sequence[Draft]) -> None:
    for draft in drafts:
        if draft.error is None:
            _try(draft, draft.leave_journal)
    files = [(draft, file) for draft in drafts if draft.error is None for file in draft.unsynced]
    for (draft, _), error in zip(files, sync_files([file for _, file in files]), strict=True):
        draft.error = draft.error or error


def _sync_folders(drafts: Sequence[Draft]) -> None:
    """Makes the names of what was placed durable: one folder of each target, for all its drafts are in the same."""
    groups = _by_target(drafts)
    folders = [folder for group in groups if (folder := group[0].folder) is not None]
    for group, error in zip(groups, sync_files(folders), strict=True):
        for draft in group:
            draft.error = error


def _try(draft: Draft, work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:
        draft.error = _as_oserror(error, draft.target)


def _as_oserror(error: Exception, target: Target) -> OSError:
    """The error as one that says where it happened."""
    if not isinstance(error, OSError):
        return OSError(errno.EIO, f"internal error: {error!r}", target.path)
    if not os.path.isabs(str(error.filename)):
        error.filename, error.filename2 = target.path, None
    return error
