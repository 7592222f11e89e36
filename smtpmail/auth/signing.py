"""What leaves with an author of ours is signed: which key signs which message (RFC 6376 5)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from smtpmail.auth import dkim_sign
from smtpmail.auth.dkim_keys import Key, KeyFileError, KeyFolder
from smtpmail.auth.dmarc import author_domains
from smtpmail.auth.fields import Field, MessageSplitter, split_header
from smtpmail.auth.lookup import is_or_below
from smtpmail.mail.head import header_of


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
        self.required = required

    def reload(self) -> tuple[list[Key], list[str]]:
        """Reads all keys; returns those that sign, and what is wrong with others."""
        keys: dict[str, list[Key]] = {}
        errors: dict[str, str] = {}
        try:
            domains = self._folder.domains()
        except KeyFileError as error:
            domains = []
            errors[""] = str(error)
        for domain in domains:
            try:
                if found := self._folder.signing(domain):
                    keys[domain] = found
            except KeyFileError as error:
                errors[domain] = str(error)
        with self._lock:
            self._keys, self._errors = keys, errors
        return [key for found in keys.values() for key in found], list(errors.values())

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
        self._has_header = False
        self._hash = dkim_sign.body_hash()
        self._splitter = MessageSplitter(self._begin_body)

    def write(self, data: bytes) -> None:
        """Takes the next piece of the content (LF line ends)."""
        self._splitter.write(data)

    def _begin_body(self, header: bytes) -> Callable[[bytes], object]:
        self._has_header = bool(header)
        return self._hash.update

    def finish(self, header: bytes) -> bytes:
        """The signatures to put above the message, b"" for one that is not ours. Raises CannotSign.

        `header`: as it leaves; what the door completes is signed, too.
        """
        self._splitter.close()
        own = header_of(header)
        fields = split_header(own)
        keys = self._signer.keys_for(fields, own=self._own)
        if not keys:
            return b""
        if self._splitter.overlong:
            raise CannotSign("the header is too large")
        if own != header and self._has_header:
            raise CannotSign("a line in its header is no field")
        return dkim_sign.sign(fields, self._hash.digest(), keys, self._now)
