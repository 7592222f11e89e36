"""Mailboxes of accounts: who owns what, and that root touches nothing which an account could have put there."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROLE

# Accounts that every Debian has.
SERVICE, ACCOUNT = "games", "news"
PROGRAM = ROLE / "files" / "mailboxes.py"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away: needs root")


@pytest.fixture
def spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("spool")
    # Accounts must get there.
    for above in (folder, *folder.parents[:2]):
        above.chmod(0o755)
    yield folder


def run(spool: Path, *accounts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, spool, SERVICE, *accounts],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def acl(path: Path) -> set[str]:
    return set(subprocess.run(["getfacl", "-cE", path], stdout=subprocess.PIPE, text=True, check=True).stdout.split())


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def of_the_service(spool: Path) -> Path:
    """A mailbox that the service made before it knew of the account."""
    mailbox = spool / ACCOUNT
    (mailbox / "Sent").mkdir(parents=True)
    (mailbox / "1").write_text("mail")
    (mailbox / "Sent" / "1").write_text("mail")
    for path in (mailbox, *mailbox.rglob("*")):
        os.chown(path, uid(SERVICE), uid(SERVICE))
        path.chmod(0o700 if path.is_dir() else 0o600)
    return mailbox


def test_a_new_mailbox_is_shared_by_account_and_service_alone(spool: Path) -> None:
    assert run(spool, ACCOUNT).stdout.split("\n")[0] == f"{ACCOUNT}: made"
    mailbox = spool / ACCOUNT
    assert mailbox.stat().st_uid == uid(ACCOUNT)
    entries = acl(mailbox)
    assert {f"user:{SERVICE}:rwx", "group::---", "other::---", f"default:user:{ACCOUNT}:rwx"} <= entries
    assert {f"user:{SERVICE}:rwx", f"user:{ACCOUNT}:rwx", "mask::rw-"} <= acl(mailbox / ".mh_sequences")
    again = run(spool, ACCOUNT)
    assert (again.returncode, again.stdout) == (0, "")


def test_what_came_before_is_opened_and_stays_with_the_service(spool: Path) -> None:
    mailbox = of_the_service(spool)
    assert run(spool, ACCOUNT).returncode == 0
    assert mailbox.stat().st_uid == uid(ACCOUNT)
    for path in (mailbox / "1", mailbox / "Sent" / "1"):
        assert path.stat().st_uid == uid(SERVICE)
        assert f"user:{ACCOUNT}:rw-" in acl(path)
    assert f"default:user:{ACCOUNT}:rwx" in acl(mailbox / "Sent")


def test_lists_are_set_by_the_service_while_the_folder_is_its_own(spool: Path, tmp_path: Path) -> None:
    of_the_service(spool)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "setfacl").write_text(
        f'#!/bin/sh\necho "$(id -un) $(stat -c %U .) $*" >>{tools}/log\nexec /usr/bin/setfacl "$@"\n'
    )
    (tools / "setfacl").chmod(0o755)
    (tools / "log").touch()
    for path in (tools, tools / "log", *tools.parents[:3]):
        path.chmod(0o777)
    assert run(spool, ACCOUNT, PATH=f"{tools}:{os.environ['PATH']}").returncode == 0
    calls = (tools / "log").read_text().splitlines()
    recursive = [call for call in calls if "--recursive" in call]
    assert recursive
    assert all(call.startswith(f"{SERVICE} {SERVICE} ") for call in recursive)


def test_a_race_of_the_account_gains_nothing(spool: Path, tmp_path: Path) -> None:
    """The account swaps what it finds for links to a file of root's, as fast as it can, during many runs."""
    secret = tmp_path / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    mailbox = of_the_service(spool)
    script = f"""
        cd {mailbox} 2>/dev/null || continue
        rm -rf Sent 1 .mh_sequences; ln -s {tmp_path} Sent; ln -s {secret} 1; ln -s {secret} .mh_sequences
    """
    done = threading.Event()

    def attack() -> None:
        while not done.is_set():
            subprocess.run(
                ["bash", "-c", f"for i in 1 2 3 4 5; do {script}; done"],
                user=uid(ACCOUNT), group=uid(ACCOUNT), extra_groups=[], stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        for _ in range(10):
            subprocess.run(["rm", "-rf", mailbox], check=True)
            of_the_service(spool)
            run(spool, ACCOUNT)
    finally:
        done.set()
        attacker.join()
    assert acl(secret) == {"user::rw-", "group::---", "other::---"}
    assert not any(entry.startswith(f"user:{ACCOUNT}") for entry in acl(tmp_path))
    assert secret.stat().st_uid == 0


@pytest.mark.parametrize("planted", ["a link to a folder", "a file", "a folder of somebody else"])
def test_what_is_no_mailbox_is_left_alone(spool: Path, tmp_path: Path, planted: str) -> None:
    mailbox, elsewhere = spool / ACCOUNT, tmp_path / "elsewhere"
    elsewhere.mkdir()
    match planted:
        case "a link to a folder":
            mailbox.symlink_to(elsewhere)
        case "a file":
            mailbox.write_text("From somebody")
        case _:
            mailbox.mkdir()
            os.chown(mailbox, uid("man"), uid("man"))
    before = mailbox.lstat()
    result = run(spool, ACCOUNT)
    assert result.returncode != 0
    assert ACCOUNT in result.stderr
    after = mailbox.lstat()
    assert (before.st_uid, before.st_mode, before.st_mtime_ns) == (after.st_uid, after.st_mode, after.st_mtime_ns)
    assert elsewhere.stat().st_uid == 0


def test_an_account_that_does_not_exist_is_one_line(spool: Path) -> None:
    result = run(spool, "nosuchaccount")
    assert (result.returncode, result.stderr) == (1, "nosuchaccount: there is no such account on this host\n")
