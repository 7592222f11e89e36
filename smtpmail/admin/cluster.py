"""What `smtpmail check` says of what hosts share: locks between hosts, quorum, caches, and whose the queue is."""

from __future__ import annotations

import math
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from smtpmail import mounts
from smtpmail.settings.config import Config
from smtpmail.settings.finding import Finding
from smtpmail.spool.claim import last_owner

LOCKS = frozenset({"fuse.glusterfs", "nfs4", "nfs", "ceph", "fuse.ceph", "fuse.ceph-fuse", "ocfs2", "gfs2"})
"""Types on which POSIX locks hold between hosts."""

NO_LOCKS = ("nolock", "local_lock=all", "local_lock=posix")
"""Options of an NFS mount with which they do not."""

COMMAND_SECONDS = 10.0

OPTIONS = {
    "client.strict-locks": "on",
    "performance.quick-read": "off",
    "performance.io-cache": "off",
    "performance.stat-prefetch": "off",
    "performance.open-behind": "off",
    "performance.write-behind": "off",
    "cluster.favorite-child-policy": "majority",
}
"""Of a GlusterFS volume: a host that was cut off can't go on under a lock that another one has by now, what one host
has written another one reads at once, and of two files of one name the one on most copies counts: what was under way to
the brick of the host that was cut off gives way to what the others have acknowledged."""

PING_SECONDS = 20
"""The longest wait for a host that is gone (network.ping-timeout); GlusterFS's own is 42."""

PING = {"network.ping-timeout": "10"}
"""What is advised instead."""

RELEASE = {"server.tcp-user-timeout": "5", "server.keepalive-time": "2"}
"""After how many seconds a brick gives up a host that it cannot reach, and with it the host's locks.

That must come before the host itself gives up the brick (network.ping-timeout). Else it may be back, by a new
connection, while the brick still has locks of the old one; and what waits there for an inode lock to remove a file is
not told when the lock goes with its connection (GlusterFS 10.3, 11.1 and its development branch of 2024,
pl_inodelk_client_cleanup): the removal stays under way, and all that wait for its name with it.
"""

FRAME_SECONDS = 60
"""The longest wait for a brick that lives and does not answer (network.frame-timeout); GlusterFS's own is 1800."""


@dataclass(frozen=True, slots=True)
class Volume:
    """What `gluster volume info` says."""

    name: str
    replicas: int
    arbiters: int
    dispersed: bool
    options: Mapping[str, str] = field(default_factory=dict)


def ownership(config: Config) -> Iterator[Finding]:
    """An error when the queue is another host's: the server would not start. Nothing is made or changed."""
    owner = last_owner(config.queue) if config.is_queue_shared else ""
    if owner not in ("", socket.gethostname()):
        yield _finding(
            "--queue",
            "error",
            f"{config.queue} is the queue of the host {owner}",
            "give each host a --queue of its own",
        )


def findings(config: Config) -> Iterator[Finding]:
    """Whether the shared file system keeps what is promised; errors are what costs mail sooner or later."""
    mount = mounts.mount_of(config.spool) if config.is_shared else None
    if mount is None:
        return
    yield from _locks(mount)
    if mount.kind == "fuse.glusterfs":
        name = mount.source.rpartition(":")[2].strip("/")
        try:
            volume = volume_of(name)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            yield _finding(
                "--spool", "warning", f"the quorum of the volume {name} can't be seen: {error}",
                "ask on one of its servers, as root",
            )  # fmt: skip
        else:
            yield from judge(volume)


def _finding(subject: str, level: str, text: str, advice: str = "") -> Finding:
    return Finding("cluster", subject, level, text, advice)


def _locks(mount: mounts.Mount) -> Iterator[Finding]:
    without = [option for option in mount.options if option in NO_LOCKS]
    if without:
        yield _finding(
            "--spool", "error", f"{mount.point} is mounted with {without[0]}: its locks do not hold between hosts",
            "mount it without",
        )  # fmt: skip
    elif mount.kind not in LOCKS:
        yield _finding(
            "--spool", "warning", f"whether locks hold between hosts is not known of {mount.kind}",
            "GlusterFS, NFSv4 and CephFS are known to do so",
        )  # fmt: skip


def volume_of(name: str) -> Volume:
    """A volume of GlusterFS. Raises OSError without the command, SubprocessError, ValueError."""
    command = shutil.which("gluster", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
    if command is None:
        raise FileNotFoundError("there is no command gluster on this host")
    done = subprocess.run(  # noqa: S603
        [command, "--mode=script", "--xml", "volume", "info", name],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").split("\n")[0]
        raise ValueError(f"gluster says: {said or done.returncode}")
    return parse(done.stdout, name)


def parse(text: bytes, name: str) -> Volume:
    """The answer of `gluster --xml volume info`. Raises ValueError."""
    try:
        tree = ElementTree.fromstring(text)  # noqa: S314 - of a command of root's
    except ElementTree.ParseError:
        raise ValueError("gluster's answer makes no sense") from None
    for volume in tree.iter("volume"):
        if volume.findtext("name") == name:
            numbers = {tag: int(volume.findtext(tag) or 0) for tag in ("replicaCount", "arbiterCount", "disperseCount")}
            options = {o.findtext("name") or "": o.findtext("value") or "" for o in volume.iter("option")}
            return Volume(name, numbers["replicaCount"], numbers["arbiterCount"], numbers["disperseCount"] > 0, options)
    said = tree.findtext("opErrstr")
    raise ValueError(said or f"gluster knows no volume {name}")


def judge(volume: Volume) -> Iterator[Finding]:
    """Whether a volume keeps what is promised: two halves that do not see each other may not both be written to."""
    subject = f"volume {volume.name}"
    if not volume.dispersed:
        if volume.replicas < 3:
            kept = "each file once" if volume.replicas < 2 else "two copies and nobody to decide between them"
            yield _finding(
                subject, "error", f"it has {kept}: a broken disk or network loses mail, or makes two of one number",
                "replica 3, or replica 3 arbiter 1",
            )  # fmt: skip
        else:
            yield from _quorum(volume, subject)
    yield from (_finding(subject, "warning", text, _set(volume, options)) for text, options in _missing(volume))


def _missing(volume: Volume) -> Iterator[tuple[str, Mapping[str, str]]]:
    """What may come of the volume's options, and the options that see to it."""
    wrong = {key: value for key, value in OPTIONS.items() if not _is(volume.options.get(key), value)}
    if wrong:
        yield (
            "hosts may see each other's changes late, write without their lock, or not heal: " + ", ".join(wrong),
            wrong,
        )
    ping = _seconds(volume, "network.ping-timeout", 42)
    if ping > PING_SECONDS:
        yield f"a host that dies holds up all others for {ping:g} seconds", PING
    release = max(
        _seconds(volume, "server.tcp-user-timeout", 42),
        _seconds(volume, "server.keepalive-time", 20) + _seconds(volume, "server.keepalive-interval", 2),
    )
    if release >= ping:
        yield (
            f"a host that was cut off may be back after {ping:g} seconds, while a brick holds its old locks for "
            f"{release:g}: GlusterFS may hang then",
            {**RELEASE, **PING},
        )
    frame = _seconds(volume, "network.frame-timeout", 1800)
    if frame > FRAME_SECONDS:
        yield (
            f"what a brick does not answer holds up mail for {frame:g} seconds",
            {"network.frame-timeout": str(FRAME_SECONDS)},
        )


def _set(volume: Volume, options: Mapping[str, str]) -> str:
    """The command that gives a volume these options."""
    return " ".join(["gluster volume set", volume.name, *(f"{key} {value}" for key, value in options.items())])


def _seconds(volume: Volume, key: str, default: int) -> float:
    """What an option says; 0 stands for no limit."""
    value = volume.options.get(key, str(default))
    return float(value) if value.isdigit() and int(value) else math.inf


def _quorum(volume: Volume, subject: str) -> Iterator[Finding]:
    kind = volume.options.get("cluster.quorum-type", "auto")
    count = volume.options.get("cluster.quorum-count", "")
    majority = volume.replicas // 2 + 1
    if kind == "none" or (kind == "fixed" and (not count.isdigit() or int(count) < majority)):
        yield _finding(
            subject, "error", f"cluster.quorum-type {kind}: it takes less than {majority} of {volume.replicas} copies",
            _set(volume, {"cluster.quorum-type": "auto"}),
        )  # fmt: skip


def _is(value: str | None, wanted: str) -> bool:
    """GlusterFS takes on, yes, true, enable, 1 for the same."""
    on = {"on", "yes", "true", "enable", "1"}
    if wanted in ("on", "off"):
        return value is not None and (value.lower() in on) == (wanted == "on")
    return value == wanted
