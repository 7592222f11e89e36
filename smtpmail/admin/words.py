"""What an entry of the log says, in words for people."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from smtpmail.admin.log_reader import Entry
from smtpmail.mail import meanings
from smtpmail.mail.text import harmless


def words(entry: Entry) -> tuple[str, str | None]:
    """What the entry says, for people, and its colour."""

    def of(key: str, before: str = "", after: str = "") -> str:
        value = entry.get(key)
        return "" if value in (None, "", []) else f"{before}{shown(value)}{after}"

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
        case "queue.changed":
            return f"{of('change')} by hand{of('by', ', by ')}", "cyan"
        case "bounce.queued":
            kind = of("kind", " (", ")")
            return f"notice{kind} to {of('recipient')} about {of('about') or of('of')}; its id is {of('id')}", "magenta"
        case "bounce.dropped":
            return f"no notice to {of('recipient')}: {of('reply')}", "red"
    hidden = ("timestamp", "level", "event", "id")
    fields = "".join(f" {harmless(key)}={shown(value)}" for key, value in entry.items() if key not in hidden)
    return f"{shown(entry.get('event'))}{fields}", None


def _meaning(entry: Entry) -> str:
    """What the code of a refusal for reasons of policy means, in brackets."""
    found = meanings.of_reply(str(entry.get("reply") or ""))
    return f" ({found})" if found else ""


def verified(entry: Entry) -> tuple[str, str | None]:
    """What the checks of a message found, and its colour."""
    said = ", ".join(f"{name.upper()} {shown(entry[name])}" for name in ("spf", "dmarc", "iprev") if entry.get(name))
    signatures = shown(entry.get("dkim") or "none")
    done = {"reject": "; it is refused", "quarantine": "; it goes to Junk"}.get(str(entry.get("disposition")), "")
    if entry.get("exempted"):
        done = f"; let through, as {shown(entry['exempted'])} is exempted"
    reason = f": {shown(entry['reason'])}" if entry.get("reason") else ""
    colour = "red" if done and not entry.get("exempted") else "yellow" if entry.get("dmarc") == "fail" else None
    return f"checked: {said}, DKIM {signatures}{reason}{done}", colour


def shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    return harmless(value if isinstance(value, str) else json.dumps(value))


def _moment(value: Any) -> str:
    """A time of the log, or in seconds since 1970, to the millisecond in UTC."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        seconds = isinstance(value, int | float)
        time = datetime.fromtimestamp(value, UTC) if seconds else datetime.fromisoformat(str(value)).astimezone(UTC)
        return time.isoformat(" ", "milliseconds").removesuffix("+00:00")
    return shown(value)


def tell(story: list[Entry]) -> Iterator[str]:
    """The story in lines for people."""
    bounces = {entry["id"] for entry in story if entry["event"] == "bounce.queued"}
    message = next((e["id"] for e in story if "id" in e and e["id"] not in bounces), None)
    yield click.style(f"Message {shown(message or next(iter(bounces)))} (times in UTC)", bold=True)
    for entry in story:
        text, colour = words(entry)
        whose = "the notice: " if entry.get("id") in bounces and "of" not in entry else ""
        yield f"  {click.style(_moment(entry['timestamp']), dim=True)}  {click.style(whose + text, fg=colour)}"
