"""Mail servers besides Postfix, as far as they are on this machine (`tests/bench/fetch-peers`)."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import apart, processes
from tests.bench.servers import DOMAIN, ROOT, USERS, BenchError, Server, end, free_port

PYTHON = ROOT / ".cache/bench-peers/python"
START_SECONDS = 30.0
ACCOUNTS_FROM = 64100
"""User ids of accounts that only the peers see."""


class Peer:
    """A server that runs in the foreground, with its files and its log in a folder of its own."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.pid = 0
        self._folder = folder
        self._mail = folder / "mail"
        self._process: subprocess.Popen[bytes] | None = None
        self.group: processes.Group | None = None
        """Exim lets the kernel forget processes that delivered: the tree would lack their CPU time."""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mail.mkdir(exist_ok=True)
        os.chown(self._mail, pwd.getpwnam("mail").pw_uid, pwd.getpwnam("mail").pw_gid)
        environment = os.environ | {"PYTHONPATH": str(PYTHON)}
        command = self._command()
        with contextlib.suppress(OSError):
            self.group = processes.Group(f"smtpmail-bench-{os.getpid()}-{self.name.lower()}")
            command = self.group.entering(command)
        log = self._folder / "log"
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )  # fmt: skip
        self.pid = self._process.pid
        give_up = time.monotonic() + START_SECONDS
        while not self._greets():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise BenchError(f"{self.name} does not start: {log.read_text(errors='replace')[-400:]!r}")
            time.sleep(0.05)

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as sock:
                greeted = sock.recv(4) == b"220 "
                sock.sendall(b"QUIT\r\n")
                return greeted
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._end(self._process)
        if self.group is not None:
            self.group.remove()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        end(process)

    def delivered(self, user: str) -> list[str]:
        try:
            with os.scandir(self._mailbox(user) / "new") as entries:
                return [entry.path for entry in entries]
        except FileNotFoundError:
            return []

    def _mailbox(self, user: str) -> Path:
        return self._mail / user


class Aiosmtpd(Peer):
    """aiosmtpd with its own maildir handler: it syncs each message, but not the folder; one mailbox for all users."""

    name = "aiosmtpd"

    def _command(self) -> Sequence[str]:
        command = [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{self.port}"]
        return [*command, "-c", "aiosmtpd.handlers.Mailbox", str(self._mail / "all")]

    def _mailbox(self, user: str) -> Path:
        return self._mail / "all"


class Apart(Peer):
    """One with a root and a space of processes of its own."""

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        # The first process of a space hears no SIGTERM from within unless it asks for it; with it, all others end.
        for pid, fields in processes.tree(process.pid).items():
            if int(fields[1]) == process.pid:
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=START_SECONDS)


class Exim(Apart):
    """Exim as Debian has it, without look-ups, and with no limit that would make it leave mail in its queue."""

    name = "Exim"

    def _command(self) -> Sequence[str]:
        for number in range(USERS):
            # Exim makes a path only of what it has found on disk.
            (self._mail / f"user{number}").mkdir(exist_ok=True)
            os.chown(self._mail / f"user{number}", pwd.getpwnam("mail").pw_uid, pwd.getpwnam("mail").pw_gid)
        spool, logs = self._folder / "spool", self._folder / "logs"
        for folder in (spool, logs):
            folder.mkdir(exist_ok=True)
            os.chown(folder, ACCOUNTS_FROM, ACCOUNTS_FROM)
        settings = f"""
primary_hostname = mx.{DOMAIN}
domainlist local_domains = {DOMAIN}
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
spool_directory = {spool}
log_file_path = {logs}/%slog
acl_smtp_rcpt = check
host_lookup =
rfc1413_hosts =
helo_allow_chars = _
tls_advertise_hosts =
smtp_accept_max = 1000
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
keep_environment =
message_size_limit = 50M
begin acl
check:
  accept domains = +local_domains
begin routers
mailbox:
  driver = accept
  domains = +local_domains
  local_parts = dsearch;{self._mail}
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = {self._mail}/$local_part_data
  maildir_format
  user = mail
  group = mail
begin retry
* * F,1h,1m
"""
        files = {"/etc/exim4/exim4.conf": settings}
        accounts = {"Debian-exim": ACCOUNTS_FROM}
        return apart.command(self._folder, "", accounts, files, "/usr/sbin/exim4", "-bdf", "-q30m")


class OpenSMTPD(Apart):
    """OpenSMTPD as Debian has it; a session may have as many messages as the client likes."""

    name = "OpenSMTPD"

    def _command(self) -> Sequence[str]:
        spool = self._folder / "spool"
        spool.mkdir(exist_ok=True)
        spool.chmod(0o711)
        settings = f"""
smtp limit max-mails 1000000
table everybody {{ "@" = "mail" }}
listen on 127.0.0.1 port {self.port} hostname mx.{DOMAIN}
action "deliver" maildir "{self._mail}/%{{rcpt.user:lowercase}}" virtual <everybody>
match from any for domain "{DOMAIN}" action "deliver"
"""
        files = {"/etc/smtpd.conf": settings, "/var/lib/opensmtpd/empty/.keep": "", "/etc/mailname": f"mx.{DOMAIN}\n"}
        accounts = {"opensmtpd": ACCOUNTS_FROM + 1, "opensmtpq": ACCOUNTS_FROM + 2}
        return apart.command(self._folder, "/var/spool/smtpd", accounts, files, "/usr/sbin/smtpd", "-d")


def available(folder: Path) -> tuple[Sequence[Server], Sequence[str]]:
    """The servers that can be measured, and those that can't, each with the reason."""
    servers: list[Server] = []
    missing = []
    reasons = (
        (Aiosmtpd, "" if (PYTHON / "aiosmtpd").exists() else "tests/bench/fetch-peers fetches it"),
        (OpenSMTPD, apart.missing("/usr/sbin/smtpd")),
        (Exim, apart.missing("/usr/sbin/exim4")),
    )
    for kind, reason in reasons:
        if reason:
            missing.append(f"{kind.name} ({reason})")
        else:
            servers.append(kind(folder / kind.name.lower()))
    return servers, missing
