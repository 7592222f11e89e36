"""How the name of a mail folder becomes the name of a directory, and back (docs/formats.md).

A directory named like a message, a state, a hidden file or INBOX would be taken for one. So `=` stands before such a
name: `2024` is kept in `=2024`, `7.status` in `=7.status`, `.x` in `=.x`, `=a` in `==a`.
"""

from __future__ import annotations

import os
import re
import unicodedata

from smtpmail.spool.folder import Folder

INBOX = "INBOX"

ESCAPE = "="

MAX_LEVELS = 20

_AMBIGUOUS = re.compile(r"\d+(\.status)?|[.,=].*|inbox", re.IGNORECASE | re.DOTALL)


class BadName(ValueError):
    """No folder can have this name; the text says why."""


def escape(component: str) -> str:
    """One level of a name, as a directory."""
    return ESCAPE + component if _AMBIGUOUS.fullmatch(component) else component


def unescape(directory: str) -> str | None:
    """The level of a name that a directory stands for, None when it is no mail folder."""
    component = directory.removeprefix(ESCAPE)
    return component if component and escape(component) == directory and _is_valid(component) else None


def _is_valid(component: str) -> bool:
    return not any(c in "/*%" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in component)


def directories(name: str) -> list[str]:
    """The way to the directory of a folder, from that of the user. Raises BadName."""
    if name == INBOX:
        return []
    components = name.split("/")
    if len(components) > MAX_LEVELS:
        raise BadName(f"more than {MAX_LEVELS} levels")
    found = []
    for place, component in enumerate(components):
        if not component:
            raise BadName("a level without a name")
        if not _is_valid(component):
            raise BadName("a character that no folder's name can have")
        # Folders below INBOX lie in a directory of that name, which is no folder itself.
        directory = INBOX if not place and component == INBOX else escape(component)
        if len(os.fsencode(directory)) > 255:
            raise BadName("a level longer than 255 octets")
        found.append(directory)
    return found


def open_below(parent: Folder, directory: str) -> Folder:
    """A directory in an open one; no link is followed. Raises OSError."""
    folder = Folder(f"/proc/self/fd/{parent.fd}/{directory}")
    folder.path = os.path.join(parent.path, directory)
    return folder
