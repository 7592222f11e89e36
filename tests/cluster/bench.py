"""Messages a second on one host and on two, beside Postfix with Maildir, on the same volume with bricks on disk.

    PYTHONPATH=tests python -m tests.cluster.bench [FOLDER]      FOLDER: of bricks and queues, by default /var/tmp

Both are durable: Postfix syncs its queue file on a local disk and delivers afterwards, so that what counts is the time
until all messages are in the mailbox.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster.conftest import HOSTS
from tests.cluster.node import Node
from tests.cluster.volume import MOUNT, Volume
from tests.network.lab import Host, Lab, wait_until

MESSAGES = 600
SESSIONS = 20
SIZE = 4096

POSTFIX = f"""
compatibility_level = 3.6
maillog_file = /var/log/mail.log
myhostname = mail.dom.fr
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
virtual_mailbox_domains = dom.fr
virtual_mailbox_maps = static:bob/
virtual_mailbox_base = {MOUNT}/postfix
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_client_connection_count_limit = 0
"""


def send(hosts: Sequence[Host]) -> float:
    """Seconds until all has been acknowledged."""
    started = time.monotonic()
    sources = [
        host.spawn("smtp-source", "-d", "-s", str(SESSIONS), "-l", str(SIZE), "-m", str(MESSAGES // len(hosts)),
                   "-f", "a@dom.fr", "-t", "bob@dom.fr", "127.0.0.1:25")
        for host in hosts
    ]  # fmt: skip
    for source in sources:
        if source.wait(600):
            sys.exit("smtp-source failed")
    return time.monotonic() - started


def measure(hosts: Sequence[Host], count: Callable[[], int]) -> str:
    before, started = count(), time.monotonic()
    acknowledged = send(hosts)
    wait_until(lambda: count() - before >= MESSAGES // len(hosts) * len(hosts), "all delivered", 600)
    seconds = time.monotonic() - started
    return f"{MESSAGES / acknowledged:.0f} acknowledged, {MESSAGES / seconds:.0f} in the mailbox a second"


def postfix(host: Host, queue: Path) -> None:
    """Runs Postfix, whose queue is on the disk `queue`."""
    queue.mkdir()
    host.run("sh", "-ec", "mount --bind $1 /var/spool/postfix && postfix -v >/dev/null 2>&1 || true", "sh", str(queue))
    host.write("/etc/postfix/main.cf", POSTFIX)
    host.run("sh", "-ec", "postconf -MX smtps/inet submission/inet 2>/dev/null || true; postconf -F '*/*/chroot=n'")
    host.run("postfix", "start")
    wait_until(lambda: host.listens("127.0.0.1", 25), "Postfix", 30)


def main() -> None:
    """Prints a line for each."""
    folder = Path(tempfile.mkdtemp(prefix="smtpmail-bench-", dir=sys.argv[1] if len(sys.argv) > 1 else "/var/tmp"))
    try:
        with Lab(HOSTS) as lab:
            volume = Volume([lab[name] for name in HOSTS], folder=folder)
            volume.make()
            hosts = volume.hosts[:2]
            nodes = [Node(host, queue=str(folder / f"queue-{host.name}")) for host in hosts]
            for node in nodes:
                Path(node.queue).mkdir()
                node.start()
            bob = hosts[0].path(f"{MOUNT}/bob")
            for some in (hosts[:1], hosts):
                found = measure(some, lambda: sum(p.name.isdigit() for p in bob.iterdir()) if bob.exists() else 0)
                print(f"smtpmail, {len(some)} host(s): {found}", flush=True)
            for node in nodes:
                node.stop()
            if shutil.which("postfix", path="/usr/sbin:/usr/bin"):
                volume.hosts[0].run("install", "-d", "-o", "nobody", "-g", "nogroup", f"{MOUNT}/postfix")
                for host in hosts:
                    postfix(host, folder / f"postfix-{host.name}")
                new = hosts[0].path(f"{MOUNT}/postfix/bob/new")
                for some in (hosts[:1], hosts):
                    found = measure(some, lambda: len(list(new.iterdir())) if new.exists() else 0)
                    print(f"Postfix with Maildir, {len(some)} host(s): {found}", flush=True)
                for host in hosts:
                    subprocess.run(host.command("postfix", "stop"), check=False, capture_output=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
