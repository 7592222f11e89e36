"""Patience with those who guess passwords, and who is let in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smtpmail.inbound.guard import FIRST_DELAY, LONGEST_DELAY, MAX_FAILURES, WINDOW, FailedLogins, Gatekeeper, Submitter
from smtpmail.log import log
from smtpmail.mail.address import NULL_PATH, Address
from smtpmail.mail.envelope import Peer
from smtpmail.mail.route import Local
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal
from smtpmail.users.devices import Devices


class Door:
    """A gatekeeper with bob's phone; `paused` has the seconds that each answer took."""

    def __init__(self, path: Path, failures: FailedLogins | None = None) -> None:
        devices = Devices(str(path / "devices"))
        self.password = devices.add("bob", "phone")
        self.paused: list[float] = []
        self.gatekeeper = Gatekeeper(
            devices, ("dom.fr",), exists=lambda user: user in ("bob", "anna"), failures=failures,
            pause=self.paused.append,
        )  # fmt: skip

    def log_in(self, name: str, password: str, address: str = "192.0.2.1") -> bool:
        return self.gatekeeper.log_in(name, password, Peer(address, 4711, "imap")) is not None


def test_an_address_that_guesses_is_not_listened_to(tmp_path: Path) -> None:
    door = Door(tmp_path)
    for _ in range(MAX_FAILURES):
        assert not door.log_in("bob", "wrong")
    assert door.paused[:6] == [0.5, 1, 2, 4, 8, 8]
    assert not door.log_in("bob", door.password)
    assert door.paused[-1] == LONGEST_DELAY
    # Somebody else, and bob from elsewhere, come in: nobody can lock them out.
    assert door.log_in("bob", door.password, "192.0.2.2")


def test_who_is_not_listened_to_does_not_fill_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda event, **fields: said.append(event))
    door = Door(tmp_path)
    for _ in range(MAX_FAILURES + 100):
        assert not door.log_in("bob", "wrong")
    assert said == ["login.failed"] * MAX_FAILURES + ["login.blocked"]
    assert not door.log_in("bob", "wrong", "192.0.2.2")
    assert said[-1] == "login.failed"


def test_devices_that_cannot_be_read_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "error", lambda event, **fields: said.append(event))
    door = Door(tmp_path)
    (tmp_path / "devices").unlink()
    (tmp_path / "devices").mkdir()
    for n in range(50):
        assert not door.log_in("bob", door.password, f"192.0.2.{n}")
    assert said == ["devices.unreadable"]
    assert door.paused == [FIRST_DELAY] * 50


def test_a_network_counts_as_one(tmp_path: Path) -> None:
    door = Door(tmp_path)
    for n in range(MAX_FAILURES):
        door.log_in("bob", "wrong", f"2001:db8::{n + 1:x}")
    assert not door.log_in("bob", door.password, "2001:db8::ffff")
    assert door.log_in("bob", door.password, "2001:db8:0:1::1")


def test_wrong_passwords_of_a_user_are_slow_from_everywhere(tmp_path: Path) -> None:
    door = Door(tmp_path)
    for n in range(30):
        door.log_in("bob", "wrong", f"198.51.100.{n}")
    assert door.paused[-1] == LONGEST_DELAY
    door.log_in("anna", "wrong", "203.0.113.1")
    assert door.paused[-1] == 0.5


def test_the_right_password_is_forgiving(tmp_path: Path) -> None:
    door = Door(tmp_path)
    for _ in range(MAX_FAILURES - 1):
        door.log_in("bob", "wrong")
    assert door.log_in("bob", door.password)
    door.log_in("bob", "wrong")
    assert door.paused[-1] == 0.5


def test_over_processes() -> None:
    """What is guessed at one process counts for all."""
    failures = FailedLogins(2)
    pid = os.fork()
    if not pid:
        failures.use_part(1)
        for _ in range(3):
            failures.failed("address 192.0.2.1")
        os._exit(0)
    os.waitpid(pid, 0)
    assert failures.count("address 192.0.2.1") == 3
    assert failures.failed("address 192.0.2.1") == 4
    assert failures.count("address 192.0.2.2") == 0
    failures.forget("address 192.0.2.1")
    assert failures.count("address 192.0.2.1") == 0


def test_failures_are_forgotten() -> None:
    now = [100.0]
    failures = FailedLogins(1, lambda: now[0])
    failures.failed("x")
    now[0] += WINDOW + 1
    assert failures.count("x") == 0
    assert failures.failed("x") == 1


def test_more_keys_than_places() -> None:
    """Many strangers cost no more memory, and the latest are known."""
    failures = FailedLogins()
    for n in range(20_000):
        failures.failed(f"address {n}")
    assert failures.count("address 19999") == 1


@pytest.mark.parametrize(
    "name", ["bob", "BOB", "bob@dom.fr", "Bob@DOM.FR", " bob "],
)  # fmt: skip
def test_names(tmp_path: Path, name: str) -> None:
    door = Door(tmp_path)
    assert door.log_in(name, door.password)


@pytest.mark.parametrize(
    "name",
    ["", "anna", "root", "bob+x", "bob@other.fr", "bob@dom.fr@dom.fr", "../bob", "bob/", "b\0b", "@dom.fr", "x" * 9999],
)
def test_other_names(tmp_path: Path, name: str) -> None:
    door = Door(tmp_path)
    assert not door.log_in(name, door.password)


def routes(address: Address) -> tuple[Local, ...]:
    found = {"sales@dom.fr": ("bob", "anna"), "anna@dom.fr": ("anna",)}.get(str(address))
    if found is None:
        raise Refusal(replies.NO_SUCH_USER)
    return tuple(Local(user) for user in found)


@pytest.mark.parametrize(
    ("sender", "may"),
    [
        ("bob@dom.fr", True),
        ("BOB@DOM.FR", True),
        ("bob+list@dom.fr", True),
        ("sales@dom.fr", True),
        ("anna@dom.fr", False),
        ("bob@other.fr", False),
        ("nobody@dom.fr", False),
        ("root@dom.fr", False),
    ],
)
def test_whose_address_it_is(tmp_path: Path, sender: str, may: bool) -> None:
    door = Door(tmp_path)
    submitter = Submitter(door.gatekeeper, Peer("192.0.2.1", 1, "submission"), routes)
    local, _, domain = sender.rpartition("@")
    assert not submitter.may_send_as(Address(local, domain))
    assert submitter.log_in("bob", door.password) == "bob"
    assert submitter.may_send_as(Address(local, domain)) is may
    assert submitter.may_send_as(NULL_PATH)
    assert submitter.may_have_written(f"From: X <{sender}>\n".encode()) is may
    assert submitter.may_have_written(f"From: bob@dom.fr, {sender}\n".encode()) is may
    assert submitter.may_have_written(f"From: bob@dom.fr\nfrom : {sender}\n".encode()) is may


def test_a_removed_device_sends_no_more(tmp_path: Path) -> None:
    door = Door(tmp_path)
    submitter = Submitter(door.gatekeeper, Peer("192.0.2.1", 1, "submission"), routes)
    submitter.log_in("bob", door.password)
    Devices(str(tmp_path / "devices")).remove("bob", "phone")
    door.gatekeeper.devices._looked_at -= 1
    assert not submitter.may_send_as(Address("bob", "dom.fr"))
