"""Obeys the commands on the messages of the selected mailbox (RFC 3501 6.4, RFC 4315, RFC 6851, RFC 7162)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence

from smtpmail.imap.commands import Copy, Fetch, Search, Sort, Store, Thread
from smtpmail.imap.content import MessageFile
from smtpmail.imap.fetch import Fetcher
from smtpmail.imap.fetch_items import Item, Section
from smtpmail.imap.responses import Outcome, Refused, bad, no, ok, string
from smtpmail.imap.search import Searcher, cost
from smtpmail.imap.search_keys import Key
from smtpmail.imap.selected import Selected, highest_modseq, require_writable
from smtpmail.imap.sequences import SequenceSet, format_missing, format_set
from smtpmail.imap.session import Enabled
from smtpmail.imap.sorting import sort_messages
from smtpmail.imap.threads import thread_messages
from smtpmail.spool.files import copy_content
from smtpmail.spool.reader.account import Account, NoSuchFolder
from smtpmail.spool.reader.mailfolder import MailFolder, NewMessage
from smtpmail.spool.reader.states import RECENT, SEEN, Flags, with_flags, without_flags

COPIES_AT_ONCE = 100
"""Messages that are copied together: each holds descriptors."""

Answer = Generator[bytes, None, Outcome]

GONE = no("Some of the messages were removed", b"EXPUNGEISSUED")


class Messages:
    """The commands of one session on its selected mailbox; `tag` is that of the command."""

    def __init__(self, selected: Selected, account: Account, enabled: Enabled, tag: bytes = b"") -> None:
        self._tag = tag
        self._selected = selected
        self._account = account
        self._enabled = enabled

    def _enable_condstore(self) -> Iterator[bytes]:
        if not self._enabled.condstore:
            self._enabled.condstore = True
            highest = highest_modseq(self._selected.folder.settle())
            yield b"* OK [HIGHESTMODSEQ %d] The highest mod-sequence\r\n" % highest

    # -- fetch

    def fetch(self, command: Fetch) -> Answer:
        selected = self._selected
        items = list(command.items)
        since = command.modifiers.changed_since
        if "MODSEQ" in items or since is not None:
            yield from self._enable_condstore()
        if command.modifiers.vanished and not (self._enabled.qresync and command.uid):
            raise Refused(bad("VANISHED is for UID FETCH with QRESYNC"))
        positions = selected.positions(command.numbers, uid=command.uid)
        if since is not None:
            if command.modifiers.vanished:
                yield from self._vanished(command.numbers)
            positions = [position for position in positions if selected.modseq(position) > since]
            if "MODSEQ" not in items:
                items.append("MODSEQ")
        if command.uid and "UID" not in items:
            items.insert(0, "UID")
        if any(isinstance(item, Section) and not item.peek for item in items) and not selected.read_only:
            yield from self._mark_seen(positions, items)
        fetcher = Fetcher(selected, items, utf8=self._enabled.utf8)
        yield from fetcher.fetch(positions)
        return GONE if fetcher.missing else ok("Fetched")

    def _vanished(self, numbers: SequenceSet) -> Iterator[bytes]:
        """Those of the UIDs that are no more (RFC 7162 3.2.6)."""
        gone = format_missing(self._selected.numbers, self._selected.index.last, numbers)
        if gone:
            yield b"* VANISHED (EARLIER) " + gone + b"\r\n"

    def _mark_seen(self, positions: Sequence[int], items: list[Item]) -> Iterator[bytes]:
        r"""Whoever reads a message has seen it; the client is told with what it has asked for."""
        selected = self._selected
        unseen = [selected.numbers[p] for p in positions if SEEN not in selected.flags(p)]
        if not unseen:
            return
        changed, _ = selected.folder.change_flags(unseen, lambda flags: flags | {SEEN})
        for state in changed:
            yield selected.took_up(state, uid=True, silent=True, expected=state.flags)
        if "FLAGS" not in items and changed:
            items.append("FLAGS")
            if self._enabled.condstore and "MODSEQ" not in items:
                items.append("MODSEQ")

    # -- store

    def store(self, command: Store) -> Answer:
        selected = self._selected
        require_writable(selected)
        since = command.unchanged_since
        if since is not None:
            yield from self._enable_condstore()
        positions = selected.positions(command.numbers, uid=command.uid)
        change = _flag_change(command.action, command.flags)
        numbers = [selected.numbers[position] for position in positions]
        expected = {selected.numbers[p]: change(selected.flags(p) - {RECENT}) for p in positions}
        changed, refused = selected.folder.change_flags(numbers, change, since)
        for state in changed:
            yield selected.took_up(state, uid=command.uid, silent=command.silent, expected=expected.get(state.number))
        if refused:
            if not command.uid:
                refused = [selected.numbers.index(number) + 1 for number in refused]
            return ok("Some were changed by somebody else and left alone", b"MODIFIED " + format_set(sorted(refused)))
        if len(changed) < len(numbers):
            return GONE
        return ok("Stored")

    # -- copy and move

    def copy(self, command: Copy) -> Answer:
        selected = self._selected
        if command.move:
            require_writable(selected)
        positions = selected.positions(command.numbers, uid=command.uid)
        numbers = [selected.numbers[position] for position in positions]
        try:
            target = self._account.open(command.mailbox)
        except NoSuchFolder:
            return no("There is no such mailbox", b"TRYCREATE")
        try:
            if not numbers:
                return ok("There is nothing to do")
            validity = target.know_validity()
            new = self._copy(numbers, target)
        except FileNotFoundError:
            return GONE
        finally:
            target.close()
        code = b"COPYUID %d %s %s" % (validity, format_set(numbers), format_set(new))
        if not command.move:
            return ok("Copied", code)
        yield b"* OK [" + code + b"] Moved\r\n"
        selected.folder.remove(numbers, only_deleted=False)
        return ok("Moved", self._modseq_code())

    def _copy(self, numbers: Sequence[int], target: MailFolder) -> list[int]:
        """Copies messages, all or none; returns their new numbers. Raises OSError."""
        new: list[int] = []
        try:
            for start in range(0, len(numbers), COPIES_AT_ONCE):
                new += self._copy_some(numbers[start : start + COPIES_AT_ONCE], target)
        except BaseException:
            target.withdraw(new)
            raise
        return new

    def _copy_some(self, numbers: Sequence[int], target: MailFolder) -> list[int]:
        messages: list[NewMessage] = []
        folder = self._selected.folder
        try:
            for number in numbers:
                source, status = folder.open_message(number)
                try:
                    file = target.new_file()
                    messages.append(NewMessage(file, folder.flags_now(number) | {RECENT}))
                    copy_content(source, 0, status.st_size, file.fd)
                    os.utime(file.fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
                finally:
                    os.close(source)
            target.add(messages)
        finally:
            for message in messages:
                message.file.close()
        return [message.number for message in messages]

    # -- expunge

    def expunge(self, numbers: SequenceSet | None) -> Answer:
        r"""Removes what is \Deleted, of the UIDs `numbers` if they are given."""
        require_writable(self._selected)
        self._remove_deleted(numbers)
        yield from self._selected.sync(may_expunge=True, uid=numbers is not None)
        return ok("Expunged", self._modseq_code())

    def expunge_silently(self) -> None:
        """The same, of all, and without a word (CLOSE)."""
        self._remove_deleted(None)

    def _remove_deleted(self, numbers: SequenceSet | None) -> None:
        selected = self._selected
        positions = range(len(selected)) if numbers is None else selected.positions(numbers, uid=True)
        index = selected.folder.refresh()
        chosen = []
        for position in positions:
            place = index.position(selected.numbers[position])
            if place is not None and b"\\Deleted" in index.flags[place]:
                chosen.append(selected.numbers[position])
        if chosen:
            selected.folder.remove(chosen, only_deleted=True)

    def _modseq_code(self) -> bytes:
        if not self._enabled.qresync:
            return b""
        return b"HIGHESTMODSEQ %d" % highest_modseq(self._selected.folder.settle())

    # -- search, sort, thread

    def search(self, command: Search) -> Answer:
        selected = self._selected
        program = command.program
        with_modseq = program.key.uses_modseq()
        if with_modseq:
            yield from self._enable_condstore()
        returns = program.returns
        if returns is None and self._enabled.rev2:
            returns = frozenset({"ALL"})
        found = self._matching(program.key)
        if returns is not None and program.saves:
            selected.saved = [selected.numbers[p] for p in _returned(found, returns)]
        shown = [selected.numbers[p] if command.uid else p + 1 for p in found]
        returned = found if returns is None else _returned(found, returns)
        modseq = max((selected.modseq(p) for p in returned), default=0) if with_modseq else 0
        if returns is None:
            words = [b"* SEARCH", *(b"%d" % n for n in shown)]
            if modseq:
                words.append(b"(MODSEQ %d)" % modseq)
            yield b" ".join(words) + b"\r\n"
        elif returns != {"SAVE"}:
            yield self._esearch(shown, returns, modseq, uid=command.uid)
        return ok("Searched")

    def _esearch(self, shown: list[int], returns: frozenset[str], modseq: int, *, uid: bool) -> bytes:
        words = [b"* ESEARCH (TAG " + string(self._tag) + b")"]
        if uid:
            words.append(b"UID")
        if shown and "MIN" in returns:
            words.append(b"MIN %d" % shown[0])
        if shown and "MAX" in returns:
            words.append(b"MAX %d" % shown[-1])
        if shown and "ALL" in returns:
            words.append(b"ALL " + format_set(shown))
        if "COUNT" in returns:
            words.append(b"COUNT %d" % len(shown))
        if modseq:
            words.append(b"MODSEQ %d" % modseq)
        return b" ".join(words) + b"\r\n"

    def _matching(self, key: Key) -> list[int]:
        """The positions of the messages that fit, ascending."""
        selected = self._selected
        searcher = Searcher(
            lambda numbers: set(selected.positions(numbers, uid=False)),
            lambda numbers: set(selected.positions(numbers, uid=True)),
        )
        test = searcher.test(key)
        if cost(key) == 0 and key.name == "ALL":
            return list(range(len(selected)))
        found = []
        for position in range(len(selected)):
            message = Found(selected, position)
            try:
                if test(message):
                    found.append(position)
            except OSError:
                continue  # removed meanwhile: it fits no more
            finally:
                message.close()
        return found

    def sort(self, command: Sort) -> Answer:
        selected = self._selected
        found = self._matching(command.key)
        ordered = sort_messages([Found(selected, position) for position in found], command.criteria)
        shown = [selected.numbers[p] if command.uid else p + 1 for p in ordered]
        yield b" ".join([b"* SORT", *(b"%d" % n for n in shown)]) + b"\r\n"
        return ok("Sorted")

    def thread(self, command: Thread) -> Answer:
        selected = self._selected
        found = self._matching(command.key)
        threads = thread_messages(
            [Found(selected, position) for position in found],
            command.algorithm,
            lambda p: selected.numbers[p] if command.uid else p + 1,
        )
        yield b"* THREAD" + (b" " + threads if threads else b"") + b"\r\n"
        return ok("Threaded")


def _returned(found: list[int], returns: frozenset[str]) -> list[int]:
    """What a search returns, of which SAVE and MODSEQ are told: with MIN or MAX alone, only these (RFC 5182 2.1)."""
    if not found or {"ALL", "COUNT"} & returns or not {"MIN", "MAX"} & returns:
        return found
    return sorted({*([found[0]] if "MIN" in returns else []), *([found[-1]] if "MAX" in returns else [])})


def _flag_change(action: str, flags: Sequence[bytes]) -> Callable[[Flags], Flags]:
    match action:
        case "+":
            return lambda old: with_flags(old, flags)
        case "-":
            return lambda old: without_flags(old, flags)
    return lambda old: with_flags(frozenset(), flags) | (old & {RECENT})


class Found:
    """A message that is looked at (search.Candidate); its file is opened when it is needed."""

    def __init__(self, selected: Selected, position: int) -> None:
        self._selected = selected
        self.position = position
        self.number = selected.numbers[position]
        self._file: MessageFile | None = None

    @property
    def flags(self) -> Flags:
        return self._selected.flags(self.position) - {RECENT}

    @property
    def recent(self) -> bool:
        return RECENT in self._selected.flags(self.position)

    @property
    def modseq(self) -> int:
        return self._selected.modseq(self.position)

    @property
    def date(self) -> float:
        place = self._selected.place(self.position)
        if place is None:
            raise FileNotFoundError
        return self._selected.index.dates[place] / 1e9

    def wire_octets(self) -> int:
        return self._selected.wire_octets(self.position)

    def file(self) -> MessageFile:
        if self._file is None:
            self._file = MessageFile(*self._selected.folder.open_message(self.number))
        return self._file

    def close(self) -> None:
        """Gives the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None
