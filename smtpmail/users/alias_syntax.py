"""The file of aliases as text: aliases(5), whole addresses and catch-alls as in virtual(5), and Exim's words. Pure.

root: bob
sales: bob, alice@example.net,
    "carol c"@example.org          # a line that begins with a blank goes on
list: :include:/etc/smtpmail/list
owner-list: bob                    # becomes the envelope sender of what goes to `list`
bob+shop: :fail: This address is closed
spam: :blackhole:
@second.fr: bob                    # every other address of this domain
anna: \\anna, anna@example.net      # a copy stays here
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain, parse_address


@dataclass(frozen=True, slots=True)
class Target:
    """An address; a bare name has no domain. `final` is the mailbox itself: nothing is looked up for it (`\\bob`)."""

    address: Address
    final: bool = False

    def __str__(self) -> str:
        return f"\\{self.address}" if self.final else str(self.address)


@dataclass(frozen=True, slots=True)
class Include:
    """The targets in a file."""

    path: str

    def __str__(self) -> str:
        return f":include:{self.path}"


@dataclass(frozen=True, slots=True)
class Fail:
    """Refused, with a text for the sender."""

    text: str

    def __str__(self) -> str:
        return f":fail: {self.text}"


@dataclass(frozen=True, slots=True)
class Blackhole:
    """Taken and dropped."""

    def __str__(self) -> str:
        return ":blackhole:"


Item = Target | Include | Fail | Blackhole

Key = tuple[str, str]
"""Left of the colon: local part and domain, in the form in which they are compared. Either may be empty."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file. With a `complaint`, what it means is not known: mail for it waits."""

    key: Key
    line: int
    items: tuple[Item, ...]
    complaint: str = ""


@dataclass(slots=True)
class Table:
    """All lines of a file by their keys, and a complaint for each line that makes no sense."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


class AliasSyntaxError(ValueError):
    """What is wrong with a line, for people."""


def normal_local(local_part: str) -> str:
    """The one form of a local part to compare."""
    return unicodedata.normalize("NFC", local_part).lower()


def key_of(address: Address) -> Key:
    """The key of an address. Raises AddressSyntaxError for a domain that is none."""
    domain = address.domain
    return normal_local(address.local), domain if not domain or domain.startswith("[") else normal_domain(domain)


def parse_aliases(text: str) -> Table:
    """Reads a whole file."""
    table = Table()
    for number, line in _logical_lines(text):
        try:
            key, right = _split(line)
        except AliasSyntaxError as error:
            table.complaints.append(f"line {number}: {error}")
            continue
        try:
            if key in table.entries:
                raise AliasSyntaxError(f"{show_key(key)} stands in line {table.entries[key].line} already")
            entry = Entry(key, number, tuple(parse_items(right)))
        except AliasSyntaxError as error:
            table.complaints.append(f"line {number}: {error}")
            entry = Entry(key, number, (), f"line {number}: {error}")
        table.entries[key] = entry
    return table


INCLUDED = ":include:"
"""In place of the domain of a key: a file. No line can have it."""


def show_key(key: Key) -> str:
    """A key as it stands in the file."""
    local, domain = key
    if domain == INCLUDED:
        return INCLUDED + local
    return f"{local}@{domain}" if domain else local


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with those that go on in the next joined, without comments; and the number of the first."""
    number = 0
    parts: list[str] = []
    for n, raw in enumerate(text.split("\n"), 1):
        line = without_comment(raw.rstrip())
        if not line.strip():
            continue
        if raw[:1] in (" ", "\t") and parts:
            parts.append(line.strip())
            continue
        if parts:
            yield number, " ".join(parts)
        number, parts = n, [line.strip()]
    if parts:
        yield number, " ".join(parts)


def without_comment(line: str) -> str:
    """The line without what follows a `#` at its start or behind a blank, unless that stands in quotes or a text."""
    text = re.search(r":fail:", line, re.IGNORECASE)
    limit = text.end() if text else len(line)
    quoted = False
    for position, character in enumerate(line[:limit]):
        if character == '"' and line[position - 1 : position] != "\\":
            quoted = not quoted
        elif character == "#" and not quoted and (not position or line[position - 1] in " \t"):
            return line[:position]
    return line


_LEFT = re.compile(r'("(?:[^"\\]|\\.)*"|[^\s:"@]+)?(@(?:\[[^\]\s]*\]|[^\s:]+))?\s*:')


def _split(line: str) -> tuple[Key, str]:
    match = _LEFT.match(line)
    if not match:
        if ":" not in line:
            raise AliasSyntaxError(f"{_quoted(line)}: there is no colon (name: target, target ...)")
        raise AliasSyntaxError(f"{_quoted(line.partition(':')[0])} is no name and no address")
    local, domain = match[1] or "", (match[2] or "")[1:]
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    if not local and not domain:
        raise AliasSyntaxError("there is nothing before the colon")
    if not local.isprintable():
        raise AliasSyntaxError(f"{_quoted(local)} has characters that no name has")
    try:
        return (normal_local(local), normal_domain(domain) if domain else ""), line[match.end() :].strip()
    except AddressSyntaxError as error:
        raise AliasSyntaxError(str(error)) from None


def parse_items(right: str) -> Iterator[Item]:
    """What stands right of the colon, or in a line of a file of targets. Raises AliasSyntaxError."""
    if match := re.match(r":(fail|blackhole):\s*(.*)", right, re.IGNORECASE | re.DOTALL):
        if match[1].lower() == "fail":
            yield Fail(_one_line(match[2]))
        elif match[2]:
            raise AliasSyntaxError(":blackhole: stands alone")
        else:
            yield Blackhole()
        return
    words = [word for word in _between_commas(right) if word]
    if not words:
        raise AliasSyntaxError("there is no target behind the colon")
    for word in words:
        yield _item(word)


def _between_commas(text: str) -> list[str]:
    return [word.strip() for word in re.findall(r'(?:"(?:[^"\\]|\\.)*"?|[^",])+|(?<=,)(?=,)', text)]


def _item(word: str) -> Item:
    bare = word[1:-1] if len(word) > 1 and word[0] == word[-1] == '"' else word
    if bare.startswith("|"):
        raise AliasSyntaxError(
            f"{_quoted(word)}: no programs are run from here: the server has no privilege to lend. "
            "Read the mailbox instead"
        )
    if bare.startswith("/"):
        instead = ":blackhole: drops mail" if bare == "/dev/null" else "Name a user: each has a mailbox"
        raise AliasSyntaxError(f"{_quoted(word)}: no files are written from here. {instead}")
    if bare.lower().startswith(":include:"):
        path = bare[len(":include:") :].strip()
        if not path.startswith("/"):
            raise AliasSyntaxError(f"{_quoted(word)}: the path of a file must begin with a slash")
        return Include(path)
    if bare.startswith(":"):
        known = ":fail: text and :blackhole: stand alone, :include:/FILE among others"
        raise AliasSyntaxError(f"{_quoted(word)} is not known: {known}")
    return target(word)


def target(word: str) -> Target:
    """An address, a name, or either with a backslash before it. Raises AliasSyntaxError."""
    final = word.startswith("\\")
    text = word[1:] if final else word
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    try:
        if "@" in re.sub(r'"(?:[^"\\]|\\.)*"', "", text):
            address = parse_address(text)
            key_of(address)  # a domain that is none must be told now, not when mail for it fails
            return Target(address, final)
        # The domain serves to have the syntax of a local part judged, and to undo its quotes.
        return Target(Address(parse_address(f"{text}@localhost").local, ""), final)
    except AddressSyntaxError:
        raise AliasSyntaxError(f"{_quoted(word)} is no name and no address") from None


def parse_list(text: str) -> tuple[list[Item], list[str]]:
    """The targets in a file of these alone, one or more a line; and a complaint for each line that makes no sense."""
    items: list[Item] = []
    complaints = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = without_comment(raw.strip()).strip()
        if line:
            try:
                items += parse_items(line)
            except AliasSyntaxError as error:
                complaints.append(f"line {number}: {error}")
    return items, complaints


def _one_line(text: str) -> str:
    """A text that may stand in a reply: printable, short enough for one line (RFC 5321 4.5.3.1.5)."""
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split()))[:400] or "Not taken here"


def _quoted(text: str) -> str:
    """As it stands in a complaint: short, and harmless on a terminal."""
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return repr(shown)
