"""The folders of one user: a tree of directories below the user's mailbox, which is INBOX.

The user may own all of it and change it at any moment: every directory is opened below one that is open, and no link
is followed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from smtpmail.spool.files import replace_file
from smtpmail.spool.folder import Folder
from smtpmail.spool.reader.lock import FolderLock
from smtpmail.spool.reader.mailfolder import PATIENCE, MailFolder, unrecorded
from smtpmail.spool.reader.names import INBOX, MAX_LEVELS, BadName, directories, open_below, unescape
from smtpmail.spool.reader.validity import read_validity

DEFAULTS = {
    "Archive": b"\\Archive",
    "Drafts": b"\\Drafts",
    "Junk": b"\\Junk",
    "Sent": b"\\Sent",
    "Trash": b"\\Trash",
}
"""Folders that a person's programs expect, and their special uses (RFC 6154)."""

NO_SELECT = ".noselect"
"""In a directory that only holds other folders."""

SUBSCRIPTIONS = ".subscriptions"
SPECIAL_USE = ".special-use"
DELETED = ".deleted."
"""How the names of directories begin that are being removed."""

DELETED_VALIDITY = ".uidvalidity.deleted"
"""The largest UIDVALIDITY of a folder that is no more."""

MAX_FOLDERS = 10_000
MAX_LIST = 1024 * 1024
"""Octets of the hidden lists that are read."""


class NoSuchFolder(Exception):
    """There is no folder of that name."""


class FolderExists(Exception):
    """There is one already."""


class Inferior(Exception):
    """It holds other folders and nothing else, so that it cannot be deleted."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder in the list of all."""

    name: str
    selectable: bool
    has_children: bool


class Account:
    """One user's folders.

    `removing` is told which folder on disk loses messages of which numbers, and entered meanwhile.

    Methods raise OSError beside what they say.
    """

    def __init__(
        self,
        spool: str,
        user: str,
        removing: Callable[[str, Sequence[int]], AbstractContextManager[object]] = lambda _, __: unrecorded(()),
    ) -> None:
        path = os.path.join(spool, user)
        try:
            self._root = Folder(path)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            self._root = Folder(path)
        self.user = user
        self._removing = removing
        self._root_lock = FolderLock(self._root)

    def close(self) -> None:
        """Gives the descriptors back."""
        self._root.close()

    def prepare(self) -> None:
        """With the first use: the folders that a person's programs expect, subscribed to."""
        if self._root.exists(SUBSCRIPTIONS):
            return
        for name in DEFAULTS:
            with contextlib.suppress(FolderExists):
                self.create(name)
        self._write_list(SUBSCRIPTIONS, [INBOX, *DEFAULTS])

    # -- folders

    def open(self, name: str) -> MailFolder:
        """Raises NoSuchFolder."""
        way = self._way(name)
        if not way:
            root = open_below(self._root, ".")
            root.path = self._root.path
            return MailFolder(root, self._deleted_validity, partial(self._removing, ""))
        folder = self._open(way)
        if folder.exists(NO_SELECT) or way == [INBOX]:
            folder.close()
            raise NoSuchFolder(name)
        return MailFolder(folder, self._deleted_validity, partial(self._removing, "/".join(way)))

    def exists(self, name: str) -> bool:
        """Whether there is a folder of that name that can be opened."""
        try:
            self.open(name).folder.close()
        except NoSuchFolder:
            return False
        return True

    @staticmethod
    def _way(name: str) -> list[str]:
        try:
            return directories(name)
        except BadName:
            raise NoSuchFolder(name) from None

    def _open(self, way: Iterable[str]) -> Folder:
        folder = open_below(self._root, ".")
        for directory in way:
            try:
                inner = open_below(folder, directory)
            except (FileNotFoundError, NotADirectoryError):
                raise NoSuchFolder(directory) from None
            except OSError as error:
                if os.path.islink(f"/proc/self/fd/{folder.fd}/{directory}"):
                    raise NoSuchFolder(directory) from None
                raise error
            finally:
                folder.close()
            folder = inner
        return folder

    def folders(self) -> list[Entry]:
        """All folders, by name; INBOX first."""
        found: list[Entry] = []
        has_children = self._list_below(self._root, "", found, 0)
        below_inbox = any(entry.name.startswith(INBOX + "/") for entry in found)
        found.sort(key=lambda entry: entry.name)
        return [Entry(INBOX, True, below_inbox and has_children), *found]

    def _list_below(self, folder: Folder, prefix: str, found: list[Entry], level: int) -> bool:
        """Adds the folders in a directory; returns whether there are any."""
        some = False
        for directory in _subdirectories(folder):
            component = INBOX if directory == INBOX and not level else unescape(directory)
            if component is None or len(found) >= MAX_FOLDERS or level >= MAX_LEVELS:
                continue
            try:
                inner = open_below(folder, directory)
            except OSError:
                continue  # a link, or removed meanwhile
            try:
                name = prefix + component
                has_children = self._list_below(inner, f"{name}/", found, level + 1)
                some = True
                if name != INBOX:
                    found.append(Entry(name, not inner.exists(NO_SELECT), has_children))
            finally:
                inner.close()
        return some

    def create(self, name: str) -> None:
        """Makes a folder, and those above it that are missing. Raises BadName, FolderExists."""
        way = directories(name)
        if not way:
            raise FolderExists(name)
        folder = open_below(self._root, ".")
        made = False
        try:
            for directory in way:
                try:
                    os.mkdir(directory, 0o700, dir_fd=folder.fd)
                    os.fsync(folder.fd)
                    made = True
                except FileExistsError:
                    made = False
                inner = open_below(folder, directory)
                folder.close()
                folder = inner
            if not made:
                if not folder.exists(NO_SELECT):
                    raise FolderExists(name)
                os.unlink(NO_SELECT, dir_fd=folder.fd)
                os.fsync(folder.fd)
        finally:
            folder.close()

    def delete(self, name: str) -> None:
        """Removes a folder and its messages; what lies below it stays. Raises NoSuchFolder, Inferior."""
        way = self._way(name)
        parent = self._open(way[:-1])
        try:
            folder = self._open(way)
            try:
                self._note_validity(folder)
                if any(unescape(directory) is not None for directory in _subdirectories(folder)):
                    self._empty(folder)
                    return
            finally:
                folder.close()
            # Gone at once for everybody; what is in it follows.
            hidden = DELETED + os.urandom(8).hex()
            os.rename(way[-1], hidden, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
            os.fsync(parent.fd)
            _sweep(parent)
        finally:
            parent.close()

    def _empty(self, folder: Folder) -> None:
        """Makes a folder one that only holds others."""
        if folder.exists(NO_SELECT):
            raise Inferior(folder.path)
        with FolderLock(folder).held(PATIENCE):
            os.close(folder.open_file(NO_SELECT, os.O_WRONLY | os.O_CREAT))
            with os.scandir(folder.fd) as entries:
                names = [e.name for e in entries if not e.is_dir(follow_symlinks=False)]
            for name in names:
                if name not in (NO_SELECT, ".lock"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder.fd)
            os.fsync(folder.fd)

    def rename(self, old: str, new: str) -> None:
        """Gives a folder, and those below it, another name. Raises NoSuchFolder, BadName, FolderExists."""
        way, new_way = self._way(old), directories(new)
        self._open(way).close()
        with contextlib.suppress(NoSuchFolder):
            self._open(new_way).close()
            raise FolderExists(new)
        if new_way[: len(way)] == way:
            raise BadName("a folder cannot lie in itself")
        if len(new_way) > 1 and not self._is_there(new_way[:-1]):
            with contextlib.suppress(FolderExists):
                self.create(new.rpartition("/")[0])
        source, target = self._open(way[:-1]), self._open(new_way[:-1])
        try:
            folder = self._open(way)
            try:
                self._note_validity(folder)
            finally:
                folder.close()
            os.rename(way[-1], new_way[-1], src_dir_fd=source.fd, dst_dir_fd=target.fd)
            os.fsync(target.fd)
            os.fsync(source.fd)
        finally:
            source.close()
            target.close()
        self._rename_uses(old, new)

    def _is_there(self, way: list[str]) -> bool:
        try:
            self._open(way).close()
        except NoSuchFolder:
            return False
        return True

    # -- subscriptions and special uses

    def subscriptions(self) -> set[str]:
        """The names that the user has subscribed to, be they folders or not."""
        return set(self._read_list(SUBSCRIPTIONS))

    def subscribe(self, name: str, *, wanted: bool) -> None:
        """Adds a name to the subscriptions, or takes it out. Raises BadName."""
        directories(name)

        def change(names: list[str]) -> list[str]:
            without = [other for other in names if other != name]
            return [*without, name] if wanted else without

        self._change_list(SUBSCRIPTIONS, change)

    def special_uses(self, names: Iterable[str]) -> dict[str, list[bytes]]:
        """The special uses of those of the `names` that have some."""
        found: dict[str, list[bytes]] = {}
        names = set(names)
        given = set()
        for line in self._read_list(SPECIAL_USE):
            use, _, name = line.partition(" ")
            if name in names and use.isascii():
                found.setdefault(name, []).append(use.encode())
                given.add(use.encode())
        for name, use_ in DEFAULTS.items():
            if name in names and use_ not in given:
                found.setdefault(name, []).append(use_)
        return found

    def set_special_uses(self, name: str, uses: Iterable[bytes]) -> None:
        """Gives a folder special uses."""
        lines = [f"{use.decode('ascii')} {name}" for use in uses]
        self._change_list(SPECIAL_USE, lambda old: [*(line for line in old if line not in lines), *lines])

    def _rename_uses(self, old: str, new: str) -> None:
        lines = self._read_list(SPECIAL_USE)
        uses = self.special_uses({old}).get(old)
        if uses or any(line.partition(" ")[2] == old for line in lines):
            kept = [line for line in lines if line.partition(" ")[2] != old]
            self._change_list(SPECIAL_USE, lambda _: [*kept, *(f"{use.decode()} {new}" for use in uses or [])])

    def _read_list(self, file: str) -> list[str]:
        try:
            fd = self._root.open_file(file, os.O_RDONLY)
        except OSError:
            return []
        try:
            text = os.read(fd, MAX_LIST).decode("utf-8", "replace")
        finally:
            os.close(fd)
        return [line for line in text.split("\n") if line]

    def _change_list(self, file: str, change: Callable[[list[str]], list[str]]) -> None:
        with self._root_lock.held(PATIENCE):
            lines = self._read_list(file)
            changed = change(lines)
            if changed != lines:
                self._replace_list(file, changed)

    def _write_list(self, file: str, lines: list[str]) -> None:
        with self._root_lock.held(PATIENCE):
            self._replace_list(file, lines)

    def _replace_list(self, file: str, lines: list[str]) -> None:
        replace_file(self._root, file, "".join(f"{line}\n" for line in lines).encode())
        os.fsync(self._root.fd)

    # -- UIDVALIDITY of folders that are no more

    def _deleted_validity(self) -> int:
        lines = self._read_list(DELETED_VALIDITY)
        return int(lines[0]) if lines and lines[0].isascii() and lines[0].isdigit() and len(lines[0]) <= 10 else 0

    def _note_validity(self, folder: Folder) -> None:
        """A folder that takes the name of this one or of one below may never have their UIDVALIDITY."""
        largest = max(_validities(folder, 0), default=0)
        if largest > self._deleted_validity():
            self._write_list(DELETED_VALIDITY, [str(largest)])


def _validities(folder: Folder, level: int) -> Iterator[int]:
    yield read_validity(folder)
    if level < MAX_LEVELS:
        for directory in _subdirectories(folder):
            with contextlib.suppress(OSError):
                inner = open_below(folder, directory)
                try:
                    yield from _validities(inner, level + 1)
                finally:
                    inner.close()


def _subdirectories(folder: Folder) -> list[str]:
    """The names of directories in one, hidden ones left out."""
    # Where directories count their subdirectories as links, one with two has none: no need to read all its names.
    status = os.fstat(folder.fd)
    if status.st_nlink == 2 and stat.S_ISDIR(status.st_mode):
        return []
    with os.scandir(folder.fd) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
    return [name for name in names if _is_text(name)]


def _sweep(folder: Folder) -> None:
    """Removes deleted directories; another session may have put its cache into one meanwhile, so older ones, too."""
    with os.scandir(folder.fd) as entries:
        names = [e.name for e in entries if e.name.startswith(DELETED) and e.is_dir(follow_symlinks=False)]
    for name in names:
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder.fd)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
