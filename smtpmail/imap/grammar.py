"""The grammar of commands: from text to values (RFC 3501 9, RFC 9051 9, and the extensions')."""

from __future__ import annotations

from collections.abc import Callable

from smtpmail.imap.commands import (
    Append,
    Authenticate,
    Command,
    Copy,
    Create,
    Enable,
    Expunge,
    Fetch,
    Id,
    List,
    Login,
    OnMailbox,
    QResync,
    Rename,
    Search,
    Select,
    Simple,
    Sort,
    Status,
    Store,
    Thread,
)
from smtpmail.imap.fetch_items import parse_items, parse_modifiers
from smtpmail.imap.scanner import BadSyntax, Scanner
from smtpmail.imap.search_keys import parse_keys, parse_search, read_charset
from smtpmail.imap.sequences import SequenceSet

STATUS_ITEMS = frozenset(
    {"MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "HIGHESTMODSEQ", "APPENDLIMIT"}
)
SORT_KEYS = frozenset({"ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO"})
SYSTEM_FLAGS = {
    flag.upper(): flag for flag in (b"\\Answered", b"\\Deleted", b"\\Draft", b"\\Flagged", b"\\Recent", b"\\Seen")
}
MAX_FLAG = 200
"""Octets of a keyword."""
MAX_FLAGS = 200


SIMPLE = frozenset(
    {"CAPABILITY", "NOOP", "LOGOUT", "CHECK", "CLOSE", "UNSELECT", "EXPUNGE", "NAMESPACE", "IDLE", "STARTTLS"}
)


def parse(name: str, scanner: Scanner) -> Command:
    """The command whose name has been read. Raises BadSyntax."""
    uid = name == "UID"
    if uid:
        scanner.space()
        name = scanner.atom().decode()
        if name not in _WITH_UID:
            raise BadSyntax("unknown UID command")
    if name in SIMPLE and not uid:
        scanner.end()
        return Simple(name)
    reader = _READERS.get(name)
    if reader is None:
        raise BadSyntax("unknown command")
    scanner.space()
    command = reader(scanner, uid)
    scanner.end()
    return command


# -- one function for each command; `uid` says whether UID stands before it


def _id(scanner: Scanner, _: bool) -> Command:
    fields: list[tuple[bytes, bytes | None]] = []

    def field() -> None:
        name = scanner.string()
        scanner.space()
        fields.append((name, scanner.nstring()))

    if scanner.peek(b"("):
        scanner.listed(field, empty=True)
    elif scanner.atom() != b"NIL":
        raise BadSyntax("a list or NIL expected")
    return Id(tuple(fields))


def _login(scanner: Scanner, _: bool) -> Command:
    user = scanner.astring()
    scanner.space()
    return Login(user, scanner.astring())


def _authenticate(scanner: Scanner, _: bool) -> Command:
    mechanism = scanner.atom().decode()
    initial = None
    if not scanner.at_end:
        scanner.space()
        initial = scanner.rest()
    return Authenticate(mechanism, initial)


def _enable(scanner: Scanner, _: bool) -> Command:
    names = [scanner.atom()]
    while not scanner.at_end:
        scanner.space()
        names.append(scanner.atom())
    return Enable(tuple(names))


def _select(scanner: Scanner, _: bool, *, read_only: bool = False) -> Command:
    mailbox = scanner.mailbox()
    condstore = False
    qresync: QResync | None = None

    def parameter() -> None:
        nonlocal condstore, qresync
        word = scanner.atom()
        if word == b"CONDSTORE":
            condstore = True
        elif word == b"QRESYNC":
            scanner.space()
            qresync = _qresync(scanner)
        else:
            raise BadSyntax("unknown parameter of SELECT")

    if not scanner.at_end:
        scanner.space()
        scanner.listed(parameter)
    return Select(mailbox, read_only, condstore, qresync)


def _qresync(scanner: Scanner) -> QResync:
    scanner.expect(b"(")
    validity = scanner.nz_number()
    scanner.space()
    modseq = scanner.modseq()
    known: SequenceSet | None = None
    if scanner.skip(b" "):
        if not scanner.peek(b"("):
            known = scanner.sequence_set()
        if known is None or scanner.skip(b" "):
            # What the client knows of numbers and UIDs: a hint that saves octets, and is not needed here.
            scanner.expect(b"(")
            scanner.sequence_set()
            scanner.space()
            scanner.sequence_set()
            scanner.expect(b")")
    scanner.expect(b")")
    return QResync(validity, modseq, known)


def _examine(scanner: Scanner, uid: bool) -> Command:
    return _select(scanner, uid, read_only=True)


def _create(scanner: Scanner, _: bool) -> Command:
    mailbox = scanner.mailbox()
    uses: list[bytes] = []

    def parameter() -> None:
        if scanner.atom() != b"USE":
            raise BadSyntax("unknown parameter of CREATE")
        scanner.space()
        uses.extend(scanner.listed(scanner.flag, empty=True))

    if not scanner.at_end:
        scanner.space()
        scanner.listed(parameter)
    return Create(mailbox, tuple(uses))


def _on_mailbox(name: str) -> Callable[[Scanner, bool], Command]:
    return lambda scanner, _: OnMailbox(name, scanner.mailbox())


def _rename(scanner: Scanner, _: bool) -> Command:
    old = scanner.mailbox()
    scanner.space()
    return Rename(old, scanner.mailbox())


_SELECTIONS = frozenset({"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"})
_RETURNS = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "STATUS"})


def _list(scanner: Scanner, _: bool) -> Command:
    extended = False
    selection: list[str] = []
    if scanner.peek(b"("):
        extended = True
        selection = scanner.listed(lambda: scanner.atom().decode(), empty=True)
        scanner.space()
    reference = scanner.pattern() if not scanner.skip(b'""') else ""
    scanner.space()
    if scanner.peek(b"("):
        extended = True
        patterns = scanner.listed(scanner.pattern)
    else:
        patterns = [scanner.pattern()]
    returns: list[str] = []
    status: tuple[str, ...] = ()

    def option() -> None:
        nonlocal status
        returns.append(scanner.atom().decode())
        if returns[-1] == "STATUS":
            scanner.space()
            status = _status_items(scanner)

    if not scanner.at_end:
        extended = True
        scanner.space()
        scanner.expect(b"RETURN")
        scanner.space()
        scanner.listed(option, empty=True)
    if not _SELECTIONS.issuperset(selection) or not _RETURNS.issuperset(returns):
        raise BadSyntax("unknown option of LIST")
    if "RECURSIVEMATCH" in selection and not {"SUBSCRIBED", "SPECIAL-USE"} & set(selection):
        raise BadSyntax("RECURSIVEMATCH requires another selection option")
    return List(reference, tuple(patterns), False, frozenset(selection), frozenset(returns), status, extended=extended)


def _lsub(scanner: Scanner, _: bool) -> Command:
    reference = scanner.pattern() if not scanner.skip(b'""') else ""
    scanner.space()
    return List(reference, (scanner.pattern(),), lsub=True)


def _status_items(scanner: Scanner) -> tuple[str, ...]:
    items = tuple(dict.fromkeys(scanner.listed(lambda: scanner.atom().decode())))
    if not STATUS_ITEMS.issuperset(items):
        raise BadSyntax("unknown item of STATUS")
    return items


def _status(scanner: Scanner, _: bool) -> Command:
    mailbox = scanner.mailbox()
    scanner.space()
    return Status(mailbox, _status_items(scanner))


def parse_append(scanner: Scanner) -> Append | None:
    """All before the message of an APPEND; None when the text ends elsewhere than at a literal for the message.

    Raises BadSyntax.
    """
    scanner.space()
    if scanner.at_last_literal:
        return None  # this is the mailbox's name
    mailbox = scanner.mailbox()
    scanner.space()
    flags: list[bytes] = []
    date = None
    if scanner.peek(b"("):
        flags = scanner.listed(scanner.flag, empty=True)
        scanner.space()
    if scanner.peek(b'"'):
        date = scanner.date_time()
        scanner.space()
    utf8 = scanner.skip(b"UTF8 (")
    if not scanner.at_last_literal:
        raise BadSyntax("a literal with the message expected")
    return Append(mailbox, canonical_flags(flags), date, utf8)


def _uid_expunge(scanner: Scanner, _: bool) -> Command:
    return Expunge(scanner.sequence_set())


def _search(scanner: Scanner, uid: bool) -> Command:
    return Search(parse_search(scanner), uid)


def _sort(scanner: Scanner, uid: bool) -> Command:
    criteria: list[tuple[str, bool]] = []

    def criterion() -> None:
        word = scanner.atom().decode()
        reverse = word == "REVERSE"
        if reverse:
            scanner.space()
            word = scanner.atom().decode()
        if word not in SORT_KEYS:
            raise BadSyntax("unknown sort key")
        criteria.append((word, reverse))

    scanner.listed(criterion)
    scanner.space()
    charset = read_charset(scanner)
    scanner.space()
    return Sort(tuple(criteria), parse_keys(scanner, charset), uid)


def _thread(scanner: Scanner, uid: bool) -> Command:
    algorithm = scanner.atom().decode()
    if algorithm not in ("ORDEREDSUBJECT", "REFERENCES"):
        raise BadSyntax("unknown threading algorithm")
    scanner.space()
    charset = read_charset(scanner)
    scanner.space()
    return Thread(algorithm, parse_keys(scanner, charset), uid)


def _fetch(scanner: Scanner, uid: bool) -> Command:
    numbers = scanner.sequence_set()
    scanner.space()
    items = parse_items(scanner)
    return Fetch(numbers, items, parse_modifiers(scanner), uid)


def _store(scanner: Scanner, uid: bool) -> Command:
    numbers = scanner.sequence_set()
    scanner.space()
    unchanged_since = None
    if scanner.skip(b"(UNCHANGEDSINCE "):
        unchanged_since = scanner.modseq()
        scanner.expect(b")")
        scanner.space()
    action = "+" if scanner.skip(b"+") else "-" if scanner.skip(b"-") else ""
    word = scanner.atom()
    if word not in (b"FLAGS", b"FLAGS.SILENT"):
        raise BadSyntax("FLAGS or FLAGS.SILENT expected")
    scanner.space()
    flags = canonical_flags(scanner.flags())
    return Store(numbers, action, flags, word == b"FLAGS.SILENT", unchanged_since, uid)


def canonical_flags(flags: list[bytes]) -> tuple[bytes, ...]:
    r"""The flags that a client may set, system flags in their one spelling. Raises BadSyntax.

    \Recent is the server's alone and left out.
    """
    known: dict[bytes, None] = {}
    for flag in flags:
        system = SYSTEM_FLAGS.get(flag.upper())
        if flag.startswith(b"\\") and system is None:
            raise BadSyntax(f"unknown system flag {flag.decode('ascii', 'replace')}")
        if len(flag) > MAX_FLAG or len(known) > MAX_FLAGS:
            raise BadSyntax("too many flags, or too long ones")
        if system != b"\\Recent":
            known[system or flag] = None
    return tuple(known)


def _copy(scanner: Scanner, uid: bool, *, move: bool = False) -> Command:
    numbers = scanner.sequence_set()
    scanner.space()
    return Copy(numbers, scanner.mailbox(), move, uid)


def _move(scanner: Scanner, uid: bool) -> Command:
    return _copy(scanner, uid, move=True)


_READERS: dict[str, Callable[[Scanner, bool], Command]] = {
    "ID": _id,
    "LOGIN": _login,
    "AUTHENTICATE": _authenticate,
    "ENABLE": _enable,
    "SELECT": _select,
    "EXAMINE": _examine,
    "CREATE": _create,
    "DELETE": _on_mailbox("DELETE"),
    "SUBSCRIBE": _on_mailbox("SUBSCRIBE"),
    "UNSUBSCRIBE": _on_mailbox("UNSUBSCRIBE"),
    "RENAME": _rename,
    "LIST": _list,
    "LSUB": _lsub,
    "STATUS": _status,
    "SEARCH": _search,
    "SORT": _sort,
    "THREAD": _thread,
    "FETCH": _fetch,
    "STORE": _store,
    "COPY": _copy,
    "MOVE": _move,
    "EXPUNGE": _uid_expunge,
}
_WITH_UID = frozenset({"COPY", "EXPUNGE", "FETCH", "MOVE", "SEARCH", "SORT", "STORE", "THREAD"})
