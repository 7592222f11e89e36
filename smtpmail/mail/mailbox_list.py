"""Addresses in header fields (RFC 5322 3.4): where they stand, and which of them lack a domain.

Reads what people and programs write, not only what is valid: a field is never refused, what makes no sense in it is
no address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r'(?P<quoted>"(?:[^"\\]|\\.)*"?)'
    r"|(?P<literal>\[[^\]]*\]?)"
    r"|(?P<space>\s+)"
    r"|(?P<mark>[(<>,;:@])"
    r"|(?P<word>[^\s\"\[(<>,;:@]+)",
    re.DOTALL,
)

_COMPLETE = re.compile(r"""\s*(?:[^"\\()<>\[\],;:@]*<)?[^\s"\\()<>\[\],;:@]+@[^\s"\\()<>\[\],;:@]+>?\s*""")
"""One address with a domain, and perhaps a name: what most fields are."""


@dataclass(frozen=True, slots=True)
class Found:
    """An address in a field: `text` as it is written there without comments and blanks, and where it ends."""

    text: str
    end: int

    @property
    def is_bare(self) -> bool:
        """Whether it has no domain."""
        return _domain_of(self.text) is None


def _domain_of(text: str) -> str | None:
    """What follows the last @ outside of quotes."""
    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"?', "", text)
    return unquoted.rpartition("@")[2] if "@" in unquoted else None


def find_addresses(field: str) -> Iterator[Found]:
    """The addresses in the body of a field, in their order; groups are looked into, comments left out."""
    words: list[str] = []
    spaced = False
    end = 0
    angle: list[str] | None = None
    done = False
    position = 0
    while position < len(field):
        if field[position] == "(":
            position = _behind_comment(field, position)
            continue
        match = _TOKEN.match(field, position)
        if match is None:
            position += 1
            continue
        position = match.end()
        piece = match[0]
        if angle is not None:
            # Inside <...>: blanks are none of the address.
            if piece == ">":
                if angle:
                    yield Found("".join(angle), end)
                angle, done = None, True
            elif not piece.isspace():
                angle.append(piece)
                end = position
        elif piece == "<":
            angle, end = [], position
        elif piece in (",", ";"):
            yield from _unbracketed(words, end, spaced=spaced, done=done)
            words, spaced, done = [], False, False
        elif piece == ":":
            # What stood before it is the name of a group.
            words, spaced, done = [], False, False
        elif not piece.isspace():
            # Two words side by side are a name, unless an @ joins them.
            spaced = spaced or bool(words and piece != "@" and words[-1] != "@")
            words.append(piece)
            end = position
    if angle:
        yield Found("".join(angle), end)
    else:
        yield from _unbracketed(words, end, spaced=spaced, done=done)


def _unbracketed(words: list[str], end: int, *, spaced: bool, done: bool) -> Iterator[Found]:
    if words and not done and not spaced:
        yield Found("".join(words), end)


def _behind_comment(field: str, position: int) -> int:
    """The position behind the comment that begins here (they nest); the end of the field for one that never ends."""
    depth = 0
    while position < len(field):
        character = field[position]
        if character == "\\":
            position += 1
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if not depth:
                return position + 1
        position += 1
    return len(field)


def complete(field: str, domain: str) -> str:
    """The field with `@domain` behind each address that has none; all else byte for byte as it was."""
    if _COMPLETE.fullmatch(field):
        return field
    pieces = []
    before = 0
    for found in find_addresses(field):
        if found.is_bare and _is_local_part(found.text):
            pieces += [field[before : found.end], "@", domain]
            before = found.end
    return "".join([*pieces, field[before:]])


def _is_local_part(text: str) -> bool:
    """Whether it may stand before an @: one word, or one string in quotes; no path of UUCP."""
    if text.startswith('"'):
        return re.fullmatch(r'"(?:[^"\\]|\\.)+"', text) is not None
    return re.fullmatch(r"[A-Za-z0-9#$&'*+/=?^_`{|}~.\u0080-\U0010ffff-]+", text) is not None
