"""What reading costs: smtpmail's IMAP beside Dovecot's on the same messages (as Maildir there), in one run.

Both serve on a pipe, without TLS and login; smtpmail as `smtpmail imap` without a server. Needs dovecot-imapd.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from smtpmail.spool.files import NewFile
from smtpmail.spool.reader.account import Account
from smtpmail.spool.reader.mailfolder import MailFolder, NewMessage
from tests.bench import processes, report
from tests.bench.servers import DOMAIN, BenchError, Smtpmail

DOVECOT = "/usr/lib/dovecot/imap"
USER = pwd.getpwuid(os.getuid()).pw_name
MESSAGES = 10_000
SEARCHED = 1000
IDLE = 100
ROUNDS = 5

Command = Sequence[str]


class Pipe:
    """A program that speaks IMAP on a pipe, logged in."""

    def __init__(self, command: Command) -> None:
        # Dovecot says on standard error what each connection has cost.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.pid = self._process.pid
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self._from.readline()

    def run(self, command: str) -> tuple[float, int]:
        """Seconds until it has answered, and octets of the answer."""
        since, size = time.perf_counter(), 0
        self._to.write(f"t {command}\r\n".encode())
        self._to.flush()
        while True:
            line = self._from.readline()
            if not line:
                raise BenchError(f"{command}: the program has ended")
            size += len(line)
            if line.startswith(b"t "):
                if not line.startswith(b"t OK"):
                    raise BenchError(f"{command}: {line.decode()}")
                return time.perf_counter() - since, size
            if literal := re.search(rb"\{(\d+)\}\r\n$", line):
                size += len(self._from.read(int(literal[1])))

    def idle(self) -> None:
        """Waits for what changes from here on."""
        self.run("SELECT INBOX")
        self._to.write(b"i IDLE\r\n")
        self._to.flush()
        self._from.readline()

    def close(self) -> None:
        self._to.close()
        self._from.close()
        self._process.wait()


def message(number: int) -> bytes:
    """4 KiB: a text, its HTML and an attachment."""
    text = f"Dear reader,\n\nthis is number {number}, about something {number * 7919}.\n" + "It goes on. " * 60
    return (
        f"Return-Path: <alice@example.org>\nFrom: Alice Example <alice{number % 50}@example.org>\nTo: bob@dom.fr\n"
        f"Subject: About number {number}\nMessage-ID: <{number}@example.org>\n"
        f"Date: Wed, 25 Nov 2026 {number % 24:02}:{number % 60:02}:00 +0000\nMIME-Version: 1.0\n"
        'Content-Type: multipart/mixed; boundary="outer"\n\n--outer\n'
        'Content-Type: multipart/alternative; boundary="inner"\n\n--inner\nContent-Type: text/plain; charset=utf-8\n\n'
        f"{text}\n--inner\nContent-Type: text/html; charset=utf-8\n\n<p>{text}</p>\n--inner--\n--outer\n"
        'Content-Type: application/pdf; name="x.pdf"\nContent-Transfer-Encoding: base64\n'
        'Content-Disposition: attachment; filename="x.pdf"\n\n' + ("QUJD" * 18 + "\n") * 24 + "--outer--\n"
    ).encode()


def fill(folder: Path, count: int) -> tuple[Command, Command]:
    """The same messages in both forms; the commands that serve them."""
    spool, mails = folder / "spool", folder / "dovecot"
    spool.mkdir()
    for part in ("cur", "new", "tmp"):
        (mails / "Maildir" / part).mkdir(parents=True)
    account = Account(str(spool), USER)
    inbox = account.open("INBOX")
    for start in range(1, count + 1, 200):
        numbers = range(start, min(start + 200, count + 1))
        some = [NewMessage(_file(inbox, message(n)), frozenset({b"\\Seen"})) for n in numbers]
        inbox.add(some)
        for number, new in zip(numbers, some, strict=True):
            new.file.close()
            date = 1_790_000_000 + number
            os.utime(spool / USER / str(number), (date, date))
            path = mails / "Maildir" / "cur" / f"{date}.M{number}P1.host:2,S"
            path.write_bytes(message(number))
            os.utime(path, (date, date))
    account.close()
    settings = mails / "dovecot.conf"
    settings.write_text(
        f"mail_location = maildir:{mails}/Maildir\nlog_path = {mails}/log\nbase_dir = {mails}/run\n"
        f"state_dir = {mails}/state\nstats_writer_socket_path =\nssl = no\nfirst_valid_uid = 0\n"
    )
    (folder / "settings.toml").touch()  # the machine's own settings are none of ours
    ours = [sys.executable, "-m", "smtpmail", "imap", "--config", str(folder / "settings.toml")]
    ours += ["--spool", str(spool), "-s", DOMAIN, "--log-level", "error"]
    # Dovecot serves nobody as root; in a namespace of its own it believes to be somebody else.
    person = [] if os.getuid() else ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    return ours, [*person, "env", f"HOME={mails}", f"USER={USER}", DOVECOT, "-c", str(settings)]


def _file(folder: MailFolder, content: bytes) -> NewFile:
    file = folder.new_file()
    os.write(file.fd, content)
    return file


WORK = (
    ("SELECT, first time", "SELECT INBOX", "500 ms"),
    ("FETCH 1:* (ENVELOPE), first time", "FETCH 1:* (ENVELOPE)", ""),
    ("FETCH 1:* (BODYSTRUCTURE), first time", "FETCH 1:* (BODYSTRUCTURE)", ""),
    ("FETCH 1:* (RFC822.SIZE), first time", "FETCH 1:* (RFC822.SIZE)", ""),
)
AGAIN = (
    ("SELECT", "SELECT INBOX", "100 ms"),
    ("FETCH 1:* (FLAGS)", "FETCH 1:* (FLAGS)", "150 ms"),
    ("FETCH 1:* (ENVELOPE)", "FETCH 1:* (ENVELOPE)", ""),
    ("FETCH 1:* (BODYSTRUCTURE)", "FETCH 1:* (BODYSTRUCTURE)", ""),
    (f"SEARCH 1:{SEARCHED} TEXT", f'SEARCH 1:{SEARCHED} TEXT "7919 nowhere"', ""),
)


def measure(command: Command, drop_caches: Callable[[], None]) -> dict[str, float]:
    """Seconds of each command: the first time, nothing in memory, and then the median of some more."""
    found: dict[str, float] = {}
    drop_caches()
    pipe = Pipe(command)
    for name, text, _ in WORK:
        found[name] = pipe.run(text)[0]
    pipe.close()
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        pipe = Pipe(command)
        for name, text, _ in AGAIN:
            times.setdefault(name, []).append(pipe.run(text)[0])
        pipe.close()
    return found | {name: statistics.median(values) for name, values in times.items()}


def _drop_caches() -> None:
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


@contextlib.contextmanager
def _idling(command: Command, count: int) -> Iterator[list[Pipe]]:
    pipes = [Pipe(command) for _ in range(count)]
    for pipe in pipes:
        pipe.idle()
    yield pipes
    for pipe in pipes:
        pipe.close()


def idle_of_dovecot(command: Command, count: int) -> float:
    """KiB of memory (PSS) for each idle client: a process each."""
    with _idling(command, count) as pipes:
        time.sleep(1)
        return sum(processes.memory(pipe.pid).proportional for pipe in pipes) / count / 1024


def idle_of_smtpmail(folder: Path, count: int) -> tuple[float, float]:
    """KiB of memory (PSS) for each idle client of a server, and seconds until one hears of a delivery."""
    server = Smtpmail(folder, "--imap-socket", str(folder / "imap.sock"), "--max-connections-per-client", "1000")
    server.start()
    try:
        with contextlib.ExitStack() as stack:
            lines = [_idle(stack, folder / "imap.sock") for _ in range(2)]
            time.sleep(1)
            before = processes.memory(server.pid).proportional
            lines += [_idle(stack, folder / "imap.sock") for _ in range(count)]
            time.sleep(1)
            used = (processes.memory(server.pid).proportional - before) / count / 1024
            account = stack.enter_context(contextlib.closing(Account(str(folder / "spool"), USER)))
            inbox = account.open("INBOX")
            new = NewMessage(_file(inbox, message(1)), frozenset())
            stack.callback(new.file.close)
            since = time.perf_counter()
            inbox.add([new])
            for line in lines:
                line.readline()
            return used, time.perf_counter() - since
    finally:
        server.stop()


def _idle(stack: contextlib.ExitStack, path: Path) -> socket.SocketIO:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.connect(str(path))
    lines = stack.enter_context(sock.makefile("rb", buffering=0))
    lines.readline()
    sock.sendall(b"a SELECT INBOX\r\nb IDLE\r\n")
    while not lines.readline().startswith(b"+"):
        pass
    return lines


def table(folder: Path, messages: int, *, markdown: bool) -> str:
    """All of it, as a table. Raises BenchError."""
    if not Path(DOVECOT).exists():
        raise BenchError("Dovecot is missing: apt-get install dovecot-imapd")
    folder.mkdir(parents=True)
    ours, theirs = fill(folder, max(messages, SEARCHED))
    results = [measure(command, _drop_caches) for command in (ours, theirs)]
    rows = [[name, goal, *(f"{1000 * result[name]:.0f} ms" for result in results)] for name, _, goal in (*WORK, *AGAIN)]
    used, seconds = idle_of_smtpmail(folder, IDLE)
    rows.append([f"an idle client of {IDLE} (PSS)", "1 MiB", f"{used:.0f} KiB",
                 f"{idle_of_dovecot(theirs, IDLE):.0f} KiB"])  # fmt: skip
    rows.append([f"a delivery reaches all {IDLE}", "1 s", f"{1000 * seconds:.0f} ms", "not measured"])
    return report.table([f"reading, {messages} messages", "goal", "smtpmail", "Dovecot"], rows, markdown=markdown)
