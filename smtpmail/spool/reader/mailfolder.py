"""One folder as a mail reader uses it: what is in it, and every change that a reader makes.

Reading takes no lock. Changes are made under the folder's lock, which deliveries take as well, and are on disk when
the method returns.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from smtpmail.spool.files import NewFile, is_local, sync_files, write_all
from smtpmail.spool.folder import Folder
from smtpmail.spool.reader import cache
from smtpmail.spool.reader.index import MAX_UID, SETTLED_NS, Index, Renumbered, open_message, read_flags, scan
from smtpmail.spool.reader.lock import FolderLock, Numbers
from smtpmail.spool.reader.mh_readers import KNOWN, note_changes
from smtpmail.spool.reader.recency import MARK, read_mark, write_mark
from smtpmail.spool.reader.renumbering import moved
from smtpmail.spool.reader.shared import known
from smtpmail.spool.reader.state_files import sync_states, write_state
from smtpmail.spool.reader.states import DELETED, RECENT, Flags, text_of
from smtpmail.spool.reader.ticks import TICK_NS, wait_for_tick
from smtpmail.spool.reader.validity import new_validity, read_validity

PATIENCE = 30.0
"""Seconds to wait for the lock of a folder."""

MOST_AT_ONCE = 500
"""States changed or messages added under one hold of the lock: deliveries get their turn in between."""


class Gone(OSError):
    """The folder was removed, renamed, or its numbers were given anew: who reads it must open it again."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A message whose state was changed."""

    number: int
    flags: Flags
    modseq: int


@dataclass(slots=True)
class NewMessage:
    """A message on its way into a folder."""

    file: NewFile
    flags: Flags
    number: int = 0


Removing = Callable[[Sequence[int]], AbstractContextManager[object]]


def unrecorded(numbers: Sequence[int]) -> AbstractContextManager[object]:
    """A removal that nothing need know of."""
    return contextlib.nullcontext()


class MailFolder:
    """An open folder; `close` gives its descriptor back. Raises OSError.

    `removing` is entered while messages of these numbers leave.

    A UIDVALIDITY that it needs is larger than `validity_above` tells: folders of its name may have been before it.
    """

    def __init__(
        self,
        folder: Folder,
        validity_above: Callable[[], int] = lambda: 0,
        removing: Removing = unrecorded,
    ) -> None:
        self.folder = folder
        self._lock = FolderLock(folder)
        self._validity_above = validity_above
        self._removing = removing
        self._known = known.get(folder)
        self._index: Index | None = None
        self.validity = 0
        """UIDVALIDITY, once `refresh` was called."""

    def close(self) -> None:
        """Keeps what was found out for the next time."""
        self.save()
        self.folder.close()

    def save(self) -> None:
        """Writes the cache if it would say something new."""
        known, index = self._known, self._known.index
        with known.lock:
            if index is None or known.validity != self.validity or (index is known.saved and not known.touched):
                return
            known.saved, known.touched = index, False
        cache.save(self.folder, index, self.validity)

    def learned(self) -> None:
        """Something was added to the index: the cache will be written."""
        self._known.touched = True

    # -- reading

    def know_validity(self) -> int:
        """UIDVALIDITY; a folder without gets one. Raises OSError."""
        if not self.validity:
            self.validity = read_validity(self.folder) or self._renew_validity()
        return self.validity

    def refresh(self) -> Index:
        """What is in the folder now, with what MH readers have marked. Raises Gone, OSError."""
        self.know_validity()
        index = self._look()
        differences = self._known.readers.differences(self.folder, index)
        if differences:
            try:
                self._settle_with_readers(index, list(differences.states))
            except OSError:
                self._known.readers.undecided = True  # the lock is held for long, or the disk is full: another time
            index = self._look()
        return index

    @property
    def undecided(self) -> bool:
        """Whether `refresh` may tell something new soon although nothing changes."""
        return self._known.readers.undecided

    def _settle_with_readers(self, index: Index, numbers: Sequence[int]) -> None:
        """States get what MH readers have changed of these messages, and they what was changed here. Raises OSError."""
        for start in range(0, len(numbers) or 1, MOST_AT_ONCE):
            with self._lock.held(PATIENCE):
                now = self._known.readers.differences(self.folder, index, locked=True)
                chosen = [n for n in numbers[start : start + MOST_AT_ONCE] if n in now.states]
                self._change_some(chosen, lambda n, flags: (flags | now.states[n][0]) - now.states[n][1], None, [])  # noqa: B023
                note_changes(self.folder, now.sequences)

    def _look(self) -> Index:
        known = self._known
        with known.lock:
            if known.validity != self.validity:
                known.forget(self.validity)
            if known.index is None:
                known.index = known.saved = cache.load(self.folder, self.validity)
                if known.index is None and cache.make(self.folder) and is_local(self.folder.fd):
                    time.sleep(SETTLED_NS / 1e9)  # so that what is found counts for the next time
            try:
                known.index = scan(self.folder, known.index, self._lock.last_number)
            except Renumbered:
                index, packed = None, known.index
                known.forget(0)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    raise Gone(errno.ESTALE, "it was removed", self.folder.path) from None
                raise
            else:
                index = known.index
        if index is None:
            self._renew_validity(self.validity, packed)
        if index is None or (index is not self._index and read_validity(self.folder) != self.validity):
            raise Gone(errno.ESTALE, "its numbers were given anew", self.folder.path)
        self._index = index
        return index

    def settle(self) -> Index:
        """What is in the folder, so old that no change can hide behind its newest time: waits a moment if need be."""
        index = self.refresh()
        wait = index.newest() + TICK_NS - time.time_ns()
        if 0 < wait <= TICK_NS:
            time.sleep(wait / 1e9)
            index = self.refresh()
        return index

    def _renew_validity(self, old: int = 0, known: Index | None = None) -> int:
        """`known`: the folder before its numbers were given anew."""
        with self._lock.held(PATIENCE):
            current = read_validity(self.folder)
            if current and current != old:
                return current
            for name in (cache.CACHE, KNOWN, MARK) if old else (cache.CACHE,):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self.folder.fd)
            if known is not None:
                flags = moved(self.folder, known)
                self._change_some(list(flags), lambda number, _: flags[number], None, [])
            return new_validity(self.folder, self._validity_above())

    def open_message(self, number: int) -> tuple[int, os.stat_result]:
        """A descriptor of a message, and what it is like (index.open_message). Raises OSError, FileNotFoundError."""
        return open_message(self.folder, number)

    # -- states

    def flags_now(self, number: int) -> Flags:
        """The flags of a message, as its state says now."""
        return read_flags(self.folder, number)

    def change_flags(
        self, numbers: Iterable[int], change: Callable[[Flags], Flags], unchanged_since: int | None = None
    ) -> tuple[list[Changed], list[int]]:
        """Changes the flags of the messages. `change` gets the flags as they are, and returns those that are to be.

        Returns the states of all that are there, and the numbers whose state is younger than `unchanged_since` and was
        left alone. Messages that were removed are in neither. Raises OSError.
        """
        done: list[Changed] = []
        refused: list[int] = []
        numbers = list(numbers)
        for start in range(0, len(numbers), MOST_AT_ONCE):
            with self._lock.held(PATIENCE):
                some = numbers[start : start + MOST_AT_ONCE]
                done += self._change_some(some, lambda _, flags: change(flags), unchanged_since, refused)
        return done, refused

    def _change_some(
        self,
        numbers: Sequence[int],
        change: Callable[[int, Flags], Flags],
        unchanged_since: int | None,
        refused: list[int],
    ) -> list[Changed]:
        fd = self.folder.fd
        mark = read_mark(self.folder)
        new: list[tuple[int, Flags, Flags]] = []
        done: dict[int, Changed] = {}
        for number in numbers:
            if not self.folder.exists(str(number)):
                continue
            flags = read_flags(self.folder, number)
            if number <= mark:
                flags -= {RECENT}
            modseq = self._modseq(number)
            if unchanged_since is not None and modseq > unchanged_since:
                refused.append(number)
                continue
            wanted = change(number, flags)
            done[number] = Changed(number, flags, modseq)
            if wanted != flags or not self.folder.exists(f"{number}.status"):
                new.append((number, flags, wanted))
        if not new:
            return list(done.values())
        wait_for_tick(fd)
        temporary = [write_state(self.folder, number, flags) for number, _, flags in new]
        # That a message is no longer recent may be forgotten in a power cut: nobody was told of it.
        durable = any(before - after != {RECENT} or after - before for _, before, after in new)
        try:
            if durable:
                sync_states(self.folder, temporary)
            for (number, _, flags), name in zip(new, temporary, strict=True):
                os.rename(name, f"{number}.status", src_dir_fd=fd, dst_dir_fd=fd)
                done[number] = Changed(number, flags, self._modseq(number))
        except BaseException:
            for name in temporary:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=fd)
            raise
        if durable:
            os.fsync(fd)
            self._known.readers.tell(self.folder, {number: (before, after) for number, before, after in new})
        return list(done.values())

    def _modseq(self, number: int) -> int:
        try:
            status = os.stat(f"{number}.status", dir_fd=self.folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return 1
        return max(status.st_ctime_ns, 1)

    def claim_recent(self, index: Index, above: int = 0) -> list[int]:
        r"""Takes \Recent from all messages above a number that have it; returns theirs: no other session gets them."""
        start = bisect_right(index.numbers, above)
        recent = [n for n, flags in zip(index.numbers[start:], index.flags[start:], strict=True) if RECENT in flags]
        if not recent:
            return []
        if len(recent) > MOST_AT_ONCE:
            with self._lock.held(PATIENCE):
                mark = read_mark(self.folder)
                write_mark(self.folder, max(mark, recent[-1]))
            time.sleep(SETTLED_NS / 1e9)  # so that the look that follows counts for the next time, too
            return [number for number in recent if number > mark]
        claimed: list[int] = []

        def take(flags: Flags) -> Flags:
            claimed.append(RECENT in flags)
            return flags - {RECENT}

        changed, _ = self.change_flags(recent, take)
        return [state.number for state, had in zip(changed, claimed, strict=True) if had]

    # -- messages

    def new_file(self) -> NewFile:
        """A file for a message that will be put into this folder. Raises OSError."""
        return NewFile(self.folder)

    def add(self, messages: Sequence[NewMessage]) -> None:
        """Puts messages into the folder, all or none, and sets their numbers. Raises OSError."""
        states: list[NewFile] = []
        try:
            for message in messages:
                state = self.new_file()
                states.append(state)
                write_all(state.fd, [text_of(message.flags)])
            for error in sync_files([*(message.file for message in messages), *states]):
                if error is not None:
                    raise error
            with self._lock.held(PATIENCE) as numbers:
                self._place(messages, states, numbers)
                os.fsync(self.folder.fd)
                self._known.readers.tell(self.folder, {m.number: (frozenset({b"\\Seen"}), m.flags) for m in messages})
        finally:
            for state in states:
                state.close()

    def _place(self, messages: Sequence[NewMessage], states: Sequence[NewFile], numbers: Numbers) -> None:
        last = numbers.last()
        try:
            for message, state in zip(messages, states, strict=True):
                last = self._free_number(last)
                self._name(state, f"{last}.status")
                try:
                    message.file.give_name(str(last), self.folder.fd)
                except OSError:
                    os.unlink(f"{last}.status", dir_fd=self.folder.fd)
                    raise
                message.number = last
        except OSError:
            self.withdraw([message.number for message in messages if message.number])
            raise
        finally:
            numbers.note(last)

    def _free_number(self, last: int) -> int:
        while True:
            last += 1
            if last > MAX_UID:
                raise OSError(errno.ENOSPC, "the folder has given all its numbers", self.folder.path)
            if not self.folder.exists(str(last)):
                return last

    def _name(self, state: NewFile, name: str) -> None:
        try:
            state.give_name(name, self.folder.fd)
        except FileExistsError:
            os.unlink(name, dir_fd=self.folder.fd)  # left by a crash: there is no message of this number
            state.give_name(name, self.folder.fd)

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Takes messages that nobody was told of out again."""
        for number in numbers:
            for name in (str(number), f"{number}.status"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self.folder.fd)

    def remove(self, numbers: Iterable[int], *, only_deleted: bool) -> list[int]:
        r"""Removes messages for good; with `only_deleted` those that are \Deleted by now. Returns which.

        Messages first, then states: who sees a message finds its state. A number is never given again.
        """
        removed: list[int] = []
        with self._lock.held(PATIENCE) as lock:
            chosen = [n for n in numbers if not only_deleted or DELETED in read_flags(self.folder, n)]
            if not chosen:
                return []
            lock.note(max(lock.last(), *chosen), durable=True)
            with self._removing(chosen):
                for number in chosen:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(str(number), dir_fd=self.folder.fd)
                    removed.append(number)
                for number in chosen:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{number}.status", dir_fd=self.folder.fd)
                os.fsync(self.folder.fd)
            self._known.readers.tell(self.folder, dict.fromkeys(removed, (_ANY, frozenset({b"\\Seen"}))))
        return removed


_ANY = frozenset({b"\\Answered", b"\\Flagged"})
