"""Obeys the commands of one session on the folders of its user.

Each command is a generator: it yields untagged responses in pieces, so that the client's pace is kept, and returns the
outcome.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Generator, Iterator, Sequence

from smtpmail.imap.append import Appending
from smtpmail.imap.commands import (
    Append,
    Command,
    Copy,
    Create,
    Expunge,
    Fetch,
    List,
    OnMailbox,
    Rename,
    Search,
    Select,
    Simple,
    Sort,
    Status,
    Store,
    Thread,
)
from smtpmail.imap.fetch import Torn
from smtpmail.imap.listing import Lister, mailbox, status_items
from smtpmail.imap.messages import Messages
from smtpmail.imap.names import INBOX
from smtpmail.imap.responses import Outcome, Refused, listed, no, ok
from smtpmail.imap.selected import SYSTEM_FLAGS, Selected, highest_modseq
from smtpmail.imap.sequences import MAX_NUMBER, SequenceSet, format_missing
from smtpmail.imap.session import Enabled, State
from smtpmail.log import log
from smtpmail.spool.commit import Busy
from smtpmail.spool.reader.account import Account, FolderExists, Inferior, NoSuchFolder
from smtpmail.spool.reader.mailfolder import Gone, MailFolder
from smtpmail.spool.reader.names import BadName

CREATABLE_USES = frozenset({b"\\Archive", b"\\Drafts", b"\\Junk", b"\\Sent", b"\\Trash"})
"""Special uses that a folder can be given; the others are virtual."""

MAX_COMPLAINTS = 20
"""Failures of one connection that are each in the log: a client can have as many as it likes."""

Answer = Generator[bytes, None, Outcome]
Done = tuple[Outcome, State | None]


class Closed(Exception):
    """The dialogue cannot go on; the text says why."""


class Executor:
    """`enabled` is the session's; `max_size` the largest message in octets."""

    def __init__(self, account: Account, enabled: Enabled, max_size: int) -> None:
        self._account = account
        self._enabled = enabled
        self._max_size = max_size
        self.selected: Selected | None = None
        self._appending: Appending | None = None
        self._tag = b""
        self._failures = 0

    def close(self) -> None:
        """Gives everything back."""
        if self._failures > MAX_COMPLAINTS:
            log.error("imap.failures", user=self._account.user, count=self._failures - MAX_COMPLAINTS)
        self.abort_append()
        with contextlib.suppress(OSError):
            self._unselect()
        self._account.close()

    def run(self, command: Command, tag: bytes) -> Generator[bytes, None, Done]:
        """Obeys; the outcome, and the state that the session is in now, if that changes. Raises Closed."""
        before = self.selected
        self._tag = tag
        try:
            answer = self._dispatch(command)
            if isinstance(answer, Outcome):
                outcome = answer
            else:
                outcome = yield from answer
            if self.selected is not None and self.selected is before and outcome.status != b"BAD":
                yield from self._sync(command)
        except (Refused, OSError, NoSuchFolder) as error:
            outcome = self._failed(error)
        except Torn as error:
            raise Closed(str(error)) from error
        if isinstance(command, Search) and command.program.saves and self.selected and outcome.status == b"NO":
            self.selected.saved = []  # RFC 5182 2.1
        if isinstance(command, Select) or self.selected is not before:
            return outcome, State.AUTHENTICATED if self.selected is None else State.SELECTED
        return outcome, None

    def _failed(self, error: Exception) -> Outcome:
        match error:
            case Refused():
                return error.outcome
            case NoSuchFolder():
                return no("There is no such mailbox", b"NONEXISTENT")
            case Gone():
                if self.selected is not None:
                    raise Closed(f"the mailbox is not what it was: {error.strerror}") from error
                return no("The mailbox is being changed by somebody else", b"INUSE")
            case Busy():
                return no("The mailbox is locked by another program", b"INUSE")
        self._failures += 1
        if self._failures <= MAX_COMPLAINTS:
            log.error("imap.failed", user=self._account.user, error=str(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return no("The disk is full", b"OVERQUOTA")
        if isinstance(error, PermissionError):
            return no("The server may not do that in this mailbox", b"NOPERM")
        return no("The mailbox cannot be read or written at the moment", b"SERVERBUG")

    def _sync(self, command: Command) -> Iterator[bytes]:
        assert self.selected is not None
        uid = bool(getattr(command, "uid", False))
        # RFC 3501 7.4.1: never while these are answered, but for their UID forms.
        holds = isinstance(command, Fetch | Store | Search | Sort | Thread) and not uid
        return self.selected.sync(may_expunge=not holds, uid=uid)

    def changes(self) -> Iterator[bytes]:
        """What has changed in the selected mailbox, for a client that idles. Raises Closed."""
        if self.selected is not None:
            try:
                yield from self.selected.sync(may_expunge=True)
            except Gone as error:
                raise Closed(f"the mailbox is not what it was: {error.strerror}") from error
            except OSError as error:
                raise Closed(str(error)) from error

    # -- commands

    def _dispatch(self, command: Command) -> Answer | Outcome:
        match command:
            case Simple(name):
                return _SIMPLE[name](self)
            case Select():
                return self._select(command)
            case OnMailbox(name, mailbox):
                return self._on_mailbox(name, mailbox)
            case Create():
                return self._create(command)
            case Rename(old, new):
                return self._rename(old, new)
            case List():
                return self._list(command)
            case Status(mailbox, items):
                return self._status(mailbox, items)
        assert self.selected is not None
        messages = Messages(self.selected, self._account, self._enabled, self._tag)
        match command:
            case Fetch():
                return messages.fetch(command)
            case Store():
                return messages.store(command)
            case Search():
                return messages.search(command)
            case Sort():
                return messages.sort(command)
            case Thread():
                return messages.thread(command)
            case Copy():
                return messages.copy(command)
            case Expunge(numbers):
                return messages.expunge(numbers)
        raise AssertionError(command)

    def _noop(self) -> Outcome:
        return ok("Done")

    def _namespace(self) -> Answer:
        yield b'* NAMESPACE (("" "/")) NIL NIL\r\n'
        return ok("Namespaces listed")

    def _close(self) -> Outcome:
        assert self.selected is not None
        if not self.selected.read_only:
            Messages(self.selected, self._account, self._enabled).expunge_silently()
        self._unselect()
        return ok("Closed")

    def _unselect_command(self) -> Outcome:
        self._unselect()
        return ok("Closed, nothing removed")

    def _expunge(self) -> Answer:
        assert self.selected is not None
        return Messages(self.selected, self._account, self._enabled).expunge(None)

    def _unselect(self) -> None:
        if self.selected is not None:
            selected, self.selected = self.selected, None
            selected.close()

    # -- select

    def _select(self, command: Select) -> Answer:
        if self.selected is not None:
            self._unselect()
            if self._enabled.qresync or self._enabled.rev2:
                yield b"* OK [CLOSED] The mailbox before is closed\r\n"
        folder = self._open(command.mailbox)
        try:
            selected = Selected(command.mailbox, folder, self._enabled, read_only=command.read_only)
        except BaseException:
            folder.folder.close()
            raise
        self.selected = selected
        yield selected.flags_line()
        permanent = [] if command.read_only else [*SYSTEM_FLAGS, *sorted(selected.keywords), b"\\*"]
        yield b"* OK [PERMANENTFLAGS " + listed(permanent) + b"] Flags that are kept\r\n"
        yield b"* %d EXISTS\r\n" % len(selected)
        if not self._enabled.rev2:
            yield b"* %d RECENT\r\n" % selected.count_recent()
            unseen = selected.first_unseen()
            if unseen is not None:
                yield b"* OK [UNSEEN %d] The first unseen message\r\n" % unseen
        yield b"* OK [UIDVALIDITY %d] UIDs are valid\r\n" % folder.validity
        yield b"* OK [UIDNEXT %d] The next UID\r\n" % (selected.index.last + 1)
        yield b"* OK [HIGHESTMODSEQ %d] The highest mod-sequence\r\n" % highest_modseq(selected.index)
        if self._enabled.rev2:
            yield b'* LIST () "/" %s\r\n' % mailbox(command.mailbox, utf8=self._utf8)
        if command.qresync is not None and command.qresync.validity == folder.validity:
            yield from self._resynchronise(selected, command.qresync.modseq, command.qresync.known)
        if command.read_only:
            return ok("Opened for reading only", b"READ-ONLY")
        return ok("Opened", b"READ-WRITE")

    def _resynchronise(self, selected: Selected, modseq: int, known: SequenceSet | None) -> Iterator[bytes]:
        """What the client has missed since `modseq` (RFC 7162 3.2.5.1)."""
        # Which were removed when is not kept: of all that are gone the client is told again.
        vanished = format_missing(selected.numbers, selected.index.last, known)
        if vanished:
            yield b"* VANISHED (EARLIER) " + vanished + b"\r\n"
        for position in range(len(selected)):
            if selected.modseq(position) > modseq:
                yield selected.fetch_flags(position, uid=True)

    @property
    def _utf8(self) -> bool:
        return self._enabled.utf8

    def _open(self, name: str) -> MailFolder:
        try:
            return self._account.open(name)
        except NoSuchFolder:
            if name == INBOX:
                raise
            raise Refused(no("There is no such mailbox", b"NONEXISTENT")) from None

    # -- mailboxes

    def _on_mailbox(self, command: str, name: str) -> Outcome:
        if command in ("SUBSCRIBE", "UNSUBSCRIBE"):
            try:
                self._account.subscribe(name, wanted=command == "SUBSCRIBE")
            except BadName as error:
                return no(f"No mailbox can have this name: {error}", b"CANNOT")
            return ok("Subscriptions changed")
        if name == INBOX:
            return no("INBOX cannot be deleted", b"CANNOT")
        if self.selected is not None and self.selected.name == name:
            # Its client has had enough of it: what it selected is no more.
            self._unselect()
        try:
            self._account.delete(name)
        except Inferior:
            return no("There are mailboxes below this one, which itself holds nothing", b"HASCHILDREN")
        return ok("Deleted")

    def _create(self, command: Create) -> Outcome:
        if not CREATABLE_USES.issuperset(_use(use) for use in command.uses):
            return no("There is no such special use here", b"USEATTR")
        try:
            self._account.create(command.mailbox)
        except BadName as error:
            return no(f"No mailbox can have this name: {error}", b"CANNOT")
        except FolderExists:
            return no("There is a mailbox of this name", b"ALREADYEXISTS")
        if command.uses:
            self._account.set_special_uses(command.mailbox, map(_use, command.uses))
        return ok("Created")

    def _rename(self, old: str, new: str) -> Outcome:
        try:
            if old == INBOX:
                self._account.create(new)
                self._move_inbox(new)
            else:
                self._account.rename(old, new)
        except BadName as error:
            return no(f"No mailbox can have this name: {error}", b"CANNOT")
        except FolderExists:
            return no("There is a mailbox of this name", b"ALREADYEXISTS")
        return ok("Renamed")

    def _move_inbox(self, new: str) -> None:
        """INBOX is never gone: its messages move (RFC 3501 6.3.5)."""
        folder = self._account.open(INBOX)
        try:
            # Looked at like EXAMINE, so that what is recent stays so.
            inbox = Selected(INBOX, folder, Enabled(), read_only=True)
            inbox.read_only = False
            messages = Messages(inbox, self._account, self._enabled)
            for _ in messages.copy(Copy(SequenceSet(((1, MAX_NUMBER),)), new, move=True, uid=True)):
                pass
        finally:
            folder.close()

    def _list(self, command: List) -> Answer:
        lister = Lister(self._account, utf8=self._utf8, status=self._status_line)
        yield from lister.responses(command)
        return ok("Listed")

    def _status(self, name: str, items: Sequence[str]) -> Answer:
        yield self._status_line(name, items)
        return ok("Status told")

    def _status_line(self, name: str, items: Sequence[str]) -> bytes:
        folder = self._open(name)
        try:
            if "HIGHESTMODSEQ" in items:
                self._enabled.condstore = True
            values = status_items(folder, items, self._max_size)
        finally:
            folder.close()
        return b"* STATUS %s %s\r\n" % (mailbox(name, utf8=self._utf8), values)

    # -- append

    def begin_append(self, command: Append) -> Outcome | None:
        """Makes ready for a message; the outcome if it cannot be taken."""
        try:
            try:
                folder = self._account.open(command.mailbox)
            except NoSuchFolder:
                return no("There is no such mailbox", b"TRYCREATE")
            try:
                self._appending = Appending(folder, command, time.time())
            except BaseException:
                folder.folder.close()
                raise
        except OSError as error:
            return self._failed(error)
        return None

    def append_data(self, data: bytes) -> None:
        """A piece of the message."""
        if self._appending is not None:
            self._appending.write(data)

    def commit_append(self) -> Generator[bytes, None, Outcome]:
        """The message is whole. Raises Closed."""
        appending, self._appending = self._appending, None
        assert appending is not None
        try:
            validity, number = appending.commit()
            if self.selected is not None:
                yield from self.selected.sync(may_expunge=True)
        except OSError as error:
            return self._failed(error)
        finally:
            appending.close()
        return ok("Appended", b"APPENDUID %d %d" % (validity, number))

    def abort_append(self) -> None:
        """The message is given up."""
        if self._appending is not None:
            self._appending.close()
            self._appending = None


def _use(use: bytes) -> bytes:
    return use.capitalize() if use[:1] != b"\\" else b"\\" + use[1:].capitalize()


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_SIMPLE: dict[str, Callable[[Executor], Answer | Outcome]] = {
    "NOOP": Executor._noop,
    "CHECK": Executor._noop,
    "NAMESPACE": Executor._namespace,
    "CLOSE": Executor._close,
    "UNSELECT": Executor._unselect_command,
    "EXPUNGE": Executor._expunge,
}
