"""The spool on disk: SPOOL/user/1, 2, 3, ... each with its `.status`, and `.lock`, which lockf() locks.

Promises: a reader sees a message only when it and its status are whole; `place` returns when message, status and
names are on disk; any number of threads, processes and hosts deliver into one mailbox at once; the cost of a delivery
does not grow with the mailbox. See docs/formats.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from smtpmail.log import log
from smtpmail.spool.commit import GroupCommit, commit_each, withdraw
from smtpmail.spool.content import Content, Source
from smtpmail.spool.files import clear_scratch, free_octets, sync_folder
from smtpmail.spool.folder import Folder
from smtpmail.spool.heartbeat import Heartbeat
from smtpmail.spool.journal import Journal, removing
from smtpmail.spool.lock import LOCK, MailboxBusy, highest_number, locked, note_number, noted_number
from smtpmail.spool.patience import Job, Patience, Unresponsive
from smtpmail.spool.place import Place
from smtpmail.spool.placing import Copy, MailboxDraft, Numbering, free_numbers
from smtpmail.spool.record import Kind, Record
from smtpmail.spool.sequences import SEQUENCES, Noted, add_unseen
from smtpmail.spool.stock import StatusStock
from smtpmail.spool.turns import Turns

LOCK_PATIENCE = 60.0
"""Seconds to wait for another program that holds the lock of a mailbox."""

REPAIR_PATIENCE = 1.0
"""Seconds that a start waits for the locks of all mailboxes together."""

MAILBOXES_KEPT = 64
"""So many mailboxes keep files in stock."""

WELL_SECONDS = 1.0

LOOK_PATIENCE = 10.0
"""Seconds that a look at a shared spool may take."""

STORE_PATIENCE = LOCK_PATIENCE + 15.0
"""Seconds that putting messages into a shared spool may take, the waiting for locks among them."""

BUSY_SECONDS = 1.0
"""For so long a group does not try a mailbox that another program had locked, unless it was had since."""

JUNK = "Junk"
"""The folder of mail that its domain says is likely forged."""

MAX_STORED = 4 * 1024**3
"""Octets that one message may take in all its mailboxes."""

T = TypeVar("T")

__all__ = ["JUNK", "Copy", "Mailbox", "MailboxBusy", "MailboxDraft", "Spool"]


class Mailbox:
    """One user's folder, which may belong to the user: whatever they put there concerns this mailbox alone."""

    patience = LOCK_PATIENCE

    def __init__(
        self,
        path: str,
        parent: Mailbox | None = None,
        place: str = "",
        journal: Journal | None = None,
        turns: Turns | None = None,
        mount: Place | None = None,
    ) -> None:
        """`parent`: the mailbox that this is a folder of. `place`: its path below the spool, as records name it.

        `mount`: where a shared spool is.
        """
        self.path = path
        self.place = place
        self.journal = journal
        self._parent = parent
        self._turns = turns
        self._mount = mount
        self.stock = StatusStock()
        self.apart = GroupCommit()
        self._noted: Noted | None = None
        self._busy_until = 0.0

    def open(self) -> Folder:
        """The folder, made if it is not there. Raises OSError."""
        folder = self._open()
        if self._mount is not None:
            self._mount.check(folder.device, self.path)
        return folder

    def _open(self) -> Folder:
        try:
            return Folder(self.path)
        except FileNotFoundError:
            if self._parent is not None:
                self._parent.open().close()
            elif self._mount is not None:
                self._mount.check_folder(os.path.dirname(self.path))
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

    def turn(self) -> AbstractContextManager[None]:
        """Waits for other processes of this server (commit.Target)."""
        return self._turns.at(self.place) if self._turns is not None else contextlib.nullcontext()

    @contextlib.contextmanager
    def placing(self, drafts: Sequence[MailboxDraft], give_up: float, *, apart: bool) -> Iterator[Numbering]:
        """Holds the lock, and chooses the next numbers for the drafts (commit.Target)."""
        folder = drafts[0].folder
        assert folder is not None
        if not apart and time.monotonic() < self._busy_until:
            raise MailboxBusy(errno.EAGAIN, "the mailbox is locked by another program", self.path)
        try:
            with locked(folder, give_up) as lock:
                self._busy_until = 0.0
                if not folder.is_in_place():
                    raise OSError(errno.ESTALE, "the mailbox was replaced by another one", self.path)
                noted = noted_number(lock)
                last = noted if noted is not None else highest_number(folder, apart=apart)
                free = free_numbers(folder, last, apart=apart)
                yield Numbering(self, drafts, lock, free, first_time=noted is None, give_up=give_up)
        except MailboxBusy:
            # A group does not wait for it again and again.
            self._busy_until = time.monotonic() + BUSY_SECONDS
            raise

    def note_unseen(self, folder: Folder, numbers: Sequence[int], give_up: float) -> None:
        """New mail is unseen for MH readers. Raises MailboxBusy, OSError."""
        self._noted = add_unseen(folder, numbers, self._noted, give_up)
        if self._noted is None:
            log.warning("mailbox.unseen_skipped", mailbox=self.path, file=SEQUENCES)

    def note_lost(self, folder: Folder, numbers: Sequence[int], give_up: float) -> None:
        """Notes what a reader has left out meanwhile, and `numbers`. Raises MailboxBusy, OSError."""
        if self._noted is not None and (numbers or not self._noted.holds(folder)):
            self.note_unseen(folder, numbers, give_up)

    def withdraw(self, draft: MailboxDraft) -> None:
        """Takes a draft out again if it has been placed (commit.Target)."""
        if not draft.number:
            return
        folder = draft.folder or Folder(self.path)
        try:
            if not draft.has_its_number(folder):
                return
            with removing(self.journal, Record(Kind.REMOVED, self.place, parts=(b"%d\n" % draft.number,))):
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
            with locked(folder, give_up, create=False) as lock:
                noted = noted_number(lock)
                if noted is None:
                    return False
                last = next(free_numbers(folder, noted, apart=True)) - 1
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


class Spool:
    """All mailboxes. `shared`: other hosts deliver into them, too, over a file system that may hang."""

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self.path = os.path.abspath(path)
        self._place = Place(self.path) if shared else None
        self._patience = Patience()
        self.journal: Journal | None = None
        """Carries the promise for new messages, where durability.py says so."""
        self._mutex = threading.Lock()
        self._well: dict[str, float] = {}
        self._mailboxes: weakref.WeakValueDictionary[str, Mailbox] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, Mailbox] = OrderedDict()
        self.turns: Turns | None = None
        """Keeps the processes of a server in order."""

    @property
    def shared(self) -> bool:
        """Whether other hosts deliver here, too."""
        return self._place is not None

    def check_mounted(self) -> None:
        """Raises OSError when a shared spool is missing: below its mount point there are no mailboxes."""
        if self._place is not None:
            self._place.check_folder(self.path)

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
                mailbox = Mailbox(os.path.join(self.path, key), parent, key, self.journal, self.turns, self._place)
                self._mailboxes[key] = mailbox
            # The last ones used are kept for what they have in stock.
            self._recent[key] = mailbox
            self._recent.move_to_end(key)
            if len(self._recent) > MAILBOXES_KEPT:
                self._recent.popitem(last=False)
            return mailbox

    def removing(self, user: str, folder: str, numbers: Sequence[int]) -> AbstractContextManager[object]:
        """To be entered while a reader removes messages from a folder: a crash does not bring them back."""
        parts = [b"%d\n" % number for number in numbers]
        return removing(self.journal, Record(Kind.REMOVED, os.path.join(user, folder).rstrip("/"), parts=parts))

    def content(self) -> Content:
        """Begins the content of a message for mailboxes."""
        return Content(self.path)

    def prepare(self, content: Source, copies: Sequence[Copy]) -> list[MailboxDraft]:
        """Copies of a message for mailboxes; commit.commit writes them and puts them there.

        Raises OSError (EFBIG) when all of them take more than MAX_STORED.
        """
        if content.size * len(copies) > MAX_STORED and len(copies) > 1:
            why = f"{len(copies)} copies of {content.size} octets are too much for one transaction"
            raise OSError(errno.EFBIG, why)
        return [MailboxDraft(self.mailbox(copy.user, copy.folder), content, copy) for copy in copies]

    def store(self, content: Source, copies: Sequence[Copy], patience: float | None = None) -> list[MailboxDraft]:
        """Puts copies of a message into mailboxes, durably, each for itself; what could not be there has its `error`.

        `patience`: seconds to wait for locks, if not LOCK_PATIENCE.
        Raises OSError (EFBIG) when all of them take more than MAX_STORED.
        """
        drafts = self.prepare(content, copies)
        if self._place is None:
            commit_each(drafts, patience=patience)
            return drafts
        by_place: dict[str, list[Copy]] = {}
        for copy in copies:
            by_place.setdefault(self._place.of(os.path.join(self.path, copy.user)), []).append(copy)
        give_up = time.monotonic() + STORE_PATIENCE
        jobs = [(some, self._begin(place, content, some, patience)) for place, some in by_place.items()]
        done: list[MailboxDraft] = []
        for some, job in jobs:
            try:
                if isinstance(job, OSError):
                    raise job
                done += job.result(give_up)
            except OSError as error:
                # Those under way are left to their thread.
                done += self._refused(content, some, error)
        order = {(copy.user, copy.folder): number for number, copy in enumerate(copies)}
        return sorted(done, key=lambda draft: order[draft.user, draft.subfolder])

    def _begin(
        self, place: str, content: Source, copies: Sequence[Copy], patience: float | None
    ) -> Job[list[MailboxDraft]] | OSError:
        shared = content.share()
        drafts = self.prepare(shared, copies)

        def work() -> list[MailboxDraft]:
            commit_each(drafts, patience=patience)
            return drafts

        try:
            return self._patience.begin(place, work, lambda: withdraw(drafts), shared.close)
        except Unresponsive as error:
            return error

    def _refused(self, content: Source, copies: Sequence[Copy], error: OSError) -> list[MailboxDraft]:
        drafts = self.prepare(content, copies)
        for draft in drafts:
            draft.error = error
        return drafts

    def patiently(self, user: str, look: Callable[[], T]) -> T:
        """What a look at a user's mailbox returns or raises; on a shared spool it may not take long.

        Raises Unresponsive.
        """
        if self._place is None:
            return look()
        return self._patience.run(self._place.of(os.path.join(self.path, user)), LOOK_PATIENCE, look)

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
        return Heartbeat(self.path)

    def free_octets(self) -> int:
        """Octets that the file system of the mailboxes still takes. Raises OSError."""
        return self.patiently("", lambda: free_octets(self.path))

    def clear(self) -> int:
        """Removes scratch files that nobody needs; returns how many. Raises OSError."""
        return self._clear(self.path) + sum(self._at_each(self._clear))

    def repair(self) -> int:
        """Removes what a crash left behind; returns how many files. A mailbox that is broken is logged and left alone.

        Raises OSError when the spool itself can't be read.
        """
        give_up = time.monotonic() + REPAIR_PATIENCE
        each = self._at_each(lambda path: self._clear(path) + Mailbox(path).repair(give_up))
        return self._clear(self.path) + sum(each)

    def _clear(self, path: str) -> int:
        with contextlib.closing(Folder(path, follow=path == self.path)) as folder:
            return clear_scratch(folder, at_work=self.shared)

    def _at_each(self, work: Callable[[str], int]) -> Iterator[int]:
        """What is done at each mailbox, and at the folder of likely forgeries in it; one that is broken is left out."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                # Nobody's name begins with a dot, or has a plus sign: `lost+found`.
                if entry.name.startswith(".") or "+" in entry.name:
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        yield work(entry.path)
                        junk = os.path.join(entry.path, JUNK)
                        if os.path.isdir(junk) and not os.path.islink(junk):
                            yield work(junk)
                except OSError as error:
                    log.warning("mailbox.skipped", mailbox=entry.path, error=str(error))
