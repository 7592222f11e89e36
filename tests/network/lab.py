"""Hosts of the test network: small machines made of Linux namespaces.

A host has a network namespace of its own (`ip netns list` shows it), joined to the others by a bridge that has no way
out: no uplink, no default route, documentation addresses only (RFC 5737, RFC 3849).  It also has a private mount
namespace in which /etc, /var and /usr are copy-on-write layers over the machine's own and /run is empty, so that a
daemon finds and writes its customary paths and the machine never sees it.  Everything lives in memory and is gone with
the lab.

Needs root.  Names are `netlab-PID-HOST`, PID being the test run's: a lab whose run was killed is removed by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PREFIX = "netlab-"
NETNS = Path("/run/netns")
COMMAND_TIMEOUT = 30.0
"""Seconds any command of the lab may take."""

_CLONE_NEWNET = 0x40000000

# What a host does before its programs start.  $1: folder of an unpacked package whose usr is laid over /usr, may be
# empty; $2: the host's name.  The write layers lie on the tmpfs that becomes /run, because an overlay cannot be written
# to an overlay, which the machine's own file system may be.
_BOOT = """
set -eu
mount -t tmpfs -o mode=0755,size=512m tmpfs /run
for top in usr etc var; do
    mkdir -p /run/.layers/$top /run/.layers/.$top
    lower=/$top
    [ $top != usr ] || lower=${1:+$1/usr:}/usr
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=/run/.layers/$top,workdir=/run/.layers/.$top" /$top
done
hostname "$2"
echo ready
exec sleep infinity
"""


class LabError(Exception):
    """A command of the lab failed; the text names it and repeats what it said."""


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.  Raises LabError when it fails or takes longer than COMMAND_TIMEOUT."""
    options = {"timeout": COMMAND_TIMEOUT, "text": True, "check": False, **options}
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, **options)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: not done after {error.timeout} s") from error
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def wait_until(condition: Callable[[], T], what: str, timeout: float = 15.0) -> T:
    """Return the first true value of `condition`, asking 50 times a second.  Raises LabError after `timeout` seconds.

    For what foreign programs do; our own program is waited for by its log's events.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:g} s")
        time.sleep(0.02)


@dataclass
class Host:
    """One host: its addresses and the ways to do something on it."""

    name: str
    addresses: Sequence[str]
    namespace: str
    _init: subprocess.Popen[str]
    _children: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The host's file system, seen from outside."""
        return Path(f"/proc/{self._init.pid}/root")

    def path(self, absolute: str) -> Path:
        """A path of the host (/etc/passwd) as the test reaches it."""
        return self.root / absolute.lstrip("/")

    def write(self, absolute: str, text: str, mode: int = 0o644) -> None:
        path = self.path(absolute)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def command(self, *argv: str) -> list[str]:
        """The command as run on the host.  The process keeps its PID, so that signals reach it.

        It ends with the thread that starts it (prctl(2), PR_SET_PDEATHSIG): start daemons from the main thread.
        """
        enter = ["nsenter", "--target", str(self._init.pid), "--net", "--mount", "--uts", "--"]
        return ["setpriv", "--pdeathsig", "KILL", "--", *enter, *argv]

    def run(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end; raises LabError when it fails."""
        return run(*self.command(*argv), **options)

    def spawn(self, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a program on the host.  It is ended with the lab at the latest."""
        child = subprocess.Popen(self.command(*argv), stdin=subprocess.DEVNULL, **options)
        self._children.append(child)
        return child

    def daemon(self, *argv: str, port: int = 25, address: str = "127.0.0.1") -> subprocess.Popen[Any]:
        """Start a foreign daemon in the foreground and wait until it listens; its output goes to /run/NAME.out."""
        name = Path(argv[0]).name
        with self.path(f"/run/{name}.out").open("ab") as output:
            child = self.spawn(*argv, stdout=output, stderr=output)

        def listens() -> bool:
            if child.poll() is not None:
                said = self.path(f"/run/{name}.out").read_text(errors="replace")
                raise LabError(f"{name} on {self.name} ended with status {child.returncode}: {said}")
            return self.listens(address, port)

        wait_until(listens, f"{name} on {self.name} listening on {address} port {port}")
        return child

    def listens(self, address: str, port: int) -> bool:
        """Whether something on the host accepts connections there."""

        def connect() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=2):
                return True
            return False

        return self.call(connect)

    def call(self, function: Callable[..., T], *args: Any, **keywords: Any) -> T:
        """Call a function whose new sockets belong to the host's network.

        A thread of its own enters the namespace (setns(2) is per thread), so the test itself stays where it is.
        """
        outcome: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                with (NETNS / self.namespace).open() as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"cannot enter the namespace {self.namespace}")
                outcome.append(function(*args, **keywords))
            except BaseException as error:  # handed to the caller, whatever it is
                failure.append(error)

        thread = threading.Thread(target=inside, name=f"on-{self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def listener(self, address: str, port: int = 25) -> socket.socket:
        """A listening TCP socket on the host, for a server that runs in the test itself."""

        def listen() -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(200)
            return sock

        return self.call(listen)


class Lab:
    """All hosts and the bridge between them.  A context manager: leaving it leaves nothing behind."""

    def __init__(self, hosts: Mapping[str, Sequence[str]], packages: Mapping[str, Path] | None = None) -> None:
        """`hosts`: name and addresses (each with its prefix length).  `packages`: an unpacked package per host."""
        self._specification = hosts
        self._packages = packages or {}
        self._wire = self._namespace("wire")
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Lab:
        remove_stale()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def close(self) -> None:
        for host in self:
            for child in [*host._children, host._init]:
                if child.poll() is None:
                    child.kill()
                child.wait(COMMAND_TIMEOUT)
        remove(os.getpid())

    @staticmethod
    def _namespace(name: str) -> str:
        return f"{PREFIX}{os.getpid()}-{name}"

    def _build(self) -> None:
        run("ip", "netns", "add", self._wire)
        run("ip", "-n", self._wire, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        run("ip", "-n", self._wire, "link", "set", "br0", "up")
        inits = {name: self._boot(name) for name in self._specification}
        for name, init in inits.items():
            assert init.stdout is not None
            if init.stdout.readline() != "ready\n":
                raise LabError(f"host {name} does not start: {init.communicate(timeout=5)[1].strip()}")

    def _boot(self, name: str) -> subprocess.Popen[str]:
        namespace = self._namespace(name)
        addresses = self._specification[name]
        run("ip", "netns", "add", namespace)
        for setting in ("all.disable_ipv6=0", "default.disable_ipv6=0", "default.accept_ra=0"):
            run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"net.ipv6.conf.{setting}")
        run(
            "ip",
            "-n",
            self._wire,
            "link",
            "add",
            "name",
            name,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace,
        )
        run("ip", "-n", self._wire, "link", "set", "dev", name, "master", "br0", "up")
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        for number, address in enumerate(addresses):
            options = []
            if ":" in address:
                # Usable at once, without a second of duplicate address detection; and the first one is the source of
                # what the host sends, as the first is with IPv4.
                first = not any(":" in earlier for earlier in addresses[:number])
                options = ["nodad"] if first else ["nodad", "preferred_lft", "0"]
            run("ip", "-n", namespace, "address", "add", address, "dev", "eth0", *options)
        enter = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", namespace]
        unshare = ["unshare", "--mount", "--uts", "--propagation", "private"]
        init = subprocess.Popen(
            [*enter, *unshare, "sh", "-c", _BOOT, "sh", str(self._packages.get(name, "")), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.hosts[name] = Host(name, [address.split("/")[0] for address in addresses], namespace, init)
        return init


def remove_stale() -> None:
    """Remove the labs of test runs that no longer exist."""
    for owner in {int(path.name.split("-")[1]) for path in NETNS.glob(f"{PREFIX}*-*")}:
        if not Path(f"/proc/{owner}").exists():
            remove(owner)


def remove(owner: int) -> None:
    """Remove the namespaces of one test run and end every process inside them."""
    for path in NETNS.glob(f"{PREFIX}{owner}-*"):
        deadline = time.monotonic() + COMMAND_TIMEOUT
        # A daemon may just be forking: ask again until nobody is left.
        while pids := _processes(path.name):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(f"processes {pids} in {path.name} do not end")
            time.sleep(0.01)
        run("ip", "netns", "delete", path.name)


def _processes(namespace: str) -> list[int]:
    """Processes that live in a namespace; zombies, which nobody can end, do not count."""
    living = []
    for pid in map(int, run("ip", "netns", "pids", namespace).stdout.split()):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and pid != os.getpid():
                living.append(pid)
    return living
