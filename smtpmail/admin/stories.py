"""Finds the messages that are looked for in the JSON log, and keeps together what belongs to each.

The log is read once, from its beginning to its end, however long it is: it may come through a pipe. What matches may
stand at the end of a message's story (the remote's queue id in its last reply), so the stories of messages under way
are kept until they can match no more, within `HELD_OCTETS`.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from smtpmail.admin.log_reader import Entry, is_between, parse_line

HELD_OCTETS = 64 * 1024**2
"""Octets of the log that are kept in memory, about."""

LINE_COST = 400
"""Octets that a line kept takes besides its own, about."""

HELD_SESSIONS = 10_000
"""Open connections that are kept; more than a server lets in at a time."""

SESSION_LINES = 20
"""What is kept of one connection besides its messages."""


class Wanted:
    """The text that is looked for: an id, a Message-ID, an address, or what a remote server calls the message."""

    def __init__(self, text: str) -> None:
        self._text = _bare(text)
        self._folded = self._text.casefold()
        self._is_local_part = "@" not in self._text
        # A remote's id is a word of its reply: `queued as 4F0A2...`, `OK id=1rZ...`, `<...@remote>`.
        self._word = re.compile(rf"(?<![\w-]){re.escape(self._text)}(?![\w-])")

    def is_in(self, entry: Entry) -> bool:
        """Whether the entry names it."""
        if self._text in (entry.get("id"), entry.get("of")):
            return True
        values = [entry.get("message_id"), entry.get("sender"), entry.get("recipient")]
        for several in (entry.get("recipients"), entry.get("about")):
            if isinstance(several, list):
                values += several
        if any(isinstance(value, str) and self._is(_bare(value).casefold()) for value in values):
            return True
        reply = entry.get("reply")
        return isinstance(reply, str) and self._text in reply and self._word.search(reply) is not None

    def _is(self, folded: str) -> bool:
        """Whether it is the text; of an address, the part before the @, or before its +, will do."""
        if folded == self._folded:
            return True
        local = folded.rpartition("@")[0]
        return self._is_local_part and self._folded in (local, local.partition("+")[0])


def _bare(text: str) -> str:
    """Without blanks around it, nor the angle brackets in which addresses and Message-IDs stand."""
    text = text.strip()
    return text[1:-1] if len(text) > 2 and text[0] == "<" and text[-1] == ">" else text


Held = tuple[str, int, bytes]
"""Timestamp, number of the line, the line: sorts by time, and as it stood in the log at the same time."""


@dataclass(eq=False, slots=True)
class _Session:
    """A client's connection."""

    lines: list[Held] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Story:
    """A message and the bounces about it."""

    ids: list[str]
    lines: list[Held] = field(default_factory=list)
    sessions: list[_Session] = field(default_factory=list)
    undelivered: set[tuple[str, str]] = field(default_factory=set)
    """Id and recipient: those queued that have neither succeeded nor failed."""
    matched: bool = False
    cost: int = 0
    """Octets that it takes in memory."""

    def entries(self) -> list[Entry]:
        """All that is known, in time order."""
        lines = {line for session in self.sessions for line in session.lines} | set(self.lines)
        return [json.loads(raw) for _, _, raw in sorted(lines)]


class Tracer:
    """Reads a log and gives the stories of the messages that are wanted."""

    def __init__(
        self,
        wanted: Wanted,
        held_octets: int = HELD_OCTETS,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        self._wanted = wanted
        self._since, self._until = since, until
        self._limit = held_octets
        self._held = 0
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._by_id: dict[str, _Story] = {}
        self._stories: OrderedDict[_Story, None] = OrderedDict()
        """Those in which something happened last at the end."""
        self.entries = 0
        """Lines read that are entries of the log."""
        self.skipped = 0
        """Lines that are not."""
        self.forgotten = 0
        """Messages under way that were more than can be kept in memory."""

    def read(self, lines: Iterable[bytes]) -> Iterator[list[Entry]]:
        """The entries of one story after another; each story in time order."""
        for raw in lines:
            entry = parse_line(raw)
            if entry is None:
                # An empty line says nothing, and is no loss.
                self.skipped += bool(raw.strip())
                continue
            self.entries += 1
            if not is_between(entry, self._since, self._until):
                continue
            self._take(entry, (str(entry["timestamp"]), self.entries, raw))
            if self._held > self._limit:
                yield from self._make_room()
        # The earliest first, as people read.
        for story in sorted((s for s in self._stories if s.matched and s.lines), key=lambda s: min(s.lines)):
            yield story.entries()

    def _take(self, entry: Entry, held: Held) -> None:
        event, id_, client = (entry.get(key) for key in ("event", "id", "client"))
        if event == "server.started":
            self._sessions.clear()  # whoever was connected before is not any more
        elif isinstance(id_, str):
            self._continue_story(entry, id_, held)
        elif isinstance(client, str):
            self._continue_session(str(event), client, held)

    def _continue_session(self, event: str, client: str, held: Held) -> None:
        session = self._sessions.get(client)
        if session is None or event == "session.opened":
            session = self._sessions[client] = _Session()
            self._sessions.move_to_end(client)
            if len(self._sessions) > HELD_SESSIONS:
                self._sessions.popitem(last=False)
        if len(session.lines) < SESSION_LINES or event == "session.closed":
            session.lines.append(held)
        if event == "session.closed":
            del self._sessions[client]

    def _continue_story(self, entry: Entry, id_: str, held: Held) -> None:
        story = self._story(id_)
        about = entry.get("of")
        if isinstance(about, str):
            story = self._join(self._story(about), story)
        story.lines.append(held)
        cost = LINE_COST + len(held[2])
        session = self._sessions.get(str(entry.get("client")))
        if session is not None and session not in story.sessions:
            story.sessions.append(session)
            cost += 4 * LINE_COST
        story.cost += cost
        self._held += cost
        story.matched = story.matched or self._wanted.is_in(entry)
        match entry:
            case {"event": "message.queued" | "message.forwarded", "recipients": [*recipients]}:
                story.undelivered.update((id_, str(recipient)) for recipient in recipients)
            case {"event": "delivery.succeeded" | "delivery.failed", "recipient": recipient}:
                story.undelivered.discard((id_, str(recipient)))
            case {"event": "queue.changed", "change": "removed"}:
                story.undelivered = {waiting for waiting in story.undelivered if waiting[0] != id_}
        self._stories.move_to_end(story)

    def _story(self, id_: str) -> _Story:
        story = self._by_id.get(id_)
        if story is None:
            story = self._by_id[id_] = _Story([id_])
            self._stories[story] = None
        return story

    def _join(self, message: _Story, bounce: _Story) -> _Story:
        """Makes one story of both."""
        if bounce is not message:
            message.ids += bounce.ids
            message.lines += bounce.lines
            message.sessions += bounce.sessions
            message.undelivered |= bounce.undelivered
            message.matched = message.matched or bounce.matched
            message.cost += bounce.cost
            del self._stories[bounce]
            self._by_id.update(dict.fromkeys(bounce.ids, message))
        return message

    def _make_room(self) -> Iterator[list[Entry]]:
        """Lets go of half of what is held: first the stories that are over, then those without news for longest."""
        for even_unfinished in (False, True):
            for story in list(self._stories):
                if self._held <= self._limit // 2:
                    return
                if story.undelivered and not even_unfinished:
                    continue
                if story.matched and story.lines:
                    yield story.entries()
                self._held -= story.cost
                if story.matched and story.undelivered:
                    # The rest will be told when it comes.
                    story.lines, story.sessions, story.cost = [], [], 0
                    continue
                self.forgotten += bool(story.undelivered)
                del self._stories[story]
                for id_ in story.ids:
                    del self._by_id[id_]
