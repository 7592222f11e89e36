"""Mail readers that mean harm, and messages that do: nobody else notices, and nothing is let out."""

from __future__ import annotations

import os
import pwd
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.server import Server, Servers, wait_until
from support.spool import deliver

from smtpmail.spool.mailbox import Spool

ME = pwd.getpwuid(os.getuid()).pw_name
MIB = 1024 * 1024


class Raw:
    """Octets to and from the Unix socket."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(path))
        self._file = self.sock.makefile("rb")
        assert self._file.readline().startswith(b"* PREAUTH")

    def say(self, data: bytes) -> list[bytes]:
        """Sends a command without its tag; the response lines up to the tagged one."""
        self.sock.sendall(b"t " + data + b"\r\n")
        return self.answer()

    def answer(self) -> list[bytes]:
        lines = []
        while line := self._file.readline():
            lines.append(line)
            if line.startswith((b"t ", b"* BYE")):
                break
        return lines

    def close(self) -> None:
        self._file.close()
        self.sock.close()


@pytest.fixture
def reading(servers: Servers, tmp_path: Path) -> Server:
    server = servers.start("--imap-socket", str(tmp_path / "imap.sock"), "--max-connections", "1200")
    (server.spool / "other").mkdir()
    deliver(Spool(str(server.spool)), "other", content=b"Subject: secret\n\nsecret\n")
    return server


def still_well(server: Server, tmp_path: Path) -> None:
    """Another client is served at once, and nothing went wrong inside."""
    raw = Raw(tmp_path / "imap.sock")
    since = time.monotonic()
    assert raw.say(b"SELECT INBOX")[-1].startswith(b"t OK")
    assert time.monotonic() - since < 20
    raw.close()
    assert not server.events_named("imap.error")
    assert not server.events_named("imap.failed")


LITERALS: dict[str, bytes] = {
    "huge": b"SEARCH TEXT {4294967295}",
    "more than 32 bits": b"SEARCH TEXT {99999999999999999999}",
    "many small ones": b"LOGIN " + b"{1+}\r\na " * 100_000,
    "a name": b"CREATE {70000}",
    "append": b"APPEND INBOX {4294967295}",
    "append, without waiting": b"APPEND INBOX {60000000+}",
}


@pytest.mark.parametrize("command", LITERALS.values(), ids=LITERALS)
def test_literals(reading: Server, tmp_path: Path, command: bytes) -> None:
    before = reading.resident()
    raw = Raw(tmp_path / "imap.sock")
    try:
        answer = raw.say(command) if not command.endswith(b"+}") else []
        if answer:
            assert not answer[-1].startswith(b"t OK")
        for _ in range(60 if command.endswith(b"+}") else 0):
            raw.sock.sendall(b"x" * 1_000_000)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was shown the door
    raw.close()
    assert reading.resident() - before < 30 * MIB
    still_well(reading, tmp_path)


def test_sequence_sets(reading: Server, tmp_path: Path) -> None:
    """As long as a command may be, and longer."""
    spool = Spool(str(reading.spool))
    for _ in range(3):
        deliver(spool, ME)
    raw = Raw(tmp_path / "imap.sock")
    raw.say(b"SELECT INBOX")
    some = b",".join(b"%d:*" % n for n in range(1, 8000))
    assert raw.say(b"UID FETCH " + some + b" (FLAGS)")[-1].startswith(b"t OK")
    many = b",".join(b"%d" % n for n in range(1, 100_001))
    assert raw.say(b"UID FETCH " + many + b" (FLAGS)")[-1].startswith(b"t BAD")
    assert raw.say(b"UID FETCH 1:4294967295 (FLAGS)")[-1].startswith(b"t OK")
    raw.close()
    still_well(reading, tmp_path)


def test_the_last_words_are_heard(reading: Server, tmp_path: Path) -> None:
    """BYE reaches a client that goes on talking."""
    raw = Raw(tmp_path / "imap.sock")
    raw.sock.sendall(b"nonsense\r\n" * 40_000)
    said = b"".join(raw.answer())
    assert said.endswith(b"* BYE Too many errors\r\n")
    raw.close()
    still_well(reading, tmp_path)


def parts(count: int) -> bytes:
    return b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * count + b"--b--\n"


def deep(depth: int) -> bytes:
    head = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth))
    return head + b"\nx\n" + b"".join(b"--b%d--\n" % n for n in reversed(range(depth)))


def letters(depth: int) -> bytes:
    return b"Content-Type: message/rfc822\n\n" * depth + b"Subject: x\n\nx\n"


MESSAGES: dict[str, bytes] = {
    "1,000 parts": parts(1000),
    "50,000 parts": parts(50_000),
    "depth 500": deep(500),
    "letters in letters": letters(500),
    "boundary that is everywhere": b"Content-Type: multipart/mixed; boundary=-\n\n" + b"---\n" * 200_000,
    "many addresses": b"To: " + b"a@b, " * 50_000 + b"\n\nx\n",
    "many fields": b"X: y\n" * 100_000 + b"\nx\n",
    "one long field": b"Subject: " + b"x" * 2_000_000 + b"\n\nx\n",
    "parentheses": b"From: " + b"(" * 100_000 + b"\n\nx\n",
    "encoded words": b"Subject: " + b"=?utf-8?q?x?= " * 20_000 + b"\n\nx\n",
    "base64 that is none": b"Content-Transfer-Encoding: base64\n\n" + b"!\0\xff=" * 300_000,
}


@pytest.mark.parametrize("content", MESSAGES.values(), ids=MESSAGES)
def test_messages(reading: Server, tmp_path: Path, content: bytes) -> None:
    deliver(Spool(str(reading.spool)), ME, content=content)
    raw = Raw(tmp_path / "imap.sock")
    raw.say(b"SELECT INBOX")
    since = time.monotonic()
    for command in (
        b"FETCH 1 (ENVELOPE BODYSTRUCTURE RFC822.SIZE)", b"FETCH 1 BODY.PEEK[1.1.1.1.1]", b"FETCH 1 BODY.PEEK[999]",
        b"FETCH 1 BODY.PEEK[HEADER.FIELDS (X TO)]", b"SEARCH TEXT nowhere", b"SORT (SUBJECT FROM) UTF-8 ALL",
        b"THREAD REFERENCES UTF-8 ALL",
    ):  # fmt: skip
        assert raw.say(command)[-1].startswith(b"t OK"), command
    assert time.monotonic() - since < 60
    raw.close()
    still_well(reading, tmp_path)


NAMES = (
    b"../other", b"other", b"/other", b"INBOX/../../other", b"Archive/../../other", b"../other/1", b"..", b".", b"/",
    b"Archive/.", b".lock", b".uidvalidity", b"~other", b"#shared/other", b"user.other", b"Other Users/other",
    b"user/other", b"&AC4-&AC4-/other", b"..&AC8-other", b"%2e%2e/other", b"x" * 300, b"a/" * 50 + b"b",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_lead_nowhere_else(reading: Server, tmp_path: Path, name: bytes) -> None:
    """Neither other users' folders nor anything outside one's own is reached, made, renamed or removed."""
    raw = Raw(tmp_path / "imap.sock")
    before = {p for p in reading.spool.rglob("*") if reading.spool / ME not in p.parents}
    for command in (
        b'SELECT "%s"', b'EXAMINE "%s"', b'STATUS "%s" (MESSAGES)', b'LIST "" "%s/%%"', b'LIST "%s" "*"',
        b'CREATE "%s"', b'RENAME Archive "%s"', b'RENAME "%s" mine', b'DELETE "%s"', b'SUBSCRIBE "%s"',
        b'APPEND "%s" {3+}\r\nx\r\n',
    ):  # fmt: skip
        answer = raw.say(command % name)
        assert b"secret" not in b"".join(answer)
        if command.startswith((b"SELECT", b"EXAMINE")):
            assert answer[-1].startswith((b"t NO", b"t BAD"))
    raw.say(b"SELECT INBOX")
    raw.say(b'COPY 1 "%s"' % name)
    raw.close()
    assert {p for p in reading.spool.rglob("*") if reading.spool / ME not in p.parents} == before
    still_well(reading, tmp_path)


def link(path: Path) -> None:
    path.symlink_to("../other")


def link_to_message(path: Path) -> None:
    path.mkdir()
    (path / "1").symlink_to("../../other/1")
    os.link(path.parent.parent / "other/1", path / "2")
    os.mkfifo(path / "3")


@pytest.mark.parametrize("trick", [link, link_to_message])
def test_links_lead_nowhere_else(reading: Server, tmp_path: Path, trick: Callable[[Path], None]) -> None:
    (reading.spool / ME).mkdir(exist_ok=True)
    trick(reading.spool / ME / "mine")
    raw = Raw(tmp_path / "imap.sock")
    said = raw.say(b"SELECT mine") + raw.say(b"FETCH 1:* BODY[]") + raw.say(b"COPY 1:* Archive")
    assert b"secret" not in b"".join(said)
    raw.close()
    assert "Subject: secret" in (reading.spool / "other/1").read_text()
    assert "\\Recent" in (reading.spool / "other/1.status").read_text()
    still_well(reading, tmp_path)


def test_a_number_that_is_a_lie(reading: Server, tmp_path: Path) -> None:
    """The lock file says that four billion numbers were given: nobody counts them."""
    deliver(Spool(str(reading.spool)), ME)
    (reading.spool / ME / ".lock").write_text("00000000004294967294\n")
    before = reading.resident()
    raw = Raw(tmp_path / "imap.sock")
    since = time.monotonic()
    raw.say(b"ENABLE QRESYNC")
    answer = raw.say(b"SELECT INBOX")
    validity = next(line for line in answer if b"UIDVALIDITY" in line).split(b"UIDVALIDITY ")[1].split(b"]")[0]
    raw.say(b"UNSELECT")
    assert raw.say(b"SELECT INBOX (QRESYNC (" + validity + b" 1 1:4294967295))")[-1].startswith(b"t OK")
    assert raw.say(b"UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1 VANISHED)")[-1].startswith(b"t OK")
    assert time.monotonic() - since < 20
    raw.close()
    assert reading.resident() - before < 20 * MIB
    still_well(reading, tmp_path)


def test_removed_in_the_middle_of_fetch(reading: Server, tmp_path: Path) -> None:
    """mutt removes messages while a client reads them: what has begun is whole, what has not is left out."""
    spool = Spool(str(reading.spool))
    body = b"".join(b"%07d\n" % n for n in range(100_000))
    for n in range(20):
        deliver(spool, ME, content=b"Subject: %d\n\n" % n + body)
    raw = Raw(tmp_path / "imap.sock")
    raw.say(b"SELECT INBOX")
    raw.sock.sendall(b"t FETCH 1:* BODY.PEEK[]\r\n")
    assert raw._file.readline().startswith(b"* 1 FETCH")
    for n in range(1, 21):
        (reading.spool / ME / str(n)).unlink()
    answer = b"".join(raw.answer())
    assert answer.splitlines()[-1].startswith((b"t OK", b"t NO [EXPUNGEISSUED]"))
    begun = answer.count(b"FETCH (BODY[] {") + 1
    assert answer.count(b"0099999\r\n") == begun
    assert b" EXPUNGE" not in answer
    said = b"".join(raw.say(b"NOOP"))
    assert said.count(b" EXPUNGE") == 20
    raw.close()
    still_well(reading, tmp_path)


def test_a_thousand_that_only_connect(reading: Server, tmp_path: Path) -> None:
    """From one account: most are turned away, and mail is delivered meanwhile."""
    socks = []
    for _ in range(1000):
        sock = socket.socket(socket.AF_UNIX)
        # With a timeout it would not wait for its place in the queue: connect(2), EAGAIN.
        sock.connect(str(tmp_path / "imap.sock"))
        sock.settimeout(60)
        socks.append(sock)
    turned_away = sum(sock.recv(100).startswith(b"* BYE Too many") for sock in socks)
    assert 850 <= turned_away < 1000
    with reading.client() as client:
        client.ehlo()
        client.deliver(b"Subject: x\r\n\r\nx\r\n", "other@dom.fr")
    for sock in socks:
        sock.close()
    wait_until(lambda: len(reading.events_named("imap.closed")) >= 1000 - turned_away)
    still_well(reading, tmp_path)
