"""A machine whose mail server is the one under test: programs on it find `/usr/sbin/sendmail`, as they expect.

Its /etc, /usr and /var are copies on write of this machine's, in namespaces that end with the program that runs there.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import require
from support.server import Server, clean_environment

ROOT = Path(__file__).parents[2]

_BOOT = """
set -eu
mount -t tmpfs -o mode=0755,size=64m tmpfs /run
for top in etc usr var; do
    mkdir -p /run/.layers/$top /run/.layers/.$top
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=/run/.layers/$top,workdir=/run/.layers/.$top" /$top
done
mkdir -p /etc/smtpmail
cp "$1" /etc/smtpmail/smtpmail.toml
for name in sbin/sendmail bin/mailq bin/newaliases lib/sendmail; do
    rm -f /usr/$name
    cp "$2" /usr/$name
done
# Nothing that this machine does at a time of its own.
rm -rf /etc/cron.d /var/spool/cron/crontabs/* /var/spool/cron/atjobs/*
: >/etc/crontab
sh -euc "$3"
"""


def sendmail_script() -> str:
    """A program that is sendmail, mailq or newaliases, by its name."""
    start = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom smtpmail.admin.sendmail import main\nmain()\n"
    return f"#!{sys.executable}\n{start}"


class Machine:
    """Runs programs of others. `folder` is where it keeps its files, `server` takes their mail."""

    def __init__(self, folder: Path, server: Server) -> None:
        if os.geteuid():
            require.missing("root, for namespaces")
        host, port = server.address()
        self._settings = folder / "smtpmail.toml"
        self._settings.write_text(
            f'loopback = ["{host}:{port}"]\nsuffix = ["dom.fr"]\nhostname = "mail.dom.fr"\nspool = "{server.spool}"\n'
        )
        self._sendmail = folder / "sendmail"
        self._sendmail.write_text(sendmail_script())
        self._sendmail.chmod(0o755)

    def command(self, *words: str) -> list[str]:
        """The command that does it there, and whatever it started ends with it."""
        return self.script(shlex.join(words))

    def script(self, text: str) -> list[str]:
        """The same for a script of the shell."""
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*unshare, "sh", "-c", _BOOT, "sh", str(self._settings), str(self._sendmail), text]

    def run(self, *words: str, text: str = "", status: int = 0) -> str:
        """Runs a program to its end; what it said."""
        ran = subprocess.run(
            self.command(*words), input=text, capture_output=True, text=True, timeout=300, check=False,
            env=clean_environment({"LC_ALL": "C.UTF-8", "HOME": "/run"}), cwd="/",
        )  # fmt: skip
        assert ran.returncode == status, (ran.stdout, ran.stderr)
        return ran.stdout + ran.stderr

    @contextmanager
    def running(self, text: str) -> Iterator[subprocess.Popen[bytes]]:
        """While in this context, a script runs."""
        made = subprocess.Popen(
            self.script(text), stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
            env=clean_environment({"LC_ALL": "C.UTF-8", "HOME": "/run"}),
        )  # fmt: skip
        try:
            yield made
        finally:
            os.killpg(made.pid, signal.SIGKILL)
            made.wait()
