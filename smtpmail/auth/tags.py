"""Lists of `tag=value; ...` as DKIM writes them (RFC 6376 3.2)."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BLANKS = " \t\r\n"


class TagError(ValueError):
    """Not a list of tags: why."""


def parse_tags(text: str) -> dict[str, str]:
    """The tags in their order, values without the blanks around them.

    Raises TagError, also for a tag that stands twice. Empty places between semicolons, seen often, are overlooked.
    """
    tags: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.strip(_BLANKS).partition("=")
        name = name.rstrip(_BLANKS)
        if not name and not equals:
            continue
        if not equals or not _NAME.fullmatch(name):
            raise TagError(f"{printable(part)!r} is not tag=value")
        if name in tags:
            raise TagError(f"the tag {name}= stands twice")
        tags[name] = value.strip(_BLANKS)
    return tags


def without_blanks(value: str) -> str:
    """A value in which blanks and line ends mean nothing (base64)."""
    return "".join(value.split())


def colon_list(value: str) -> list[str]:
    """The words of a list with colons, in lower case."""
    return [word.strip(_BLANKS).lower() for word in value.split(":")]


def printable(text: str, length: int = 60) -> str:
    """Foreign text for people: short, on one line, ASCII."""
    text = " ".join(text.split())
    text = "".join(c if " " <= c <= "~" else "?" for c in text[: length + 1])
    return text if len(text) <= length else text[:length] + "..."
