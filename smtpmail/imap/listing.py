"""LIST, LSUB and STATUS (RFC 3501 6.3.8 to 6.3.10, RFC 5258, RFC 5819, RFC 6154, RFC 9051 6.3.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from smtpmail.imap import names
from smtpmail.imap.commands import List
from smtpmail.imap.content import MessageFile
from smtpmail.imap.names import DELIMITER, Pattern
from smtpmail.imap.responses import astring, listed
from smtpmail.imap.selected import highest_modseq
from smtpmail.spool.reader.account import Account, Entry
from smtpmail.spool.reader.index import UNKNOWN
from smtpmail.spool.reader.mailfolder import MailFolder
from smtpmail.spool.reader.states import DELETED, RECENT, SEEN


class Lister:
    """Answers LIST and LSUB. `status` writes the STATUS response of a folder."""

    def __init__(self, account: Account, *, utf8: bool, status: Callable[[str, Sequence[str]], bytes]) -> None:
        self._account = account
        self._utf8 = utf8
        self._status = status

    def responses(self, command: List) -> Iterator[bytes]:
        """The responses. Raises OSError."""
        if not command.extended and command.patterns == ("",):
            # Asks for the delimiter.
            yield b'* %s (\\Noselect) "/" ""\r\n' % (b"LSUB" if command.lsub else b"LIST")
            return
        patterns = [Pattern(_joined(command.reference, pattern)) for pattern in command.patterns]
        entries = {entry.name: entry for entry in self._account.folders()}
        subscribed = self._account.subscriptions()
        uses = self._account.special_uses(entries)
        if command.lsub:
            yield from self._lsub(patterns, entries, subscribed, uses)
            return
        chosen = set(entries)
        if "SUBSCRIBED" in command.selection:
            chosen = subscribed
        if "SPECIAL-USE" in command.selection:
            chosen = chosen & set(uses)
        candidates = set(chosen)
        if "RECURSIVEMATCH" in command.selection:
            candidates |= {above for name in chosen for above in _above(name)}
        for name in sorted(candidates, key=_order):
            if not any(pattern.matches(name) for pattern in patterns):
                continue
            child_info = b""
            if "RECURSIVEMATCH" in command.selection:
                below = any(
                    other.startswith(name + DELIMITER) and not any(p.matches(other) for p in patterns)
                    for other in chosen
                )
                if name not in chosen and not below:
                    continue
                child_info = b' ("CHILDINFO" ("SUBSCRIBED"))' if below else b""
            entry = entries.get(name)
            attributes = _attributes(name, entry, entries)
            if name in subscribed and ({"SUBSCRIBED"} & (command.selection | command.returns)):
                attributes.append(b"\\Subscribed")
            attributes += uses.get(name, [])
            yield self._line(b"LIST", name, attributes, child_info)
            if command.status and entry is not None and entry.selectable:
                yield self._status(name, command.status)

    def _lsub(
        self, patterns: list[Pattern], entries: dict[str, Entry], subscribed: set[str], uses: dict[str, list[bytes]]
    ) -> Iterator[bytes]:
        shown: dict[str, list[bytes]] = {}
        for name in subscribed:
            if any(pattern.matches(name) for pattern in patterns):
                entry = entries.get(name)
                # Outlook looks for special uses here.
                shown[name] = [*([] if entry and entry.selectable else [b"\\Noselect"]), *uses.get(name, [])]
        for name in subscribed:
            # With %, a level whose folders are subscribed to is shown, though it is not (RFC 3501 6.3.9).
            for above in _above(name):
                if above not in subscribed and any(pattern.matches(above) for pattern in patterns):
                    shown.setdefault(above, [b"\\Noselect"])
        for name in sorted(shown, key=_order):
            yield self._line(b"LSUB", name, shown[name])

    def _line(self, word: bytes, name: str, attributes: list[bytes], more: bytes = b"") -> bytes:
        encoded = mailbox(name, utf8=self._utf8)
        return b'* %s %s "/" %s%s\r\n' % (word, listed(attributes), encoded, more)


def mailbox(name: str, *, utf8: bool) -> bytes:
    """The name of a mailbox in a response."""
    return astring(names.encode_name(name, utf8=utf8), utf8=utf8)


def _order(name: str) -> tuple[bool, str]:
    return name != names.INBOX, name


def _joined(reference: str, pattern: str) -> str:
    """The pattern as seen from a reference: simply behind it (RFC 3501 6.3.8)."""
    return names.canonical(reference + pattern)


def _above(name: str) -> list[str]:
    """The names of the levels above a name."""
    levels = name.split(DELIMITER)
    return [DELIMITER.join(levels[:n]) for n in range(1, len(levels))]


def _attributes(name: str, entry: Entry | None, entries: dict[str, Entry]) -> list[bytes]:
    if entry is None:
        below = any(other.startswith(name + DELIMITER) for other in entries)
        return [b"\\NonExistent", b"\\HasChildren" if below else b"\\HasNoChildren"]
    children = b"\\HasChildren" if entry.has_children else b"\\HasNoChildren"
    return [children] if entry.selectable else [b"\\Noselect", children]


def status_items(folder: MailFolder, items: Sequence[str], max_size: int) -> bytes:
    """The list of a STATUS response. Raises Gone, OSError."""
    index = folder.settle() if "HIGHESTMODSEQ" in items else folder.refresh()
    values: list[bytes] = []
    for item in items:
        match item:
            case "MESSAGES":
                value = len(index.numbers)
            case "RECENT":
                value = sum(RECENT in flags for flags in index.flags)
            case "UNSEEN":
                value = sum(SEEN not in flags for flags in index.flags)
            case "DELETED":
                value = sum(DELETED in flags for flags in index.flags)
            case "UIDNEXT":
                value = index.last + 1
            case "UIDVALIDITY":
                value = folder.validity
            case "HIGHESTMODSEQ":
                value = highest_modseq(index)
            case "APPENDLIMIT":
                value = max_size
            case _:
                value = _total_size(folder)
        values += [item.encode(), b"%d" % value]
    return listed(values)


def _total_size(folder: MailFolder) -> int:
    index = folder.refresh()
    for place, lines in enumerate(index.lines):
        if lines == UNKNOWN:
            try:
                message = MessageFile(*folder.open_message(index.numbers[place]))
            except OSError:
                index.lines[place] = 0  # removed meanwhile
                continue
            try:
                index.lines[place] = message.lines()
            finally:
                message.close()
            folder.learned()
    return sum(index.octets) + sum(index.lines)
