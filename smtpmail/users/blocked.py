"""Senders from whom no mail is taken: addresses, and domains with all that is below them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain, parse_address
from smtpmail.users.alias_syntax import Key, key_of, without_comment
from smtpmail.users.files import FileUnusable, Signature, read_text, signature

MAX_FILE = 16 * 1024**2
"""Octets of the file of `--blocked`."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A list of senders, and what is wrong with it."""

    addresses: frozenset[Key]
    domains: frozenset[str]
    complaints: tuple[str, ...] = ()

    def has(self, sender: Address) -> bool:
        """Whether this sender is on it. The null sender never is: bounces of one's own mail come from it."""
        if sender.is_null or not (self.addresses or self.domains):
            return False
        try:
            local, domain = key_of(sender)
        except AddressSyntaxError:
            return False
        if (local, domain) in self.addresses or (local.partition("+")[0], domain) in self.addresses:
            return True
        labels = domain.split(".")
        return any(".".join(labels[n:]) in self.domains for n in range(len(labels)))


NOBODY = Blocked(frozenset(), frozenset())


def parse_blocked(text: str) -> Blocked:
    """One sender a line: `spam@example.net`, `example.org` or `@example.org`; `#` begins a comment."""
    addresses, domains, complaints = set(), set(), []
    for number, raw in enumerate(text.split("\n"), 1):
        word = without_comment(raw.strip()).strip()
        if not word:
            continue
        try:
            if "@" in word.lstrip("@"):
                addresses.add(key_of(parse_address(word)))
            else:
                domains.add(normal_domain(word.lstrip("@.")))
        except AddressSyntaxError:
            complaints.append(f"line {number} is no address and no domain")
    return Blocked(frozenset(addresses), frozenset(domains), tuple(complaints))


class BlockedFile:
    """The file of `--blocked`, read again when it has changed. One that can't be read leaves all as it was.

    `on_change` is told of each reading: the number of senders in use, and complaints; such a line blocks nobody.
    """

    def __init__(self, path: str, on_change: Callable[[int, list[str]], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._lock = threading.Lock()
        self._seen: Signature | None = None
        self._list = NOBODY

    def has(self, sender: Address) -> bool:
        """Whether this sender is blocked now."""
        return self._current().has(sender)

    def _current(self) -> Blocked:
        with self._lock:
            try:
                now: Signature = signature(os.stat(self._path))
            except OSError:
                now = ()
            if now != self._seen:
                self._seen = now
                self._read()
            return self._list

    def _read(self) -> None:
        try:
            self._list = parse_blocked(read_text(self._path, MAX_FILE)[0])
            complaints = list(self._list.complaints)
        except (OSError, FileUnusable) as error:
            complaints = [f"cannot read it: {getattr(error, 'strerror', None) or error}"]
        self._on_change(len(self._list.addresses) + len(self._list.domains), complaints)
