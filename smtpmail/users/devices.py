"""The devices of users, each with a password of its own that this server has made: who may read and send from afar.

A password has 105 random bits. Guessing is hopeless, so that a plain SHA-256 keeps it as well as a slow hash would,
and a wrong one costs the server nothing (docs/formats.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from smtpmail import mounts
from smtpmail.users.files import FileUnusable, read_octets

ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 characters that look like no other: no l, o, 0, 1."""

GROUP = 5
"""Characters between two hyphens."""

PASSWORD_CHARACTERS = 21
"""105 bits."""

LOOK_SECONDS = 0.25
"""So often, at most, the file is looked at."""

USED_SECONDS = 60.0
"""The last use of a device is noted so often, at most."""

MAX_NAME = 60

MAX_FILE = 64 * 1024 * 1024
"""Octets of a file of devices, or of their last uses."""

_SHA256 = re.compile("[0-9a-f]{64}")
_LATEST = 2**37
"""Unix times up to here can be shown in every time zone."""


class DeviceError(Exception):
    """A device that cannot be added, or is not there, or a file that cannot be used: one line for people."""


@dataclass(frozen=True, slots=True)
class Device:
    """A line of the file."""

    user: str
    device: str
    """Its name."""
    sha256: str
    """Of the password without hyphens, in hexadecimal."""
    added: float
    """Unix time."""


@dataclass(frozen=True, slots=True)
class Use:
    """When a device was last used, and from where: a line of the file beside."""

    user: str
    device: str
    time: float
    address: str


def new_password() -> str:
    """`abcde-fghij-kmnpq-rstuv-w`."""
    characters = "".join(secrets.choice(ALPHABET) for _ in range(PASSWORD_CHARACTERS))
    return "-".join(characters[n : n + GROUP] for n in range(0, len(characters), GROUP))


def digest(password: str) -> str:
    """What is kept of a password; hyphens, blanks and capitals do not count, for people type it."""
    plain = "".join(password.split()).replace("-", "").lower()
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


class Devices:
    """The file of devices, read again when it has changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at = -LOOK_SECONDS
        self._by_user: dict[str, list[Device]] = {}
        self._noted: dict[tuple[str, str, str], float] = {}

    # -- for the server

    def find(self, user: str, password: str) -> Device | None:
        """The device of a user that has this password. Raises DeviceError when the file can't be read."""
        given = digest(password)
        found = None
        for device in self._current().get(user, ()):
            if hmac.compare_digest(given, device.sha256):
                found = device
        return found

    def has(self, device: Device) -> bool:
        """Whether the device is there still, with the same password. True when the file can't be read at the moment."""
        try:
            return device in self._current().get(device.user, ())
        except DeviceError:
            return True

    def _current(self) -> dict[str, list[Device]]:
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at >= LOOK_SECONDS:
                stamp = self._stamp_now()
                if stamp != self._stamp:
                    by_user: dict[str, list[Device]] = {}
                    for device in read_devices(self.path):
                        by_user.setdefault(device.user, []).append(device)
                    self._by_user, self._stamp = by_user, stamp
                self._looked_at = now
            return self._by_user

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DeviceError(f"cannot read {self.path}: {error.strerror}") from None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def note_use(self, device: Device, address: str) -> None:
        """Notes that a device was used; best effort, and not more than once a minute."""
        key = (device.user, device.device, address)
        now = time.time()
        with self._lock:
            if now - self._noted.get(key, 0.0) < USED_SECONDS:
                return
            self._noted[key] = now
            if len(self._noted) > 10_000:
                self._noted.clear()
        file = used_file(self.path)
        # Where hosts share the devices another one may have their lock, and the mail reader would wait for it.
        lock = file if mounts.is_shared(self.path) else self.path
        with contextlib.suppress(OSError, DeviceError), _locked(lock):
            uses = {(use.user, use.device): use for use in _uses_of(file)}
            uses[device.user, device.device] = Use(device.user, device.device, round(now), address)
            known = {(d.user, d.device) for d in read_devices(self.path)}
            _replace(file, [asdict(use) for key, use in uses.items() if key in known])

    # -- for `smtpmail device`

    def add(self, user: str, name: str) -> str:
        """Adds a device; returns its password, which is kept nowhere. Raises DeviceError."""
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise DeviceError(f"a device's name must have 1 to {MAX_NAME} printable characters")
        password = new_password()
        with self._changing():
            devices = read_devices(self.path, strict=True)
            if any((d.user, d.device) == (user, name) for d in devices):
                raise DeviceError(f"{user} has a device {name!r} already: remove it first, or give another name")
            devices.append(Device(user, name, digest(password), round(time.time())))
            _replace(self.path, [asdict(device) for device in devices])
        return password

    def remove(self, user: str, name: str) -> None:
        """Removes a device. Raises DeviceError."""
        with self._changing():
            devices = read_devices(self.path, strict=True)
            kept = [d for d in devices if (d.user, d.device) != (user, name)]
            if len(kept) == len(devices):
                raise DeviceError(f"{user} has no device {name!r}")
            _replace(self.path, [asdict(device) for device in kept])

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with _locked(self.path):
                yield
        except OSError as error:
            raise DeviceError(f"cannot change {self.path}: {error.strerror or error}") from None


def used_file(path: str) -> str:
    """The file beside that of the devices which the server writes; where hosts share them, each has its own."""
    return f"{path}.used.{socket.gethostname()}" if mounts.is_shared(path) else f"{path}.used"


def read_devices(path: str, *, strict: bool = False) -> list[Device]:
    """All devices in a file; lines that make no sense are left out, or are an error with `strict`, for whoever writes
    the file anew would lose them. Raises DeviceError."""
    found = []
    for number, line in _lines(path):
        match line:
            case {
                "user": str(user),
                "device": str(device),
                "sha256": str(sha256),
                "added": int() | float() as added,
            } if _SHA256.fullmatch(sha256) and _is_time(added):
                found.append(Device(user, device, sha256, float(added)))
            case _ if strict:
                raise DeviceError(f"{path}, line {number}: this is no device; nothing was changed")
    return found


def read_uses(path: str) -> list[Use]:
    """When the devices of a file were last used, on whichever host. Raises DeviceError."""
    last: dict[tuple[str, str], Use] = {}
    hidden = (".lock", ".new")
    for file in [f"{path}.used", *(f for f in glob.glob(f"{glob.escape(path)}.used.*") if not f.endswith(hidden))]:
        for use in _uses_of(file):
            before = last.get((use.user, use.device))
            if before is None or before.time < use.time:
                last[use.user, use.device] = use
    return list(last.values())


def _uses_of(file: str) -> list[Use]:
    found = []
    for _, line in _lines(file):
        match line:
            case {
                "user": str(user),
                "device": str(device),
                "time": int() | float() as when,
                "address": str(address),
            } if _is_time(when):
                found.append(Use(user, device, float(when), address))
    return found


def _is_time(value: float) -> bool:
    return 0 <= value < _LATEST


def _lines(path: str) -> Iterator[tuple[int, object]]:
    """The values of the lines that are not blank, and their numbers; None for what is no JSON. Raises DeviceError."""
    try:
        text = read_octets(path, MAX_FILE)[0].decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except FileUnusable as error:
        raise DeviceError(f"cannot read {path}: {error}") from None
    except OSError as error:
        raise DeviceError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            value = None
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
            yield number, value


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """One writer at a time, of the server and of `smtpmail device`."""
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _belong(fd, path)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(path: str, lines: list[dict[str, object]]) -> None:
    """Writes a file anew; it belongs to whom it belonged, or to whom the folder belongs: the server must read it."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _belong(fd, path)
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)


def _belong(fd: int, path: str) -> None:
    if os.geteuid() == 0:
        owner = os.stat(path if os.path.exists(path) else os.path.dirname(os.path.abspath(path)))
        os.fchown(fd, owner.st_uid, owner.st_gid)
