"""Small things about text that several rooms need: foreign text made harmless, points in time, octets on the wire."""

from __future__ import annotations

from datetime import UTC, datetime


def harmless(text: str, limit: int | None = None) -> str:
    """One line of foreign text for people: a TAB is a space, what else is not printable becomes `?`.

    Cut to `limit` characters.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in text)
    return text if limit is None else text[:limit]


def rfc3339(seconds: float) -> str:
    """A Unix time in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def on_the_wire(stored: bytes) -> int:
    """Octets of stored text (LF line ends) when it travels, with CRLF."""
    return len(stored) + stored.count(b"\n")
