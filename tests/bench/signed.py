"""What a signature (DKIM, RSA-2048) costs: smtpmail, and Postfix with OpenDKIM as milter, with and without one."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from smtpmail.auth.dkim_keys import KeyFolder
from tests.bench import report
from tests.bench.measure import Result
from tests.bench.servers import DOMAIN, START_SECONDS, BenchError, Postfix, Server, Smtpmail, end
from tests.bench.work import Work

SELECTOR = "s"
MOST_CPU = 0.5
"""Milliseconds of CPU time that the signature of a message may cost."""

PLAIN, SIGNING = "smtpmail", "smtpmail, signing"
POSTFIX, WITH_MILTER = "Postfix", "Postfix + OpenDKIM"


class Signing(Smtpmail):
    """smtpmail with a key for its domain."""

    name = SIGNING


class WithMilter(Postfix):
    """Postfix, whose smtpd asks OpenDKIM for a signature."""

    name = WITH_MILTER

    def __init__(self, folder: Path, smarthost: int | None, keys: Path) -> None:
        # By TCP each message waits a while for both sides' habits (Nagle, delayed acknowledgements).
        self._socket = folder / "opendkim.sock"
        super().__init__(folder, smarthost, smtpd_milters=f"unix:{self._socket}")
        self._folder_of_milter = folder
        self._keys = keys
        self._milter: subprocess.Popen[bytes] | None = None
        self.helpers: tuple[int, ...] = ()
        """Processes that belong to it."""

    def start(self) -> None:
        self._folder_of_milter.mkdir(parents=True, exist_ok=True)
        settings = self._folder_of_milter / "opendkim.conf"
        settings.write_text(
            f"Mode s\nSocket local:{self._socket}\nUMask 0\nUserID root\nDomain {DOMAIN}\nSelector {SELECTOR}\n"
            f"KeyFile {self._keys / DOMAIN / SELECTOR}.pem\nRequireSafeKeys no\nCanonicalization relaxed/relaxed\n"
            "OversignHeaders From\nInternalHosts 127.0.0.1\n"
        )
        self._milter = subprocess.Popen(["opendkim", "-f", "-x", str(settings)], stdin=subprocess.DEVNULL)
        self.helpers = (self._milter.pid,)
        give_up = time.monotonic() + START_SECONDS
        while not self._socket.exists():
            if self._milter.poll() is not None or time.monotonic() > give_up:
                raise BenchError("OpenDKIM does not start")
            time.sleep(0.05)
        super().start()

    def stop(self) -> None:
        super().stop()
        if self._milter is not None:
            end(self._milter)


def servers(folder: Path, smarthost: int | None, options: Sequence[str], *, alone: bool) -> list[Server]:
    """Those that sign, as far as their programs are there."""
    keys = folder / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    KeyFolder(str(keys)).create(DOMAIN, "rsa", SELECTOR)
    found: list[Server] = [Signing(folder / "signing", *options, "--dkim-keys", str(keys), "--dkim-required")]
    if not alone and shutil.which("opendkim"):
        found.append(WithMilter(folder / "milter", smarthost, keys))
    return found


def table(results: Mapping[Work, Mapping[str, Sequence[Result]]], *, markdown: bool) -> str:
    """CPU time of a message with and without signature, and what is between them."""
    names = (PLAIN, SIGNING, POSTFIX, WITH_MILTER)
    rows, missed = [], False
    for work, of_server in results.items():
        cpu = {n: statistics.median(r.cpu for r in of_server[n]) * 1000 for n in names if of_server.get(n)}
        rates = {n: statistics.median(r.rate for r in of_server[n]) for n in names if of_server.get(n)}
        cost = cpu[SIGNING] - cpu[PLAIN]
        missed = missed or cost > MOST_CPU
        rows.append([
            work.name,
            *(f"{rates[n]:.0f} / {cpu[n]:.2f}" if n in cpu else "-" for n in names),
            f"{cost:.2f} (≤ {MOST_CPU:.2f}){'!' if cost > MOST_CPU else ''}",
            f"{cpu[WITH_MILTER] - cpu[POSTFIX]:.2f}" if {WITH_MILTER, POSTFIX} <= cpu.keys() else "-",
        ])  # fmt: skip
    header = ["msg/s / CPU ms", *names, "signature, ms", "OpenDKIM, ms"]
    text = report.table(header, rows, markdown=markdown)
    return text + ("\n\n! the goal is missed here" if missed else "")
