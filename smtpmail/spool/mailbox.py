"""The spool on disk: SPOOL/user/1, 2, 3, ... each with its `.status`, and `.lock`, which lockf() locks.

Promises: a reader sees a message only when it and its status are whole; `place` returns when message, status and
names are on disk; any number of threads, processes and hosts deliver into one mailbox at once; the cost of a delivery
does not grow with the mailbox. See docs/formats.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smtpmail.spool.commit import Busy, Draft
from smtpmail.spool.content import Content
from smtpmail.spool.files import NewFile, clear_scratch, open_folder, sync_files, sync_folder

LOCK = ".lock"
SCRATCH = ".new"
STATUS_OF_NEW = b"\\Recent\n"

LOCK_PATIENCE = 60.0
"""Seconds to wait for another program that holds the lock of a mailbox."""

STOCK_SECONDS = 1.0
"""So often the folder is looked at again, whether what is in stock still fits it."""

MAILBOXES_KEPT = 64
"""So many mailboxes keep files in stock."""


class MailboxBusy(Busy):
    """Another program holds the lock of a mailbox for too long."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One message for one mailbox: `header` goes before the content."""

    user: str
    header: bytes


class MailboxDraft(Draft):
    """A message on its way into a mailbox; its status is on disk already."""

    __slots__ = ("number", "status", "user")

    def __init__(self, mailbox: Mailbox, user: str, message: NewFile, status: NewFile) -> None:
        super().__init__(mailbox, message)
        self.user = user
        self.status = status
        self.number = 0
        """Its number when it is in the mailbox, 0 before."""

    def close(self) -> None:
        super().close()
        self.status.close()


class _StatusStock:
    """Status files of new messages that are on disk already, but have no name yet.

    All are alike, so they can be made before they are needed: many for the price of one sync.
    """

    SIZE = 16

    def __init__(self, path: str) -> None:
        self._folder = path
        self._lock = threading.Lock()
        self._files: list[NewFile] = []
        self._made_for: object = None
        self._looked_at = -STOCK_SECONDS

    def take(self, scratch: str) -> NewFile:
        """A durable status file for the mailbox; the caller closes it. Raises OSError."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at > STOCK_SECONDS:
                self._look_at_folder()
                self._looked_at = now
            if self._files:
                return self._files.pop()
        first, *more = self._make(scratch)
        with self._lock:
            self._files += more
        return first

    def _look_at_folder(self) -> None:
        """Drops the stock when the folder is another one, or gives its files other rights now."""
        status = os.stat(self._folder)
        made_for = (status.st_dev, status.st_ino, status.st_mode, status.st_gid, _default_acl(self._folder))
        if made_for != self._made_for:
            self._clear()
            self._made_for = made_for

    def _make(self, scratch: str) -> list[NewFile]:
        files: list[NewFile] = []
        try:
            # A file that has a name in the scratch folder must not lie there in stock.
            while len(files) < self.SIZE and not (files and files[0].has_scratch_name):
                files.append(NewFile(self._folder, scratch))
                os.write(files[-1].fd, STATUS_OF_NEW)
            for error in sync_files(files):
                if error is not None:
                    raise error
        except BaseException:
            for file in files:
                file.close()
            raise
        return files

    def _clear(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    __del__ = _clear


def _default_acl(folder: str) -> bytes | None:
    try:
        return os.getxattr(folder, "system.posix_acl_default")
    except OSError:
        return None


class Mailbox:
    """One user's folder."""

    patience = LOCK_PATIENCE

    def __init__(self, path: str) -> None:
        self.path = path
        # POSIX locks keep processes apart, not threads.
        self._mutex = threading.Lock()
        self._stock = _StatusStock(path)

    def create(self) -> None:
        """Makes the folder if it is not there."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
            sync_folder(os.path.dirname(self.path))

    def draft(self, content: Content, copy: Copy, scratch: str) -> MailboxDraft:
        """Writes a message that is not in the mailbox yet; makes the folder with the first one. Raises OSError."""
        try:
            message = content.make_file(self.path, scratch, copy.header)
        except FileNotFoundError:
            self.create()
            message = content.make_file(self.path, scratch, copy.header)
        try:
            return MailboxDraft(self, copy.user, message, self._stock.take(scratch))
        except BaseException:
            message.close()
            raise

    def place(self, drafts: Sequence[MailboxDraft], patience: float) -> None:
        """Gives the drafts the next numbers; returns when the names are on disk (commit.Target)."""
        give_up = time.monotonic() + patience
        if not self._mutex.acquire(timeout=patience):
            raise MailboxBusy(errno.EAGAIN, "the mailbox is in use by another thread", self.path)
        try:
            with open_folder(self.path) as folder:
                with self._locked(folder, give_up) as lock:
                    number = self._last_number(lock, folder)
                    for draft in drafts:
                        try:
                            number = draft.number = self._place_one(draft, number, folder)
                        except OSError as error:
                            draft.error = error
                    self._write_last_number(lock, number)
                os.fsync(folder)
        finally:
            self._mutex.release()

    def withdraw(self, draft: MailboxDraft) -> None:
        """Takes a draft out again if it has been placed (commit.Target)."""
        if draft.number:
            # By path: the fault that brought us here may be that no descriptor is left.
            message = os.path.join(self.path, str(draft.number))
            os.unlink(message)
            os.unlink(f"{message}.status")

    def repair(self) -> bool:
        """Removes the status that a crash left without its message; returns whether there was one."""
        with open_folder(self.path) as folder, self._locked(folder, time.monotonic() + 1.0) as lock:
            before = number = self._last_number(lock, folder)
            while _exists(str(number + 1), folder):
                number += 1
            if number > before:
                self._write_last_number(lock, number)
            try:
                os.unlink(f"{number + 1}.status", dir_fd=folder)
            except FileNotFoundError:
                return False
            return True

    @staticmethod
    def _place_one(draft: MailboxDraft, number: int, folder: int) -> int:
        """Puts a draft behind message `number`, its status first: who sees the message finds the status."""
        while True:
            number += 1
            name = str(number)
            if _exists(name, folder):
                continue  # put there by a program that keeps its own count
            status = f"{name}.status"
            try:
                draft.status.give_name(status, folder)
            except FileExistsError:
                os.unlink(status, dir_fd=folder)  # left by a crash: we hold the lock, so nobody is at work on it
                draft.status.give_name(status, folder)
            try:
                draft.file.give_name(name, folder)
            except OSError:
                os.unlink(status, dir_fd=folder)
                raise
            return number

    @contextlib.contextmanager
    def _locked(self, folder: int, give_up: float) -> Iterator[int]:
        """Holds the lock of the mailbox; raises MailboxBusy when it can't be had by `give_up` (monotonic time)."""
        pause = 0.0002
        while (lock := self._try_lock(folder)) is None:
            if time.monotonic() > give_up:
                raise MailboxBusy(errno.EAGAIN, "the mailbox is locked by another program", self.path)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        try:
            yield lock
        finally:
            os.close(lock)

    @staticmethod
    def _try_lock(folder: int) -> int | None:
        """A descriptor of the lock file with the lock on it, None when another program has it.

        A folder can't be opened for writing, so that lockf() on it fails: a file in it is locked. POSIX drops a
        process's lock when any of its descriptors of the file is closed; so only one thread of the process may be
        here for this mailbox, which the mutex sees to.
        """
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660, dir_fd=folder)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have removed the file between open and lock.
            if os.path.samestat(os.fstat(lock), os.stat(LOCK, dir_fd=folder, follow_symlinks=False)):
                return lock
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOENT):
                os.close(lock)
                raise
        os.close(lock)
        return None

    @staticmethod
    def _last_number(lock: int, folder: int) -> int:
        """The last number given, from the lock file; from the names when it does not tell."""
        text = os.pread(lock, 32, 0).strip()
        if text.isdigit():
            return int(text)
        _make_mh_folder(folder)
        numbers = (name.removesuffix(".status") for name in os.listdir(folder))
        return max((int(n) for n in numbers if n.isascii() and n.isdigit()), default=0)

    @staticmethod
    def _write_last_number(lock: int, number: int) -> None:
        # Always the same length and one block: a crash cannot tear it. Not synced: what a power cut takes from it,
        # the names of the messages give back.
        os.pwrite(lock, b"%020d\n" % number, 0)
        with contextlib.suppress(OSError):
            os.posix_fadvise(lock, 0, 0, os.POSIX_FADV_DONTNEED)


def _make_mh_folder(folder: int) -> None:
    """Before Python 3.13, mailbox.MH reads no message of a folder that lacks the file of sequences."""
    with contextlib.suppress(OSError):
        os.close(os.open(".mh_sequences", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o660, dir_fd=folder))


def _exists(name: str, folder: int) -> bool:
    return os.access(name, os.F_OK, dir_fd=folder, follow_symlinks=False)


class Spool:
    """All mailboxes."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._scratch = os.path.join(self.path, SCRATCH)
        self._mutex = threading.Lock()
        self._mailboxes: weakref.WeakValueDictionary[str, Mailbox] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, Mailbox] = OrderedDict()

    def mailbox(self, user: str) -> Mailbox:
        """The mailbox of a user: the same object for all threads that use it at a time."""
        with self._mutex:
            mailbox = self._mailboxes.get(user)
            if mailbox is None:
                mailbox = self._mailboxes[user] = Mailbox(os.path.join(self.path, user))
            # The last ones used are kept for what they have in stock.
            self._recent[user] = mailbox
            self._recent.move_to_end(user)
            if len(self._recent) > MAILBOXES_KEPT:
                self._recent.popitem(last=False)
            return mailbox

    def content(self) -> Content:
        """Begins the content of a message for mailboxes."""
        return Content(self.path, self._scratch)

    def prepare(self, content: Content, copies: Sequence[Copy]) -> list[MailboxDraft]:
        """Writes all copies; commit.commit puts them into the mailboxes. Raises OSError."""
        drafts: list[MailboxDraft] = []
        try:
            for copy in copies:
                drafts.append(self.mailbox(copy.user).draft(content, copy, self._scratch))
        except BaseException:
            for draft in drafts:
                draft.close()
            raise
        return drafts

    def repair(self) -> int:
        """Removes what a crash left behind; returns how many files. Raises OSError."""
        removed = clear_scratch(self._scratch)
        for entry in os.scandir(self.path):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                with contextlib.suppress(MailboxBusy, PermissionError):
                    removed += Mailbox(entry.path).repair()
        return removed
