"""What a dead destination costs the others: two network namespaces, in one the server, in the other ten destinations.

Nothing here has a route to anywhere else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import load
from tests.bench.servers import ROOT, BenchError, Postfix, Smtpmail, end

OTHERS = 9
SESSIONS = 2
"""For each destination."""

ALIVE, DEAD = "d10.example", "dead.example"
"""Where the tenth share of the mail goes: a destination like the other nine, or one that never answers."""


class Network:
    """The namespaces `near` (the server, its clients, the name server) and `far` (the destinations)."""

    def __init__(self) -> None:
        self._near, self._far = (f"bench-{os.getpid()}-{side}" for side in ("near", "far"))
        self.near = ("ip", "netns", "exec", self._near)
        self.far = ("ip", "netns", "exec", self._far)

    def up(self) -> None:
        """Makes it. Raises BenchError."""
        for name in (self._near, self._far):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "veth0", "netns", self._near, "type", "veth", "peer", "name", "veth0", "netns", self._far)
        _ip("-n", self._near, "address", "add", "192.0.2.1/24", "dev", "veth0")
        for number in range(1, OTHERS + 2):
            _ip("-n", self._far, "address", "add", f"{self.address(number)}/24", "dev", "veth0")
        for name in (self._near, self._far):
            _ip("-n", name, "link", "set", "veth0", "up")
        # The dead one: packets leave for a neighbour that has no such address, and drops them without a word.
        link = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
        _ip("-n", self._near, "neighbour", "add", "192.0.2.99", *link, "dev", "veth0")

    def down(self) -> None:
        """Removes what there is of it."""
        for name in (self._near, self._far):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, timeout=30)

    @staticmethod
    def address(number: int) -> str:
        """Of a destination that lives, from 1."""
        return f"192.0.2.{10 + number}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise BenchError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextlib.contextmanager
def network() -> Iterator[tuple[Network, list[load.Sink]]]:
    """The network with its name server, and the sinks of the nine and of the tenth."""
    with contextlib.ExitStack() as stack:
        net = Network()
        stack.callback(net.down)
        net.up()
        names = [f"d{n}.example={net.address(n)}" for n in range(1, OTHERS + 2)]
        command = [*net.near, sys.executable, "-m", "tests.bench.names", "127.0.0.1", *names, f"{DEAD}=192.0.2.99"]
        stack.callback(end, subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL))
        sinks = []
        for number in range(1, OTHERS + 2):
            sinks.append(load.Sink(net.address(number), 25, within=net.far))
            stack.callback(sinks[-1].stop)
        yield net, sinks


@contextlib.contextmanager
def _resolver_of(net: Network) -> Iterator[None]:
    """Programs in the near namespace ask the bench's name server: ip-netns(8) mounts this over /etc/resolv.conf."""
    folder = Path("/etc/netns", net.near[-1])
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        yield
    finally:
        shutil.rmtree(folder)


def run(
    net: Network, sinks: list[load.Sink], server: Smtpmail | Postfix, tenth: str, messages: int
) -> float:  # fmt: skip
    """Messages a second to the nine, when as many go to each of them and to the tenth. Raises BenchError."""
    with _resolver_of(net):
        try:
            server.start()
            share = messages // (OTHERS + 1)
            nine = sinks[:OTHERS]
            expected = sum(sink.received() for sink in nine) + OTHERS * share
            os.sync()
            begin = time.time()
            domains = [*(f"d{n}.example" for n in range(1, OTHERS + 1)), tenth]
            sources = [
                load.source(server.port, f"user@{domain}", share, SESSIONS, reuse=True, within=net.near)
                for domain in domains
            ]
            for source in sources:
                load.finish(source)
            load.wait_until(
                lambda: sum(sink.received() for sink in nine), expected, interval=0.005, what="nine destinations"
            )  # fmt: skip
            return OTHERS * share / (time.time() - begin)
        finally:
            server.stop()


def smtpmail(net: Network, folder: Path) -> Smtpmail:
    """This project in the near namespace."""
    return Smtpmail(folder, "--resolver", "127.0.0.1", within=net.near)


def postfix(net: Network, folder: Path) -> Postfix:
    """Postfix there."""
    return Postfix(folder, within=net.near, disable_dns_lookups="no", smtp_host_lookup="dns")
