"""`.forward` and `.blocked` of a user, who may put anything in their place; and the file of `--blocked`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpmail.mail.address import NULL_PATH, Address, parse_address
from smtpmail.users.alias_syntax import Target
from smtpmail.users.blocked import BlockedFile, parse_blocked
from smtpmail.users.own import MAX_TARGETS, Forward, Missing, Own, parse_forward


def test_forward(tmp_path: Path) -> None:
    assert Own(str(tmp_path)).forward is None
    assert Own(str(tmp_path / "nobody")).forward is None
    (tmp_path / ".forward").write_text("# away\nbob@example.net, carol@example.org\n\n\\bob   # and here\n")
    assert Own(str(tmp_path)).forward == Forward(
        (
            Target(Address("bob", "example.net")),
            Target(Address("carol", "example.org")),
            Target(Address("bob", ""), True),
        )
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("|/usr/bin/vacation\nx@example.net", "line 1 is no address"),
        ("x@example.net\n/etc/passwd", "line 2 is no address"),
        ("x@example.net\n:include:/etc/passwd", "line 2: only addresses may stand here"),
        ("x@example.net\n:fail: no", "line 2: only addresses may stand here"),
        ("x@example.net\nroot:x:0:0:secret", "line 2 is no address"),
    ],
)
def test_what_a_forward_may_not(text: str, complaint: str) -> None:
    """The valid lines count, and no text of the file is told: it might not be the user's."""
    assert parse_forward(text) == Forward((Target(Address("x", "example.net")),), (complaint,))


def test_a_forward_is_no_list() -> None:
    forward = parse_forward("\n".join(f"u{n}@example.net" for n in range(10_000)))
    assert len(forward.targets) == MAX_TARGETS
    assert forward.complaints == (f"it has more than {MAX_TARGETS} addresses",)


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def second_name(path: Path) -> None:
    secret = path.parent / "secret"
    secret.write_text("x@example.net\n")
    path.hardlink_to(secret)


def large(path: Path) -> None:
    path.write_bytes(b"x@example.net\n" * 1_000_000)


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def nul(path: Path) -> None:
    path.write_bytes(b"x@example.net\0\n")


@pytest.mark.parametrize("make", [folder, os.mkfifo, link, second_name, large, binary, nul])
def test_hostile_files(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """None blocks or leads out of the folder; mail stays in the mailbox, and nobody is blocked."""
    for name in (".forward", ".blocked"):
        box = tmp_path / name.strip(".")
        box.mkdir()
        make(box / name)
    forward = Own(str(tmp_path / "forward")).forward
    assert forward is not None
    assert forward.targets == ()
    assert len(forward.complaints) == 1
    blocked = Own(str(tmp_path / "blocked")).blocked
    assert not blocked.has(Address("x", "example.net"))
    assert len(blocked.complaints) == 1


def test_a_mailbox_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / ".forward").write_text("x@example.net\n")
    (tmp_path / "bob").symlink_to("anna")
    assert Own(str(tmp_path / "bob")).forward is None


@pytest.mark.parametrize(
    ("sender", "blocked"),
    [
        ("spam@example.net", True),
        ("SPAM@EXAMPLE.net", True),
        ("spam+x@example.net", True),
        ("other@example.net", False),
        ("anyone@bad.example", True),
        ("anyone@sub.bad.example", True),
        ("anyone@notbad.example", False),
        ("anyone@xn--bcher-kva.example", True),
        ("anyone@worse.example", True),
        ("bad.example@dom.fr", False),
    ],
)
def test_blocked(sender: str, blocked: bool) -> None:
    found = parse_blocked("# no more\nspam@Example.net\nbad.example # all of it\nbücher.example\n@worse.example\na b\n")
    assert found.has(parse_address(sender)) is blocked
    assert not found.has(NULL_PATH)
    assert found.complaints == ("line 6 is no address and no domain",)


def test_blocked_file(tmp_path: Path) -> None:
    path = tmp_path / "blocked"
    told: list[tuple[int, list[str]]] = []
    file = BlockedFile(str(path), lambda count, complaints: told.append((count, complaints)))
    spam = Address("a", "spam.example")
    path.write_text("spam.example\n")
    assert file.has(spam)
    path.write_text("other.example\n")
    assert not file.has(spam)
    path.unlink()
    assert not file.has(spam)
    assert file.has(Address("a", "other.example"))
    assert told == [(1, []), (1, []), (1, ["cannot read it: No such file or directory"])]


def test_what_is_missing_is_not_looked_for_at_once_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a look costs round trips: the file counts a second later; one that is there is read each time."""
    own = Own(str(tmp_path), Missing())
    assert own.forward is None
    (tmp_path / ".forward").write_text("a@example.net\n")
    assert own.forward is None
    monkeypatch.setattr(Missing, "SECONDS", 0.0)
    assert own.forward is not None and len(own.forward.targets) == 1
    (tmp_path / ".forward").write_text("a@example.net, b@example.net\n")
    assert own.forward is not None and len(own.forward.targets) == 2
