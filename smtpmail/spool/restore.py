"""Makes the disk what the journals say it must be: at the start after a crash, before anybody is served.

What is there and whole stays as it is. So it does not matter how often this is done, nor whether it comes to its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from smtpmail.log import log
from smtpmail.spool.files import sync_file_system, sync_folder, write_all
from smtpmail.spool.folder import SAFELY, Folder
from smtpmail.spool.journal import REMOVALS
from smtpmail.spool.journals import FOLDER, KEPT, is_segment
from smtpmail.spool.lock import MAX_NUMBER, highest_number, locked, note_number, noted_number
from smtpmail.spool.record import FormatError, Kind, Record
from smtpmail.spool.replay import Messages, Plan, is_damaged, is_removed, missing_lines, plan
from smtpmail.spool.segment import clear, read_records, write_kept
from smtpmail.spool.sequences import add_unseen

LONGEST_LOG = 1 << 24

PATIENCE = 10.0
"""Seconds that a start waits for the locks of all mailboxes together."""


@dataclass(slots=True)
class Restored:
    """What a replay did."""

    records: int = 0
    files: int = 0
    """Files that were missing or damaged."""
    kept: list[Record] = field(default_factory=list)
    """Records of mailboxes that can't be written now: the next start tries again."""


def restore(spool: str, queue: str) -> Restored:
    """Replays the journals of all processes and empties them. Raises OSError, FormatError: then they are as before."""
    folder = os.path.join(queue, FOLDER)
    try:
        names = [name for name in os.listdir(folder) if is_segment(name) or name == KEPT]
    except FileNotFoundError:
        return Restored()
    records = {name: read_records(os.path.join(folder, name)) for name in names}
    used = [name for name, found in records.items() if found]
    done = Restored(sum(map(len, records.values())))
    if not used:
        return done
    # Open before anything is written: so their syncs tell of every failure.
    with _open(spool) as spool_folder, _open(queue) as queue_folder:
        disk = Disk([spool_folder.fd, queue_folder.fd])
        made = plan(record for found in records.values() for record in found)
        done.kept = _restore_mailboxes(disk, spool_folder, made, [r for found in records.values() for r in found])
        _restore_queue(disk, queue_folder, made)
        done.files = disk.files
        disk.sync()
    _empty(folder, used, [record for found in records.values() for record in found], done.kept)
    return done


def restore_queue(queue: str) -> Restored:
    """Replays what the journals tell of a queue alone, and empties them; no mailbox is touched.

    For a queue that another host takes over, and where hosts share the mailboxes: by now, the numbers that are told of
    are those of other messages. Raises OSError, FormatError, also when there is mail for mailboxes: they are as before.
    """
    folder = os.path.join(queue, FOLDER)
    try:
        names = [name for name in os.listdir(folder) if is_segment(name) or name == KEPT]
    except FileNotFoundError:
        return Restored()
    records = [record for name in names for record in read_records(os.path.join(folder, name))]
    if any(record.kind is Kind.STORED for record in records):
        raise FormatError(
            "it has mail for mailboxes that one host had alone: bring it there first, with"
            f" smtpmail queue list --spool THAT_SPOOL --shared-spool no --queue {queue}"
        )
    done = Restored(len(records))
    if records:
        with _open(queue) as queue_folder:
            disk = Disk([])
            _restore_queue(disk, queue_folder, plan(records))
        done.files = disk.files
        _empty(folder, names, records, [])
    return done


def _empty(folder: str, used: Sequence[str], records: Sequence[Record], kept: Sequence[Record]) -> None:
    """Forgets the records, those that are to be kept aside. Raises OSError."""
    path = os.path.join(folder, KEPT)
    # One segment after the other is emptied: a removal must be known as long as another may have what it removes.
    removals = [record for record in records if record.kind in REMOVALS]
    if kept or removals:
        write_kept(path, [*kept, *removals])
    for name in used:
        if name != KEPT:
            clear(os.path.join(folder, name))
    if kept:
        write_kept(path, kept)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            sync_folder(folder)


def rewrite(
    spool: str,
    queue: str,
    records: Sequence[Record],
    open_mailbox: Callable[[str], AbstractContextManager[Folder]],
) -> None:
    """Writes new files for those of the records that are still in place, whatever these contain, and syncs them.

    For a disk that did not take them: what is read is the page cache then. `open_mailbox` holds its lock, too.
    Raises OSError.
    """
    made = plan(records)
    with _open(spool) as spool_folder, _open(queue) as queue_folder:
        disk = Disk([spool_folder.fd, queue_folder.fd])
        for place, messages in made.mailboxes.items():
            with contextlib.suppress(FileNotFoundError), open_mailbox(place) as mailbox:
                for number, record in messages.stored.items():
                    disk.rewrite(mailbox, str(number), record.content)
                    if state := disk.read(mailbox, f"{number}.status", 64 * 1024):
                        disk.rewrite(mailbox, f"{number}.status", state)
        for id_, record in made.queued.items():
            disk.rewrite(queue_folder, id_, record.content)
        for id_ in made.progress:
            found = disk.read(queue_folder, f"{id_}.log", LONGEST_LOG)
            if found is not None:
                disk.rewrite(queue_folder, f"{id_}.log", found)
        disk.sync()


class Disk:
    """Files in folders that others may change meanwhile."""

    def __init__(self, file_systems: Sequence[int]) -> None:
        """Descriptors of the file systems that `sync` writes out; on any other, each file is synced."""
        self.files = 0
        """How many were written."""
        self._file_systems = file_systems
        self._devices = {os.fstat(fd).st_dev for fd in file_systems}

    def read(self, folder: Folder, name: str, limit: int) -> bytes | None:
        """What a regular file contains, `limit` octets and one more at most; None when there is no such file.

        Raises OSError when there is something else of that name, PermissionError when it is not ours to read.
        """
        try:
            fd = os.open(name, os.O_RDONLY | SAFELY, dir_fd=folder.fd)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "is no regular file", os.path.join(folder.path, name))
            pieces = []
            while limit >= 0 and (piece := os.read(fd, limit + 1)):
                pieces.append(piece)
                limit -= len(piece)
            return b"".join(pieces)
        finally:
            os.close(fd)

    def write(self, folder: Folder, name: str, content: bytes, *, replace: bool) -> None:
        """A file of that name and content. Raises FileExistsError when one is there and not to be replaced; OSError."""
        new = _new_name(name)
        self.clear(folder, name)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o660, dir_fd=folder.fd)
        try:
            try:
                write_all(fd, [content])
                self.sync_elsewhere(fd)
            finally:
                os.close(fd)
            if replace:
                os.rename(new, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            else:
                os.link(new, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd, follow_symlinks=False)
        finally:
            self.clear(folder, name)
        self.sync_elsewhere(folder.fd)
        self.files += 1

    def clear(self, folder: Folder, name: str) -> None:
        """Removes what a replay that was cut off has left of `write`. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_new_name(name), dir_fd=folder.fd)

    def rewrite(self, folder: Folder, name: str, content: bytes) -> None:
        """Another file of the same content in place of the one that is there, if one is. Raises OSError."""
        if folder.exists(name):
            self.write(folder, name, content, replace=True)

    def remove(self, folder: Folder, name: str) -> None:
        """Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder.fd)
            self.sync_elsewhere(folder.fd)

    def append(self, folder: Folder, name: str, data: bytes) -> None:
        """Raises OSError."""
        fd = folder.open_file(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            write_all(fd, [data])
            self.sync_elsewhere(fd)
        finally:
            os.close(fd)
        self.sync_elsewhere(folder.fd)
        self.files += 1

    def sync(self) -> None:
        """Returns when all of it is durable. Raises OSError."""
        for fd in self._file_systems:
            sync_file_system(fd)

    def sync_elsewhere(self, fd: int) -> None:
        """Makes a file durable that `sync` does not reach. Raises OSError."""
        if os.fstat(fd).st_dev not in self._devices:
            os.fsync(fd)


def _new_name(name: str) -> str:
    return f".{name}.restored"


def _restore_mailboxes(disk: Disk, spool: Folder, made: Plan, records: Sequence[Record]) -> list[Record]:
    """Returns the records of those that can't be written. Raises OSError when the disk is the reason."""
    kept: list[Record] = []
    give_up = time.monotonic() + PATIENCE
    for place, messages in made.mailboxes.items():
        try:
            _restore_mailbox(disk, spool, place, messages, give_up)
        except OSError as error:
            # Its owner has made something else of it, say: no reason to leave the others without their mail.
            log.error("journal.kept", mailbox=place, error=str(error), hint="tried again at the next start")
            mine = (Kind.STORED, Kind.REMOVED, Kind.CANCELLED)
            kept += [record for record in records if record.kind in mine and record.place == place]
    return kept


def open_below(spool: Folder, place: str, *, create: bool) -> Folder:
    """The folder of a mailbox, looked up step by step: none of them may be a link. Raises OSError."""
    folder, parent = None, spool
    try:
        for name in place.split("/"):
            if not name or name.startswith("."):
                raise OSError(errno.EINVAL, "is no name of a mailbox", place)
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=parent.fd)
            below = Folder(f"/proc/self/fd/{parent.fd}/{name}")
            below.path = os.path.join(parent.path, name)
            if folder is not None:
                folder.close()
            folder = parent = below
        assert folder is not None
        return folder
    except OSError:
        if folder is not None:
            folder.close()
        raise


def _restore_mailbox(disk: Disk, spool: Folder, place: str, messages: Messages, give_up: float) -> None:
    """Raises OSError."""
    try:
        folder = open_below(spool, place, create=bool(messages.stored))
    except FileNotFoundError:
        if messages.stored:
            raise
        return
    try:
        with locked(folder, give_up) as lock:
            noted = noted_number(lock)
            last = max(noted if noted is not None else highest_number(folder, apart=True), messages.last)
            restored = []
            for number, record in sorted(messages.stored.items()):
                if placed := _restore_message(disk, folder, number, record, last):
                    restored.append(placed)
                    last = max(last, placed)
            for number in messages.removed:
                _remove_message(disk, folder, number)
            for number, record in messages.cancelled.items():
                if _is_message(disk, folder, number, record.content):
                    _remove_message(disk, folder, number)
            if noted is None or last > noted:
                note_number(lock, last)
                disk.sync_elsewhere(lock)
            if restored:
                with contextlib.suppress(OSError):
                    add_unseen(folder, sorted(restored), None, time.monotonic() + 1)
    finally:
        folder.close()


def _restore_message(disk: Disk, folder: Folder, number: int, record: Record, last: int) -> int:
    """Returns under which number a message was written anew, 0 if it is there. Raises OSError."""
    content = record.content
    for name in (f"{number}", f"{number}.status"):
        disk.clear(folder, name)
    found: bytes | None
    try:
        found = disk.read(folder, str(number), len(content))
    except PermissionError:
        whole = os.stat(str(number), dir_fd=folder.fd, follow_symlinks=False).st_size >= len(content)
        found = content if whole else b""
    except OSError:
        found = b"something else" + content
    if found is not None and found != content and not is_damaged(found, content):
        # Another program was faster after the crash, and what it has put there is somebody's, too.
        return _restore_elsewhere(disk, folder, number, record, last)
    _restore_status(disk, folder, number, record.state)
    if found == content:
        return 0
    disk.write(folder, str(number), content, replace=found is not None)
    return number


def _restore_elsewhere(disk: Disk, folder: Folder, number: int, record: Record, last: int) -> int:
    """The same, behind all others, unless an earlier replay has done so."""
    for other in range(number + 1, last + 1):
        for name in (f"{other}", f"{other}.status"):
            disk.clear(folder, name)
        if _is_message(disk, folder, other, record.content):
            return 0
    number = last
    while number < MAX_NUMBER:
        number += 1
        if not folder.exists(str(number)) and not folder.exists(f"{number}.status"):
            disk.write(folder, f"{number}.status", record.state, replace=False)
            disk.write(folder, str(number), record.content, replace=False)
            return number
    raise OSError("there is no number left")


def _restore_status(disk: Disk, folder: Folder, number: int, state: bytes) -> None:
    """A reader's own is left alone if it is whole. Raises OSError."""
    name = f"{number}.status"
    try:
        found = disk.read(folder, name, 64 * 1024)
    except PermissionError:
        if os.stat(name, dir_fd=folder.fd, follow_symlinks=False).st_size:
            return
        found = b""
    if not found or b"\0" in found:
        disk.write(folder, name, state, replace=found is not None)


def _is_message(disk: Disk, folder: Folder, number: int, content: bytes) -> bool:
    with contextlib.suppress(OSError):
        found = disk.read(folder, str(number), len(content))
        return found is not None and (found == content or (bool(found) and is_damaged(found, content)))
    return False


def _remove_message(disk: Disk, folder: Folder, number: int) -> None:
    """The message first: who sees it finds its status. Raises OSError."""
    disk.remove(folder, str(number))
    disk.remove(folder, f"{number}.status")


def _restore_queue(disk: Disk, folder: Folder, made: Plan) -> None:
    """Raises OSError."""
    for id_ in made.finished:
        disk.remove(folder, id_)
        disk.remove(folder, f"{id_}.log")
    for id_, record in made.queued.items():
        content = record.content
        if is_removed(disk.read(folder, f"{id_}.log", LONGEST_LOG) or b""):
            disk.remove(folder, id_)
            continue
        found = disk.read(folder, id_, len(content))
        if found is None or is_damaged(found, content):
            disk.write(folder, id_, content, replace=found is not None)
    for id_, lines in made.progress.items():
        if folder.exists(id_):
            found = disk.read(folder, f"{id_}.log", LONGEST_LOG) or b""
            if missing := missing_lines(found, lines):
                disk.append(folder, f"{id_}.log", missing)


@contextlib.contextmanager
def _open(path: str) -> Iterator[Folder]:
    folder = Folder(path, follow=True)
    try:
        yield folder
    finally:
        folder.close()
