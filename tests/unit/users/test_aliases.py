"""The file of aliases, and where its lines lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.mail.address import Address, parse_address
from smtpmail.users.alias_syntax import Blackhole, Fail, Include, Target, parse_aliases, parse_list, show_key
from smtpmail.users.aliases import MAX_DEPTH, MAX_TARGETS, Aliases, AliasesUnreadable, Expander, Expansion

USERS = ("bob", "anna")


def is_local(domain: str) -> bool:
    return domain in ("", "dom.fr", "second.fr", "mail.dom.fr")


def mailbox(local_part: str) -> str | None:
    user = local_part.lower().partition("+")[0]
    return user if user in USERS else None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "aliases"


def expand(file: Path, text: str, address: str) -> Expansion:
    file.write_text(text.replace("DIR", str(file.parent)))
    return Expander(Aliases(str(file)), is_local, mailbox).expand(address_of(address))


def address_of(text: str) -> Address:
    return parse_address(text) if "@" in text else Address(text, "")


def ends(found: Expansion) -> list[str]:
    return [*found.mailboxes, *(str(address) for address in found.remote)]


# -- the text


def test_syntax() -> None:
    text = """
# comment
root: bob          # the one line every host needs
Sales : bob, alice@example.net,
    "carol c"@example.org
  # a comment between
    , \\anna
"quoted name": bob
bob+shop: :fail: No more mail, please: #5 of "you" is enough
spam:   :BlackHole:
list: :include:/etc/list, bob
bob@Second.FR: <anna@example.org>
@second.fr: bob
ümlaut: bob
"""
    table = parse_aliases(text)
    assert table.complaints == []
    assert {show_key(key): entry.items for key, entry in table.entries.items()} == {
        "root": (Target(Address("bob", "")),),
        "sales": (
            Target(Address("bob", "")),
            Target(Address("alice", "example.net")),
            Target(Address("carol c", "example.org")),
            Target(Address("anna", ""), final=True),
        ),
        "quoted name": (Target(Address("bob", "")),),
        "bob+shop": (Fail('No more mail, please: #5 of "you" is enough'),),
        "spam": (Blackhole(),),
        "list": (Include("/etc/list"), Target(Address("bob", ""))),
        "bob@second.fr": (Target(Address("anna", "example.org")),),
        "@second.fr": (Target(Address("bob", "")),),
        "ümlaut": (Target(Address("bob", "")),),
    }


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("bob", "there is no colon"),
        ("root:", "no target behind the colon"),
        ("root: ,", "no target behind the colon"),
        (": bob", "nothing before the colon"),
        ("a b: bob", "is no name and no address"),
        ("root: |/usr/bin/procmail", "no programs are run"),
        ('root: "|/usr/bin/vacation bob, x"', "no programs are run"),
        ("root: bob, /var/mail/root", "no files are written"),
        ("root: :include:list", "must begin with a slash"),
        ("root: :defer: later", "is not known"),
        ("root: :blackhole: bob", "stands alone"),
        ("root: bob@", "is no name and no address"),
        ("root: bob carol", "is no name and no address"),
        ("root: bob@x..y", "is no name and no address"),
        ("@: bob", "is no name and no address"),
        ("bob@a@b: bob", "domain"),
        ("root: bob\nROOT: anna", "line 3: root stands in line 2 already"),
    ],
)
def test_complaints_name_the_line(line: str, complaint: str) -> None:
    table = parse_aliases(f"postmaster: bob\n{line}\nok: bob\n")
    (found,) = table.complaints
    assert found.startswith(f"line {2 + line.count(chr(10))}: ")
    assert complaint in found
    assert ("ok", "") in table.entries


@given(st.text(alphabet='ab@:,"\\#|/ \n\t<>.+'))
def test_any_text_is_read(text: str) -> None:
    table = parse_aliases(text)
    assert all(complaint.startswith("line ") for complaint in table.complaints)
    parse_list(text)


def test_a_text_for_the_sender_is_one_line() -> None:
    (entry,) = parse_aliases("x: :fail: a\x1b[1m\tb ü " + "y" * 1000).entries.values()
    (fail,) = entry.items
    assert isinstance(fail, Fail)
    assert fail.text.isprintable()
    assert fail.text.isascii()
    assert len(fail.text) == 400


# -- where it leads


@pytest.mark.parametrize(
    ("text", "address", "where"),
    [
        ("root: bob", "root@dom.fr", ["bob"]),
        ("root: bob", "ROOT@mail.dom.fr", ["bob"]),
        ("postmaster: anna", "postmaster", ["anna"]),
        ("x: root\nroot: bob, anna, bob", "x@dom.fr", ["bob", "anna"]),
        ("sales: bob, alice@example.net", "sales@dom.fr", ["bob", "alice@example.net"]),
        ("bob: alice@example.net", "bob@dom.fr", ["alice@example.net"]),
        ("bob: bob, alice@example.net", "bob@dom.fr", ["bob", "alice@example.net"]),
        ("bob: \\bob, alice@example.net", "bob@dom.fr", ["bob", "alice@example.net"]),
        ("bob: bob@second.fr", "bob@dom.fr", ["bob"]),
        ("root: \\bob\nbob: anna", "root@dom.fr", ["bob"]),
        # the order of look-up
        ("bob@dom.fr: anna\nbob: alice@example.net", "bob@dom.fr", ["anna"]),
        ("bob@dom.fr: anna\nbob: alice@example.net", "bob@second.fr", ["alice@example.net"]),
        ("@dom.fr: anna", "bob@dom.fr", ["bob"]),
        ("@dom.fr: anna", "other@dom.fr", ["anna"]),
        ("@dom.fr: anna", "other+x@dom.fr", ["anna"]),
        ("@dom.fr: anna", "other@second.fr", []),
        ("@dom.fr: anna", "postmaster", []),
        ("bob+x: anna", "bob+x@dom.fr", ["anna"]),
        ("bob+x: anna", "Bob+X@dom.fr", ["anna"]),
        ("bob+x: anna", "bob+y@dom.fr", ["bob"]),
        ("bob: anna", "bob+y@dom.fr", ["anna"]),
        ("bob+x@dom.fr: anna\nbob@dom.fr: alice@example.net\nbob+x: c@example.net", "bob+x@dom.fr", ["anna"]),
        ("bob@dom.fr: alice@example.net\nbob+x: anna", "bob+x@dom.fr", ["alice@example.net"]),
        ("root: bob+detail", "root@dom.fr", ["bob"]),
        # ends that are none
        ("x: nobody", "x@dom.fr", []),
        ("x: nobody, bob", "x@dom.fr", ["bob"]),
        ("x: closed, bob\nclosed: :fail: no", "x@dom.fr", ["bob"]),
        ("x: hole, bob\nhole: :blackhole:", "x@dom.fr", ["bob"]),
        ("", "nobody@dom.fr", []),
        ("", "bob@dom.fr", ["bob"]),
    ],
)  # fmt: skip
def test_where(file: Path, text: str, address: str, where: list[str]) -> None:
    found = expand(file, text, address)
    assert found.problems == []
    assert ends(found) == where


def test_refused_and_dropped(file: Path) -> None:
    assert expand(file, "bob+shop: :fail: Closed", "bob+shop@dom.fr").failures == [("bob+shop", "Closed")]
    assert expand(file, "x: nobody", "x@dom.fr").failures == [("nobody", "")]
    assert expand(file, "x: :blackhole:", "x@dom.fr").dropped


def test_a_final_mailbox_is_told(file: Path) -> None:
    assert expand(file, "x: \\bob, anna", "x@dom.fr").final == {"bob"}


def test_an_owner_becomes_the_sender(file: Path) -> None:
    text = "list: anna, inner, c@example.net\nowner-list: bob\ninner: d@example.net"
    found = expand(file, text, "list@dom.fr")
    owner = Address("owner-list", "dom.fr")
    assert found.mailboxes == {"anna": owner}
    assert found.remote == {Address("d", "example.net"): owner, Address("c", "example.net"): owner}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x: y\ny: x", "loops: x -> y -> x"),
        ("x: y\ny: z\nz: y", "loops: y -> z -> y"),
        ("@dom.fr: ghost@dom.fr", None),
        ("x: |cmd", "no programs"),
        ("x: :include:/nowhere/list", "/nowhere/list: cannot read it: No such file"),
        ("x: :include:DIR", "no regular file"),
        ("x: :include:DIR/fifo", "no regular file"),
        ("x: :include:DIR/cycle", "includes itself"),
        ("\n".join(f"a{n}: a{n + 1}" for n in range(MAX_DEPTH + 5)) + "\nx: a0", "deeper than"),
        ("x: " + ", ".join(f"u{n}@example.net" for n in range(10_000)), f"more than {MAX_TARGETS}"),
    ],
)
def test_bad_aliases_make_mail_wait(file: Path, text: str, problem: str | None) -> None:
    os.mkfifo(file.parent / "fifo")
    (file.parent / "cycle").write_text(f":include:{file.parent}/cycle\n")
    found = expand(file, text, "x@dom.fr")
    if problem is None:
        # A catch-all that leads to itself has no end.
        assert (ends(found), found.failures) == ([], [("ghost@dom.fr", "")])
    else:
        (told,) = found.problems
        assert problem in told


def test_many_ways_to_the_same_end_cost_little(file: Path) -> None:
    lines = [f"a{n}: a{n + 1}, b{n + 1}\nb{n}: a{n + 1}, b{n + 1}" for n in range(40)]
    found = expand(file, "\n".join([*lines, "a40: bob", "b40: anna"]), "a0@dom.fr")
    assert ends(found) == ["bob", "anna"]


def test_included(file: Path) -> None:
    inner = file.parent / "list"
    members = "# members\nbob, c@example.net   # two\n\\anna\nnot an address\n"
    inner.write_text(f"{members}:include:{file.parent}/more\n")
    (file.parent / "more").write_text("d@example.net\n")
    found = expand(file, "list: :include:DIR/list", "list@dom.fr")
    assert ends(found) == ["bob", "anna", "c@example.net", "d@example.net"]
    assert any("line 4: " in text and "left out" in text for _, text in found.steps)


def test_steps_tell_the_way(file: Path) -> None:
    steps = expand(file, "x: root, c@example.net, ghost\nroot: bob", "x@dom.fr").steps
    assert steps == [
        (0, "line 1: x: root, c@example.net, ghost"),
        (1, "line 2: root: bob"),
        (2, "bob: the mailbox of bob"),
        (1, "c@example.net: elsewhere"),
        (1, "ghost: no such user"),
    ]


# -- the file


def test_read_again_and_the_last_good_one(file: Path) -> None:
    told: list[tuple[int, list[str]]] = []
    aliases = Aliases(str(file), lambda count, complaints: told.append((count, complaints)))
    expander = Expander(aliases, is_local, mailbox)

    def root() -> list[str]:
        return ends(expander.expand(Address("root", "dom.fr")))

    with pytest.raises(AliasesUnreadable):
        root()
    file.write_text("root: bob\n")
    assert root() == ["bob"]
    file.write_text("root: anna\n")
    assert root() == ["anna"]
    file.write_text("root: bob\noops\n")
    assert root() == ["anna"]
    assert root() == ["anna"]
    file.unlink()
    assert root() == ["anna"]
    file.write_bytes(b"root: \xff\n")
    assert root() == ["anna"]
    file.write_text("root: bob\nx: bob\n")
    assert root() == ["bob"]
    assert [count for count, _ in told] == [0, 1, 1, 1, 1, 1, 2]
    assert [bool(complaints) for _, complaints in told] == [True, False, False, True, True, True, False]


def test_a_file_that_is_broken_from_the_start(file: Path) -> None:
    """What can be understood is used; mail for the rest waits, so that nothing is refused by a typo."""
    assert ends(expand(file, "x: |cmd\nroot: bob", "root@dom.fr")) == ["bob"]
    assert expand(file, "x: |cmd\nroot: bob", "x@dom.fr").problems


def test_an_included_file_is_read_again(file: Path) -> None:
    inner = file.parent / "list"
    inner.write_text("bob\n")
    file.write_text(f"list: :include:{inner}\n")
    expander = Expander(Aliases(str(file)), is_local, mailbox)
    assert ends(expander.expand(Address("list", "dom.fr"))) == ["bob"]
    inner.write_text("anna, bob\n")
    assert ends(expander.expand(Address("list", "dom.fr"))) == ["anna", "bob"]
