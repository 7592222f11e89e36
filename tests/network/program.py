"""smtpmail itself, running on a host of the test network, and what a test asks it or reads from it."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import signal
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from . import certificates
from .lab import Host, LabError, wait_until
from .nameservers import RESOLVER

CHECKOUT = Path(__file__).parents[2]
DOMAINS = ("dom.test", "v4.dom.test", "v6.dom.test")
HOSTNAME = "mail.dom.test"
USERS = ("alice", "bob", "carol", "josé")
STOP_SECONDS = 40.0

Entry = dict[str, Any]
"""One line of the log."""


@dataclass(frozen=True)
class Sent:
    """A message that the program has acknowledged."""

    id: str
    subject: str


class Program:
    """One run of the server: `smtpmail --spool ... -s dom.test ...` with both listeners on port 25 of the host."""

    def __init__(self, host: Host, folder: Path, *options: str) -> None:
        self.host = host
        self.spool = folder / "spool"
        self._log: list[Entry] = []
        self._log_ended = False
        self._changed = threading.Condition()
        users = folder / "users"
        users.write_text("".join(f"{user}\n" for user in USERS))
        self._options = [
            *(word for domain in DOMAINS for word in ("-s", domain)),
            "--hostname", HOSTNAME, "--spool", str(self.spool), "--users", str(users), "--resolver", RESOLVER,
            "--log-format", "json", "--log-level", "debug", *options,
        ]  # fmt: skip

    # --- its life

    def start(self) -> None:
        """Start it and wait until it serves."""
        command = [sys.executable, "-m", "smtpmail", *self._options]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "SSL_CERT_FILE": certificates.AUTHORITY}
        self._process = self.host.spawn(*command, stderr=subprocess.PIPE, text=True, env=environment)
        self._log_ended = False
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self.wait_for("server.started", pid=self._process.pid)

    def stop(self) -> int:
        """Stop it gracefully; returns its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"the program does not stop within {STOP_SECONDS:g} s; {self._tail()}") from None
        self._reader.join(STOP_SECONDS)
        return status

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "not json", "line": line}
            with self._changed:
                self._log.append(entry)
                self._changed.notify_all()
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()

    # --- its log

    def events(self, event: str, **fields: Any) -> list[Entry]:
        """All entries so far of that event whose fields have these values."""
        with self._changed:
            return [entry for entry in self._log if _matches(entry, event, fields)]

    def wait_for(self, event: str, *others: str, timeout: float = 15.0, count: int = 1, **fields: Any) -> Entry:
        """Wait for the `count`th entry of that event, or of one of the others, whose fields have these values."""
        found: list[Entry] = []

        def there() -> bool:
            found[:] = [entry for entry in self._log for name in (event, *others) if _matches(entry, name, fields)]
            return len(found) >= count or self._log_ended

        with self._changed:
            self._changed.wait_for(there, timeout)
        if len(found) < count:
            raise LabError(f"no {' or '.join((event, *others))} with {fields} within {timeout:g} s; {self._tail()}")
        return found[count - 1]

    def _tail(self) -> str:
        lines = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in self._log[-40:])
        return f"its log ends with:\n{lines}"

    # --- sending through its loopback listener

    def send(
        self,
        *recipients: str,
        sender: str = "alice@dom.test",
        subject: str = "",
        body: str = "A body.",
        server: str = "127.0.0.1",
        options: Sequence[str] = (),
    ) -> Sent:
        """Hand it a message with swaks; raises LabError when it is not acknowledged."""
        subject = subject or f"test {time.time_ns()}"
        said = self.host.run(
            "swaks",
            "--server",
            server,
            "--port",
            "25",
            "--ehlo",
            "localhost",
            "--timeout",
            "15s",
            "--from",
            sender,
            "--to",
            ",".join(recipients),
            "--h-Subject",
            subject,
            "--body",
            body,
            *options,
        ).stdout
        return self._sent(said, subject)

    def post(self, *recipients: str, sender: str = "alice@dom.test", body: str = "A body.\n") -> Sent:
        """The same with a simple message by smtplib, which takes a tenth of the time."""
        subject = f"test {time.time_ns()}"
        content = f"From: {sender}\nSubject: {subject}\nMessage-ID: <{time.time_ns()}@dom.test>\n\n{body}"
        return self.submit(content.replace("\n", "\r\n").encode(), *recipients, sender=sender)

    def submit(
        self,
        content: bytes,
        *recipients: str,
        sender: str = "alice@dom.test",
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> Sent:
        """Hand it a message with smtplib, for what swaks cannot say: 8-bit contents, SMTPUTF8, DSN parameters."""
        with self.host.call(smtplib.SMTP, "127.0.0.1", 25, "localhost", 15) as client:
            client.ehlo()
            replies = [client.mail(sender, mail_options), *(client.rcpt(each, rcpt_options) for each in recipients)]
            replies.append(client.data(content))
        if any(code // 100 != 2 for code, _ in replies):
            raise LabError(f"not acknowledged: {replies}")
        subject = email.message_from_bytes(content, policy=email.policy.SMTPUTF8)["Subject"]
        return self._sent(replies[-1][1].decode(), subject)

    @staticmethod
    def _sent(said: str, subject: str) -> Sent:
        found = re.search(r"queued as (\S+)", said)
        if found is None:
            raise LabError(f"not acknowledged: {said}")
        return Sent(found[1], subject)

    # --- its mailboxes

    def mailbox(self, user: str) -> list[EmailMessage]:
        """The messages of a user, as a reader sees them: those that have their .status."""
        folder = self.spool / user
        if not folder.is_dir():
            return []
        numbers = sorted(int(name) for name in os.listdir(folder) if name.isdigit())
        return [parse(folder / str(number)) for number in numbers if (folder / f"{number}.status").exists()]

    def wait_for_mail(
        self, user: str, accept: Callable[[EmailMessage], bool], what: str = "a message", timeout: float = 15.0
    ) -> EmailMessage:
        """Wait for the first message in the user's mailbox that `accept` says yes to."""

        def find() -> EmailMessage | None:
            return next((message for message in self.mailbox(user) if accept(message)), None)

        try:
            found = wait_until(find, f"{what} in the mailbox of {user}", timeout)
        except LabError as error:
            raise LabError(f"{error}; {self._tail()}") from None
        assert found is not None
        return found

    def wait_for_subject(self, user: str, subject: str, timeout: float = 15.0) -> EmailMessage:
        return self.wait_for_mail(user, lambda message: message["Subject"] == subject, repr(subject), timeout)


def parse(path: Path) -> EmailMessage:
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.SMTPUTF8)
    assert isinstance(message, EmailMessage)
    return message


def _matches(entry: Entry, event: str, fields: dict[str, Any]) -> bool:
    return entry.get("event") == event and all(entry.get(name) == value for name, value in fields.items())
