"""Three hosts with a replicated volume, the third one as arbiter, and what they need from the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import require

from tests.cluster.node import Node
from tests.cluster.volume import MOUNT, Volume
from tests.network.lab import Lab

HOSTS = {"mx1": ["192.0.2.11/24"], "mx2": ["192.0.2.12/24"], "arbiter": ["192.0.2.13/24"]}


@pytest.fixture(scope="session")
def volume() -> Iterator[Volume]:
    require.root()
    for name in ("ip", "nsenter", "unshare", "setpriv"):
        require.tool(name)
    for name in ("glusterd", "glusterfs", "gluster"):
        require.tool(name, "glusterfs-server (tests/cluster/setup)")
    if not Path("/dev/fuse").exists():
        require.missing("/dev/fuse")
    with Lab(HOSTS) as lab:
        made = Volume([lab[name] for name in HOSTS])
        made.make()
        yield made


@pytest.fixture
def whole(volume: Volume) -> Iterator[Volume]:
    """The volume, empty, with all its bricks and mounts; afterwards it is so again."""
    for path in volume.hosts[0].path(MOUNT).iterdir():
        volume.hosts[0].run("rm", "-rf", f"{MOUNT}/{path.name}", timeout=900)
    yield volume
    volume.restart_bricks()
    for host in volume.hosts:
        if volume.client(host).poll() is not None:
            volume.mount(host)
    volume.wait_healed()


Start = Callable[..., Node]


@pytest.fixture
def node(whole: Volume) -> Iterator[Start]:
    """Makes a node of a host of this name; its server is ended with the test."""
    hosts = {host.name: host for host in whole.hosts}
    made: list[Node] = []

    def make(name: str, *options: str, queue: str | None = None) -> Node:
        made.append(Node(hosts[name], *options, queue=queue))
        hosts[name].run("mkdir", "-p", made[-1].queue)
        return made[-1]

    yield make
    for each in made:
        each.kill()
        if not each.queue.startswith(MOUNT):
            each.host.run("rm", "-rf", each.queue)


ROUNDS = int(os.environ.get("SMTPMAIL_CLUSTER_ROUNDS", "1"))
"""Of each kind of crash."""
