"""A message on its way into a mailbox: its files, its number, its names."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smtpmail.spool.commit import Draft, Taken
from smtpmail.spool.content import Source
from smtpmail.spool.files import NewFile
from smtpmail.spool.folder import SAFELY, Folder, Identity, identity_of
from smtpmail.spool.lock import MAX_NUMBER, MailboxBusy, highest_number, note_number, sync_number, unlock
from smtpmail.spool.record import Kind, Record
from smtpmail.spool.stock import STATUS_OF_NEW

if TYPE_CHECKING:
    from smtpmail.spool.mailbox import Mailbox

TAKEN = 32
"""So many numbers that other programs have taken are tried one by one."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One message for one mailbox: `header` goes before the content."""

    user: str
    header: bytes
    folder: str = ""
    """A folder within the mailbox, made when it is first needed."""


class MailboxDraft(Draft):
    """A message on its way into a mailbox, with its status."""

    __slots__ = (
        "_content", "_header", "_identity", "_status_is_durable", "mailbox", "number", "status", "subfolder", "user",
    )  # fmt: skip

    def __init__(self, mailbox: Mailbox, content: Source, copy: Copy) -> None:
        super().__init__(mailbox)
        self.mailbox = mailbox
        self.user = copy.user
        self.subfolder = copy.folder
        self.status: NewFile | None = None
        self.number = 0
        """Its number when it is in the mailbox, 0 before."""
        self._content = content
        self._header = copy.header
        self._identity: Identity | None = None
        self._status_is_durable = False

    def write(self) -> None:
        journal = self.mailbox.journal
        self.folder = self.mailbox.open()
        self.file = self._content.make_file(self.folder, self._header)
        if journal is not None and journal.takes(self.folder.device, len(self._header) + self._content.size):
            self.parts = self._content.parts(self._header)
        if self.parts is None:
            self.status, self._status_is_durable = self.mailbox.stock.take(self.folder)

    def leave_journal(self) -> None:
        super().leave_journal()
        if self.status is None and self.folder is not None:
            self.status = self.mailbox.stock.make(self.folder)

    @property
    def unsynced(self) -> list[NewFile]:
        return super().unsynced + ([self.status] if self.status and not self._status_is_durable else [])

    def give_number(self, numbers: Iterator[int]) -> None:
        """Puts the message into the folder under the first of the numbers that is free, its status first: who sees the
        message finds the status. Raises OSError.
        """
        assert self.folder is not None and self.file is not None
        folder = self.folder.fd
        status = ""
        try:
            for number in itertools.islice(numbers, TAKEN):
                with contextlib.suppress(FileExistsError):  # another program was faster
                    status = self._name_status(f"{number}.status", status, folder)
                    self.file.give_name(str(number), folder)
                    self.number = number
                    return
            raise MailboxBusy(errno.EAGAIN, "other programs take one number after the other", self.folder.path)
        except OSError:
            if status and (self.status is None or self.folder.is_same(status, self.status.fd)):
                os.unlink(status, dir_fd=folder)
            raise

    def _name_status(self, name: str, before: str, folder: int) -> str:
        """Gives the status a name, or another one than `before`. Raises FileExistsError when it can't be had."""
        try:
            if before:
                os.rename(before, name, src_dir_fd=folder, dst_dir_fd=folder)
                return name
            if self.status is not None and self.status.has_scratch_name:
                # What a crash has left is lost: we hold the lock, so nobody is at work on it.
                self.status.give_name(name, folder, replace=True)
                return name
            with contextlib.suppress(FileExistsError):
                self._make_status(name, folder)
                return name
            # Left by a crash: we hold the lock, so nobody is at work on it.
            os.unlink(name, dir_fd=folder)
        except (IsADirectoryError, PermissionError) as error:
            raise FileExistsError(errno.EEXIST, error.strerror, name) from None
        self._make_status(name, folder)
        return name

    def _make_status(self, name: str, folder: int) -> None:
        if self.status is not None:
            self.status.give_name(name, folder)
            return
        # Nobody looks at it before its message is there: it may have its name before it is whole.
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o660, dir_fd=folder)
        try:
            os.write(fd, STATUS_OF_NEW)
        finally:
            os.close(fd)

    def has_its_number(self, folder: Folder) -> bool:
        """Whether the file under its number is this one: once a network was cut, it may be another host's."""
        identity = identity_of(os.fstat(self.file.fd)) if self.file is not None else self._identity
        return folder.identity_of(str(self.number)) == identity

    def close(self) -> None:
        if self.number and self.file is not None:
            with contextlib.suppress(OSError):
                self._identity = identity_of(os.fstat(self.file.fd))
        super().close()
        if self.status is not None:
            self.status.close()
            self.status = None


class Numbering:
    """Drafts of one mailbox, whose lock is held, with the next numbers (commit.Placing)."""

    def __init__(
        self,
        mailbox: Mailbox,
        drafts: Sequence[MailboxDraft],
        lock: int,
        free: Iterator[int],
        *,
        first_time: bool,
        give_up: float,
    ) -> None:
        """Raises MailboxBusy, OSError."""
        folder = drafts[0].folder
        assert folder is not None
        self.drafts = drafts
        self._mailbox = mailbox
        self._folder = folder
        self._lock = lock
        self._free = free
        self._first_time = first_time
        self._give_up = give_up
        self._expected = list(itertools.islice(free, len(drafts)))
        # Before the messages: who finds a message finds it unseen.
        mailbox.note_unseen(folder, self._expected, give_up)

    def records(self) -> list[Record]:
        """See commit.Placing."""
        now = time.monotonic_ns()
        return [
            Record(Kind.STORED, self._mailbox.place, number, STATUS_OF_NEW, draft.parts or (), now)
            for draft, number in zip(self.drafts, self._expected, strict=True)
        ]

    def give_names(self, *, recorded: bool) -> list[Record]:
        """See commit.Placing."""
        # What is recorded can have no other number than that.
        any_number = itertools.chain(self._expected, self._free)
        for draft, number in zip(self.drafts, self._expected, strict=True):
            if draft.error is None:
                try:
                    draft.give_number(iter([number]) if recorded else any_number)
                except MailboxBusy as error:
                    draft.error = Taken(*error.args) if recorded else error
                except OSError as error:
                    draft.error = error
        given = [draft.number for draft in self.drafts if draft.number]
        if given:
            note_number(self._lock, given[-1])
            others = [number for number in given if number not in self._expected]
            with contextlib.suppress(OSError):
                self._mailbox.note_lost(self._folder, others, self._give_up)
            if not recorded:
                unlock(self._lock)
                sync_number(self._lock, self._folder.device, new=self._first_time)
        missing = [number for number in self._expected if number not in given]
        if not recorded or not missing:
            return []
        return [Record(Kind.CANCELLED, self._mailbox.place, parts=[b"%d\n" % number for number in missing])]


def free_numbers(folder: Folder, last: int, *, apart: bool) -> Iterator[int]:
    """The numbers above `last` that no other program has taken. Raises OSError."""
    taken = 0
    while last < MAX_NUMBER:
        last += 1
        if not folder.exists(str(last)):
            yield last
            continue
        taken += 1
        if taken == TAKEN:
            # The lock file is far behind the names.
            last = max(last, highest_number(folder, apart=apart))
    raise OSError(errno.EOVERFLOW, "there is no number left", folder.path)
