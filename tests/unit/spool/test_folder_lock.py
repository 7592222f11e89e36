"""The lock of a folder: between programs, and between the threads of one, whatever they call the folder."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.spool import deliver

from smtpmail.spool.folder import Folder
from smtpmail.spool.lock import MailboxBusy, locked
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.reader.account import Account
from smtpmail.spool.reader.mailfolder import NewMessage

OTHER_PROGRAM = """
import fcntl, sys
file = open(sys.argv[1], "r+")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("locked")
"""


def is_locked(folder: Path) -> bool:
    """Whether another program finds the lock taken."""
    command = [sys.executable, "-c", OTHER_PROGRAM, str(folder / ".lock")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "locked\n"


@pytest.mark.parametrize("name", ["INBOX", "Junk"])
def test_a_reader_does_not_drop_the_lock_of_a_delivery(tmp_path: Path, name: str) -> None:
    """To look into the lock file must not unlock it, in no folder that mail is delivered to."""
    spool = Spool(str(tmp_path))
    mailbox = spool.mailbox("bob", "" if name == "INBOX" else name)
    mailbox.open().close()
    account = Account(str(tmp_path), "bob")
    folder = Folder(mailbox.path)
    with locked(folder, time.monotonic() + 1), ThreadPoolExecutor(1) as threads:
        opened = threads.submit(account.open, name).result()
        threads.submit(opened._lock.last_number).result()
        assert is_locked(Path(mailbox.path))
    assert not is_locked(Path(mailbox.path))
    opened.close()
    account.close()
    folder.close()


def test_threads_by_two_paths(tmp_path: Path) -> None:
    """The same folder, opened twice by different names."""
    (tmp_path / "bob").mkdir()
    (tmp_path / "other").symlink_to("bob")
    one, two = Folder(str(tmp_path / "bob")), Folder(str(tmp_path / "other"), follow=True)
    with locked(one, time.monotonic() + 1):
        with ThreadPoolExecutor(1) as threads, pytest.raises(MailboxBusy, match="another thread"):
            threads.submit(lambda: locked(two, time.monotonic() + 0.05).__enter__()).result()
        assert is_locked(tmp_path / "bob")
    with locked(two, time.monotonic() + 1):
        pass
    one.close()
    two.close()


def test_deliveries_and_readers_in_junk(tmp_path: Path) -> None:
    """Numbers are unique though many threads put messages into one folder by both ways."""
    spool = Spool(str(tmp_path))
    account = Account(str(tmp_path), "bob")
    account.create("Junk")
    given: list[int] = []
    lock = threading.Lock()

    def append() -> None:
        folder = account.open("Junk")
        for _ in range(10):
            message = NewMessage(folder.new_file(), frozenset())
            folder.add([message])
            message.file.close()
            with lock:
                given.append(message.number)
        folder.close()

    def arrive() -> None:
        for _ in range(10):
            (number,) = deliver(spool, "bob", folder="Junk")
            with lock:
                given.append(number)

    threads = [threading.Thread(target=work) for work in (append, arrive, append, arrive)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == list(range(1, 41))
    account.close()
