"""What the running server is told of its queue: bounded, from known accounts only, never an error."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import require

from smtpmail.spool import wake
from smtpmail.spool.wake import Note, decode

ID = "0660f49b352707d03dc"


@pytest.mark.parametrize(
    "note", [Note(ID), Note(ID, "held"), Note(ID, "removed", "anna"), Note(ID, "retried", "svc-mail@host.x_1")]
)
def test_there_and_back(note: Note) -> None:
    assert decode(note.encode()) == note
    assert len(note.encode()) <= wake.NOTE_LIMIT


@pytest.mark.parametrize(
    "data",
    [b"", b" ", b"../etc", b"X", ID.encode() + b" burnt", f"{ID} held a b".encode(), f"{ID} held \x1b[2J".encode(),
     f"{ID}  anna".encode(), f"{ID}\nheld".encode(), b"\xff" * 20, b"a" * 65],
)  # fmt: skip
def test_what_is_no_note(data: bytes) -> None:
    assert decode(data) is None


def test_a_name_that_is_none_is_left_out() -> None:
    assert decode(Note(ID, "held", "eve\n0660 removed").encode()) == Note(ID, "held")


@given(st.binary(max_size=200))
def test_any_datagram(data: bytes) -> None:
    note = decode(data)
    assert note is None or decode(note.encode()) == note


def test_over_the_socket(tmp_path: Path) -> None:
    path = str(tmp_path / ".wake")
    assert not wake.send(path, Note(ID)), "nobody listens"
    with wake.listen(path) as sock:
        assert wake.send(path, Note(ID, "held", "anna"))
        assert wake.receive(sock) == Note(ID, "held", "anna")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.sendto(b"a" * 500, path)
            assert wake.receive(sock) is None
    assert not wake.send(path, Note(ID)), "it is gone, its name is not"
    wake.listen(path).close()


def test_other_accounts_are_not_heard(tmp_path: Path) -> None:
    """Even if the rights of the folder let them in."""
    require.root()
    path = str(tmp_path / ".wake")
    with wake.listen(path) as sock:
        pid = os.fork()
        if not pid:
            os.chdir(tmp_path)
            tmp_path.chmod(0o755)
            Path(path).chmod(0o777)
            os.setuid(65534)
            os._exit(0 if wake.send(".wake", Note(ID, "removed")) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert wake.receive(sock) is None
