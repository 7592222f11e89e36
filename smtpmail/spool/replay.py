"""What the journals' records say must be on disk after a crash. Pure; restore.py makes it so.

Records of all processes come together here. A number of a mailbox and an id of the queue are given once, so what was
removed is removed whatever the order in which it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from smtpmail.spool.record import Kind, Record


@dataclass(slots=True)
class Messages:
    """What must be true of one mailbox."""

    stored: dict[int, Record] = field(default_factory=dict)
    """By number; without what was removed."""
    removed: set[int] = field(default_factory=set)
    cancelled: dict[int, Record] = field(default_factory=dict)
    """By number: what was to be stored and then was refused, or stored under another number."""

    @property
    def last(self) -> int:
        """The largest number that is known to have been given."""
        return max((*self.stored, *self.removed, *self.cancelled), default=0)


@dataclass(slots=True)
class Plan:
    """What must be true of a spool and its queue."""

    mailboxes: Mapping[str, Messages]
    queued: Mapping[str, Record]
    """By id; without what was finished."""
    finished: frozenset[str]
    progress: Mapping[str, bytes]
    """Lines for the logs of messages that are not finished."""


def plan(records: Iterable[Record]) -> Plan:
    """Puts the records of all journals together."""
    mailboxes: dict[str, Messages] = {}
    queued: dict[str, Record] = {}
    finished: set[str] = set()
    progress: dict[str, bytes] = {}
    cancelled: list[tuple[str, int]] = []
    for record in sorted(records, key=lambda r: r.time):
        match record.kind:
            case Kind.STORED:
                mailboxes.setdefault(record.place, Messages()).stored[record.number] = record
            case Kind.REMOVED:
                mailboxes.setdefault(record.place, Messages()).removed.update(map(int, record.content.split()))
            case Kind.CANCELLED:
                cancelled += [(record.place, int(number)) for number in record.content.split()]
            case Kind.QUEUED:
                queued[record.place] = record
            case Kind.PROGRESS:
                progress[record.place] = progress.get(record.place, b"") + record.content
            case Kind.FINISHED:
                finished.update(record.content.decode("ascii").split())
    for place, number in cancelled:
        messages = mailboxes.setdefault(place, Messages())
        if number in messages.stored:
            messages.cancelled[number] = messages.stored.pop(number)
    for messages in mailboxes.values():
        for number in messages.removed:
            messages.stored.pop(number, None)
    return Plan(
        mailboxes,
        {id_: record for id_, record in queued.items() if id_ not in finished},
        frozenset(finished),
        {id_: lines for id_, lines in progress.items() if id_ not in finished},
    )


SECTOR = 512


def is_damaged(found: bytes, content: bytes) -> bool:
    """Whether `found` is what a power cut may leave of a file of this content: shorter, or with zeros in it.

    False for the whole file, and for any other file.
    """
    if found == content or len(found) > len(content):
        return False
    for start in range(0, len(found), SECTOR):
        piece = found[start : start + SECTOR]
        if piece != content[start : start + len(piece)] and piece.strip(b"\0"):
            return False
    return True


REMOVED_LINE = b'{"removed": true}\n'
"""In the log of a queued message that has left although no record could tell of it."""


def is_removed(log: bytes) -> bool:
    """Whether the log of a queued message says that the message has left."""
    return log.startswith(REMOVED_LINE) or b"\n" + REMOVED_LINE in log


def missing_lines(found: bytes, lines: bytes) -> bytes:
    """What to append to a log so that all lines are in it, each whole."""
    present = set(found.split(b"\n")[:-1])
    missing = b"".join(line + b"\n" for line in lines.split(b"\n")[:-1] if line not in present)
    return b"\n" + missing if missing and found and not found.endswith(b"\n") else missing
