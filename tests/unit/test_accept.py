"""The only door: what it puts before a message, what it refuses, that it takes all or nothing."""

from __future__ import annotations

import email
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpmail.accept import MAX_HOPS, Accept, Accepted, reply_to
from smtpmail.auth.inspector import Inspected
from smtpmail.mail.address import NULL_PATH, Address, parse_address
from smtpmail.mail.envelope import Envelope, Peer, Recipient
from smtpmail.mail.route import Local, Remote, Route
from smtpmail.outbound.mailboxes import Mailboxes
from smtpmail.smtp.replies import Refusal
from smtpmail.spool.content import MEMORY_LIMIT
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueStore

ALICE = parse_address("alice@example.org")
PEER = Peer("192.0.2.7", 4711, "network")
NOW = 1_700_000_000.0


class Door:
    """Accept on a fresh spool, and what it announced."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        (folder / ".queue").mkdir()
        self.queue = QueueStore(str(folder / ".queue"))
        self.announced: list[Accepted] = []
        self.accept = Accept(
            Spool(str(folder)),
            self.queue,
            "mail.dom.fr",
            self.announced.append,
            lambda: NOW,
            rewrite=lambda sender: Address(f"srs-{sender.local}", "dom.fr"),
            origin="dom.fr",
        )

    def take(self, envelope: Envelope, content: bytes, step: int = 10_000) -> None:
        incoming = self.accept.begin(envelope)
        try:
            for start in range(0, len(content), step):
                incoming.write(content[start : start + step])
            incoming.commit(len(content))
        finally:
            incoming.close()

    def files(self, user: str) -> list[str]:
        folder = self.path / user
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []

    def queued(self) -> bytes:
        (id_,) = self.queue.ids()
        with self.queue.open_content(self.queue.load(id_)) as content:
            return content.read()


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def to(*recipients: tuple[str, Route], sender: Address = ALICE, peer: Peer | None = PEER) -> Envelope:
    envelope = Envelope(sender, peer, "client.example", esmtp=True)
    envelope.recipients += [Recipient(parse_address(address), (route,)) for address, route in recipients]
    return envelope


BOB = ("bob@dom.fr", Local("bob"))
CAROL = ("carol@dom.fr", Local("carol"))
ANNA = ("anna@example.net", Remote(parse_address("anna@example.net")))


def test_what_is_put_before_a_message(door: Door) -> None:
    envelope = to(BOB)
    door.take(envelope, b"Subject: x\n\nHello\n")
    text = (door.path / "bob" / "1").read_text()
    assert text.startswith(
        "Return-Path: <alice@example.org>\nDelivered-To: bob@dom.fr\nReceived: from client.example ("
    )
    assert text.endswith("\nSubject: x\n\nHello\n")
    assert f"id {envelope.id}\n\tfor <bob@dom.fr>;" in text


def test_one_copy_for_a_mailbox_with_all_its_names(door: Door) -> None:
    """Two details of one user, and another one: two copies, and each names those who lead there."""
    door.take(to(BOB, ("bob+x@dom.fr", Local("bob")), ("carol@dom.fr", Local("carol"))), b"\nx\n")
    assert (door.files("bob"), door.files("carol")) == (["1", "1.status"], ["1", "1.status"])
    assert b"Delivered-To: bob@dom.fr\nDelivered-To: bob+x@dom.fr\nReceived:" in (door.path / "bob" / "1").read_bytes()
    assert b"bob" not in (door.path / "carol" / "1").read_bytes()


def test_here_and_elsewhere(door: Door) -> None:
    door.take(to(BOB, ANNA), b"Subject: x\n\nHello\n")
    assert door.files("bob") == ["1", "1.status"]
    assert door.queued().startswith(b"Received: from client.example")
    (accepted,) = door.announced
    assert accepted.header == b"Subject: x\n"
    (item,) = accepted.queued
    assert [r.address for r in item.recipients] == ["anna@example.net"]


def test_a_recipient_with_several_routes(door: Door) -> None:
    envelope = to()
    routes = (Local("bob"), Local("carol"), Remote(parse_address("anna@example.net")))
    envelope.recipients.append(Recipient(parse_address("list@dom.fr"), routes))
    door.take(envelope, b"\nx\n")
    assert door.files("bob") == door.files("carol") == ["1", "1.status"]
    assert [r.address for r in door.queue.load(envelope.id).recipients] == ["anna@example.net"]


def test_a_message_of_our_own_came_from_nobody(door: Door) -> None:
    door.accept.take(to(BOB, sender=NULL_PATH, peer=None), b"Subject: x\n\nx\n")
    text = (door.path / "bob" / "1").read_text()
    assert text.startswith("Return-Path: <>\nDelivered-To: bob@dom.fr\nReceived: by mail.dom.fr id ")


@pytest.mark.parametrize("step", [1000, 64 * 1024])
@pytest.mark.parametrize("head", [b"Subject: x\n", b"X: " + b"y" * 300_000 + b"\n"], ids=["short", "long"])
def test_a_large_message_is_whole(door: Door, head: bytes, step: int) -> None:
    """It streams to disk before its header is known."""
    content = head + b"\n" + os.urandom(5 * MEMORY_LIMIT).replace(b"\r", b" ")
    door.take(to(BOB, ("carol@dom.fr", Local("carol")), ANNA), content, step)
    for text in ((door.path / "bob" / "1").read_bytes(), (door.path / "carol" / "1").read_bytes(), door.queued()):
        assert text.endswith(content)
        assert len(text) - len(content) < 400


@pytest.mark.parametrize(("count", "taken"), [(MAX_HOPS, True), (MAX_HOPS + 1, False)])
@pytest.mark.parametrize("step", [7, 100_000])
def test_hops(door: Door, count: int, taken: bool, step: int) -> None:
    """RFC 5321 6.3; those of a forwarded message in the body do not count."""
    content = b"".join(b"rEceived: from hop%d\n" % n for n in range(count)) + b"\n" + b"Received: x\n" * 60
    if taken:
        door.take(to(BOB), content, step)
    else:
        with pytest.raises(Refusal, match=r"554 5\.4\.6"):
            door.take(to(BOB), content, step)
    assert door.files("bob") == (["1", "1.status"] if taken else [])


def test_all_or_nothing(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue does not take it: so no mailbox has it."""
    fail: Callable[..., None] = lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space"))  # noqa: E731
    monkeypatch.setattr(door.queue, "placing", fail)
    with pytest.raises(OSError, match="No space"):
        door.take(to(BOB, ANNA), b"\nx\n")
    assert door.files("bob") == []
    assert door.announced == []


def test_a_mailbox_that_fails_gets_it_later(door: Door) -> None:
    """The others have it; what is left waits in the queue with its recipients."""
    (door.path / "bob").write_text("in the way")
    door.take(to(("bob+a@dom.fr", Local("bob")), CAROL, ("bob+b@dom.fr", Local("bob"))), b"Subject: x\n\nx\n")
    assert door.files("carol") == ["1", "1.status"]
    (announced,) = door.announced
    assert announced.queued is not None
    found = [(r.address, r.user) for item in announced.queued for r in item.recipients]
    assert found == [("bob+a@dom.fr", "bob"), ("bob+b@dom.fr", "bob")]
    assert [door.queue.load(item.id).recipients for item in announced.queued] == [
        i.recipients for i in announced.queued
    ]
    assert door.queued().startswith(b"Received: ") and door.queued().endswith(b"Subject: x\n\nx\n")


class Quarantine:
    """An inspector whose verdict is Junk."""

    def inspection(self, _envelope: Envelope) -> Quarantine:
        return self

    def write(self, data: bytes) -> None:
        pass

    def finish(self, header: bytes) -> Inspected:
        return Inspected(header, junk=True)


def test_what_is_junk_goes_to_junk_however_late(door: Door) -> None:
    """A mailbox that could not take it when it came; after a restart the queue still knows where it belongs."""
    door.accept.inspector = Quarantine()  # type: ignore[assignment]
    (door.path / "bob").write_text("in the way")
    door.take(to(BOB, CAROL), b"Subject: x\n\nx\n")
    assert door.files("carol/Junk") == ["1", "1.status"]
    (door.path / "bob").unlink()
    (id_,) = door.queue.ids()
    item = QueueStore(door.queue.path).load(id_)
    with door.queue.open_content(item) as content:
        (outcome,) = Mailboxes(Spool(str(door.path))).deliver("bob", item, [0], content).values()
    assert outcome.delivered
    assert (door.files("bob"), door.files("bob/Junk")) == (["Junk"], ["1", "1.status"])


def test_no_mailbox_can_take_it(door: Door) -> None:
    """Then the sender keeps it."""
    (door.path / "bob").write_text("in the way")
    with pytest.raises(OSError, match="bob"):
        door.take(to(BOB), b"Subject: x\n\nx\n")
    assert door.queue.ids() == [] and door.announced == []


def test_neither_a_mailbox_nor_the_queue(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the other mailboxes is taken out again."""
    (door.path / "bob").write_text("in the way")
    fail: Callable[..., None] = lambda: (_ for _ in ()).throw(OSError(28, "No space"))  # noqa: E731
    monkeypatch.setattr(door.queue, "open_folder", fail)
    with pytest.raises(OSError, match="No space"):
        door.take(to(BOB, CAROL), b"Subject: x\n\nx\n")
    assert door.files("carol") == [] and door.announced == []


def test_details_of_one_user_are_one_copy(door: Door) -> None:
    """With the recipients in the order in which they were given."""
    names = [f"bob+{n}@dom.fr" for n in range(200)]
    door.take(to(*((name, Local("bob")) for name in names)), b"Subject: x\n\nx\n")
    assert door.files("bob") == ["1", "1.status"]
    lines = (door.path / "bob/1").read_text().split("\n")
    assert lines[1:201] == [f"Delivered-To: {name}" for name in names]


@pytest.mark.parametrize("content", [b"plain text\n", b" blank\n\nx\n", b"From alice Mon\nSubject: x\n\nx\n"])
@pytest.mark.parametrize("step", [1, 10_000])
def test_content_without_a_header(door: Door, content: bytes, step: int) -> None:
    """An empty line keeps it apart, in a mailbox and in the queue; a parser finds all of it as the body."""
    door.take(to(BOB, ANNA), content, step)
    for stored in ((door.path / "bob/1").read_bytes(), door.queued()):
        assert email.message_from_bytes(stored).get_payload() == content.decode()
        assert stored.endswith(b"\n\n" + content)


def test_a_thousand_mailboxes_within_few_descriptors(door: Door) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    users = [f"user{n}" for n in range(1000)]
    envelope = to(*((f"{user}@dom.fr", Local(user)) for user in users))
    in_use = max(map(int, os.listdir("/proc/self/fd")))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 100, hard))
        door.take(envelope, b"Subject: x\n\n" + b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(door.files(user) == ["1", "1.status"] for user in users)
    assert all((door.path / user / "1").stat().st_size > 200_000 for user in users)


def test_too_much_for_one_transaction(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpmail.spool.mailbox.MAX_STORED", 10_000)
    with pytest.raises(OSError, match="too much for one transaction") as caught:
        door.take(to(BOB, CAROL), b"\n" + b"x" * 6000)
    assert "452 4.3.1" in str(reply_to(caught.value))
    assert door.files("bob") == []
    door.take(to(BOB), b"\n" + b"x" * 20_000)


def test_without_a_commit_nothing_is_left(door: Door) -> None:
    incoming = door.accept.begin(to(BOB, ANNA))
    incoming.write(b"Subject: x\n\n" + b"x" * (2 * MEMORY_LIMIT))
    incoming.close()
    assert door.files("bob") == []
    assert door.queue.ids() == []


# -- what is sent on

LIST = "list@dom.fr"


def forwarded(address: str, *, sender: str | None = None, keeper: str | None = None) -> Remote:
    owner = parse_address(sender) if sender else None
    return Remote(parse_address(address), owner, forwarded=True, keeper=keeper)


def recipient(address: str, *routes: Route, notify: tuple[str, ...] = ()) -> Recipient:
    return Recipient(parse_address(address), routes, notify)


def message_to(*recipients: Recipient, peer: Peer = PEER) -> Envelope:
    envelope = Envelope(ALICE, peer, "client.example", esmtp=True)
    envelope.recipients += recipients
    return envelope


def queue_of(door: Door) -> list[tuple[str, list[str], list[tuple[str, ...]]]]:
    items = sorted((door.queue.load(id_) for id_ in door.queue.ids()), key=lambda item: item.sender)
    return [(i.sender, [r.address for r in i.recipients], [r.notify for r in i.recipients]) for i in items]


def test_a_forward_leaves_in_our_name(door: Door) -> None:
    """Nobody is told of its failure: senders are forged. The message itself has its own envelope."""
    envelope = message_to(recipient("bob@dom.fr", forwarded("b@example.net"), Local("bob")), recipient(*ANNA))
    door.take(envelope, b"Subject: x\n\nHello\n")
    assert queue_of(door) == [
        ("alice@example.org", ["anna@example.net"], [()]),
        ("srs-alice@dom.fr", ["b@example.net"], [("NEVER",)]),
    ]
    assert door.files("bob") == ["1", "1.status"]
    assert b"Return-Path: <alice@example.org>\n" in (door.path / "bob" / "1").read_bytes()
    ids = [item.id for item in door.announced[0].queued]
    assert ids[0] == envelope.id
    with door.queue.open_content(door.queue.load(ids[1])) as content:
        text = content.read()
    assert text.startswith(b"Delivered-To: bob@dom.fr\nReceived: from client.example")
    assert text.endswith(b"\nSubject: x\n\nHello\n")


def test_each_forwarding_address_has_an_envelope(door: Door) -> None:
    door.take(
        message_to(
            recipient("bob@dom.fr", forwarded("x@example.net")),
            recipient(
                "sales@dom.fr", forwarded("x@example.net"), forwarded("y@example.net"), forwarded("y@example.net")
            ),
        ),
        b"\nx\n",
    )
    assert [addresses for _, addresses, _ in queue_of(door)] == [["x@example.net"], ["x@example.net", "y@example.net"]]


def test_an_owner_gets_the_bounces(door: Door) -> None:
    owner = "owner-list@dom.fr"
    routes: list[Route] = [forwarded("x@example.net", sender=owner), Local("bob", parse_address(owner)), Local("anna")]
    door.take(message_to(recipient(LIST, *routes), recipient("anna@dom.fr", Local("anna"))), b"\nx\n")
    assert queue_of(door) == [(owner, ["x@example.net"], [()])]
    assert (door.path / "bob" / "1").read_bytes().startswith(b"Return-Path: <owner-list@dom.fr>\n")
    assert (door.path / "anna" / "1").read_bytes().startswith(b"Return-Path: <alice@example.org>\n")


@pytest.mark.parametrize(
    ("field", "loops"),
    [
        (b"Delivered-To: bob@dom.fr\n", True),
        (b"X: 1\ndelivered-to:  Bob@DOM.fr \n", True),
        (b"Delivered-To: anna@dom.fr\nDelivered-To: nonsense\n", False),
        (b"X-Delivered-To: bob@dom.fr\n", False),
    ],
)
def test_loops_end(door: Door, field: bytes, loops: bool) -> None:
    """What a user forwards stays in their mailbox when it comes back; what an alias forwards is refused."""
    by_user = recipient("bob@dom.fr", forwarded("x@example.net", keeper="bob"))
    door.take(message_to(by_user), field + b"\nx\n")
    assert (door.files("bob"), len(queue_of(door))) == ((["1", "1.status"], 0) if loops else ([], 1))
    by_alias = message_to(recipient("bob@dom.fr", forwarded("x@example.net")))
    if loops:
        with pytest.raises(Refusal, match=r"554 5\.4\.6"):
            door.take(by_alias, field + b"\nx\n")
    else:
        door.take(by_alias, field + b"\nx\n")


def test_taken_and_dropped(door: Door) -> None:
    door.take(message_to(recipient("spam@dom.fr")), b"\nx\n")
    assert queue_of(door) == []
    assert len(door.announced) == 1


# -- what programs of this host leave out


def test_a_local_message_is_completed(door: Door) -> None:
    local = Peer("127.0.0.1", 4711, "loopback")
    envelope = message_to(recipient(*BOB), recipient(*ANNA), peer=local)
    door.take(envelope, b"To: bob\nBcc: secret\n\nx\n")
    for text in ((door.path / "bob" / "1").read_bytes(), door.queued()):
        assert b"\nTo: bob@dom.fr\nFrom: alice@example.org\nDate: " in text
        assert f"\nMessage-ID: <{envelope.id}@mail.dom.fr>\n\nx\n".encode() in text
        assert b"secret" not in text
    item = door.queue.load(envelope.id)
    # Its lines were counted as they came here: with LF.
    assert item.size == len(door.queued()) + door.queued().count(b"\n") - 4


def test_a_message_of_the_network_is_not(door: Door) -> None:
    content = b"To: bob\nBcc: secret\n\nx\n"
    door.take(to(BOB), content)
    assert (door.path / "bob" / "1").read_bytes().endswith(b"\n" + content)


def test_a_bcc_cannot_hide_behind_a_long_header(door: Door) -> None:
    content = b"X: " + b"y" * 300_000 + b"\nBcc: secret\n\nx\n"
    with pytest.raises(Refusal, match=r"552 5\.3\.4"):
        door.take(message_to(recipient(*BOB), peer=Peer("127.0.0.1", 4711, "loopback")), content)


def test_a_long_text_without_a_header_is_no_header(door: Door) -> None:
    door.take(message_to(recipient(*BOB), peer=Peer("127.0.0.1", 4711, "loopback")), b"x" * 300_000 + b"\n")
    text = (door.path / "bob" / "1").read_bytes()
    assert b"\nMessage-ID: " in text
    assert text.endswith(b"\n\n" + b"x" * 300_000 + b"\n")
