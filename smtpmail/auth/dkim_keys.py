"""The private keys that sign: files `DIR/DOMAIN/SELECTOR.pem` (PKCS#8), opened so that nobody can mislead us."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smtpmail.auth.lookup import a_labels
from smtpmail.auth.tags import TagError, parse_tags, without_blanks

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

RSA_BITS = 2048
"""Size of a new RSA key: the largest whose record every provider's form takes, and which everybody verifies."""

MIN_RSA_BITS = 1024

SIGNING, NEXT, RETIRED = ".pem", ".next", ".retired"
"""How a key's file ends: it signs; it is made, but its record may not be seen everywhere yet; it signs no more."""

_MAX_FILE = 16 * 1024
_SELECTOR = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


class KeyFileError(Exception):
    """A key can't be read or written: one line for people that names the file and what to do."""


@dataclass(frozen=True)
class Key:
    """A private key for a domain, and where it stands."""

    domain: str
    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey
    state: str
    """SIGNING, NEXT or RETIRED."""
    changed: float
    """When it came into that state, seconds since 1970."""

    @property
    def algorithm(self) -> str:
        """rsa or ed25519."""
        return "rsa" if hasattr(self.private, "key_size") else "ed25519"

    @property
    def record_name(self) -> str:
        """Where receivers look for the public key; no final dot."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """The text to publish there (RFC 6376 3.6.1, RFC 8463 4.2)."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

        if self.algorithm == "rsa":
            public = self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            public = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return f"v=DKIM1; k={self.algorithm}; p={base64.b64encode(public).decode()}"

    def sign(self, digest: bytes) -> bytes:
        """The signature of a SHA-256 hash."""
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils  # noqa: PLC0415

        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
        return self.private.sign(digest)


class KeyFolder:
    """The folder of `--dkim-keys`. Every method may raise KeyFileError.

    Below the folder links are never followed: what the service could put there must not lead root astray.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def domains(self) -> list[str]:
        """The domains that have a folder, or a link in its place, which is complained of when it is read; sorted."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if entry.is_symlink() or entry.is_dir()]
        except OSError as error:
            raise KeyFileError(f"cannot read {self.path}: {error.strerror}") from None
        return sorted(name for name in names if a_labels(name) == name)

    def keys(self, domain: str) -> list[Key]:
        """All keys of a domain; none when it has no folder."""
        keys, complaints = self.readable(domain)
        if complaints:
            raise KeyFileError(complaints[0])
        return keys

    def readable(self, domain: str) -> tuple[list[Key], list[str]]:
        """The keys of a domain that can be read, and what is wrong with the others. Raises nothing."""
        keys: list[Key] = []
        complaints: list[str] = []
        try:
            with self._folder(domain) as folder:
                for name in _names(folder):
                    try:
                        keys.append(self._read(folder, domain, name))
                    except KeyFileError as error:
                        complaints.append(str(error))
        except KeyFileError as error:
            complaints.append(str(error))
        return keys, complaints

    def signing(self, domain: str) -> list[Key]:
        """The keys that sign for a domain."""
        return those_that_sign(self.keys(domain))

    def has(self, key: Key) -> bool:
        """Whether a key's file is where it was; also when that can't be told."""
        path = os.path.join(self.path, key.domain, key.selector + key.state)
        return os.path.lexists(path) or not os.access(self.path, os.R_OK | os.X_OK)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other programs that change keys waiting."""
        with self._failures("open"):
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def create(self, domain: str, algorithm: str, selector: str | None = None, state: str = SIGNING) -> Key:
        """Makes a key and its file; durable when it returns. Without a selector the date is one."""
        with self._folder(domain, make=True) as folder:
            assert folder is not None
            taken = {name.rpartition(".")[0] for name in _names(folder)}
            if selector is None:
                selector = next(name for name in _dated_selectors(algorithm) if name not in taken)
            if not _SELECTOR.fullmatch(selector) or len(selector) > 63:
                raise KeyFileError(f"{selector!r} is no selector: lower-case letters, digits and hyphens are allowed")
            if selector in taken:
                raise KeyFileError(f"{domain} has a key {selector} already")
            name = selector + state
            pem = _new_key(algorithm)
            with self._failures("write", domain, name):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(pem)
                    file.flush()
                    os.fsync(file.fileno())
                    _give(file.fileno(), os.fstat(folder))
                os.fsync(folder)
            return self._read(folder, domain, name)

    def move(self, key: Key, state: str) -> Key:
        """Changes the state of a key, from now on."""
        old, new = key.selector + key.state, key.selector + state
        with self._folder(key.domain) as folder:
            with self._failures("rename", key.domain, old):
                os.utime(old, dir_fd=folder, follow_symlinks=False)
                os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder or 0)
            return self._read(folder, key.domain, new)

    def remove(self, key: Key) -> None:
        """Deletes a key's file."""
        name = key.selector + key.state
        with self._folder(key.domain) as folder, self._failures("delete", key.domain, name):
            os.unlink(name, dir_fd=folder)
            os.fsync(folder or 0)

    @contextlib.contextmanager
    def _folder(self, domain: str, *, make: bool = False) -> Iterator[int | None]:
        """A descriptor of a domain's folder, None when there is none and `make` is off."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with self._failures("open", domain):
            parent = os.open(self.path, flags)
            try:
                made = False
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(domain, 0o700, dir_fd=parent)
                        made = True
                try:
                    folder = os.open(domain, flags | os.O_NOFOLLOW, dir_fd=parent)
                except FileNotFoundError:
                    folder = None
                if made and folder is not None:
                    _give(folder, os.fstat(parent))
                    os.fsync(parent)
            finally:
                os.close(parent)
        try:
            yield folder
        finally:
            if folder is not None:
                os.close(folder)

    @contextlib.contextmanager
    def _failures(self, action: str, *names: str) -> Iterator[None]:
        path = os.path.join(self.path, *names)
        try:
            yield
        except OSError as error:
            if os.path.islink(path):
                raise KeyFileError(f"{path} is a link, which is not followed") from None
            raise KeyFileError(f"cannot {action} {path}: {error.strerror}") from None

    def _read(self, folder: int | None, domain: str, name: str) -> Key:
        path = os.path.join(self.path, domain, name)
        with self._failures("read", domain, name):
            # A FIFO or a device must not make us wait.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise KeyFileError(f"{path} is not a file")
                if status.st_mode & 0o077:
                    mode = stat.S_IMODE(status.st_mode)
                    raise KeyFileError(f"others may use {path} (mode {mode:04o}); chmod 600 it")
                if status.st_size > _MAX_FILE:
                    raise KeyFileError(f"{path} is too large for a key")
                pem = os.read(fd, _MAX_FILE)
            finally:
                os.close(fd)
        selector, dot, state = name.rpartition(".")
        return Key(domain, selector, _load(pem, path), dot + state, status.st_mtime)


def public_key(record: str) -> str | None:
    """The public key that a record publishes (base64, no blanks): "" of one that was withdrawn, None of no record."""
    try:
        published = parse_tags(record).get("p")
    except TagError:
        return None
    return None if published is None else without_blanks(published)


def those_that_sign(keys: Iterable[Key]) -> list[Key]:
    """Of the keys of a domain those that sign: of each algorithm the newest, RSA first."""
    newest: dict[str, Key] = {}
    for key in keys:
        if key.state == SIGNING and (key.algorithm not in newest or key.changed >= newest[key.algorithm].changed):
            newest[key.algorithm] = key
    return sorted(newest.values(), key=lambda key: key.algorithm, reverse=True)


def _names(folder: int | None) -> list[str]:
    """The files of keys in a folder, sorted."""
    return sorted(
        name
        for name in (os.listdir(folder) if folder is not None else ())
        if name.endswith((SIGNING, NEXT, RETIRED)) and _SELECTOR.fullmatch(name.rpartition(".")[0])
    )


def _give(fd: int, owner: os.stat_result) -> None:
    """What root makes belongs to whom the folder belongs to: the service reads it."""
    if os.geteuid() == 0:
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _new_key(algorithm: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    private = rsa.generate_private_key(65537, RSA_BITS) if algorithm == "rsa" else ed25519.Ed25519PrivateKey.generate()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _dated_selectors(algorithm: str) -> Iterator[str]:
    """`20261125`, then `20261125b`, ...; Ed25519 keys have an `ed` in front."""
    day = time.strftime("%Y%m%d", time.gmtime())
    prefix = "" if algorithm == "rsa" else "ed"
    yield f"{prefix}{day}"
    for letter in "bcdefghijklmnopqrstuvwxyz":
        yield f"{prefix}{day}{letter}"
    raise KeyFileError("too many keys were made today: give --selector")


def _load(pem: bytes, path: str) -> RSAPrivateKey | Ed25519PrivateKey:
    """The key of a PEM file. Raises KeyFileError."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ed25519, rsa  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    except ImportError as error:
        raise KeyFileError(f"cannot use {path}: the Python package cryptography can't be loaded ({error})") from None

    try:
        private = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} is no private key (PEM, PKCS#8) without a password") from None
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private
    if not isinstance(private, rsa.RSAPrivateKey):
        raise KeyFileError(f"{path} is neither an RSA nor an Ed25519 key")
    if private.key_size < MIN_RSA_BITS:
        raise KeyFileError(f"{path} has {private.key_size} bits; receivers refuse less than {MIN_RSA_BITS} (RFC 8301)")
    return private
