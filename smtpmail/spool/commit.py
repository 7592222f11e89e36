"""Making files survive a power cut, many at the price of one.

What several threads want on disk at the same moment is synced together (group commit): the first to come does it for
all who came meanwhile. One alone pays only for its own files.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from smtpmail.spool.files import NewFile, sync_files

GROUP_PATIENCE = 0.05
"""Seconds that a group waits for a folder that another program has locked; then those concerned wait alone."""


class Busy(OSError):
    """Another program holds the lock of a folder."""


class Target(Protocol):
    """A folder that messages are put into."""

    patience: float
    """Seconds to wait for its lock."""

    def place(self, drafts: Sequence[Any], patience: float) -> None:
        """Gives the drafts their names in the folder, sets `error` of those that can't have one; syncs the folder.

        Raises Busy, OSError: then none of them is in.
        """

    def withdraw(self, draft: Any) -> None:
        """Takes a draft out again, if it is in. Raises OSError."""


class Draft:
    """A file that has been written, on its way into a folder."""

    __slots__ = ("error", "file", "target")

    def __init__(self, target: Target, file: NewFile) -> None:
        self.target = target
        self.file = file
        self.error: OSError | None = None

    def close(self) -> None:
        """Closes the file; what was not placed is gone."""
        self.file.close()


class _Entry:
    """The drafts of one caller."""

    __slots__ = ("done", "drafts", "leads")

    def __init__(self, drafts: Sequence[Draft]) -> None:
        self.drafts = drafts
        self.leads = False
        self.done = threading.Lock()
        self.done.acquire()


class _GroupCommit:
    """Threads that come while a batch is at work form the next one.

    There is no thread behind it: one of the callers leads, so that a caller alone waits for nobody.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: list[_Entry] = []
        self._busy = False

    def run(self, drafts: Sequence[Draft]) -> None:
        """Returns when the drafts are synced and placed, or have their `error` set."""
        entry = _Entry(drafts)
        with self._mutex:
            self._waiting.append(entry)
            entry.leads = not self._busy
            self._busy = True
        if not entry.leads:
            entry.done.acquire()
        if entry.leads:
            self._lead()

    def _lead(self) -> None:
        with self._mutex:
            batch, self._waiting = self._waiting, []
        try:
            _commit_batch([draft for entry in batch for draft in entry.drafts])
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


_group = _GroupCommit()


def commit(drafts: Sequence[Draft]) -> None:
    """Puts all drafts into their folders, or none: returns when contents and names are on disk.

    Raises OSError, Busy among them.
    """
    _group.run(drafts)
    for draft in drafts:
        if isinstance(draft.error, Busy):
            draft.error = None
            _place(draft.target, [draft], draft.target.patience)
    error = next((draft.error for draft in drafts if draft.error is not None), None)
    if error is not None:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.target.withdraw(draft)
        raise error


def _commit_batch(drafts: Sequence[Draft]) -> None:
    for draft, error in zip(drafts, sync_files([draft.file for draft in drafts]), strict=True):
        draft.error = error
    by_target: dict[Target, list[Draft]] = {}
    for draft in drafts:
        if draft.error is None:
            by_target.setdefault(draft.target, []).append(draft)
    for target, group in by_target.items():
        _place(target, group, GROUP_PATIENCE)


def _place(target: Target, drafts: Sequence[Draft], patience: float) -> None:
    try:
        target.place(drafts, patience)
    except Exception as error:
        # The thread of one may not fail for what befell the draft of another.
        for draft in drafts:
            draft.error = error if isinstance(error, OSError) else OSError(errno.EIO, f"internal error: {error!r}")
