"""The spool on disk: SPOOL/user/1, 2, 3, ... each with its `.status`, and `.lock`, which lockf() locks.

Promises: a reader sees a message only when it and its status are whole; `place` returns when message, status and
names are on disk; any number of threads, processes and hosts deliver into one mailbox at once; the cost of a delivery
does not grow with the mailbox. See docs/formats.md.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smtpmail.log import log
from smtpmail.spool.commit import Draft
from smtpmail.spool.content import Content, Source
from smtpmail.spool.files import NewFile, clear_scratch, free_octets, sync_folder
from smtpmail.spool.folder import Folder
from smtpmail.spool.heartbeat import Heartbeat
from smtpmail.spool.lock import (
    LOCK,
    MAX_NUMBER,
    MailboxBusy,
    highest_number,
    locked,
    note_number,
    noted_number,
    sync_number,
    unlock,
)
from smtpmail.spool.sequences import SEQUENCES, Noted, add_unseen
from smtpmail.spool.stock import StatusStock

SCRATCH = ".new"

LOCK_PATIENCE = 60.0
"""Seconds to wait for another program that holds the lock of a mailbox."""

REPAIR_PATIENCE = 1.0
"""Seconds that a start waits for the locks of all mailboxes together."""

MAILBOXES_KEPT = 64
"""So many mailboxes keep files in stock."""

WELL_SECONDS = 1.0

TAKEN = 32
"""So many numbers that other programs have taken are tried one by one."""

JUNK = "Junk"
"""The folder of mail that its domain says is likely forged."""

MAX_STORED = 4 * 1024**3
"""Octets that one message may take in all its mailboxes."""

__all__ = ["JUNK", "Copy", "Mailbox", "MailboxBusy", "MailboxDraft", "Spool"]


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
        "_content",
        "_header",
        "_scratch",
        "_status_is_durable",
        "mailbox",
        "number",
        "status",
        "subfolder",
        "user",
    )

    def __init__(self, mailbox: Mailbox, content: Source, copy: Copy, scratch: str) -> None:
        super().__init__(mailbox)
        self.mailbox = mailbox
        self.user = copy.user
        self.subfolder = copy.folder
        self.status: NewFile | None = None
        self.number = 0
        """Its number when it is in the mailbox, 0 before."""
        self._content = content
        self._header = copy.header
        self._scratch = scratch
        self._status_is_durable = False

    def write(self) -> None:
        self.folder = self.mailbox.open()
        self.file = self._content.make_file(self.folder.fd, self._scratch, self._header)
        self.status, self._status_is_durable = self.mailbox.stock.take(self.folder, self._scratch)

    @property
    def unsynced(self) -> list[NewFile]:
        return super().unsynced + ([self.status] if self.status and not self._status_is_durable else [])

    def give_number(self, numbers: Iterator[int]) -> None:
        """Puts the message into the folder under the first of the numbers that is free, its status first: who sees the
        message finds the status. Raises OSError.
        """
        assert self.folder is not None and self.file is not None and self.status is not None
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
            if status and self.folder.is_same(status, self.status.fd):
                os.unlink(status, dir_fd=folder)
            raise

    def _name_status(self, name: str, before: str, folder: int) -> str:
        """Gives the status a name, or another one than `before`. Raises FileExistsError when it can't be had."""
        assert self.status is not None
        try:
            if before:
                os.rename(before, name, src_dir_fd=folder, dst_dir_fd=folder)
                return name
            with contextlib.suppress(FileExistsError):
                self.status.give_name(name, folder)
                return name
            # Left by a crash: we hold the lock, so nobody is at work on it.
            os.unlink(name, dir_fd=folder)
        except (IsADirectoryError, PermissionError) as error:
            raise FileExistsError(errno.EEXIST, error.strerror, name) from None
        self.status.give_name(name, folder)
        return name

    def close(self) -> None:
        super().close()
        if self.status is not None:
            self.status.close()
            self.status = None


class Mailbox:
    """One user's folder, which may belong to the user: whatever they put there concerns this mailbox alone."""

    patience = LOCK_PATIENCE

    def __init__(self, path: str, parent: Mailbox | None = None) -> None:
        """`parent`: the mailbox that this is a folder of."""
        self.path = path
        self._parent = parent
        self.stock = StatusStock()
        # POSIX locks keep processes apart, not threads.
        self.mutex = threading.Lock()
        self._noted: Noted | None = None

    def open(self) -> Folder:
        """The folder, made if it is not there. Raises OSError."""
        try:
            return Folder(self.path)
        except FileNotFoundError:
            if self._parent is not None:
                self._parent.open().close()
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
                sync_folder(os.path.dirname(self.path))
            return Folder(self.path)

    def check(self) -> None:
        """Raises OSError when it can be seen, without waiting, that no message can be put here."""
        try:
            folder = Folder(self.path)
        except FileNotFoundError:
            folder = Folder(os.path.dirname(self.path), follow=True)
        try:
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder.fd, effective_ids=True):
                read_only = os.fstatvfs(folder.fd).f_flag & os.ST_RDONLY
                code = errno.EROFS if read_only else errno.EACCES
                raise OSError(code, os.strerror(code), folder.path)
            if folder.path == self.path:
                # Looked at, not opened: to close a descriptor of the lock file would drop the lock of another thread.
                folder.check_file(LOCK)
                folder.check_file(SEQUENCES)
        finally:
            folder.close()

    def place(self, drafts: Sequence[MailboxDraft], give_up: float, *, apart: bool) -> None:
        """Gives the drafts the next numbers (commit.Target)."""
        folder = drafts[0].folder
        assert folder is not None
        with self._alone(give_up), locked(folder, give_up) as lock:
            if not folder.is_in_place():
                raise OSError(errno.ESTALE, "the mailbox was replaced by another one", self.path)
            noted = noted_number(lock)
            last = noted if noted is not None else highest_number(folder, apart=apart)
            free = _free_numbers(folder, last, apart=apart)
            expected = list(itertools.islice(free, len(drafts)))
            # Before the messages: who finds a message finds it unseen.
            self._note_unseen(folder, expected, give_up)
            numbers = itertools.chain(expected, free)
            for draft in drafts:
                try:
                    draft.give_number(numbers)
                except OSError as error:
                    draft.error = error
            if given := [draft.number for draft in drafts if draft.number]:
                note_number(lock, given[-1])
                others = [number for number in given if number not in expected]
                if self._noted is not None and (others or not self._noted.holds(folder)):
                    with contextlib.suppress(OSError):
                        self._note_unseen(folder, others, give_up)
                unlock(lock)
                sync_number(lock, new=noted is None)

    def _note_unseen(self, folder: Folder, numbers: Sequence[int], give_up: float) -> None:
        self._noted = add_unseen(folder, numbers, self._noted, give_up)
        if self._noted is None:
            log.warning("mailbox.unseen_skipped", mailbox=self.path, file=SEQUENCES)

    def withdraw(self, draft: MailboxDraft) -> None:
        """Takes a draft out again if it has been placed (commit.Target)."""
        if not draft.number:
            return
        folder = draft.folder or Folder(self.path)
        try:
            os.unlink(str(draft.number), dir_fd=folder.fd)
            os.unlink(f"{draft.number}.status", dir_fd=folder.fd)
            draft.number = 0
        finally:
            if folder is not draft.folder:
                folder.close()

    def repair(self, give_up: float) -> bool:
        """Removes the status that a crash left without its message; returns whether there was one.

        A folder without a lock file that tells a number is no mailbox of ours and stays as it is. Raises OSError.
        """
        folder = Folder(self.path)
        try:
            with self._alone(give_up), locked(folder, give_up, create=False) as lock:
                noted = noted_number(lock)
                if noted is None:
                    return False
                last = next(_free_numbers(folder, noted, apart=True)) - 1
                if last > noted:
                    note_number(lock, last)
                if not folder.exists(f"{last + 1}.status"):
                    return False
                os.unlink(f"{last + 1}.status", dir_fd=folder.fd)
                return True
        except FileNotFoundError:
            return False
        finally:
            folder.close()

    @contextlib.contextmanager
    def _alone(self, give_up: float) -> Iterator[None]:
        """Keeps the threads of this process apart. Raises MailboxBusy."""
        if not self.mutex.acquire(timeout=max(0.0, give_up - time.monotonic())):
            raise MailboxBusy(errno.EAGAIN, "the mailbox is in use by another thread", self.path)
        try:
            yield
        finally:
            self.mutex.release()


def _free_numbers(folder: Folder, last: int, *, apart: bool) -> Iterator[int]:
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


class Spool:
    """All mailboxes."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._scratch = os.path.join(self.path, SCRATCH)
        self._mutex = threading.Lock()
        self._well: dict[str, float] = {}
        self._mailboxes: weakref.WeakValueDictionary[str, Mailbox] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, Mailbox] = OrderedDict()

    @property
    def scratch(self) -> str:
        """The folder of files that have no name yet, where the file system knows none."""
        return self._scratch

    def mailbox(self, user: str, folder: str = "") -> Mailbox:
        """The mailbox of a user, or a folder in it: the same object for all threads that use it at a time.

        Raises OSError.
        """
        for name in (user, folder or user):
            if not name or "/" in name or name.startswith("."):
                raise OSError(errno.EINVAL, "is no name of a mailbox", name)
        key = os.path.join(user, folder) if folder else user
        parent = self.mailbox(user) if folder else None
        with self._mutex:
            mailbox = self._mailboxes.get(key)
            if mailbox is None:
                mailbox = self._mailboxes[key] = Mailbox(os.path.join(self.path, key), parent)
            # The last ones used are kept for what they have in stock.
            self._recent[key] = mailbox
            self._recent.move_to_end(key)
            if len(self._recent) > MAILBOXES_KEPT:
                self._recent.popitem(last=False)
            return mailbox

    def content(self) -> Content:
        """Begins the content of a message for mailboxes."""
        return Content(self.path, self._scratch)

    def prepare(self, content: Source, copies: Sequence[Copy]) -> list[MailboxDraft]:
        """Copies of a message for mailboxes; commit.commit writes them and puts them there.

        Raises OSError (EFBIG) when all of them take more than MAX_STORED.
        """
        if content.size * len(copies) > MAX_STORED and len(copies) > 1:
            why = f"{len(copies)} copies of {content.size} octets are too much for one transaction"
            raise OSError(errno.EFBIG, why)
        return [MailboxDraft(self.mailbox(copy.user, copy.folder), content, copy, self._scratch) for copy in copies]

    def can_deliver(self, user: str) -> OSError | None:
        """Why no message can be put into a mailbox now, as far as a look tells that is cheap and waits for nothing.

        What was found well stays so for a second.
        """
        now = time.monotonic()
        if now - self._well.get(user, -WELL_SECONDS) < WELL_SECONDS:
            return None
        try:
            self.mailbox(user).check()
        except OSError as error:
            return error
        if len(self._well) >= MAILBOXES_KEPT:
            self._well.clear()
        self._well[user] = now
        return None

    def heartbeat(self) -> Heartbeat:
        """What proves to a watchdog that a delivery could be committed."""
        return Heartbeat(self.path, self._scratch)

    def free_octets(self) -> int:
        """Octets that the file system of the mailboxes still takes. Raises OSError."""
        return free_octets(self.path)

    def repair(self) -> int:
        """Removes what a crash left behind; returns how many files. A mailbox that is broken is logged and left alone.

        Raises OSError when the spool itself can't be read.
        """
        removed = clear_scratch(self._scratch)
        give_up = time.monotonic() + REPAIR_PATIENCE
        with os.scandir(self.path) as entries:
            for entry in entries:
                # Nobody's name begins with a dot, or has a plus sign: `lost+found`.
                if entry.name.startswith(".") or "+" in entry.name:
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        removed += Mailbox(entry.path).repair(give_up)
                        junk = os.path.join(entry.path, JUNK)
                        if os.path.isdir(junk) and not os.path.islink(junk):
                            removed += Mailbox(junk).repair(give_up)
                except OSError as error:
                    log.warning("mailbox.skipped", mailbox=entry.path, error=str(error))
        return removed
