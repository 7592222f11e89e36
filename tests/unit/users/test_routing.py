"""Who is a user, and where a recipient's mail goes. What is remote belongs to the queue's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smtpmail.mail.address import NULL_PATH, Address, parse_address, parse_path
from smtpmail.mail.route import Local, Remote, Route
from smtpmail.mail.srs import SRSError
from smtpmail.network import IPAddress
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal, Reply
from smtpmail.users.aliases import Aliases
from smtpmail.users.forwarding import Forwarding
from smtpmail.users.own import Own
from smtpmail.users.routing import LocalDomains, Router
from smtpmail.users.users import Users, parse_users, user_of


def own(address: IPAddress) -> bool:
    return str(address) in ("192.0.2.25", "2001:db8::25")


def router(users: Users | None = None, domains: tuple[str, ...] = ("dom.fr", "second.fr")) -> Router:
    return Router(LocalDomains(domains, own), users or Users(None, lambda *_: None), may_relay=False)


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
        ("x" * 64 + "+" + "y" * 200, "x" * 64),
        ("e\u0301loi\u0308se", "\u00e9lo\u00efse"),
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


def users_of(path: Path | None) -> Users:
    return Users(str(path) if path else None, lambda *_: None)


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
    assert way(users, Address("bob", "dom.fr")) == replies.USERS_UNREADABLE
    file.write_text("carol\n")
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


# -- aliases, forwards, blocked senders

ALICE = parse_address("alice@example.org")


class Host:
    """Two users with mailbox folders, aliases, and a key."""

    def __init__(self, folder: Path, aliases: str = "") -> None:
        self.spool = folder / "spool"
        for user in ("bob", "anna", "carol"):
            (self.spool / user).mkdir(parents=True)
        (folder / "users").write_text("bob\nanna\ncarol\n")
        (folder / "aliases").write_text(aliases)
        self.users = users_of(folder / "users")
        self.is_local = LocalDomains(("dom.fr", "second.fr"), own)
        self.now = 1_800_000_000.0
        self.forwarding = Forwarding(str(folder), "dom.fr", self.is_local, lambda: self.now)
        self.aliases = Aliases(str(folder / "aliases"))

    def router(self, *, may_relay: bool = False) -> Router:
        return Router(
            self.is_local,
            self.users,
            may_relay=may_relay,
            aliases=self.aliases,
            forwarding=self.forwarding,
            own=lambda user: Own(str(self.spool / user)),
        )

    def write(self, user: str, **files: str) -> None:
        for name, text in files.items():
            (self.spool / user / f".{name}").write_text(text)

    def ways(self, address: str, sender: Address = ALICE) -> set[str] | Reply:
        """Mailboxes and addresses, or the refusal."""
        try:
            routes = self.router().routes(parse_address(address), sender)
        except Refusal as refusal:
            return refusal.reply
        return {route.user if isinstance(route, Local) else str(route.address) for route in routes}


def test_an_alias_may_leave_from_the_network(tmp_path: Path) -> None:
    host = Host(tmp_path, "sales: bob, x@example.net\nowner-sales: anna")
    owner = parse_address("owner-sales@dom.fr")
    routes = host.router().routes(parse_address("sales@dom.fr"), ALICE)
    assert set(routes) == {
        Local("bob", owner),
        Remote(parse_address("x@example.net"), owner, forwarded=True),
    }
    assert host.ways("x@example.net") == replies.RELAY_DENIED


@pytest.mark.parametrize(
    ("aliases", "address", "reply"),
    [
        ("x: :fail: Gone since May", "x@dom.fr", "550 5.2.1 Gone since May"),
        ("x: ghost", "x@dom.fr", "550 5.1.1 No such user here"),
        ("x: y\ny: x", "x@dom.fr", "451 4.3.5 Where this address leads cannot be told now, try again later"),
        ("x: |cmd", "x@dom.fr", "451 4.3.5 Where this address leads cannot be told now, try again later"),
    ],
)
def test_refusals_of_aliases(tmp_path: Path, aliases: str, address: str, reply: str) -> None:
    assert str(Host(tmp_path, aliases).ways(address)) == reply


def test_a_blackhole_takes_all(tmp_path: Path) -> None:
    assert Host(tmp_path, "x: :blackhole:").ways("x@dom.fr") == set()


@pytest.mark.parametrize(
    ("forwards", "ways"),
    [
        ({}, {"bob"}),
        ({"bob": "x@example.net"}, {"x@example.net"}),
        ({"bob": "x@example.net\n\\bob"}, {"x@example.net", "bob"}),
        ({"bob": "x@example.net\nbob"}, {"x@example.net", "bob"}),
        ({"bob": "anna"}, {"anna"}),
        ({"bob": "anna@second.fr"}, {"anna"}),
        ({"bob": "anna", "anna": "x@example.net"}, {"x@example.net"}),
        ({"bob": "anna", "anna": "bob"}, {"bob"}),
        ({"bob": "anna\ncarol", "anna": "carol"}, {"carol"}),
        ({"bob": "team"}, {"anna", "t@example.net"}),
        ({"bob": "ghost"}, {"bob"}),
        ({"bob": "loop"}, {"bob"}),
        ({"bob": "# nobody\n"}, {"bob"}),
        ({"bob": "|vacation"}, {"bob"}),
        ({"bob": "x@example.net\n/etc/passwd"}, {"x@example.net", "bob"}),
        # What takes no mail loses none, whatever else there is.
        ({"bob": "x@example.net\nghost"}, {"x@example.net", "bob"}),
        ({"bob": "x@example.net\nloop"}, {"x@example.net", "bob"}),
        ({"bob": "x@example.net\nclosed"}, {"x@example.net", "bob"}),
        ({"bob": "x@example.net\nx@exa mple.net"}, {"x@example.net", "bob"}),
        ({"bob": "x@\u2028.example.net"}, {"bob"}),
        # A mailbox that was meant itself; one reached twice is no circle.
        ({"bob": "\\anna", "anna": "x@example.net"}, {"anna"}),
        ({"bob": "anna\ncarol", "anna": "carol", "carol": "x@example.net"}, {"x@example.net"}),
        ({"bob": "anna", "anna": "carol", "carol": "anna\nx@example.net"}, {"anna", "x@example.net"}),
    ],
)
def test_forwards(tmp_path: Path, forwards: dict[str, str], ways: set[str]) -> None:
    host = Host(tmp_path, "team: anna, t@example.net\nloop: loop2\nloop2: loop\nboss: \\bob\nclosed: :fail: no")
    for user, text in forwards.items():
        host.write(user, forward=text)
    assert host.ways("bob@dom.fr") == ways
    assert host.ways("boss@dom.fr") == {"bob"}


def test_a_forward_names_the_keeper(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.write("bob", forward="anna")
    host.write("anna", forward="x@example.net")
    (route,) = host.router().routes(parse_address("bob@dom.fr"))
    assert route == Remote(parse_address("x@example.net"), forwarded=True, keeper="anna")


def test_forwards_that_multiply_are_bounded(tmp_path: Path) -> None:
    host = Host(tmp_path)
    many = "\n".join(f"u{n}@example.net" for n in range(100))
    for user, other in (("bob", "anna"), ("anna", "carol"), ("carol", "bob")):
        host.write(user, forward=f"{other}\n{many}")
    ways = host.ways("bob@dom.fr")
    assert isinstance(ways, set)
    assert len(ways) <= 103


def test_users_who_forward_to_each_other_cost_little(tmp_path: Path) -> None:
    host = Host(tmp_path)
    names = [f"u{n}" for n in range(200)]
    (tmp_path / "users").write_text("\n".join(["bob", *names]))
    (tmp_path / "spool" / "u0").mkdir()
    for name in names:
        (tmp_path / "spool" / name).mkdir(exist_ok=True)
        host.write(name, forward="\n".join(names[:100]))
    host.write("bob", forward="u0")
    walked: list[Address] = []
    router = host.router()
    expand = router._expander.expand
    router._expander.expand = lambda address, **more: walked.append(address) or expand(address, **more)  # type: ignore[assignment, func-returns-value]
    assert router.routes(parse_address("bob@dom.fr"))
    assert len(walked) < 1100


def test_blocked_by_a_user(tmp_path: Path) -> None:
    host = Host(tmp_path, "both: bob, anna")
    host.write("bob", blocked="example.org\n")
    assert host.ways("bob@dom.fr") == replies.BLOCKED_BY_RECIPIENT
    assert host.ways("both@dom.fr") == {"anna"}
    assert host.ways("bob@dom.fr", NULL_PATH) == {"bob"}
    assert host.ways("bob@dom.fr", parse_address("x@example.com")) == {"bob"}


def test_a_forward_to_who_blocks_the_sender(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.write("bob", forward="anna\nx@example.net")
    host.write("anna", blocked="example.org\n")
    assert host.ways("bob@dom.fr") == {"bob", "x@example.net"}
    assert host.ways("bob@dom.fr", NULL_PATH) == {"anna", "x@example.net"}


def test_a_forward_to_a_list_has_its_owner(tmp_path: Path) -> None:
    host = Host(tmp_path, "list@dom.fr: x@example.net\nowner-list@dom.fr: carol")
    host.write("bob", forward="list@DOM.FR")
    (route,) = host.router().routes(parse_address("bob@dom.fr"), ALICE)
    assert route.sender == parse_address("owner-list@dom.fr")


def test_a_catch_all_without_a_file_of_users(tmp_path: Path) -> None:
    """Every name has a mailbox then, and none is known: the line would be worth nothing otherwise."""
    host = Host(tmp_path, "@second.fr: bob")
    host.users = users_of(None)
    assert host.ways("anybody@second.fr") == {"bob"}
    assert host.ways("anybody@dom.fr") == {"anybody"}
    assert host.ways("postmaster@second.fr") == {"postmaster"}


def test_the_way_back_of_a_bounce(tmp_path: Path) -> None:
    host = Host(tmp_path)
    rewritten = host.forwarding.rewrite(ALICE)
    assert host.forwarding.rewrite(parse_address("bob@second.fr")) == parse_address("bob@second.fr")
    assert host.ways(str(rewritten), NULL_PATH) == {"alice@example.org"}
    refused = host.ways(str(rewritten), parse_address("spam@example.com"))
    assert isinstance(refused, Reply)
    assert refused.code == 550
    forged = host.ways(str(rewritten).replace("alice", "carol"), NULL_PATH)
    assert isinstance(forged, Reply)
    assert forged.code == 550
    host.now += 30 * 86400
    assert isinstance(host.ways(str(rewritten), NULL_PATH), Reply)


def test_one_key_for_all(tmp_path: Path) -> None:
    first, second = Host(tmp_path / "a"), Host(tmp_path / "b")
    key = tmp_path / "a" / ".srs-key"
    rewritten = first.forwarding.rewrite(ALICE)
    assert key.stat().st_mode & 0o777 == 0o600
    again = Forwarding(str(tmp_path / "a"), "dom.fr", first.is_local, lambda: first.now)
    assert again.reverse(rewritten.local) == ALICE
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [".srs-key", "aliases", "spool", "users"]
    with pytest.raises(SRSError):
        second.forwarding.reverse(rewritten.local)


@pytest.mark.parametrize("planted", ["link", "fifo", "folder"])
def test_a_key_that_somebody_else_has_put_there(tmp_path: Path, planted: str) -> None:
    """A spool may be one that others can write to: whoever knows the key could send in our name."""
    key = tmp_path / ".srs-key"
    if planted == "link":
        (tmp_path / "known").write_text("known")
        key.symlink_to("known")
    elif planted == "fifo":
        os.mkfifo(key)
    else:
        key.mkdir()
    forwarding = Forwarding(str(tmp_path), "dom.fr", lambda domain: False)
    with pytest.raises(OSError, match=r"\.srs-key"):
        forwarding.rewrite(Address("anna", "example.org"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_as_editors_of_other_systems_write_them(file: Path, encoding: str, end: str) -> None:
    """A byte order mark, UTF-16, other line ends: no user is lost, the first one neither."""
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    file.write_bytes((mark + end.join(["bob", "\u00e9lo\u00efse", "carol", ""])).encode(encoding))
    routes = router(users_of(file))
    for user in ("bob", "\u00e9lo\u00efse", "carol"):
        assert way(routes, Address(user, "dom.fr")) == Local(user)


def test_a_fifo_for_a_file_holds_nobody(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    assert way(router(users_of(file)), Address("bob", "dom.fr")) == replies.USERS_UNREADABLE
