"""What SEARCH asks (RFC 3501 6.4.4, RFC 4731, RFC 7162 3.1.5): the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smtpmail.imap.scanner import BadSyntax, Scanner
from smtpmail.imap.sequences import SequenceSet

MAX_KEYS = 1000
MAX_DEPTH = 40

FLAGS = {
    "ANSWERED": b"\\Answered",
    "DELETED": b"\\Deleted",
    "DRAFT": b"\\Draft",
    "FLAGGED": b"\\Flagged",
    "SEEN": b"\\Seen",
}
TEXTS = frozenset({"BCC", "BODY", "CC", "FROM", "SUBJECT", "TEXT", "TO"})
DATES = frozenset({"BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE"})
RETURNS = frozenset({"MIN", "MAX", "ALL", "COUNT", "SAVE"})


@dataclass(frozen=True, slots=True)
class Key:
    """One condition. `name` decides what the others hold."""

    name: str
    """AND, OR, NOT (with `keys`); ALL; SET, UID (with `numbers`); FLAG, KEYWORD (`octets`); RECENT; a text key
    (`text`), HEADER (`text`, and the field in `octets`); a date key (`number`: days since 1970); LARGER, SMALLER,
    MODSEQ, OLDER, YOUNGER (`number`); BADCHARSET: the texts are in a charset that is not known here."""
    keys: tuple[Key, ...] = ()
    numbers: SequenceSet | None = None
    octets: bytes = b""
    text: str = ""
    number: int = 0

    def uses_modseq(self) -> bool:
        """Whether MODSEQ stands in it anywhere."""
        return self.name == "MODSEQ" or any(key.uses_modseq() for key in self.keys)


@dataclass(frozen=True, slots=True)
class SearchProgram:
    """A whole search."""

    key: Key
    returns: frozenset[str] | None
    """What is to be returned in an ESEARCH response; None asks for the old SEARCH response."""

    @property
    def saves(self) -> bool:
        """Whether the result is to be kept as `$`."""
        return self.returns is not None and "SAVE" in self.returns


def parse_search(scanner: Scanner) -> SearchProgram:
    """All that follows the word SEARCH and its space. Raises BadSyntax."""
    returns: frozenset[str] | None = None
    if scanner.skip(b"RETURN "):
        words = scanner.listed(lambda: scanner.atom().decode(), empty=True)
        if not RETURNS.issuperset(words):
            raise BadSyntax("unknown result option of SEARCH")
        returns = frozenset(words) or frozenset({"ALL"})
        scanner.space()
    charset: str | None = "utf-8"
    if scanner.skip(b"CHARSET "):
        charset = read_charset(scanner)
        scanner.space()
    return SearchProgram(parse_keys(scanner, charset), returns)


def read_charset(scanner: Scanner) -> str | None:
    """The name of a charset, as Python's codecs call it; None when it is not known here."""
    name = scanner.astring().decode("ascii", "replace").lower()
    return "utf-8" if name in ("us-ascii", "ascii", "utf-8", "utf8") else None


def parse_keys(scanner: Scanner, charset: str | None) -> Key:
    """The keys up to the end of the command. Raises BadSyntax, whatever the charset."""
    parser = _Parser(scanner, charset or "latin-1")
    keys = [parser.key(0)]
    while not scanner.at_end:
        scanner.space()
        keys.append(parser.key(0))
    if charset is None:
        return Key("BADCHARSET")
    return keys[0] if len(keys) == 1 else Key("AND", tuple(keys))


class _Parser:
    def __init__(self, scanner: Scanner, charset: str) -> None:
        self._scanner = scanner
        self._charset = charset
        self._count = 0

    def key(self, depth: int) -> Key:
        scanner = self._scanner
        self._count += 1
        if depth > MAX_DEPTH or self._count > MAX_KEYS:
            raise BadSyntax("the search is too complicated")
        if scanner.peek(b"("):
            keys: Sequence[Key] = scanner.listed(lambda: self.key(depth + 1))
            return keys[0] if len(keys) == 1 else Key("AND", tuple(keys))
        if scanner.at_sequence_set():
            return Key("SET", numbers=scanner.sequence_set())
        word = scanner.atom().decode()
        read = self._WITH_ARGUMENTS.get(word)
        return self._simple(word) if read is None else read(self, depth)

    def _simple(self, word: str) -> Key:
        scanner = self._scanner
        if word in FLAGS:
            return Key("FLAG", octets=FLAGS[word])
        if word.startswith("UN") and word[2:] in FLAGS:
            return _not(Key("FLAG", octets=FLAGS[word[2:]]))
        if word in TEXTS:
            scanner.space()
            return Key(word, text=self._text())
        if word in DATES:
            scanner.space()
            return Key(word, number=scanner.date())
        match word:
            case "ALL" | "RECENT":
                return Key(word)
            case "NEW":
                return Key("AND", (Key("RECENT"), _not(Key("FLAG", octets=b"\\Seen"))))
            case "OLD":
                return _not(Key("RECENT"))
            case "LARGER" | "SMALLER" | "OLDER" | "YOUNGER":
                scanner.space()
                return Key(word, number=scanner.number(2**63 - 1))
        raise BadSyntax(f"unknown search key {word}")

    def _text(self) -> str:
        try:
            return self._scanner.astring().decode(self._charset)
        except UnicodeDecodeError:
            raise BadSyntax("the text is not in its charset") from None

    def _negated(self, depth: int) -> Key:
        self._scanner.space()
        return _not(self.key(depth + 1))

    def _or(self, depth: int) -> Key:
        self._scanner.space()
        first = self.key(depth + 1)
        self._scanner.space()
        return Key("OR", (first, self.key(depth + 1)))

    def _uid(self, depth: int) -> Key:
        self._scanner.space()
        return Key("UID", numbers=self._scanner.sequence_set())

    def _header(self, depth: int) -> Key:
        self._scanner.space()
        field = self._scanner.astring()
        self._scanner.space()
        return Key("HEADER", octets=field, text=self._text())

    def _keyword(self, depth: int) -> Key:
        self._scanner.space()
        return Key("FLAG", octets=self._scanner.flag())

    def _unkeyword(self, depth: int) -> Key:
        return _not(self._keyword(depth))

    def _modseq(self, depth: int) -> Key:
        scanner = self._scanner
        scanner.space()
        if scanner.peek(b'"'):
            # An entry's name and type: what they select is kept for all flags together here (RFC 7162 3.1.5).
            scanner.string()
            scanner.space()
            if scanner.atom() not in (b"PRIV", b"SHARED", b"ALL"):
                raise BadSyntax("unknown type of a metadata entry")
            scanner.space()
        return Key("MODSEQ", number=scanner.modseq())

    _WITH_ARGUMENTS = {  # noqa: RUF012 - a constant
        "HEADER": _header,
        "KEYWORD": _keyword,
        "MODSEQ": _modseq,
        "NOT": _negated,
        "OR": _or,
        "UID": _uid,
        "UNKEYWORD": _unkeyword,
    }


def _not(key: Key) -> Key:
    return Key("NOT", (key,))
