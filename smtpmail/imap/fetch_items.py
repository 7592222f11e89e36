"""What FETCH asks for (RFC 3501 6.4.5, RFC 9051 6.4.5, RFC 7162 3.1.4): the grammar."""

from __future__ import annotations

from dataclasses import dataclass

from smtpmail.imap.responses import astring, listed
from smtpmail.imap.scanner import BadSyntax, Scanner

MAX_PARTS = 100
"""Levels of a section: no message is as deep."""

MACROS = {
    b"ALL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"),
    b"FAST": ("FLAGS", "INTERNALDATE", "RFC822.SIZE"),
    b"FULL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY"),
}
SIMPLE = frozenset({b"ENVELOPE", b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"BODYSTRUCTURE", b"UID", b"MODSEQ"})


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of a message: `BODY[1.2.HEADER.FIELDS (SUBJECT)]<0.100>`."""

    label: bytes
    """The item as the response names it, without `<...>`."""
    parts: tuple[int, ...] = ()
    text: str = ""
    """HEADER, HEADER.FIELDS, HEADER.FIELDS.NOT, TEXT, MIME, or empty: the whole part."""
    fields: tuple[bytes, ...] = ()
    peek: bool = False
    """Whether \\Seen stays as it is."""
    partial: tuple[int, int] | None = None
    """The first octet and how many."""
    binary: bool = False
    """Without its content transfer encoding (RFC 3516)."""
    size_only: bool = False
    """BINARY.SIZE."""


Item = str | Section
"""One of SIMPLE as text, BODY (the structure without extensions), or a section."""


@dataclass(frozen=True, slots=True)
class FetchModifiers:
    """`(CHANGEDSINCE 12345 VANISHED)`."""

    changed_since: int | None = None
    vanished: bool = False


def parse_items(scanner: Scanner) -> tuple[Item, ...]:
    """A macro, one item, or a list of them. Raises BadSyntax."""
    if scanner.peek(b"("):
        items = scanner.listed(lambda: _item(scanner))
        return tuple(dict.fromkeys(items))
    for name, macro in MACROS.items():
        if scanner.peek(name):
            scanner.skip(name)
            return macro
    return (_item(scanner),)


def _item(scanner: Scanner) -> Item:
    # `[` may stand in an atom: what comes before it is read by hand.
    for name in (b"BODY.PEEK[", b"BODY["):
        if scanner.skip(name):
            return _section(scanner, b"BODY", peek=name == b"BODY.PEEK[")
    for name in (b"BINARY.PEEK[", b"BINARY.SIZE[", b"BINARY["):
        if scanner.skip(name):
            return _binary(scanner, name)
    word = scanner.atom()
    if word in SIMPLE or word == b"BODY":
        return word.decode()
    match word:
        case b"RFC822":
            return Section(word)
        case b"RFC822.HEADER":
            return Section(word, text="HEADER", peek=True)
        case b"RFC822.TEXT":
            return Section(word, text="TEXT")
    raise BadSyntax("unknown item of FETCH")


def _section(scanner: Scanner, name: bytes, *, peek: bool) -> Section:
    parts = _parts(scanner)
    text = ""
    fields: tuple[bytes, ...] = ()
    if not scanner.peek(b"]"):
        text, fields = _section_text(scanner, bool(parts))
    scanner.expect(b"]")
    spec = [b"%d" % part for part in parts] + ([text.encode()] if text else [])
    names = b" " + listed(map(astring, fields)) if fields else b""
    label = name + b"[" + b".".join(spec) + names + b"]"
    return Section(label, parts, text, fields, peek, _partial(scanner))


def _parts(scanner: Scanner) -> tuple[int, ...]:
    """Part numbers up to `]`, or to the dot before a word."""
    parts: list[int] = []
    while not scanner.peek(b"]") and scanner.at_digit():
        parts.append(scanner.nz_number())
        if len(parts) > MAX_PARTS:
            raise BadSyntax("the section is too deep")
        if not scanner.skip(b"."):
            break
        if not scanner.at_digit() and scanner.peek(b"]"):
            raise BadSyntax("a part number expected")
    return tuple(parts)


def _section_text(scanner: Scanner, has_parts: bool) -> tuple[str, tuple[bytes, ...]]:
    for word in ("HEADER.FIELDS.NOT", "HEADER.FIELDS"):
        if scanner.skip(word.encode()):
            scanner.space()
            return word, tuple(scanner.listed(scanner.astring))
    for word in ("HEADER", "TEXT", "MIME"):
        if scanner.skip(word.encode()):
            if word == "MIME" and not has_parts:
                break
            return word, ()
    raise BadSyntax("unknown section")


def _partial(scanner: Scanner) -> tuple[int, int] | None:
    if not scanner.skip(b"<"):
        return None
    first = scanner.number()
    scanner.expect(b".")
    count = scanner.nz_number()
    scanner.expect(b">")
    return first, count


def _binary(scanner: Scanner, name: bytes) -> Section:
    parts = _parts(scanner)
    scanner.expect(b"]")
    size_only = name == b"BINARY.SIZE["
    label = (b"BINARY.SIZE[" if size_only else b"BINARY[") + b".".join(b"%d" % part for part in parts) + b"]"
    partial = None if size_only else _partial(scanner)
    return Section(label, parts, peek=name != b"BINARY[", partial=partial, binary=True, size_only=size_only)


def parse_modifiers(scanner: Scanner) -> FetchModifiers:
    """What may stand behind the items. Raises BadSyntax."""
    if scanner.at_end:
        return FetchModifiers()
    scanner.space()
    changed_since: int | None = None
    vanished = False

    def modifier() -> None:
        nonlocal changed_since, vanished
        word = scanner.atom()
        if word == b"CHANGEDSINCE":
            scanner.space()
            changed_since = scanner.modseq()
        elif word == b"VANISHED":
            vanished = True
        else:
            raise BadSyntax("unknown modifier of FETCH")

    scanner.listed(modifier)
    if vanished and changed_since is None:
        raise BadSyntax("VANISHED requires CHANGEDSINCE")
    return FetchModifiers(changed_since, vanished)
