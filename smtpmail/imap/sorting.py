"""SORT (RFC 5256 2, 3): the order of messages by what stands in their headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import mktime_tz, parsedate_tz
from typing import Any, Protocol

from smtpmail.imap.decode import header_text
from smtpmail.imap.search import Candidate

_BLOB = r"\[[^\[\]]*\]\s*"
_LEADER = re.compile(rf"(?:(?:{_BLOB})*(?:re|fwd?)\s*(?:{_BLOB})?:\s*)", re.IGNORECASE)
_FORWARD = re.compile(r"\[fwd:(.*)\]", re.IGNORECASE | re.DOTALL)

MAX_SUBJECT = 1000
"""Characters of a subject that count."""


class Sortable(Candidate, Protocol):
    """A message that is looked at, and closed then."""

    def close(self) -> None:
        """Gives its file back."""


def sort_messages(messages: Sequence[Sortable], criteria: Sequence[tuple[str, bool]]) -> list[int]:
    """The positions in order; what is alike stays in the order of the mailbox."""
    keyed = []
    for message in messages:
        try:
            keyed.append(([_key(message, name) for name, _ in criteria], message.position))
        except OSError:
            continue  # removed meanwhile
        finally:
            message.close()
    # From the last to the first: sorting keeps the order of what is alike.
    for place in range(len(criteria) - 1, -1, -1):
        keyed.sort(key=lambda item: item[0][place], reverse=criteria[place][1])
    return [position for _, position in keyed]


def _key(message: Candidate, name: str) -> Any:
    match name:
        case "ARRIVAL":
            return message.date
        case "SIZE":
            return message.wire_octets()
        case "DATE":
            return sent(message)
        case "SUBJECT":
            return base_subject(subject(message))[0]
    addresses = message.file().header().addresses(name.lower().encode())
    # Of a group, its name.
    return (addresses[0].mailbox or b"").decode("utf-8", "replace").casefold() if addresses else ""


def sent(message: Candidate) -> float:
    """When a message was sent, Unix time; when it came, if its Date makes no sense."""
    value = message.file().header().get(b"date")
    parsed = parsedate_tz(value.decode("ascii", "replace")) if value else None
    if parsed is not None:
        try:
            return mktime_tz(parsed)
        except (ValueError, OverflowError):
            pass
    return message.date


def subject(message: Candidate) -> str:
    """The subject as people read it."""
    return header_text(message.file().header().get(b"subject") or b"")[:MAX_SUBJECT]


def base_subject(text: str) -> tuple[str, bool]:
    """The subject without `Re:`, `Fwd:`, `[list]` and the like (RFC 5256 2.1), and whether it was a reply."""
    text = " ".join(text.split()).casefold()
    is_reply = False
    while True:
        before = text
        text = _without_trailer(text)
        while True:
            shorter = text
            if match := _LEADER.match(text):
                is_reply = True
                text = text[match.end() :]
            elif (match := re.match(_BLOB, text)) and text[match.end() :].strip():
                text = text[match.end() :]
            if text == shorter:
                break
        if match := _FORWARD.fullmatch(text):
            is_reply = True
            text = match[1].strip()
        if text == before:
            return text.strip(), is_reply


def _without_trailer(text: str) -> str:
    while text.endswith("(fwd)"):
        text = text[:-5].rstrip()
    return text.rstrip()
