"""`smtpmail trace TEXT`: what happened to a message, out of the JSON log.

The log is read once, from its beginning to its end, however long it is. What matches may stand at the end of a
message's story (the remote's queue id in its last reply), so the stories of messages under way are kept until they can
match no more, within `HELD_OCTETS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

import click

from smtpmail.mail import meanings

JOURNAL = ("journalctl", "--unit=smtpmail", "--output=cat", "--no-pager")

HELD_OCTETS = 64 * 1024**2
"""So much of the log is kept in memory."""

LINE_COST = 400
"""Octets that a line kept takes besides its own, about."""

HELD_SESSIONS = 10_000
"""So many open connections are kept; more than a server lets in at a time."""

SESSION_LINES = 20
"""What is kept of one connection besides its messages."""

LINE_LIMIT = 1024 * 1024
"""Octets of a line; longer ones are no log of smtpmail."""

Entry = dict[str, Any]
"""One line of the log: timestamp, level, event and the event's fields (docs/formats.md)."""


# -- finding


class Wanted:
    """The text that is looked for: an id, a Message-ID, an address, or what a remote server calls the message."""

    def __init__(self, text: str) -> None:
        self._text = _bare(text)
        self._folded = self._text.casefold()
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
        if any(isinstance(value, str) and _bare(value).casefold() == self._folded for value in values):
            return True
        reply = entry.get("reply")
        return isinstance(reply, str) and self._text in reply and self._word.search(reply) is not None


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

    def __init__(self, wanted: Wanted, held_octets: int = HELD_OCTETS) -> None:
        self._wanted = wanted
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
            entry = _parse(raw)
            if entry is None:
                # An empty line says nothing, and is no loss.
                self.skipped += bool(raw.strip())
                continue
            self.entries += 1
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


def _parse(raw: bytes) -> Entry | None:
    """The entry of a line; None when it is cut, too long or something else."""
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and {"timestamp", "event"} <= entry.keys() else None


def lines_of(log: IO[bytes]) -> Iterator[bytes]:
    """The lines of the log; of one that is too long only the beginning."""
    while line := log.readline(LINE_LIMIT):
        rest = line
        while len(rest) == LINE_LIMIT and not rest.endswith(b"\n"):
            rest = log.readline(LINE_LIMIT)
        yield line


# -- telling


def words(entry: Entry) -> tuple[str, str | None]:
    """What the entry says, for people, and its colour."""

    def of(key: str, before: str = "", after: str = "") -> str:
        value = entry.get(key)
        return "" if value in (None, "", []) else f"{before}{_shown(value)}{after}"

    def server() -> str:
        return of("mx", " by ") + of("address", " (", ")") + of("tls", " over ")

    attempt = of("attempt", ", attempt ")
    sender = f"<{of('sender')}>"
    match entry.get("event"):
        case "session.opened":
            return f"connection from {of('client')}{of('listener', ' to the ', ' listener')}", None
        case "session.closed":
            return f"connection closed{of('reason', ': ')}", None
        case "tls.failed":
            return f"TLS handshake failed{of('error', ': ')}", "yellow"
        case "recipient.refused":
            return f"refused {sender} to {of('recipient')}: {of('reply')}", "red"
        case "message.received":
            who = f"{of('client', ' from ')}{of('helo', ', which calls itself ')}"
            how = of("tls", ", over ") or (", in clear text" if who else ", written by this server")
            what = f"{of('size', ', ', ' octets')}{of('message_id', ', Message-ID ')}"
            return f"received{who}{how}: {sender} to {of('recipients')}{what}", None
        case "message.refused":
            return f"not taken: {sender} to {of('recipients')}{of('reply', '; the client was told: ')}", "red"
        case "message.failed":
            return f"could not be stored: {of('error')}", "red"
        case "message.stored":
            return (
                f"stored in {of('folder', 'the folder ', ' of ') or 'the mailbox of '}{of('user')} as {of('number')}",
                "green",
            )
        case "message.verified":
            return verified(entry)
        case "message.unsigned":
            return f"not signed: {of('error')}", "red"
        case "message.queued":
            return f"queued for {of('recipients')}", None
        case "message.forwarded":
            return f"sent on by {of('forwarder')} to {of('recipients')} as {of('id')}, from <{of('sender')}>", None
        case "message.dropped":
            return f"dropped, as the alias of {of('recipients')} asks", "yellow"
        case "sender.refused":
            return f"refused {sender}: {of('reply')}", "red"
        case "delivery.succeeded":
            return f"delivered to {of('recipient')}{server()}{attempt}: {of('reply')}", "green"
        case "delivery.deferred":
            again = f"; next try at {_moment(entry['next_try'])}" if entry.get("next_try") else ""
            return (
                f"not yet delivered to {of('recipient')}{server()}{attempt}: {of('reply')}{again}{_meaning(entry)}",
                "yellow",
            )
        case "delivery.failed":
            return f"failed for {of('recipient')}{server()}{attempt}: {of('reply')}{_meaning(entry)}", "red"
        case "bounce.queued":
            kind = of("kind", " (", ")")
            return f"notice{kind} to {of('recipient')} about {of('about') or of('of')}; its id is {of('id')}", "magenta"
        case "bounce.dropped":
            return f"no notice to {of('recipient')}: {of('reply')}", "red"
    hidden = ("timestamp", "level", "event", "id")
    fields = "".join(f" {_printable(key)}={_shown(value)}" for key, value in entry.items() if key not in hidden)
    return f"{_shown(entry.get('event'))}{fields}", None


def _meaning(entry: Mapping[str, Any]) -> str:
    """What the code of a refusal for reasons of policy means, in brackets."""
    found = meanings.of_reply(str(entry.get("reply") or ""))
    return f" ({found})" if found else ""


def verified(entry: Mapping[str, Any]) -> tuple[str, str | None]:
    """What the checks of a message found, and its colour."""
    said = ", ".join(f"{name.upper()} {_shown(entry[name])}" for name in ("spf", "dmarc", "iprev") if entry.get(name))
    signatures = _shown(entry.get("dkim") or "none")
    done = {"reject": "; it is refused", "quarantine": "; it goes to Junk"}.get(str(entry.get("disposition")), "")
    if entry.get("exempted"):
        done = f"; let through, as {_shown(entry['exempted'])} is exempted"
    reason = f": {_shown(entry['reason'])}" if entry.get("reason") else ""
    colour = "red" if done and not entry.get("exempted") else "yellow" if entry.get("dmarc") == "fail" else None
    return f"checked: {said}, DKIM {signatures}{reason}{done}", colour


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return _printable(value if isinstance(value, str) else json.dumps(value))


def _printable(text: str) -> str:
    """What somebody else wrote must not steer a terminal."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _moment(value: Any) -> str:
    """A time of the log, or in seconds since 1970, to the millisecond in UTC."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        seconds = isinstance(value, int | float)
        time = datetime.fromtimestamp(value, UTC) if seconds else datetime.fromisoformat(str(value)).astimezone(UTC)
        return time.isoformat(" ", "milliseconds").removesuffix("+00:00")
    return _shown(value)


def tell(story: list[Entry]) -> Iterator[str]:
    """The story in lines for people."""
    bounces = {entry["id"] for entry in story if entry["event"] == "bounce.queued"}
    message = next((e["id"] for e in story if "id" in e and e["id"] not in bounces), None)
    yield click.style(f"Message {_shown(message or next(iter(bounces)))} (times in UTC)", bold=True)
    for entry in story:
        text, colour = words(entry)
        whose = "the notice: " if entry.get("id") in bounces and "of" not in entry else ""
        yield f"  {click.style(_moment(entry['timestamp']), dim=True)}  {click.style(whose + text, fg=colour)}"


# -- the command


@contextlib.contextmanager
def open_log(given: IO[bytes] | None) -> Iterator[tuple[IO[bytes], str]]:
    """The log and its name: the file given, what is piped in, or the journal. Raises click.ClickException."""
    if given is not None:
        name = getattr(given, "name", "-")
        yield given, "standard input" if name in ("-", "<stdin>") else _shown(name)
    elif _is_piped(sys.stdin):
        yield sys.stdin.buffer, "standard input"
    else:
        try:
            journal = subprocess.Popen(JOURNAL, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # noqa: S603
        except OSError as error:
            raise click.ClickException(
                f"cannot run journalctl ({error.strerror}): name the log, smtpmail trace TEXT FILE, or pipe it in"
            ) from None
        with journal:
            assert journal.stdout is not None
            yield journal.stdout, "the journal of smtpmail"
        if journal.returncode:
            raise click.ClickException(f"journalctl failed with exit status {journal.returncode}")


def _is_piped(stdin: IO[str] | None) -> bool:
    """Whether somebody feeds standard input; a terminal or /dev/null is nobody."""
    if stdin is None:
        return False
    try:
        return not stat.S_ISCHR(os.fstat(stdin.fileno()).st_mode)
    except ValueError:
        return True  # something in memory in its place


@click.command(short_help="What happened to a message, out of the log.")
@click.argument("text")
@click.argument("log", metavar="[FILE|-]", type=click.File("rb"), required=False)
@click.option("--json", "as_json", is_flag=True, help="The entries of the log, one JSON object a line.")
@click.pass_context
def trace(ctx: click.Context, text: str, log: IO[bytes] | None, as_json: bool) -> None:
    """Tells what happened to a message, from the connection it came by to the last reply of the remote server.

    TEXT is the id of a message (in the 250 reply and in its Received field), a Message-ID, a sender's or a recipient's
    address, or the name a remote server gave it in its reply. Bounces are told with their message.

    Reads the JSON log from FILE, from standard input when something is piped in, else from `journalctl -u smtpmail`.
    Exit status 1 when nothing is found.
    """
    if not any(map(str.isalnum, text)):
        raise click.UsageError("TEXT says nothing: an id, a Message-ID or an address is wanted", ctx)
    tracer = Tracer(Wanted(text))
    found = 0
    with open_log(log) as (stream, name):
        for story in tracer.read(lines_of(stream)):
            found += 1
            if as_json:
                for entry in story:
                    click.echo(json.dumps(entry))
            else:
                click.echo("\n".join([*([""] if found > 1 else []), *tell(story)]))
    if tracer.skipped:
        click.echo(f"smtpmail: {_lines(tracer.skipped)} skipped that are no entries of a JSON log", err=True)
    if tracer.forgotten:
        click.echo(
            f"smtpmail: {tracer.forgotten} messages under way at a time were too many to keep; a part may be missing",
            err=True,
        )
    if not found:
        hint = "" if tracer.entries else ": it has no entries (is it written with --log-format json?)"
        click.echo(f"smtpmail: nothing about {_shown(text)} in {name}{hint}", err=True)
        ctx.exit(1)


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
