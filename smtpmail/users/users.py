"""Who the local users are, and which user a local part names."""

from __future__ import annotations

import os
import threading
import unicodedata
from collections.abc import Callable, Container

from smtpmail.mail.address import MAX_LOCAL_PART, AddressSyntaxError, normal_domain
from smtpmail.users.files import FileUnusable, read_text, signature

POSTMASTER = "postmaster"


MAX_FILE = 16 * 1024**2
"""Octets of the file of users."""


class UsersUnreadable(Exception):
    """The file of users can't be read at the moment, or names nobody."""


def user_of(local_part: str) -> str | None:
    """The user whose mail a local part names: lower case, without `+detail`; None when it can be nobody's.

    The name becomes a folder in the spool. So it must be no path: nothing that leaves the spool or hides in it.
    """
    # Composed and decomposed letters are one name: NFC, also of what lower() makes.
    user = unicodedata.normalize("NFC", unicodedata.normalize("NFC", local_part.partition("+")[0]).lower())
    if not user or user.startswith(".") or "/" in user or not user.isprintable():
        return None
    # The limit is that of the name alone (a detail may be longer), and of its last form: lower() may lengthen it.
    return user if len(user.encode(errors="surrogatepass")) <= MAX_LOCAL_PART else None


def user_named(name: str, domains: Container[str]) -> str | None:
    """The user that a person means by `bob` or `bob@dom.fr`; None when it can be none. `domains` are normal ones."""
    local, at, domain = name.strip().rpartition("@")
    if at:
        try:
            if normal_domain(domain) not in domains:
                return None
        except AddressSyntaxError:
            return None
    else:
        local = domain
    return None if "+" in local or "@" in local else user_of(local)


def parse_users(text: str) -> tuple[list[str], list[str]]:
    """The users in a file, one a line, `#` begins a comment; and a complaint for each line that names none."""
    users: list[str] = []
    complaints: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        user = user_of(name)
        if user is None or "+" in name or any(c in name for c in "@ \t"):
            complaints.append(f"line {number}: {name!r} is no user name")
        elif user not in users:
            users.append(user)
    return users, complaints


class Users:
    """The local users of `--users FILE`, read again whenever the file has changed; without a file, every name.

    `on_change` is told of each reading: the number of users, and a complaint for each line that names none.
    """

    def __init__(self, path: str | None, on_change: Callable[[int, list[str]], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._users: frozenset[str] | None = None
        self._first: str | None = None

    def mailbox(self, user: str) -> str | None:
        """The user whose mailbox takes mail for `user`, None when there is none. Raises UsersUnreadable.

        Postmaster always exists (RFC 5321 4.5.1); without a user of that name the first of the file takes its mail.
        """
        if self._path is None:
            return user
        users, first = self._read(self._path)
        if user in users:
            return user
        if user == POSTMASTER:
            return first or POSTMASTER
        if not users:
            # Emptied by a mistake, or about to be written: refused for good, all mail would be lost.
            raise UsersUnreadable(f"{self._path} names nobody")
        return None

    def knows(self, user: str) -> bool:
        """Whether `user` is named, so that no catch-all takes their mail; without a file postmaster alone is.

        Raises UsersUnreadable.
        """
        if self._path is None:
            return user == POSTMASTER
        return self.mailbox(user) is not None

    def reload(self) -> None:
        """Reads the file even if it looks unchanged. Raises UsersUnreadable."""
        with self._lock:
            self._seen = None
        if self._path is not None:
            self._read(self._path)

    def _read(self, path: str) -> tuple[frozenset[str], str | None]:
        try:
            seen = signature(os.stat(path))
            with self._lock:
                if self._users is None or seen != self._seen:
                    text, seen = read_text(path, MAX_FILE)
                    users, complaints = parse_users(text)
                    self._users, self._first, self._seen = frozenset(users), next(iter(users), None), seen
                    self._on_change(len(users), complaints)
                return self._users, self._first
        except (OSError, FileUnusable) as error:
            raise UsersUnreadable(f"{path}: {error}") from error
