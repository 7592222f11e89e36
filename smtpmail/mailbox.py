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

from smtpmail.content import Content
from smtpmail.durability import GroupCommit, NewFile, clear_scratch, open_folder, sync, sync_folder

LOCK = ".lock"
SCRATCH = ".new"
STATUS_OF_NEW = b"\\Recent\n"

LOCK_PATIENCE = 60.0
"""Seconds to wait for another program that holds the lock of a mailbox."""


MAILBOXES_KEPT = 64
"""So many mailboxes keep files in stock."""


class MailboxBusy(OSError):
    """Another program holds the lock of a mailbox for too long."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One message for one mailbox: `header` goes before the content."""

    user: str
    header: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a copy lies."""

    user: str
    number: int


class _Draft:
    """A message and its status, written but not yet in the mailbox."""

    __slots__ = ("message", "number", "status")

    def __init__(self, message: NewFile, status: NewFile) -> None:
        self.message = message
        self.status = status
        self.number = 0


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

    def take(self, scratch: str) -> NewFile:
        """A durable status file for the mailbox; the caller closes it. Raises OSError."""
        status = os.stat(self._folder)
        # What files get from their folder: its file system, a group, a default ACL. It may be another one by now.
        made_for = (status.st_dev, status.st_ino, status.st_mode, status.st_gid, _default_acl(self._folder))
        with self._lock:
            if made_for != self._made_for:
                self._clear()
                self._made_for = made_for
            if self._files:
                return self._files.pop()
        first, *more = self._make(scratch)
        with self._lock:
            self._files += more
        return first

    def _make(self, scratch: str) -> list[NewFile]:
        files: list[NewFile] = []
        try:
            # A file that has a name in the scratch folder must not lie there in stock.
            while len(files) < self.SIZE and not (files and files[0].has_scratch_name):
                files.append(NewFile(self._folder, scratch))
                os.write(files[-1].fd, STATUS_OF_NEW)
            sync(os.path.dirname(self._folder), [file.fd for file in files])
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

    def __init__(self, path: str) -> None:
        self.path = path
        self._group = GroupCommit(self._place_batch)
        self._stock = _StatusStock(path)

    def create(self) -> None:
        """Makes the folder if it is not there."""
        if not os.path.isdir(self.path):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
                sync_folder(os.path.dirname(self.path))

    def draft(self, content: Content, header: bytes, scratch: str) -> _Draft:
        """A message that is not in the mailbox yet; its status is on disk already. Raises OSError."""
        status = self._stock.take(scratch)
        try:
            return _Draft(content.make_file(self.path, scratch, header), status)
        except BaseException:
            status.close()
            raise

    def place(self, draft: _Draft) -> None:
        """Gives the draft the next number; returns when the names are on disk. Raises OSError."""
        self._group.run(draft)

    def withdraw(self, draft: _Draft) -> None:
        """Takes a draft out again if it has been placed."""
        if draft.number:
            # By path: the fault that brought us here may be that no descriptor is left.
            message = os.path.join(self.path, str(draft.number))
            os.unlink(message)
            os.unlink(f"{message}.status")

    def repair(self) -> bool:
        """Removes the status that a crash left without its message; returns whether there was one."""
        with open_folder(self.path) as folder, self._locked(folder, patience=1.0) as lock:
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

    def _place_batch(self, batch: Sequence[_Draft]) -> list[BaseException | None]:
        errors: list[BaseException | None] = []
        with open_folder(self.path) as folder:
            with self._locked(folder, LOCK_PATIENCE) as lock:
                number = self._last_number(lock, folder)
                for draft in batch:
                    try:
                        number = draft.number = self._place_one(draft, number, folder)
                        errors.append(None)
                    except OSError as error:
                        errors.append(error)
                self._write_last_number(lock, number)
            os.fsync(folder)
        return errors

    @staticmethod
    def _place_one(draft: _Draft, number: int, folder: int) -> int:
        """Puts a draft behind message `number`, its status first: who sees the message finds the status."""
        while True:
            number += 1
            name = str(number)
            if _exists(name, folder):
                continue  # a program that keeps its own count has put it there
            status = f"{name}.status"
            try:
                draft.status.give_name(status, folder)
            except FileExistsError:
                os.unlink(status, dir_fd=folder)  # left by a crash: we hold the lock, so nobody is at work on it
                draft.status.give_name(status, folder)
            try:
                draft.message.give_name(name, folder)
            except OSError as error:
                os.unlink(status, dir_fd=folder)
                if error.errno == errno.EEXIST:
                    continue
                raise
            return number

    @contextlib.contextmanager
    def _locked(self, folder: int, patience: float) -> Iterator[int]:
        """Holds the lock of the mailbox; raises MailboxBusy after `patience` seconds."""
        give_up = time.monotonic() + patience
        pause = 0.0005
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
        here for this mailbox, which the group commit sees to.
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
        numbers = (name.removesuffix(".status") for name in os.listdir(folder))
        return max((int(n) for n in numbers if n.isascii() and n.isdigit()), default=0)

    @staticmethod
    def _write_last_number(lock: int, number: int) -> None:
        # Always the same length and one block: a crash cannot tear it. Not synced: what a power cut takes from it,
        # the names of the messages give back.
        os.pwrite(lock, b"%020d\n" % number, 0)
        with contextlib.suppress(OSError):
            os.posix_fadvise(lock, 0, 0, os.POSIX_FADV_DONTNEED)


def _exists(name: str, folder: int) -> bool:
    return os.access(name, os.F_OK, dir_fd=folder, follow_symlinks=False)


class SpoolDraft:
    """One message for one or more mailboxes, on disk but not yet in them."""

    def __init__(self) -> None:
        self._parts: list[tuple[Mailbox, str, _Draft]] = []

    def add(self, box: Mailbox, user: str, draft: _Draft) -> None:
        """One copy more."""
        self._parts.append((box, user, draft))

    @property
    def fds(self) -> list[int]:
        """What has to be synced before `place`."""
        return [draft.message.fd for _, _, draft in self._parts]

    @property
    def stored(self) -> list[Stored]:
        """Where the copies lie after `place`."""
        return [Stored(user, draft.number) for _, user, draft in self._parts]

    def place(self) -> None:
        """Puts all copies into their mailboxes, or none; returns when they are there for good.

        Raises OSError, MailboxBusy among them.
        """
        try:
            for box, _, draft in self._parts:
                box.place(draft)
        except BaseException:
            self.withdraw()
            raise

    def withdraw(self) -> None:
        """Takes the copies out again as far as they are in."""
        for box, _, draft in self._parts:
            with contextlib.suppress(OSError):
                box.withdraw(draft)

    def close(self) -> None:
        """Closes the files; what was not placed is gone."""
        for _, _, draft in self._parts:
            draft.message.close()
            draft.status.close()


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

    def content(self, first: Copy) -> Content:
        """Begins the content of a message whose first copy is known. Raises OSError."""
        mailbox = self.mailbox(first.user)
        mailbox.create()
        return Content(mailbox.path, self._scratch, first.header)

    def prepare(self, content: Content, copies: Sequence[Copy]) -> SpoolDraft:
        """Writes all copies, not yet in the mailboxes. Raises OSError."""
        draft = SpoolDraft()
        try:
            for copy in copies:
                box = self.mailbox(copy.user)
                box.create()
                draft.add(box, copy.user, box.draft(content, copy.header, self._scratch))
        except BaseException:
            draft.close()
            raise
        return draft

    def repair(self) -> int:
        """Removes what a crash left behind; returns how many files. Raises OSError."""
        removed = clear_scratch(self._scratch)
        for entry in os.scandir(self.path):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                with contextlib.suppress(MailboxBusy, PermissionError):
                    removed += Mailbox(entry.path).repair()
        return removed
