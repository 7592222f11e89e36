"""What leaves with an author of ours is signed: which key signs which message (RFC 6376 5)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from smtpmail.auth import dkim_sign
from smtpmail.auth.dkim_keys import Key, KeyFileError, KeyFolder, those_that_sign
from smtpmail.auth.dmarc import author_domains
from smtpmail.auth.fields import Field, MessageSplitter, split_header
from smtpmail.auth.lookup import is_or_below
from smtpmail.mail.head import header_of

LOOK_SECONDS = 5.0
"""So often it is looked whether the keys that sign are still there: a rotation needs nobody to tell the server."""

LOOK_PATIENCE = 1.0
"""Seconds that a message waits for that: the keys may lie on a file system of several hosts, and that one may hang."""


class CannotSign(Exception):
    """A message that should be signed can't be: one line for people."""


class Signer:
    """The keys of `--dkim-keys`, read once and again when `reload` is called."""

    def __init__(self, path: str, domains: Sequence[str], hostname: str, *, required: bool) -> None:
        """`domains`: the local ones. `required`: rather than leave unsigned, mail is not taken."""
        self._folder = KeyFolder(path)
        self._domains = domains
        self._hostname = hostname
        self._lock = threading.Lock()
        self._keys: dict[str, list[Key]] | None = None
        self._errors: dict[str, str] = {}
        self._next_look = 0.0
        self._look: threading.Thread | None = None
        self.required = required

    def reload(self) -> tuple[list[Key], list[str]]:
        """Reads all keys; returns those that sign, and what is wrong with others."""
        keys: dict[str, list[Key]] = {}
        errors: dict[str, str] = {}
        complaints: list[str] = []
        try:
            domains = self._folder.domains()
        except KeyFileError as error:
            domains = []
            errors[""] = str(error)
            complaints.append(str(error))
        for domain in domains:
            readable, wrong = self._folder.readable(domain)
            complaints += wrong
            if found := those_that_sign(readable):
                keys[domain] = found
            elif wrong:
                errors[domain] = wrong[0]
        with self._lock:
            self._keys, self._errors = keys, errors
            self._next_look = time.monotonic() + LOOK_SECONDS
        return [key for found in keys.values() for key in found], complaints

    def is_outdated(self) -> bool:
        """Whether a key that signs is no longer in its place: another one signs now. Looks every LOOK_SECONDS.

        Not as long as that can't be told: a look that hangs is left alone.
        """
        now = time.monotonic()
        gone: list[bool] = []
        with self._lock:
            if self._keys is None or now < self._next_look or (self._look is not None and self._look.is_alive()):
                return False
            self._next_look = now + LOOK_SECONDS
            keys = [key for found in self._keys.values() for key in found]
            self._look = look = threading.Thread(
                target=lambda: gone.append(not all(map(self._folder.has, keys))), name="keys", daemon=True
            )
        with contextlib.suppress(RuntimeError):  # this host takes no more threads
            look.start()
            look.join(LOOK_PATIENCE)
        return any(gone)

    def keys_for(self, header: Sequence[Field], *, own: bool) -> list[Key]:
        """The keys for a message; none for one whose author is no concern of ours.

        `own`: this server wrote it: then the host's name, or the first domain, stands for it. Raises CannotSign.
        """
        authors = author_domains(header)
        if self._keys is None:
            self.reload()
        with self._lock:
            keys, errors = self._keys or {}, self._errors
        if own:
            wanted = [*authors[:1], self._hostname, *self._domains]
        elif authors and all(any(is_or_below(a, domain) for domain in self._domains) for a in authors):
            wanted = authors[:1]
        else:
            return []
        for author in wanted:
            for name in _upwards(author):
                if name in errors:
                    raise CannotSign(errors[name])
                if name in keys and (own or any(is_or_below(name, domain) for domain in self._domains)):
                    return keys[name]
        if "" in errors:
            raise CannotSign(errors[""])
        raise CannotSign(f"{wanted[0]} has no key")


def _upwards(domain: str) -> list[str]:
    labels = domain.split(".")
    return [".".join(labels[i:]) for i in range(len(labels) - 1)]


class Signing:
    """One message on its way out: its body is hashed as it comes."""

    def __init__(self, signer: Signer, *, own: bool, now: float) -> None:
        self._signer = signer
        self._own = own
        self._now = now
        self._header = b""
        self._hash = dkim_sign.body_hash()
        self._splitter = MessageSplitter(self._begin_body)

    def write(self, data: bytes) -> None:
        """Takes the next piece of the content (LF line ends)."""
        self._splitter.write(data)

    def _begin_body(self, header: bytes) -> Callable[[bytes], object]:
        self._header = header
        return self._hash.update

    def finish(self, header: bytes | None = None) -> bytes:
        """The signatures to put above the message, b"" for one that is not ours. Raises CannotSign.

        `header`: as it leaves; what the door completes is signed, too. None: as it came.
        """
        self._splitter.close()
        if header is None:
            header = self._header
        own = header_of(header)
        fields = split_header(own)
        keys = self._signer.keys_for(fields, own=self._own)
        if not keys:
            return b""
        if self._splitter.overlong:
            raise CannotSign("the header is too large")
        if own != header and self._header:
            raise CannotSign("a line in its header is no field")
        return dkim_sign.sign(fields, self._hash.digest(), keys, self._now)


def sign_again(signer: Signer, message: Iterable[bytes], now: float) -> bytes:
    """The signatures of a message of this host whose form was changed on its way out. Raises CannotSign.

    `message`: the pieces of it, with what this server has put above it but for the signatures.
    """
    signing = Signing(signer, own=True, now=now)
    for piece in message:
        signing.write(piece)
    return signing.finish()
