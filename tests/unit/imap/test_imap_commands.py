"""The grammar of commands, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from smtpmail.imap import commands as c
from smtpmail.imap.fetch_items import FetchModifiers, Section
from smtpmail.imap.grammar import parse, parse_append
from smtpmail.imap.scanner import BadSyntax, Literal, Scanner
from smtpmail.imap.search_keys import Key, SearchProgram
from smtpmail.imap.sequences import parse_set


def read(text: bytes, *literals: bytes, utf8: bool = False) -> c.Command:
    """The command in a line; `{}` stands for the literals."""
    scanner = Scanner(text.split(b"{}"), [Literal(x) for x in literals], utf8=utf8)
    return parse(scanner.atom().decode(), scanner)


ONE = parse_set(b"1")
FLAG = Key("FLAG", octets=b"\\Seen")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"noop", c.Simple("NOOP")),
        (b"Logout ", c.Simple("LOGOUT")),
        (b"LOGIN bob secret", c.Login(b"bob", b"secret")),
        (b'LOGIN "b\\"o\\\\b" a]b', c.Login(b'b"o\\b', b"a]b")),
        (b"AUTHENTICATE plain", c.Authenticate("PLAIN", None)),
        (b"AUTHENTICATE PLAIN =", c.Authenticate("PLAIN", b"=")),
        (b"SELECT inbox", c.Select("INBOX")),
        (b"SELECT INBOX (CONDSTORE)", c.Select("INBOX", condstore=True)),
        (b"SELECT a (QRESYNC (7 9))", c.Select("a", qresync=c.QResync(7, 9))),
        (b"SELECT a (QRESYNC (7 9 1:5))", c.Select("a", qresync=c.QResync(7, 9, parse_set(b"1:5")))),
        (b"SELECT a (QRESYNC (7 9 1:5 (1:3 2:6)))", c.Select("a", qresync=c.QResync(7, 9, parse_set(b"1:5")))),
        (b"SELECT a (QRESYNC (7 9 (1:3 2:6)))", c.Select("a", qresync=c.QResync(7, 9))),
        (b"EXAMINE &ZeVnLIqe-", c.Select("日本語", read_only=True)),
        (b'CREATE "a b"', c.Create("a b")),
        (b"CREATE Sent (USE (\\Sent))", c.Create("Sent", (b"\\Sent",))),
        (b"DELETE x", c.OnMailbox("DELETE", "x")),
        (b"RENAME a b/c", c.Rename("a", "b/c")),
        (b'LIST "" *', c.List("", ("*",))),
        (b"LIST a/ %", c.List("a/", ("%",))),
        (b'LIST "" ""', c.List("", ("",))),
        (b'LIST (SUBSCRIBED) "" (a b/*)', c.List("", ("a", "b/*"), selection=frozenset({"SUBSCRIBED"}), extended=True)),
        (
            b'LIST "" % RETURN (CHILDREN STATUS (UIDNEXT))',
            c.List("", ("%",), returns=frozenset({"CHILDREN", "STATUS"}), status=("UIDNEXT",), extended=True),
        ),
        (b'LSUB "" *', c.List("", ("*",), lsub=True)),
        (b"STATUS a (MESSAGES unseen)", c.Status("a", ("MESSAGES", "UNSEEN"))),
        (b"SEARCH UNSEEN", c.Search(SearchProgram(Key("NOT", (FLAG,)), None))),
        (b"UID SEARCH 1 SEEN", c.Search(SearchProgram(Key("AND", (Key("SET", numbers=ONE), FLAG)), None), uid=True)),
        (
            b"SEARCH RETURN () OR (SEEN LARGER 5) NOT KEYWORD $x",
            c.Search(
                SearchProgram(
                    Key(
                        "OR",
                        (
                            Key("AND", (FLAG, Key("LARGER", number=5))),
                            Key("NOT", (Key("FLAG", octets=b"$x"),)),
                        ),
                    ),
                    frozenset({"ALL"}),
                )
            ),
        ),
        (b"SEARCH CHARSET UTF-8 TEXT x", c.Search(SearchProgram(Key("TEXT", text="x"), None))),
        (b"SEARCH SINCE 1-Feb-1994", c.Search(SearchProgram(Key("SINCE", number=8797), None))),
        (
            b'SEARCH MODSEQ "/flags/\\\\draft" all 7',
            c.Search(SearchProgram(Key("MODSEQ", number=7), None)),
        ),
        (b"SEARCH HEADER x-a yz", c.Search(SearchProgram(Key("HEADER", octets=b"x-a", text="yz"), None))),
        (b"FETCH 1 FAST", c.Fetch(ONE, ("FLAGS", "INTERNALDATE", "RFC822.SIZE"))),
        (b"FETCH 1 (UID FLAGS UID)", c.Fetch(ONE, ("UID", "FLAGS"))),
        (b"FETCH 1 BODY", c.Fetch(ONE, ("BODY",))),
        (b"FETCH 1 body[]", c.Fetch(ONE, (Section(b"BODY[]"),))),
        (b"FETCH 1 RFC822.HEADER", c.Fetch(ONE, (Section(b"RFC822.HEADER", text="HEADER", peek=True),))),
        (
            b"FETCH 1 BODY.PEEK[1.2.HEADER.FIELDS (To cc)]<5.10>",
            c.Fetch(
                ONE,
                (Section(b"BODY[1.2.HEADER.FIELDS (To cc)]", (1, 2), "HEADER.FIELDS", (b"To", b"cc"), True, (5, 10)),),
            ),
        ),
        (b"FETCH 1 BODY[3.MIME]", c.Fetch(ONE, (Section(b"BODY[3.MIME]", (3,), "MIME"),))),
        (
            b"FETCH 1 BINARY.SIZE[2]",
            c.Fetch(ONE, (Section(b"BINARY.SIZE[2]", (2,), peek=True, binary=True, size_only=True),)),
        ),
        (
            b"UID FETCH 1 FLAGS (CHANGEDSINCE 5 VANISHED)",
            c.Fetch(ONE, ("FLAGS",), FetchModifiers(5, True), uid=True),
        ),
        (b"STORE 1 +FLAGS (\\seen $Fwd)", c.Store(ONE, "+", (b"\\Seen", b"$Fwd"))),
        (b"STORE 1 FLAGS ()", c.Store(ONE, "", ())),
        (b"STORE 1 -FLAGS.SILENT \\Deleted \\Recent", c.Store(ONE, "-", (b"\\Deleted",), silent=True)),
        (
            b"UID STORE 1 (UNCHANGEDSINCE 3) FLAGS.SILENT x",
            c.Store(ONE, "", (b"x",), silent=True, unchanged_since=3, uid=True),
        ),
        (b"COPY 1 a", c.Copy(ONE, "a")),
        (b"UID MOVE 1 a", c.Copy(ONE, "a", move=True, uid=True)),
        (b"UID EXPUNGE 1", c.Expunge(ONE)),
        (b'ID ("name" "x" "version" NIL)', c.Id(((b"name", b"x"), (b"version", None)))),
        (b"ID NIL", c.Id(())),
        (b"ENABLE CONDSTORE x", c.Enable((b"CONDSTORE", b"X"))),
        (b"SORT (REVERSE DATE) UTF-8 ALL", c.Sort((("DATE", True),), Key("ALL"))),
        (b"UID THREAD REFERENCES UTF-8 ALL", c.Thread("REFERENCES", Key("ALL"), uid=True)),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_commands(text: bytes, expected: c.Command) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"XYZZY",
        b"NOOP x",
        b"UID NOOP",
        b"LOGIN bob",
        b"LOGIN bob secret more",
        b'LOGIN "bob secret',
        b"SELECT",
        b"SELECT *",
        b"SELECT a (XYZ)",
        b"SELECT &bad",
        b"FETCH 0 FLAGS",
        b"FETCH 1 ()",
        b"FETCH 1 XYZ",
        b"FETCH 1 BODY[",
        b"FETCH 1 BODY[MIME]",
        b"FETCH 1 BODY[1.]",
        b"FETCH 1 BODY[0]",
        b"FETCH 1 BODY[]<0.0>",
        b"FETCH 1 BODY[]<0>",
        b"FETCH 1 BODY[HEADER.FIELDS ()]",
        b"FETCH 1 ALLX",
        b"FETCH 1 FLAGS (VANISHED)",
        b"FETCH 1 BODY[" + b"1." * 200 + b"1]",
        b"STORE 1 FLAGS \\Nonsense",
        b"STORE 1 FLAG x",
        b"STORE 1 FLAGS (x",
        b"SEARCH",
        b"SEARCH XYZ",
        b"SEARCH SINCE 31-Feb-2020",
        b"SEARCH SINCE 1-Foo-2020",
        b"SEARCH NOT",
        b"SEARCH " + b"NOT " * 100 + b"ALL",
        b"SEARCH " + b"(" * 100 + b"ALL" + b")" * 100,
        b"SEARCH " + b"SEEN " * 2000 + b"ALL",
        b"SEARCH RETURN (XYZ) ALL",
        b"STATUS a ()",
        b"STATUS a (XYZ)",
        b"STATUS a MESSAGES",
        b'LIST (RECURSIVEMATCH) "" *',
        b'LIST "" * RETURN (XYZ)',
        b'LIST ""',
        b"COPY 1",
        b"EXPUNGE 1",
        b"ID x",
        b"SORT () UTF-8 ALL",
        b"SORT (XYZ) UTF-8 ALL",
        b"THREAD XYZ UTF-8 ALL",
        b"APPEND a b",
    ],
    ids=lambda text: text[:40].decode(),
)
def test_bad_syntax(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        read(text)


def test_unknown_charset() -> None:
    unknown = Key("BADCHARSET")
    assert read(b'SEARCH CHARSET KOI8-R TEXT "\xd0"') == c.Search(SearchProgram(unknown, None))
    assert read(b"SORT (DATE) KOI8-R TEXT x") == c.Sort((("DATE", False),), unknown)
    with pytest.raises(BadSyntax):
        read(b"SEARCH CHARSET KOI8-R NONSENSE")


def test_literals_stand_where_strings_do() -> None:
    assert read(b"LOGIN {} {}", b"b\r\nob", b"") == c.Login(b"b\r\nob", b"")
    search = read(b"SEARCH SUBJECT {} SEEN", "ä".encode())
    assert search == c.Search(SearchProgram(Key("AND", (Key("SUBJECT", text="ä"), FLAG)), None))
    assert read(b"SELECT {}", "Entwürfe & x".encode(), utf8=True) == c.Select("Entwürfe & x")


@pytest.mark.parametrize(
    ("text", "literals", "expected"),
    [
        (b" INBOX ", [], c.Append("INBOX")),
        (b" ", [], None),
        (b" {} ", [b"a"], c.Append("a")),
        (b" a (\\Seen x) ", [], c.Append("a", (b"\\Seen", b"x"))),
        (b' a () " 7-Feb-1994 21:52:25 -0800" ', [], c.Append("a", (), 760686745)),
        (b' a "17-Jul-1996 02:44:25 +0200" ', [], c.Append("a", (), 837564265)),
        (b" a UTF8 (", [], c.Append("a", utf8=True)),
    ],
)
def test_append(text: bytes, literals: list[bytes], expected: Any) -> None:
    assert parse_append(Scanner(text.split(b"{}"), [Literal(x) for x in literals])) == expected


@pytest.mark.parametrize(
    "text",
    [b' a "17-Jul-1996 02:44:25" ', b' a "99-Jul-1996 02:44:25 +0000" ', b" a x", b' a "17-Jul-1996 25:44:25 +0000" '],
)
def test_bad_append(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_append(Scanner([text]))
