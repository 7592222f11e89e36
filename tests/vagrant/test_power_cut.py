"""The power of `mail` fails in the middle of a stream of mail, several times: what it has accepted is not lost.

The emulator's process is killed. That takes the machine's memory with it; what the machine had flushed to its disk
stays (the disk's cache mode is `writeback`). Each cut proves of itself that it was one: a program that does not flush
loses what others saw it write. It has a file system of its own, which no other program flushes for it.

Environment: SMTPMAIL_SSH_CONFIG names the output of `vagrant ssh-config`, SMTPMAIL_DOMAIN_MAIL the libvirt domain.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
STREAM = (HERE / "stream.py").read_text()
SURVEY = (HERE / "survey.py").read_text()
CUTS_AFTER = [2.0, 5.0, 9.0]
"""Seconds of mail before each power cut, once it flows."""

TUNNEL_PORT = 2525
BOOT = 600.0
DELIVERY = 600.0
STEP = 300.0
"""Seconds for a boot, the delivery of what was queued, and any other step: under emulation, on a busy computer."""

WITNESS = "/var/tmp/witness"
"""Where the file system of the program that never flushes is mounted; its image lies beside it."""

# Made once, and mounted after each boot. Nothing but a flush writes there: the kernel's own writing of what is old is
# put off, for the whole machine, which makes it harder for the mail server, too.
MOUNT_WITNESS = f"""
set -e
if [ ! -e {WITNESS}.img ]; then
    truncate -s 64M {WITNESS}.part
    mke2fs -q -t ext4 {WITNESS}.part
    mv {WITNESS}.part {WITNESS}.img
    sync
fi
mkdir -p {WITNESS}
mountpoint -q {WITNESS} || mount -o loop {WITNESS}.img {WITNESS}
sysctl -q -w vm.dirty_expire_centisecs=360000
"""

# What any program may lose: it never flushes. Its count is seen on the outside as it writes it.
CARELESS = """
import sys, time
with open(sys.argv[1], 'w') as file:
    for count in range(100_000):
        file.write(f'{count}\\n')
        file.flush()
        print(count, flush=True)
        time.sleep(0.02)
"""


class Machine:
    """One of the network's machines, by ssh as root."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ssh = ["ssh", "-F", os.environ["SMTPMAIL_SSH_CONFIG"], "-o", "LogLevel=ERROR"]
        self.ssh += ["-o", "ConnectTimeout=60", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=12"]

    def run(self, command: str, given: str = "", timeout: float = STEP) -> str:
        """The command's standard output. Raises CalledProcessError, TimeoutExpired."""
        return subprocess.run(
            [*self.ssh, self.name, f"sudo {command}"],
            input=given, stdout=subprocess.PIPE, text=True, timeout=timeout, check=True,
        ).stdout  # fmt: skip

    def popen(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.ssh, self.name, f"sudo {command}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def survey(self, *folders: str) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = json.loads(self.run(f"python3 - {' '.join(folders)}", SURVEY))
        return found


MAIL, REMOTE = Machine("mail"), Machine("remote")
BOB, ANNA = "/var/spool/mail/bob", "/var/spool/mail/anna"
ALICE = "/home/alice/Maildir/new"


def eventually(what: Callable[[], bool], seconds: float, complaint: str) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"{complaint} within {seconds:.0f} s"
        time.sleep(1)


def virsh(*arguments: str) -> str:
    command = ["virsh", "--quiet", "--connect", "qemu:///system", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=STEP, check=True).stdout.strip()


def serves(machine: Machine) -> bool:
    """Whether the mail server of the machine answers."""
    with contextlib.suppress(subprocess.SubprocessError):
        return "220 mail.dom.fr" in machine.run("nc -w 20 127.0.0.1 25", "QUIT\r\n", timeout=60)
    return False


def cut_the_power() -> None:
    domain = os.environ["SMTPMAIL_DOMAIN_MAIL"]
    os.kill(int(Path(f"/run/libvirt/qemu/{domain}.pid").read_text()), signal.SIGKILL)
    eventually(lambda: virsh("domstate", domain) == "shut off", STEP, "the machine did not go")


def power_on() -> None:
    virsh("start", os.environ["SMTPMAIL_DOMAIN_MAIL"])
    eventually(lambda: serves(MAIL), BOOT, "the mail server did not come back")


def accepts(port: int) -> bool:
    """Whether somebody listens on this port here."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def tunnel() -> Iterator[None]:
    """TUNNEL_PORT of this machine is the loopback listener of `mail`: how a person sends from afar."""
    ssh = subprocess.Popen(
        [*MAIL.ssh, "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{TUNNEL_PORT}:localhost:25", MAIL.name]
    )
    try:
        eventually(lambda: accepts(TUNNEL_PORT), STEP, "ssh did not open the tunnel")
        yield
    finally:
        ssh.kill()
        ssh.wait()


class Sender:
    """One stream of mail; `accepted` grows with the tokens of the messages that got a 250."""

    def __init__(self, process: subprocess.Popen[str], program: str = "") -> None:
        self.accepted: set[str] = set()
        self._process = process
        if process.stdin:
            process.stdin.write(program)
            process.stdin.close()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.accepted.add(line.strip())

    def stop(self) -> None:
        self._process.terminate()
        self._reader.join(60)


@dataclass
class Streams:
    """Mail on its way into and out of `mail`, until the power cut ends it; and all that was accepted of it."""

    inbound: set[str] = field(default_factory=set)
    outbound: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Mail flows both ways, and over both address families, when this is entered."""
        # Several recipients at once: one copy stays here, one leaves.
        here = [sys.executable, str(HERE / "stream.py"), "127.0.0.1", str(TUNNEL_PORT)]
        here += ["bob@dom.fr", "anna@dom.fr", "alice@example.net"]
        with tunnel():
            senders = [
                Sender(REMOTE.popen("python3 - 192.0.2.10 25 alice@example.net bob@dom.fr"), STREAM),
                Sender(REMOTE.popen("python3 - 2001:db8::10 25 alice@example.net bob@dom.fr"), STREAM),
                Sender(subprocess.Popen(here, stdout=subprocess.PIPE, text=True)),
            ]
            try:
                eventually(lambda: all(sender.accepted for sender in senders), STEP, "mail does not flow")
                yield
                # A 250 of the last moment may still be on its way to us.
                time.sleep(3)
            finally:
                for sender in senders:
                    sender.stop()
        self.inbound |= senders[0].accepted | senders[1].accepted
        self.outbound |= senders[2].accepted


@pytest.fixture(scope="module")
def streams() -> Streams:
    return Streams()


@pytest.mark.parametrize("seconds", CUTS_AFTER)
def test_power_cut_in_a_stream_of_mail(streams: Streams, seconds: float) -> None:
    eventually(lambda: serves(MAIL), BOOT, "the mail server does not answer")
    MAIL.run("sh -s", MOUNT_WITNESS)
    unflushed = f"{WITNESS}/careless-{seconds}"
    with streams.running():
        careless = Sender(MAIL.popen(f"python3 - {unflushed}"), CARELESS)
        eventually(lambda: bool(careless.accepted), STEP, "the careless program does not write")
        time.sleep(seconds)
        cut_the_power()
    careless.stop()
    power_on()

    boot = MAIL.run("dmesg")
    MAIL.run("sh -s", MOUNT_WITNESS)
    kept = MAIL.run(f"sh -c 'cat {unflushed} 2>/dev/null || true'").split()
    assert len(kept) < len(careless.accepted), "not a power cut: what was never flushed is still there"
    assert "recovery complete" in boot, "not a power cut: the file system had been put away"

    found = MAIL.survey(BOB, ANNA)
    assert found[BOB]["odd"] == found[ANNA]["odd"] == []
    assert streams.inbound <= set(found[BOB]["tokens"]), "accepted from remote and lost"
    assert streams.outbound <= set(found[ANNA]["tokens"]), "accepted for a local user and lost"
    for folder in (BOB, ANNA):
        assert len(found[folder]["tokens"]) == len(set(found[folder]["tokens"])), "stored twice"
    print(
        f"cut {seconds} s into the stream: {len(streams.inbound)} messages in, {len(streams.outbound)} out until now; "
        f"{len(careless.accepted) - len(kept)} lines that were not flushed are lost"
    )


def test_queue_is_delivered_after_all_cuts(streams: Streams) -> None:
    assert streams.outbound, "nothing was sent before"

    def missing() -> set[str]:
        return streams.outbound - set(REMOTE.survey(ALICE)[ALICE]["tokens"])

    with contextlib.suppress(AssertionError):
        eventually(lambda: not missing(), DELIVERY, "not all were delivered")
    assert not missing(), f"accepted for the outside and not delivered; the queue: {MAIL.run('smtpmail queue list')}"
    assert REMOTE.survey(ALICE)[ALICE]["odd"] == []
