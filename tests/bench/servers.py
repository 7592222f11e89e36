"""The two servers, each with its files in a folder of its own on the disk under test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[2]

DOMAIN = "dom.fr"
"""The local domain of both servers."""


START_SECONDS = 30.0

USERS = 500
"""user0, user1, ..., and 1user0, ... for messages to several: Postfix must know them in advance."""


class BenchError(Exception):
    """The measurement cannot go on: one line for people."""


class Server(Protocol):
    """What a measurement needs to know of a server."""

    name: str
    port: int
    """Where it listens on 127.0.0.1."""
    pid: int
    """The process whose tree is the server."""

    def start(self) -> None:
        """Returns when the server accepts connections. Raises BenchError."""

    def stop(self) -> None:
        """Ends it; harmless when it does not run."""

    def delivered(self, user: str) -> list[str]:
        """Paths of all messages in a mailbox."""


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate and its key for both servers, in a folder that they can read. Raises BenchError."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    if not cert.exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "2", "-subj", f"/CN=mx.{DOMAIN}", "-keyout", str(key), "-out", str(cert)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode:
            raise BenchError(f"openssl failed: {' '.join(done.stderr.split())}")
    return cert, key


class Smtpmail:
    """This project, from this tree, with its defaults but for addresses and folders."""

    name = "smtpmail"

    def __init__(self, folder: Path, *options: str, within: Sequence[str] = ()) -> None:
        """`within` are words before the command, `ip netns exec NAME` for instance."""
        self.port = free_port()
        self.pid = 0
        self.spool = folder / "spool"
        self._folder = folder
        self._options = options
        self._within = within
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        cert, key = certificate(self._folder)
        settings, log = self._folder / "settings.toml", self._folder / "log"
        settings.touch()  # the machine's own settings are none of ours
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SMTPMAIL_")}
        command = [*self._within, sys.executable, "-m", "smtpmail", "--config", str(settings)]
        command += ["--tls-cert", str(cert), "--tls-key", str(key)]
        command += ["--spool", str(self.spool), "--suffix", DOMAIN, "--hostname", f"mx.{DOMAIN}"]
        command += ["--loopback", f"127.0.0.1:{self.port}", "--no-network", "--log-format", "json", *self._options]
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=output
            )  # fmt: skip
        self.pid = self._process.pid
        self._wait_for_start(log)

    def _wait_for_start(self, log: Path) -> None:
        assert self._process is not None
        give_up = time.monotonic() + START_SECONDS
        while b'"event": "server.started"' not in log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise BenchError(f"smtpmail does not start: {log.read_text(errors='replace')[-400:]!r}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def delivered(self, user: str) -> list[str]:
        try:
            with os.scandir(self.spool / user) as entries:
                return [entry.path for entry in entries if entry.name.isdigit()]
        except FileNotFoundError:
            return []


class Postfix:
    """A private Postfix: Debian's defaults, without chroot, name look-ups and the limits that would slow it down."""

    name = "Postfix"

    def __init__(self, folder: Path, smarthost: int | None = None, within: Sequence[str] = (), **settings: str) -> None:
        """Without a smarthost nothing leaves, unless `disable_dns_lookups` is "no"."""
        self._within = within
        self._settings = settings
        self.port = free_port()
        self.pid = 0
        self._folder = folder
        self._config = folder / "etc"
        self._smarthost = smarthost

    def start(self) -> None:
        owner = pwd.getpwnam("postfix")
        for name in ("etc", "queue", "data", "mail"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        for name in ("data", "mail"):
            os.chown(self._folder / name, owner.pw_uid, owner.pw_gid)
        cert, key = certificate(self._folder)
        settings: dict[str, object] = {
            "compatibility_level": "3.6",
            "queue_directory": self._folder / "queue",
            "data_directory": self._folder / "data",
            "mail_owner": "postfix",
            "myhostname": f"mx.{DOMAIN}",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "alias_maps": "",
            "virtual_mailbox_domains": DOMAIN,
            "virtual_mailbox_base": self._folder / "mail",
            "virtual_mailbox_maps": f"texthash:{self._config}/mailboxes",
            "virtual_uid_maps": f"static:{owner.pw_uid}",
            "virtual_gid_maps": f"static:{owner.pw_gid}",
            "maillog_file": self._folder / "log",
            "maillog_file_prefixes": self._folder,
            "smtpd_peername_lookup": "no",
            "smtpd_client_connection_rate_limit": "0",
            "smtpd_client_connection_count_limit": "0",
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
            "disable_dns_lookups": "yes",
            "in_flow_delay": "0",
            "message_size_limit": 50 * 1024**2,
            "mailbox_size_limit": "0",
            "virtual_mailbox_limit": "0",
            "smtpd_tls_cert_file": cert,
            "smtpd_tls_key_file": key,
            "smtpd_tls_security_level": "may",
        } | self._settings
        if self._smarthost is None and settings["disable_dns_lookups"] == "yes":
            settings["default_transport"] = "error:there is no way out"
        elif self._smarthost is not None:
            settings["relayhost"] = f"[127.0.0.1]:{self._smarthost}"
        (self._config / "main.cf").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
        users = ["sender", *(f"{first}user{n}" for first in ("", *range(1, 11)) for n in range(USERS))]
        (self._config / "mailboxes").write_text("".join(f"{user}@{DOMAIN} {user}/\n" for user in users))
        (self._config / "master.cf").write_text(self._services(Path("/etc/postfix/master.cf").read_text()))
        self._postfix("start", timeout=START_SECONDS)
        self.pid = int((self._folder / "queue/pid/master.pid").read_text())
        self._wait_for_greeting()

    def _wait_for_greeting(self) -> None:
        """master listens at once; it is the first smtpd that greets."""
        if self._within:
            time.sleep(2)  # it cannot be reached from here
            return
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as sock:
            if sock.recv(4) != b"220 ":
                raise BenchError(f"Postfix does not greet; its log is {self._folder / 'log'}")
            sock.sendall(b"QUIT\r\n")

    def _services(self, text: str) -> str:
        """Debian's master.cf with our port, nothing in a chroot, and the log to a file."""
        lines = []
        for line in text.splitlines():
            words = line.split()
            if not words or line[0] in "# \t":
                lines.append(line)
            elif words[:2] == ["smtp", "inet"]:
                lines.append(f"127.0.0.1:{self.port} inet n - n - - smtpd")
            elif words[0] != "postlog":
                lines.append(" ".join([*words[:4], "n", *words[5:]]))
        return "\n".join([*lines, "postlog unix-dgram n - n - 1 postlogd", ""])

    def _postfix(self, word: str, timeout: float) -> None:
        command = [*self._within, "postfix", "-c", str(self._config), word]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise BenchError(f"postfix {word} failed: {' '.join(done.stderr.split())}")

    def stop(self) -> None:
        if self.pid:
            self._postfix("stop", timeout=60)
            self.pid = 0

    def flush(self) -> None:
        """Tries everything that waits in its queue at once. Raises BenchError."""
        subprocess.run(["postqueue", "-c", str(self._config), "-f"], check=True, timeout=60)

    def change(self, **settings: str) -> None:
        """Settings for the next start."""
        self._settings |= settings

    def delivered(self, user: str) -> list[str]:
        try:
            with os.scandir(self._folder / "mail" / user / "new") as entries:
                return [entry.path for entry in entries]
        except FileNotFoundError:
            return []


def require_programs(*names: str) -> None:
    """Raises BenchError when a program is missing."""
    for name in names:
        if shutil.which(name) is None:
            raise BenchError(f"{name} is not on the PATH: apt-get install postfix iproute2")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for who does not listen."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=45)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
