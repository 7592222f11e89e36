"""What `smtpmail check` says of a file system that hosts share."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from smtpmail.admin import cluster
from smtpmail.admin.cluster import OPTIONS, RELEASE, Volume, findings, judge, ownership, parse
from smtpmail.settings.config import Config

GOOD = {**OPTIONS, **RELEASE, "network.ping-timeout": "10", "network.frame-timeout": "60"}

INFO = b"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<cliOutput><opRet>0</opRet><opErrno>0</opErrno><opErrstr/><volInfo><volumes><volume><name>mail</name>
<id>6a</id><status>1</status><statusStr>Started</statusStr><brickCount>3</brickCount><distCount>1</distCount>
<replicaCount>3</replicaCount><arbiterCount>1</arbiterCount><disperseCount>0</disperseCount>
<redundancyCount>0</redundancyCount><type>2</type><typeStr>Replicate</typeStr><optCount>1</optCount>
<options><option><name>performance.quick-read</name><value>off</value></option></options></volume>
<count>1</count></volumes></volInfo></cliOutput>"""


def test_what_gluster_says() -> None:
    assert parse(INFO, "mail") == Volume("mail", 3, 1, False, {"performance.quick-read": "off"})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", "no sense"),
        (b"<cliOutput><opErrstr>Volume mail does not exist</opErrstr></cliOutput>", "does not exist"),
        (b"<cliOutput/>", "knows no volume mail"),
    ],
)
def test_what_gluster_can_not_say(text: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        parse(text, "mail")


@pytest.mark.parametrize(
    ("volume", "levels"),
    [
        (Volume("mail", 3, 1, False, GOOD), []),
        (Volume("mail", 3, 0, False, GOOD), []),
        (Volume("mail", 1, 0, True, GOOD), []),
        (Volume("mail", 2, 0, False, GOOD), ["error"]),
        (Volume("mail", 1, 0, False, GOOD), ["error"]),
        (Volume("mail", 3, 1, False, GOOD | {"cluster.quorum-type": "none"}), ["error"]),
        (Volume("mail", 3, 1, False, GOOD | {"cluster.quorum-type": "fixed"}), ["error"]),
        (Volume("mail", 3, 0, False, GOOD | {"cluster.quorum-type": "fixed", "cluster.quorum-count": "1"}), ["error"]),
        (Volume("mail", 3, 0, False, GOOD | {"cluster.quorum-type": "fixed", "cluster.quorum-count": "2"}), []),
        (Volume("mail", 3, 1, False, {}), ["warning"] * 4),
        (Volume("mail", 3, 1, False, GOOD | {"client.strict-locks": "off"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"client.strict-locks": "enable"}), []),
        (Volume("mail", 3, 1, False, GOOD | {"performance.quick-read": "disable"}), []),
        (Volume("mail", 3, 1, False, GOOD | {"cluster.favorite-child-policy": "mtime"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"network.ping-timeout": "42"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"network.ping-timeout": "0"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"network.ping-timeout": "5"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"server.tcp-user-timeout": "0"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"server.tcp-user-timeout": "10"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"server.keepalive-time": "20"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"server.keepalive-interval": "8"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"network.frame-timeout": "1800"}), ["warning"]),
        (Volume("mail", 3, 1, False, GOOD | {"network.frame-timeout": "30"}), []),
    ],
)
def test_volumes(volume: Volume, levels: list[str]) -> None:
    found = list(judge(volume))
    assert [finding.level for finding in found] == levels, found
    assert all(finding.advice for finding in found)


@pytest.mark.parametrize(
    ("kind", "options", "levels"),
    [
        ("nfs4", "rw,vers=4.2", []),
        ("nfs", "rw,nolock", ["error"]),
        ("nfs", "rw,local_lock=none", []),
        ("fuse.sshfs", "rw", ["warning"]),
        ("ext4", "rw", []),
    ],
)
def test_locks_between_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, levels: list[str]
) -> None:
    (tmp_path / "mountinfo").write_text(
        f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {tmp_path} rw - {kind} nas:/x {options}\n"
    )
    monkeypatch.setattr("smtpmail.mounts.MOUNTINFO", str(tmp_path / "mountinfo"))
    config = Config(spool=str(tmp_path), given_queue="/var/lib/smtpmail")
    assert [f.level for f in findings(config)] == levels


def test_a_queue_of_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(f"2 1 0:2 / {tmp_path} rw - nfs4 nas:/x rw\n")
    monkeypatch.setattr("smtpmail.mounts.MOUNTINFO", str(tmp_path / "mountinfo"))
    (tmp_path / ".queue").mkdir()
    server = tmp_path / ".queue/.server"
    config = Config(spool=str(tmp_path))
    assert list(ownership(config)) == []
    server.write_text(f"12 on {socket.gethostname()}\n")
    assert list(ownership(config)) == []
    server.write_text("12 on elsewhere\n")
    assert ["elsewhere" in f.text for f in ownership(config)] == [True]
    assert server.read_text() == "12 on elsewhere\n"


def test_without_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(f"2 1 0:2 / {tmp_path} rw - fuse.glusterfs mx1:/mail rw\n")
    monkeypatch.setattr("smtpmail.mounts.MOUNTINFO", str(tmp_path / "mountinfo"))
    monkeypatch.setattr(cluster.shutil, "which", lambda *_, **__: None)
    (finding,) = findings(Config(spool=str(tmp_path), given_queue="/var/lib/smtpmail"))
    assert finding.level == "warning" and "no command gluster" in finding.text
