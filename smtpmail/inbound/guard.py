"""Who may read and send from afar: device passwords, and patience with those who guess.

No guess has a chance against the passwords of devices; what is limited here is the noise, the log and the load.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
import time
from collections.abc import Callable

from smtpmail.imap.header import Header
from smtpmail.log import log
from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain
from smtpmail.mail.envelope import Peer
from smtpmail.mail.mailbox_list import find_addresses
from smtpmail.mail.route import Local, Route
from smtpmail.smtp.replies import Refusal
from smtpmail.users.devices import Device, DeviceError, Devices
from smtpmail.users.users import user_named, user_of

FIRST_DELAY = 0.5
"""Seconds before a wrong password is answered; doubled with each more ..."""

LONGEST_DELAY = 8.0
"""... up to so many."""

MAX_FAILURES = 20
"""Wrong passwords from one address (an IPv6 /64) ..."""

WINDOW = 600.0
"""... within so many seconds, and no password from there is looked at for as long."""


class FailedLogins:
    """Counts failures by a key, for WINDOW seconds from the first on, over all processes.

    Each writes its own part of the shared memory and reads all, so that no lock is needed between them. A key has a few
    places where it may stand: where all are taken, the oldest makes room.
    """

    SLOTS = 4096
    """Keys that are remembered in each process."""

    PLACES = 8
    WIDTH = 3
    """Numbers of a slot: key, when the first failure was (ms, monotonic), how many there are."""

    def __init__(self, processes: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._part = self.SLOTS * self.WIDTH
        self._numbers = memoryview(mmap.mmap(-1, processes * self._part * 8)).cast("q")
        self._start = 0
        self._lock = threading.Lock()

    def use_part(self, process: int) -> None:
        """From here on this process counts in its own part."""
        self._start = process * self._part
        self._lock = threading.Lock()

    def count(self, key: str) -> int:
        """Failures that count now."""
        number, since = _number_of(key), self._now() - int(WINDOW * 1000)
        return sum(
            self._numbers[slot + 2]
            for start in range(0, len(self._numbers), self._part)
            for slot in self._places(start, number)
            if self._numbers[slot] == number and self._numbers[slot + 1] >= since
        )

    def failed(self, key: str) -> int:
        """One more; returns how many there are."""
        numbers, number, now = self._numbers, _number_of(key), self._now()
        with self._lock:
            places = self._places(self._start, number)
            slot = next((s for s in places if numbers[s] == number), None)
            if slot is None:
                slot = min(places, key=lambda s: numbers[s + 1])
                numbers[slot + 2] = 0
            if not numbers[slot + 2] or now - numbers[slot + 1] > WINDOW * 1000:
                numbers[slot], numbers[slot + 1], numbers[slot + 2] = number, now, 0
            numbers[slot + 2] += 1
        return self.count(key)

    def forget(self, key: str) -> None:
        """The right password came."""
        number = _number_of(key)
        for start in range(0, len(self._numbers), self._part):
            for slot in self._places(start, number):
                if self._numbers[slot] == number:
                    self._numbers[slot + 2] = 0

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _places(self, start: int, number: int) -> list[int]:
        """Where in a part a key may stand."""
        return [start + (number + place) % self.SLOTS * self.WIDTH for place in range(self.PLACES)]


def _number_of(key: str) -> int:
    """Never 0, which is an empty slot."""
    return 1 + int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=7).digest(), "big")


class Gatekeeper:
    """Decides about names and passwords; one for the process. `pause` sleeps for some seconds.

    A user is never locked out by the failures of others, or any stranger could do it: wrong passwords for a user are
    answered ever more slowly, wherever they come from, and an address that goes on is not listened to any more.
    """

    def __init__(
        self,
        devices: Devices,
        domains: tuple[str, ...],
        *,
        exists: Callable[[str], bool],
        failures: FailedLogins | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.devices = devices
        self._domains = domains
        self._exists = exists
        self._pause = pause
        self._failures = failures or FailedLogins()

    def log_in(self, name: str, password: str, peer: Peer) -> Device | None:
        """The device whose password it is, None if there is none; takes its time with wrong ones."""
        address = f"address {peer.networks[0]}"
        if self._failures.count(address) >= MAX_FAILURES:
            if self._is_news(f"blocked {address}"):
                log.warning("login.blocked", client=peer.name, door=peer.listener, user=_shown(name))
            self._pause(LONGEST_DELAY)
            return None
        user = user_named(name, self._domains)
        device = None
        if user is not None:
            try:
                device = self.devices.find(user, password)
            except DeviceError as error:
                if self._is_news("devices"):
                    log.error("devices.unreadable", error=str(error))
                self._pause(FIRST_DELAY)
                return None
        if user is None or device is None or not self._exists(user):
            failures = max(self._failures.failed(address), self._failures.failed(f"user {user or ''}"))
            log.warning("login.failed", client=peer.name, door=peer.listener, user=_shown(name), failures=failures)
            self._pause(min(FIRST_DELAY * 2 ** (failures - 1), LONGEST_DELAY))
            return None
        self._failures.forget(address)
        self._failures.forget(f"user {user}")
        self.devices.note_use(device, peer.address)
        log.info("login.succeeded", client=peer.name, door=peer.listener, user=user, device=device.device)
        return device

    def _is_news(self, what: str) -> bool:
        """Whether it is said for the first time within WINDOW: the log is not for strangers to fill."""
        return self._failures.failed(what) == 1

    def names(self, address: Address, user: str) -> bool:
        """Whether the address is the user's own name, with or without a detail, wherever their mail goes on to."""
        try:
            return normal_domain(address.domain) in self._domains and user_of(address.local) == user
        except AddressSyntaxError:
            return False


class Submitter:
    """Who sends through one connection, and as whom. `routes` finds the ways of mail for an address (Refusal: none)."""

    def __init__(self, gatekeeper: Gatekeeper, peer: Peer, routes: Callable[[Address], tuple[Route, ...]]) -> None:
        self._gatekeeper = gatekeeper
        self._peer = peer
        self._routes = routes
        self._device: Device | None = None

    def log_in(self, name: str, password: str) -> str | None:
        """The user whose password it is."""
        self._device = self._gatekeeper.log_in(name, password, self._peer)
        return self._device.user if self._device is not None else None

    def may_send_as(self, address: Address) -> bool:
        """Whether mail for the address comes to the user: then it may come from there, too. The null sender may."""
        device = self._device
        if device is None or not self._gatekeeper.devices.has(device):
            return False
        if address.is_null or self._gatekeeper.names(address, device.user):
            return True
        try:
            routes = self._routes(address)
        except Refusal:
            return False
        return any(isinstance(route, Local) and route.user == device.user for route in routes)

    def may_have_written(self, head: bytes) -> bool:
        """Whether all addresses in From are the user's."""
        for value in Header(head).all(b"from"):
            for found in find_addresses(value.decode("utf-8", "replace")):
                local, at, domain = found.text.rpartition("@")
                if not at or not self.may_send_as(Address(local, domain)):
                    return False
        return True


def _shown(name: str) -> str:
    return name[:200]
