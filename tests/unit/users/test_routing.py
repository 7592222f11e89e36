"""Who is a user, and where a recipient's mail goes. What is remote belongs to the queue's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smtpmail.mail.address import Address, parse_path
from smtpmail.mail.route import Local, Route
from smtpmail.network import IPAddress
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal, Reply
from smtpmail.users.routing import Router
from smtpmail.users.users import Users, parse_users, user_of


def own(address: IPAddress) -> bool:
    return str(address) in ("192.0.2.25", "2001:db8::25")


def router(users: Users | None = None, domains: tuple[str, ...] = ("dom.fr", "second.fr")) -> Router:
    return Router(domains, users or Users(None, lambda *_: None), may_relay=False, is_own_address=own)


def way(asked: Router, address: Address) -> Route | Reply:
    """The only route, or the refusal."""
    try:
        (route,) = asked.routes(address)
    except Refusal as refusal:
        return refusal.reply
    return route


@pytest.mark.parametrize(
    ("local_part", "user"),
    [
        ("bob", "bob"),
        ("BoB", "bob"),
        ("bob+lists", "bob"),
        ("bob+a+b", "bob"),
        ("a.b", "a.b"),
        ("a b", "a b"),
        ("-rf", "-rf"),
        ("éloïse", "éloïse"),
        ("x" * 64, "x" * 64),
        # What could leave the spool, or hide in it
        ("", None),
        ("+x", None),
        (".", None),
        ("..", None),
        ("..+x", None),
        (".queue", None),
        (".lock", None),
        ("/etc/passwd", None),
        ("../bob", None),
        ("bob/1", None),
        ("bob/", None),
        ("bob\0", None),
        ("bob\n", None),
        ("bob\x7f", None),
        ("\u202ebob", None),
        ("x" * 65, None),
        ("é" * 33, None),
        ("İ" * 32, None),
    ],
)
def test_user_of(local_part: str, user: str | None) -> None:
    assert user_of(local_part) == user


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("<bob@dom.fr>", "bob"),
        ("<Bob+x@Second.FR>", "bob"),
        ("<postmaster>", "postmaster"),
        ("<bob@[192.0.2.25]>", "bob"),
        ("<bob@[IPv6:2001:db8::25]>", "bob"),
        ("<bob@[192.0.2.26]>", replies.RELAY_DENIED),
        ("<bob@sub.dom.fr>", replies.RELAY_DENIED),
        ("<bob@xdom.fr>", replies.RELAY_DENIED),
        ("<bob@example.org>", replies.RELAY_DENIED),
        ('<".."@dom.fr>', replies.NO_SUCH_USER),
        ('<"/etc/x"@dom.fr>', replies.NO_SUCH_USER),
        ('<".hidden"@dom.fr>', replies.NO_SUCH_USER),
        ('<""@dom.fr>', replies.NO_SUCH_USER),
        ("<" + "x" * 65 + "@dom.fr>", replies.NO_SUCH_USER),
    ],
)
def test_route(path: str, expected: str | Reply) -> None:
    """The percent hack and source routes are no way out either: they are ordinary names, or are left out."""
    route = way(router(), parse_path(path)[0])
    assert route == (Local(expected) if isinstance(expected, str) else expected)


@pytest.mark.parametrize("path", ["<user%example.org@dom.fr>", "<example.org!user@dom.fr>"])
def test_hidden_routes_are_names(path: str) -> None:
    route = way(router(), parse_path(path)[0])
    assert isinstance(route, Local)


@pytest.mark.parametrize("domain", ["château.fr", "xn--chteau-xta.fr", "CHÂTEAU.FR", "XN--CHTEAU-XTA.fr"])
@pytest.mark.parametrize("given", ["château.fr", "xn--chteau-xta.fr"])
def test_idn_forms_are_one_domain(given: str, domain: str) -> None:
    assert way(router(domains=(given,)), Address("bob", domain)) == Local("bob")


# -- the file of users


def test_parse_users() -> None:
    text = "# comment\nbob\n\n  Carol  # her\nbob\na b\nd@e\n../x\n.y\nz+w\néloïse\n"
    users, complaints = parse_users(text)
    assert users == ["bob", "carol", "éloïse"]
    assert [c.partition(":")[0] for c in complaints] == ["line 6", "line 7", "line 8", "line 9", "line 10"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text("bob\ncarol\n")
    return path


def users_of(path: Path) -> Users:
    return Users(str(path), lambda *_: None)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("<bob@dom.fr>", "bob"),
        ("<BOB+x@second.fr>", "bob"),
        ("<dave@dom.fr>", replies.NO_SUCH_USER),
        ("<postmaster>", "bob"),
        ("<Postmaster@dom.fr>", "bob"),
        ("<postmaster+x@second.fr>", "bob"),
    ],
)
def test_with_a_file_of_users(file: Path, path: str, expected: str | Reply) -> None:
    """Postmaster is the first of the file (RFC 5321 4.5.1)."""
    route = way(router(users_of(file)), parse_path(path)[0])
    assert route == (Local(expected) if isinstance(expected, str) else expected)


def test_a_postmaster_of_that_name(file: Path) -> None:
    file.write_text("bob\npostmaster\n")
    assert way(router(users_of(file)), Address("postmaster", "")) == Local("postmaster")


def test_postmaster_of_an_empty_file(file: Path) -> None:
    file.write_text("# nobody yet\n")
    users = router(users_of(file))
    assert way(users, Address("postmaster", "dom.fr")) == Local("postmaster")
    assert way(users, Address("bob", "dom.fr")) == replies.NO_SUCH_USER


def test_file_is_read_again_when_it_changes(file: Path) -> None:
    """Also when it is replaced, and when it changes without another size or time in seconds."""
    routes = router(users_of(file))
    dave = Address("dave", "dom.fr")
    assert way(routes, dave) == replies.NO_SUCH_USER
    file.write_text("dave\ncarol\n")
    assert way(routes, dave) == Local("dave")
    assert way(routes, Address("bob", "dom.fr")) == replies.NO_SUCH_USER
    other = file.with_suffix(".new")
    other.write_text("emil\ncarol\n")
    os.rename(other, file)
    assert way(routes, dave) == replies.NO_SUCH_USER
    assert way(routes, Address("emil", "dom.fr")) == Local("emil")


@pytest.mark.parametrize("fault", ["gone", "folder", "no text"])
def test_a_file_that_cannot_be_read_is_451(file: Path, fault: str) -> None:
    """Never 550: the sender would give up. When it can be read again, everything is as it was."""
    routes = router(users_of(file))
    bob = Address("bob", "dom.fr")
    assert way(routes, bob) == Local("bob")
    file.unlink()
    if fault == "folder":
        file.mkdir()
    elif fault == "no text":
        file.write_bytes(b"bob\n\xff\xfe\n")
    assert way(routes, bob) == replies.USERS_UNREADABLE
    assert way(routes, Address("dave", "dom.fr")) == replies.USERS_UNREADABLE
    assert replies.USERS_UNREADABLE.code == 451
    if fault == "folder":
        file.rmdir()
    file.write_text("bob\n")
    assert way(routes, bob) == Local("bob")
