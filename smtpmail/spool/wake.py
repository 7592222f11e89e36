"""What the running server is told about its queue, by the socket `.wake` in the folder of the queue.

A note is one datagram of at most NOTE_LIMIT octets, words between spaces: the id of a message; when a person changed
it, also how, and who. What counts stands on disk: a note that is lost, doubled or wrong costs time, no mail.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from dataclasses import dataclass

NAME = ".wake"
NOTE_LIMIT = 128

PATIENCE = 30.0
"""Seconds that a note waits for room in the socket: without it a new message would lie there until the next start."""

CHANGES = ("retried", "held", "released", "removed", "adopted")

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_ID = re.compile(r"[0-9a-z]{1,64}")
_ACCOUNT = re.compile(r"[A-Za-z0-9_.@-]{1,32}")


@dataclass(frozen=True, slots=True)
class Note:
    """`change` is one of CHANGES, or empty when no person is behind it; `by` the account of that person, if known."""

    id: str
    change: str = ""
    by: str = ""

    def encode(self) -> bytes:
        """As it travels."""
        by = self.by if self.change and _ACCOUNT.fullmatch(self.by) else ""
        return " ".join(filter(None, (self.id, self.change, by))).encode("ascii", "replace")


def decode(data: bytes) -> Note | None:
    """The note in a datagram; None when it is none."""
    words = data.decode("ascii", "replace").split(" ")
    match words:
        case [id_] if _ID.fullmatch(id_):
            return Note(id_)
        case [id_, change] if _ID.fullmatch(id_) and change in CHANGES:
            return Note(id_, change)
        case [id_, change, by] if _ID.fullmatch(id_) and change in CHANGES and _ACCOUNT.fullmatch(by):
            return Note(id_, change, by)
    return None


def listen(path: str) -> socket.socket:
    """A socket of that path, in place of one that a server before left. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket) -> Note | None:
    """Waits for a datagram; None when it is no note, or comes from an account that has no business here.

    Raises OSError.
    """
    data, ancillary, flags, _ = sock.recvmsg(NOTE_LIMIT, socket.CMSG_SPACE(_CREDENTIALS.size))
    if flags & socket.MSG_TRUNC:
        return None
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            _, uid, _ = _CREDENTIALS.unpack(value[: _CREDENTIALS.size])
            return decode(data) if uid in (0, os.geteuid()) else None
    return None


def send(path: str, note: Note) -> bool:
    """Tells the server that listens there; returns whether there is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.sendto(note.encode(), path)
        except TimeoutError:
            return True  # it is there, and overwhelmed
        except OSError:
            return False
    return True
