"""Which account of this host is at the other end of a loopback connection, and how much it may send in an hour.

So that a web form that was broken into, or a phone that was stolen, does not ruin the address of the host. Root is not
bounded: it could lift any bound.
"""

from __future__ import annotations

import hashlib
import ipaddress
import mmap
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from smtpmail.log import log
from smtpmail.mail.envelope import Envelope
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal

HOUR = 3600.0

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST = 1  # NLM_F_REQUEST
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF


class Peers:
    """Asks the kernel whose a connection is (sock_diag(7)); one for each process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._netlink: socket.socket | None = None

    def uid(self, sock: socket.socket) -> int | None:
        """The user id at the other end of a TCP connection within this host; None when the kernel does not tell."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        try:
            theirs, ours = sock.getpeername(), sock.getsockname()
            with self._lock:
                return self._ask(sock.family, theirs, ours)
        except (OSError, ValueError, struct.error):
            return None

    def _ask(self, family: int, theirs: tuple[str, int], ours: tuple[str, int]) -> int | None:
        if self._netlink is None:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG)
            # The kernel answers before `send` returns: should it ever not, nobody waits.
            self._netlink.setblocking(False)
        identity = struct.pack("!HH16s16s", theirs[1], ours[1], _octets(theirs[0]), _octets(ours[0]))
        identity += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
        body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + identity
        try:
            self._netlink.send(struct.pack("=IHHII", 16 + len(body), _BY_FAMILY, _REQUEST, 0, 0) + body)
            answer = self._netlink.recv(8192)
        except OSError:
            # A late answer must not be taken for the next one's.
            self._netlink.close()
            self._netlink = None
            raise
        (kind,) = struct.unpack_from("=H", answer, 4)
        if kind != _BY_FAMILY:
            return None
        (uid,) = struct.unpack_from("=I", answer, 16 + 4 + len(identity) + 12)
        return int(uid)


def _octets(address: str) -> bytes:
    return ipaddress.ip_address(address.partition("%")[0]).packed.ljust(16, b"\0")


class Rates:
    """Messages and recipients of each account, and of each user with a device, in the present hour, over all processes:
    each writes its own part.

    Two processes that count at the same instant may exceed a bound by one.
    """

    SLOTS = 256
    """Accounts that can be told apart in a process; those that come later in the hour are not bounded."""

    WIDTH = 4
    """Numbers of an account: its key, hour, messages, recipients."""

    def __init__(
        self, processes: int, max_messages: int, max_recipients: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._most = (max_messages, max_recipients)
        self._clock = clock
        self._part = self.SLOTS * self.WIDTH
        self._numbers = memoryview(mmap.mmap(-1, processes * self._part * 8)).cast("q")
        self._start = 0
        self._lock = threading.Lock()
        self._told: set[tuple[int, int]] = set()

    def use_part(self, process: int) -> None:
        """From here on this process counts in its own part."""
        self._start = process * self._part
        self._lock = threading.Lock()

    def message(self, envelope: Envelope) -> None:
        """Counts a message. Raises Refusal when it is one too many."""
        self._count(envelope, 0)

    def recipient(self, envelope: Envelope) -> None:
        """Counts a recipient. Raises Refusal when it is one too many."""
        self._count(envelope, 1)

    def _count(self, envelope: Envelope, what: int) -> None:
        key = _key_of(envelope)
        if key is None:
            return
        # Counted from 1: a slot of zeros is one of the past.
        hour = int(self._clock() // HOUR) + 1
        with self._lock:
            slot = self._slot(key, hour)
            if slot is None:
                return
            if self._total(key, hour, what) < self._most[what]:
                self._numbers[slot + 2 + what] += 1
                return
            is_news = (key, hour) not in self._told
            self._told = {told for told in self._told if told[1] == hour} | {(key, hour)}
        if is_news:
            messages, recipients = (self._total(key, hour, n) for n in (0, 1))
            log.warning(
                "account.limited",
                uid=envelope.peer.uid if envelope.peer else None,
                account=envelope.user or _name(envelope),
                messages=messages,
                recipients=recipients,
                hint="--max-messages-per-account, --max-recipients-per-account",
            )
        raise Refusal(replies.ACCOUNT_LIMITED)

    def _slot(self, key: int, hour: int) -> int | None:
        """Where this process counts for an account; emptied when the hour is another one."""
        numbers, free = self._numbers, None
        for slot in range(self._start, self._start + self._part, self.WIDTH):
            if numbers[slot] == key:
                free = slot
                break
            if free is None and numbers[slot + 1] != hour:
                free = slot
        if free is not None and (numbers[free] != key or numbers[free + 1] != hour):
            for place, value in enumerate((key, hour, 0, 0)):
                numbers[free + place] = value
        return free

    def _total(self, key: int, hour: int, what: int) -> int:
        numbers = self._numbers
        return sum(
            numbers[slot + 2 + what]
            for slot in range(0, len(numbers), self.WIDTH)
            if numbers[slot] == key and numbers[slot + 1] == hour
        )


def _key_of(envelope: Envelope) -> int | None:
    """What stands for who sends: positive for an account of this host, negative for a user with a device. Never 0."""
    if envelope.user is not None:
        digest = hashlib.blake2b(envelope.user.encode(), digest_size=7).digest()
        return -1 - int.from_bytes(digest, "big")
    uid = envelope.peer.uid if envelope.peer else None
    return uid + 1 if uid else None


def _name(envelope: Envelope) -> str | None:
    # Loaded only here: it is seldom asked.
    import pwd  # noqa: PLC0415

    with suppress(KeyError):
        if envelope.peer is not None and envelope.peer.uid is not None:
            return pwd.getpwuid(envelope.peer.uid).pw_name
    return None
