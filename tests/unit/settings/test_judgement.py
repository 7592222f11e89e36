"""What the start refuses and what `smtpmail check` says: one judgement, which touches nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from smtpmail.settings import judgement, sources
from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


def configured(spool: Path, **options: object) -> Config:
    return sources.load(
        {"spool": str(spool), "suffix": ("dom.fr",), "given_hostname": "mail.dom.fr", **options}, {}, os.devnull
    )


def found(spool: Path, environment: dict[str, str] | None = None, **options: object) -> list[tuple[str, str]]:
    """Level and setting of each finding."""
    return [(f.level, f.subject) for f in judgement.judge(configured(spool, **options), environment or {})]


def test_nothing_to_say(spool: Path) -> None:
    assert found(spool) == []


@pytest.mark.parametrize(
    ("queue", "setting"),
    [
        ("spool", "--queue"),
        ("spool/", "--queue"),
        ("link", "--queue"),
        ("spool/bob", "--queue"),
        ("spool/bob/.queue", "--queue"),
        ("spool/queue/deeper", "--queue"),
        (".", "--spool"),
        ("spool/../spool/bob", "--queue"),
    ],
)
def test_folders_in_each_other(tmp_path: Path, spool: Path, queue: str, setting: str) -> None:
    """A queue where a mailbox could be, or the other way round."""
    (tmp_path / "link").symlink_to(spool)
    assert found(spool, given_queue=str(tmp_path / queue)) == [("error", setting)]


@pytest.mark.parametrize("queue", ["spool/.queue", "spool/.a/b", "queue", "spool2"])
def test_folders_apart(tmp_path: Path, spool: Path, queue: str) -> None:
    assert found(spool, given_queue=str(tmp_path / queue)) == []


def test_nothing_is_made(tmp_path: Path) -> None:
    spool = tmp_path / "a" / "b"
    assert found(spool) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["file", "file/below", "dangling", "dangling/below"])
def test_folders_that_cannot_be(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert ("error", "--spool") in found(tmp_path / path)


@pytest.mark.parametrize(
    ("mode", "levels"), [(0o700, []), (0o750, []), (0o777, ["warning"]), (0o770, ["warning"]), (0o1777, ["warning"])]
)
def test_a_queue_that_others_write_to(spool: Path, tmp_path: Path, mode: int, levels: list[str]) -> None:
    queue = tmp_path / "queue"
    queue.mkdir()
    queue.chmod(mode)
    assert found(spool, given_queue=str(queue)) == [(level, "--queue") for level in levels]


def test_a_spool_that_everybody_writes_to(spool: Path) -> None:
    spool.chmod(0o1777)
    assert found(spool) == [("warning", "--spool")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"given_hostname": "localhost"}, [("warning", "--hostname")]),
        ({"suffix": ("dom.fr", "localhost")}, [("warning", "--suffix")]),
        ({"given_hostname": "mail.localdomain"}, [("warning", "--hostname")]),
        ({"given_hostname": "localhost", "no_network": True}, []),
        ({"timeout": "0.5"}, [("warning", "--timeout")]),
        ({"reply_timeout": "0.5"}, [("warning", "--reply-timeout")]),
        ({"max_size": "10K"}, [("warning", "--max-size")]),
        ({"max_recipients": "99"}, [("warning", "--max-recipients")]),
        ({"delay_notice": "5d"}, [("warning", "--delay-notice")]),
        ({"queue_lifetime": "30s", "delay_notice": "10s"}, [("warning", "--retry-schedule")]),
        ({"min_free": "999999G"}, [("warning", "--min-free")]),
        ({"listen": ("127.0.0.1",)}, [("error", "--listen")]),
        ({"listen": ("127.0.0.1:2525",)}, []),
        ({"listen": ("127.0.0.1:0",), "loopback": ("127.0.0.1:0",)}, []),
        ({"listen": ("127.0.0.1",), "no_network": True}, []),
        ({"listen": ("192.0.2.77",)}, [("error", "--listen")]),
        ({"tls_key": "/k"}, [("error", "--tls-key")]),
        ({"smarthost_auth": "/k"}, [("error", "--smarthost-auth")]),
        ({"bind_address": ("127.0.0.1", "127.0.0.2")}, [("error", "--bind-address")]),
        ({"bind_address": ("192.0.2.77",)}, [("error", "--bind-address")]),
        ({"bind_address": ("::1",), "address_family": "ipv4"}, [("error", "--bind-address")]),
        ({"bind_address": ("127.0.0.1",), "address_family": "ipv4"}, []),
    ],
)
def test_what_does_not_go_together(spool: Path, options: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(spool, **options) == expected


def test_more_connections_than_descriptors(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, 500))
    assert found(spool) == [("warning", "--max-connections")]


def test_sockets_of_systemd_have_addresses_of_their_own(spool: Path) -> None:
    assert found(spool, {"LISTEN_FDS": "1"}, listen=("192.0.2.77",)) == []


def test_a_misspelt_variable(spool: Path) -> None:
    assert found(spool, {"SMTPMAIL_PROT": "2525"}) == [("warning", "SMTPMAIL_PROT")]


def test_the_start_refuses_what_is_an_error(spool: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--queue: .* is the spool"):
        judgement.require(configured(spool, given_queue=str(spool)), {})
    assert [f.subject for f in judgement.require(configured(spool, timeout="1"), {})] == ["--timeout"]


# -- what hosts share


def on(kind: str, point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is a mount of that type."""
    table = point.parent / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / {point} rw - {kind} mx1:/mail rw\n")
    monkeypatch.setattr("smtpmail.mounts.MOUNTINFO", str(table))


@pytest.mark.parametrize("kind", ["fuse.glusterfs", "nfs4", "ceph"])
def test_a_queue_on_a_shared_spool_is_named_after_its_host(
    spool: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    on(kind, spool, monkeypatch)
    assert found(spool) == [("warning", "--queue")]
    name = os.uname().nodename.partition(".")[0]
    assert found(spool, given_queue=str(spool / f".queue.{name}")) == []
    assert found(spool, shared_spool="no") == []


def test_a_spool_that_must_be_shared(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its mount is there, the folder is on a local disk: mail stored there would be hidden by the mount."""
    assert configured(spool).is_shared is False
    on("ext4", spool, monkeypatch)
    assert found(spool, shared_spool="yes")[0] == ("error", "--shared-spool")
    on("fuse.exotic", spool, monkeypatch)
    assert ("error", "--shared-spool") not in found(spool, shared_spool="yes")
    assert configured(spool, shared_spool="yes").is_shared is True


def test_a_file_system_that_hangs_is_said(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on("fuse.glusterfs", spool, monkeypatch)
    monkeypatch.setattr(judgement.machine, "answers", lambda path, seconds: False)
    with pytest.raises(ConfigError, match=r"--spool: the file system of .* does not answer \(mx1:/mail\)"):
        judgement.require(configured(spool), {})
