"""Who may read and send from afar: device passwords, and patience with those who guess.

No guess has a chance against the passwords of devices; what is limited here is the noise, the log and the load.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from smtpmail.imap.header import Header
from smtpmail.log import log
from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain
from smtpmail.mail.envelope import Peer
from smtpmail.mail.mailbox_list import find_addresses
from smtpmail.mail.route import Local, Route
from smtpmail.smtp.replies import Refusal
from smtpmail.users.devices import Device, DeviceError, Devices
from smtpmail.users.users import user_of

FIRST_DELAY = 0.5
"""Seconds before a wrong password is answered; doubled with each more ..."""

LONGEST_DELAY = 8.0
"""... up to so many."""

MAX_FAILURES = 20
"""Wrong passwords from one address (an IPv6 /64) ..."""

WINDOW = 600.0
"""... within so many seconds, and no password from there is looked at for as long."""

MAX_KEPT = 10_000
"""Addresses and users whose failures are remembered."""


@dataclass(slots=True)
class _Failures:
    count: int
    since: float


class Patience:
    """Counts failures by a key, for WINDOW seconds from the first on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, _Failures] = {}

    def count(self, key: str) -> int:
        """Failures that count now."""
        with self._lock:
            failures = self._failures.get(key)
            if failures is None:
                return 0
            if self._clock() - failures.since > WINDOW:
                del self._failures[key]
                return 0
            return failures.count

    def failed(self, key: str) -> int:
        """One more; returns how many there are."""
        with self._lock:
            now = self._clock()
            failures = self._failures.get(key)
            if failures is None or now - failures.since > WINDOW:
                if len(self._failures) >= MAX_KEPT:
                    oldest = min(self._failures, key=lambda k: self._failures[k].since)
                    del self._failures[oldest]
                failures = self._failures[key] = _Failures(0, now)
            failures.count += 1
            return failures.count

    def forget(self, key: str) -> None:
        """The right password came."""
        with self._lock:
            self._failures.pop(key, None)


class Gatekeeper:
    """Decides about names and passwords; one for the process. `pause` sleeps for some seconds."""

    def __init__(
        self,
        devices: Devices,
        domains: tuple[str, ...],
        *,
        exists: Callable[[str], bool],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.devices = devices
        self._domains = domains
        self._exists = exists
        self._pause = pause
        self._patience = Patience()

    def log_in(self, name: str, password: str, peer: Peer) -> Device | None:
        """The device whose password it is, None if there is none; takes its time with wrong ones."""
        address = f"address {peer.networks[0]}"
        if self._patience.count(address) >= MAX_FAILURES:
            self._pause(LONGEST_DELAY)
            log.warning("login.blocked", client=peer.name, door=peer.listener, user=_shown(name))
            return None
        user = self._user(name)
        device = None
        if user is not None:
            try:
                device = self.devices.find(user, password)
            except DeviceError as error:
                log.error("devices.unreadable", error=str(error))
                return None
        if user is None or device is None or not self._exists(user):
            failures = max(self._patience.failed(address), self._patience.failed(f"user {user or ''}"))
            log.warning("login.failed", client=peer.name, door=peer.listener, user=_shown(name), failures=failures)
            self._pause(min(FIRST_DELAY * 2 ** (failures - 1), LONGEST_DELAY))
            return None
        self._patience.forget(address)
        self._patience.forget(f"user {user}")
        self.devices.note_use(device, peer.address)
        log.info("login.succeeded", client=peer.name, door=peer.listener, user=user, device=device.device)
        return device

    def names(self, address: Address, user: str) -> bool:
        """Whether the address is the user's own name, with or without a detail, wherever their mail goes on to."""
        try:
            return normal_domain(address.domain) in self._domains and user_of(address.local) == user
        except AddressSyntaxError:
            return False

    def _user(self, name: str) -> str | None:
        """The user that a login names: `bob` or `bob@dom.fr`."""
        local, at, domain = name.strip().rpartition("@")
        if at:
            try:
                if normal_domain(domain) not in self._domains:
                    return None
            except AddressSyntaxError:
                return None
        else:
            local = domain
        return None if "+" in local else user_of(local)


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
