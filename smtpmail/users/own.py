"""What a user decides about their own mail, in files of their mailbox folder: `.forward` and `.blocked`.

The folder may belong to the user, who may put anything there: nothing in it is followed out of it, blocks, or is read
without end, and no text of it reaches the log (it might be a file that its owner could not read).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from smtpmail.mail.address import Address
from smtpmail.users.alias_syntax import AliasSyntaxError, Target, parse_items, without_comment
from smtpmail.users.blocked import NOBODY, Blocked, parse_blocked
from smtpmail.users.files import FileUnusable, read_text

FORWARD = ".forward"
BLOCKED = ".blocked"

MAX_FILE = 64 * 1024
"""Octets of either file."""

MAX_TARGETS = 100
"""Addresses in a `.forward`: it is no mailing list."""


@dataclass(frozen=True, slots=True)
class Forward:
    """To whom a user's mail goes on. With a complaint a copy stays in the mailbox: nothing is lost by a typo."""

    targets: tuple[Target, ...]
    complaints: tuple[str, ...] = ()


def parse_forward(text: str) -> Forward:
    """The addresses in a `.forward`: one or more a line, `#` begins a comment, `\\bob` is the mailbox itself."""
    targets: list[Target] = []
    complaints = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = without_comment(raw.strip()).strip()
        if not line:
            continue
        try:
            found = list(parse_items(line))
        except AliasSyntaxError:
            complaints.append(f"line {number} is no address")
            continue
        addresses = [item for item in found if isinstance(item, Target)]
        if len(addresses) < len(found):
            complaints.append(f"line {number}: only addresses may stand here")
        targets += addresses
    if len(targets) > MAX_TARGETS:
        complaints.append(f"it has more than {MAX_TARGETS} addresses")
    return Forward(tuple(targets[:MAX_TARGETS]), tuple(complaints))


class Missing:
    """Files that were not there a moment ago, on a file system of other hosts: to look costs round trips each time."""

    SECONDS = 1.0
    MOST = 10_000

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def has(self, path: str) -> bool:
        """Whether it was so within the last SECONDS."""
        return time.monotonic() - self._since.get(path, -self.SECONDS) < self.SECONDS

    def note(self, path: str) -> None:
        """It is not there now."""
        if len(self._since) >= self.MOST:
            self._since.clear()
        self._since[path] = time.monotonic()


class Own:
    """What the user of a mailbox folder decides about its mail; each file is read when it is asked for."""

    __slots__ = ("_mailbox", "_missing")

    def __init__(self, mailbox: str, missing: Missing | None = None) -> None:
        """`mailbox`: the path of the folder. With `missing`, what was not there is not looked for again at once."""
        self._mailbox = mailbox
        self._missing = missing

    @property
    def forward(self) -> Forward | None:
        """The forwarding that the user asked for, None without any."""
        try:
            text = self._read(FORWARD)
        except (OSError, FileUnusable) as error:
            return Forward((), (_reason(error),))
        return None if text is None else parse_forward(text)

    @property
    def blocked(self) -> Blocked:
        """The senders from whom the user wants no mail. A file that can't be used blocks nobody."""
        try:
            text = self._read(BLOCKED)
        except (OSError, FileUnusable) as error:
            return Blocked(frozenset(), frozenset(), (_reason(error),))
        return NOBODY if text is None else parse_blocked(text)

    def blocks(self, sender: Address) -> bool:
        """Whether the user wants no mail from this sender."""
        return not sender.is_null and self.blocked.has(sender)

    def _read(self, name: str) -> str | None:
        """The text of a file in the folder, None when there is none. Raises OSError, FileUnusable."""
        path = os.path.join(self._mailbox, name)
        if self._missing is not None and self._missing.has(path):
            return None
        if not os.path.lexists(path):
            if self._missing is not None:
                self._missing.note(path)
            return None  # as almost always: one look instead of three calls
        try:
            folder = os.open(self._mailbox, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None  # no mail yet, or the mailbox has a fault of its own, which delivery tells
        try:
            return read_text(name, MAX_FILE, folder)[0]
        except FileNotFoundError:
            return None
        finally:
            os.close(folder)


def _reason(error: OSError | FileUnusable) -> str:
    return (error.strerror or "it cannot be read") if isinstance(error, OSError) else str(error)
