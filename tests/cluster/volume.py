"""A GlusterFS volume on hosts of a test network, and all that can befall it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from smtpmail.admin import cluster
from tests.network.lab import Host, LabError, wait_until

NAME = "mail"
MOUNT = "/run/srv/mail"
BRICK = "/run/srv/brick"

# What `smtpmail check` asks of a volume, and:
OPTIONS = {
    **cluster.OPTIONS,
    "performance.read-ahead": "off",
    "performance.readdir-ahead": "off",
    # A host that is gone holds the others for so many seconds; bricks have given it up before.
    "network.ping-timeout": "5",
    "server.tcp-user-timeout": "3",
    "server.keepalive-time": "1",
    "server.keepalive-interval": "1",
    "network.frame-timeout": str(cluster.FRAME_SECONDS),
}


class Volume:
    """Replicated on all hosts of the lab, the last one as arbiter if there is to be one; mounted on all of them."""

    def __init__(self, hosts: Sequence[Host], *, arbiter: bool = True, folder: Path | None = None) -> None:
        """`folder`: where bricks lie, else in memory."""
        self.hosts = hosts
        self._arbiter = arbiter
        self._folder = folder
        self._mounts: dict[str, subprocess.Popen[bytes]] = {}

    def make(self, **options: str) -> None:
        """From nothing to mounted."""
        for host in self.hosts:
            self._prepare(host)
        for host in self.hosts:
            host.daemon("glusterd", "-N", "-L", "WARNING", port=24007, address=host.addresses[0])
        for other in self.hosts[1:]:
            self.gluster("peer", "probe", other.addresses[0])
        # Each of them must know all others: the volume is made on all.
        wait_until(lambda: all(self._peers(host) == len(self.hosts) - 1 for host in self.hosts), "peers", 60)
        bricks = [f"{host.addresses[0]}:{BRICK}/mail" for host in self.hosts]
        kind = ["replica", str(len(bricks)), *(["arbiter", "1"] if self._arbiter else [])]
        self.gluster("volume", "create", NAME, *kind, *bricks, "force")
        chosen = OPTIONS | {key.replace("_", "-"): value for key, value in options.items()}
        self.gluster("volume", "set", NAME, *(word for pair in chosen.items() for word in pair))
        self.gluster("volume", "start", NAME)
        for host in self.hosts:
            self.mount(host)

    def _prepare(self, host: Host) -> None:
        script = "mkdir -p /var/lib/glusterd/vols /var/log/glusterfs $1 $2"
        if self._folder is None:
            script += " && mount -t tmpfs -o mode=0755,size=1g brick $2"
        else:
            own = self._folder / host.name
            own.mkdir()
            script += f" && mount --bind {own} $2"
        host.run("sh", "-ec", script, "sh", MOUNT, BRICK)
        # There is no DNS: who asks for the name of an address would wait for it.
        host.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
        host.write("/etc/hosts", "".join(f"{h.addresses[0]} {h.name}\n" for h in self.hosts) + "127.0.0.1 localhost\n")

    def gluster(self, *words: str, host: Host | None = None) -> str:
        """What the command says."""
        return (host or self.hosts[0]).run("gluster", "--mode=script", *words, timeout=120).stdout

    def _peers(self, host: Host) -> int:
        return self.gluster("peer", "status", host=host).count("Peer in Cluster (Connected)")

    # -- mounts

    def mount(self, host: Host) -> None:
        """As mount(8) does it, with the client as a process of ours."""
        servers = [f"--volfile-server={h.addresses[0]}" for h in [host, *self.hosts]]
        client = host.spawn(
            "glusterfs", "-N", "--process-name", "fuse", *servers, f"--volfile-id={NAME}", "--log-level=WARNING",
            "--attribute-timeout=0", "--entry-timeout=0", MOUNT,
        )  # fmt: skip
        self._mounts[host.name] = client

        def mounted() -> bool:
            if client.poll() is not None:
                raise LabError(f"{host.name}: the volume can't be mounted")
            return any(line.split()[1] == MOUNT for line in host.run("cat", "/proc/mounts").stdout.splitlines())

        wait_until(mounted, f"mount on {host.name}", 30)

    def client(self, host: Host) -> subprocess.Popen[bytes]:
        """The process behind the mount of a host."""
        return self._mounts[host.name]

    def kill_mount(self, host: Host) -> None:
        """What is open in it fails from now on; mount it again."""
        self.client(host).kill()
        self.client(host).wait()
        host.run("umount", "-l", MOUNT)

    # -- bricks

    def bricks(self) -> list[int]:
        """The processes behind the bricks, in the order of the hosts; 0 for one that is not there."""
        status = self.gluster("volume", "status", NAME, "detail")
        pids = [int(pid) if pid.isdigit() else 0 for pid in re.findall(r"^Pid +: +(\S+)", status, re.MULTILINE)]
        return [pid if pid and Path(f"/proc/{pid}/exe").exists() else 0 for pid in pids]

    def kill_brick(self, host: Host) -> None:
        """As a power cut of its disk's host would, to the others."""
        os.kill(self.bricks()[self.hosts.index(host)], signal.SIGKILL)

    def restart_bricks(self) -> None:
        """Those that are not there. glusterd needs a moment to notice that one is gone, and starts none before."""

        def started() -> bool:
            with contextlib.suppress(LabError):
                self.gluster("volume", "start", NAME, "force")
                return len(pids := self.bricks()) == len(self.hosts) and all(pids)
            return False

        wait_until(started, "bricks", 90)

    def wait_healed(self) -> None:
        """Until each brick has all; else tells what waits."""
        try:
            wait_until(self.healed, "healing", 240)
        except LabError as error:
            raise LabError(f"{error}\n{self.gluster('volume', 'heal', NAME, 'info')}") from None

    def healed(self) -> bool:
        """Whether nothing waits for being copied to a brick that was away; else it is begun now."""
        counts = [line.rpartition(":")[2].strip() for line in self.gluster("volume", "heal", NAME, "info").splitlines()
                  if line.startswith("Number of entries")]  # fmt: skip
        if counts and set(counts) == {"0"}:
            return True
        with contextlib.suppress(LabError):
            self.gluster("volume", "heal", NAME)
        time.sleep(1)
        return False

    # -- the network

    @contextlib.contextmanager
    def cut_off(self, host: Host) -> Iterator[None]:
        """The host reaches no other, as long as this goes on."""
        host.run("ip", "link", "set", "eth0", "down")
        try:
            yield
        finally:
            host.run("ip", "link", "set", "eth0", "up")
