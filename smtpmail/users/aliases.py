"""Where an address leads: through the aliases to mailboxes here and addresses elsewhere, with bounds on all of it.

The order of look-up: the whole address, the local part, a user, `@domain`; `+detail` is tried with the detail first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from smtpmail.mail.address import Address, AddressSyntaxError
from smtpmail.users.alias_syntax import (
    INCLUDED,
    Blackhole,
    Entry,
    Fail,
    Include,
    Item,
    Key,
    Table,
    Target,
    key_of,
    parse_aliases,
    parse_list,
    show_key,
)
from smtpmail.users.files import FileUnusable, Signature, read_text, signature

MAX_FILE = 16 * 1024**2
"""Octets of the file of aliases, or of an included one."""

MAX_TARGETS = 1000
"""To so many mailboxes and addresses one address may lead (Postfix: virtual_alias_expansion_limit)."""

MAX_DEPTH = 50
"""Aliases that lead to aliases."""


class AliasesUnreadable(Exception):
    """The file of aliases can't be read, and never could since the start."""


class Aliases:
    """The file of `--aliases`, read again whenever it has changed.

    A file that became unreadable or has a line that makes no sense changes nothing: the last good one stays in use.
    When there is none yet, what can be understood is used, and mail for the rest waits. `on_change` is told of each
    reading: the number of aliases in use, and what is wrong with the file.
    """

    def __init__(self, path: str, on_change: Callable[[int, list[str]], None] = lambda count, complaints: None) -> None:
        self.path = path
        self._on_change = on_change
        self._lock = threading.Lock()
        self._seen: Signature | None = None
        self._table: Table | None = None
        self._included: dict[str, tuple[Signature, list[Item], list[str]]] = {}

    def table(self) -> Table:
        """The aliases as they are now. Raises AliasesUnreadable."""
        with self._lock:
            try:
                now: Signature = signature(os.stat(self.path))
            except OSError:
                now = ()
            if now != self._seen:
                self._seen = now
                self._read()
            if self._table is None:
                raise AliasesUnreadable(self.path)
            return self._table

    def _read(self) -> None:
        try:
            text, _ = read_text(self.path, MAX_FILE)
            new = parse_aliases(text)
            complaints = new.complaints
        except (OSError, FileUnusable) as error:
            new, complaints = None, [f"cannot read it: {getattr(error, 'strerror', None) or error}"]
        if new is not None and (not complaints or self._table is None):
            self._table = new
        self._on_change(len(self._table.entries) if self._table else 0, complaints)

    def included(self, path: str) -> tuple[list[Item], list[str]]:
        """The targets of a file of `:include:`, and complaints. Raises OSError, FileUnusable."""
        now = signature(os.stat(path))
        with self._lock:
            known = self._included.get(path)
        if known is None or known[0] != now:
            text, now = read_text(path, MAX_FILE)
            items, complaints = parse_list(text)
            known = now, items, complaints
            with self._lock:
                self._included[path] = known
        return known[1], known[2]


@dataclass(slots=True)
class Expansion:
    """Where an address leads."""

    mailboxes: dict[str, Address | None] = field(default_factory=dict)
    """Users here; and the envelope sender that their copy gets, None for the one that it came with."""
    remote: dict[Address, Address | None] = field(default_factory=dict)
    """Addresses elsewhere, likewise."""
    final: set[str] = field(default_factory=set)
    """Mailboxes that were meant themselves (`\\bob`): no forwarding of the user's own."""
    dropped: bool = False
    """`:blackhole:` was one of the ends."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Ends that take no mail: the address, and a text for the sender, empty when there is no such user."""
    problems: list[str] = field(default_factory=list)
    """Why it cannot be told now where it leads: mail for it must wait."""
    steps: list[tuple[int, str]] = field(default_factory=list)
    """How it went, for people: depth and text."""

    @property
    def ends(self) -> int:
        """Mailboxes and addresses."""
        return len(self.mailboxes) + len(self.remote)


class Expander:
    """Follows an address. `is_local` knows the domains, `mailbox` the users: who takes mail of that name, or None.

    `is_known` tells whether a name is a user's, who comes before a catch-all: without a file of users, every name has
    a mailbox and none is known.
    """

    def __init__(
        self,
        aliases: Aliases | None,
        is_local: Callable[[str], bool],
        mailbox: Callable[[str], str | None],
        is_known: Callable[[str], bool] | None = None,
    ) -> None:
        self._aliases = aliases
        self._is_local = is_local
        self._mailbox = mailbox
        self._is_known = is_known or (lambda local_part: mailbox(local_part) is not None)

    def expand(self, address: Address, *, final: bool = False) -> Expansion:
        """Where mail for an address of this host leads; with `final` its mailbox itself, whatever the aliases say.

        Raises AliasesUnreadable, and what `mailbox` raises.
        """
        table = self._aliases.table() if self._aliases else Table()
        walk = _Walk(table, self._aliases, self._is_local, self._mailbox, self._is_known, address.domain)
        walk.follow(Target(address, final), None, ())
        return walk.expansion


def _keys(address: Address) -> Iterator[Key]:
    """The keys of the lines that come before the users, in the order in which they are looked up."""
    local, domain = key_of(address)
    bare = local.partition("+")[0]
    for wanted in [""] if not domain or domain.startswith("[") else [domain, ""]:
        yield local, wanted
        if bare and bare != local:
            yield bare, wanted


class _Walk:
    """One expansion under way."""

    def __init__(
        self,
        table: Table,
        aliases: Aliases | None,
        is_local: Callable[[str], bool],
        mailbox: Callable[[str], str | None],
        is_known: Callable[[str], bool],
        domain: str,
    ) -> None:
        self.expansion = Expansion()
        self._table = table
        self._aliases = aliases
        self._is_local = is_local
        self._mailbox = mailbox
        self._is_known = is_known
        self._domain = domain
        self._done: set[object] = set()

    def follow(self, target: Target, owner: Address | None, chain: tuple[Key, ...]) -> None:
        """Goes from one target to its ends. `chain` are the aliases that led here."""
        out, address = self.expansion, target.address
        if out.ends > MAX_TARGETS:
            self._problem(chain, f"leads to more than {MAX_TARGETS} addresses")
            return
        try:
            local = self._is_local(address.domain)
        except AddressSyntaxError:
            local = False
        if not local:
            out.remote.setdefault(address, owner)
            self._step(chain, f"{address}: elsewhere")
            return
        if target.final:
            self._deliver(address, owner, chain, final=True)
            return
        if not self._table.entries or not self._follow_alias(address, owner, chain):
            self._deliver(address, owner, chain, final=False)

    def _follow_alias(self, address: Address, owner: Address | None, chain: tuple[Key, ...]) -> bool:
        """Whether there is an alias of the address, or a catch-all, which then was followed."""
        if any(self._look_up(key, address, owner, chain) for key in _keys(address)):
            return True
        return not self._is_known(address.local) and self._look_up(("", key_of(address)[1]), address, owner, chain)

    def _look_up(self, key: Key, address: Address, owner: Address | None, chain: tuple[Key, ...]) -> bool:
        """Follows the line of this key; returns whether there is one."""
        entry = self._table.entries.get(key)
        if entry is None:
            return False
        if chain and key == chain[-1]:
            # `bob: bob, alice@example.net` keeps a copy.
            self._deliver(address, owner, chain, final=False)
        elif key in chain:
            names = " -> ".join(show_key(k) for k in (*chain[chain.index(key) :], key))
            self._problem(chain, f"loops: {names}")
        elif key not in self._done:
            self._enter(entry, owner, chain)
        return True

    def _enter(self, entry: Entry, owner: Address | None, chain: tuple[Key, ...]) -> None:
        key = entry.key
        if entry.complaint:
            self._problem(chain, entry.complaint)
            return
        if len(chain) >= MAX_DEPTH:
            self._problem(chain, f"is deeper than {MAX_DEPTH} aliases")
            return
        right = ", ".join(str(item) for item in entry.items[:10]) + (", ..." if len(entry.items) > 10 else "")
        self._step(chain, f"line {entry.line}: {show_key(key)}: {right}")
        if key[0]:
            owner = self._owner_of(key) or owner
        self._items(entry.items, owner, (*chain, key), show_key(key))
        self._done.add(key)

    def _owner_of(self, key: Key) -> Address | None:
        """The envelope sender of what goes to a list, when there is a line for its owner."""
        owner = Address(f"owner-{key[0]}", key[1] or self._domain)
        whole = key_of(owner)
        return owner if whole in self._table.entries or (whole[0], "") in self._table.entries else None

    def _items(self, items: Sequence[Item], owner: Address | None, chain: tuple[Key, ...], of: str) -> None:
        for item in items:
            if self.expansion.problems:
                return
            match item:
                case Target():
                    self.follow(item, owner, chain)
                case Include(path):
                    self._include(path, owner, chain)
                case Fail(text):
                    self.expansion.failures.append((of, text))
                    self._step(chain, f"refused: {text}")
                case Blackhole():
                    self.expansion.dropped = True
                    self._step(chain, "taken and dropped")

    def _include(self, path: str, owner: Address | None, chain: tuple[Key, ...]) -> None:
        # Between the keys of aliases, a file has one that no alias can have.
        key = (path, INCLUDED)
        if key in chain:
            self._problem(chain, f"loops: {path} includes itself")
            return
        if key in self._done:
            return
        if len(chain) >= MAX_DEPTH:
            self._problem(chain, f"is deeper than {MAX_DEPTH} aliases and files")
            return
        assert self._aliases is not None
        try:
            items, complaints = self._aliases.included(path)
        except (OSError, FileUnusable) as error:
            self._problem(chain, f"{path}: cannot read it: {getattr(error, 'strerror', None) or error}")
            return
        self._step(chain, f"{path}: {len(items)} targets")
        for complaint in complaints:
            self._step(chain, f"{path}: {complaint} (left out)")
        self._items(items, owner, (*chain, key), path)
        self._done.add(key)

    def _deliver(self, address: Address, owner: Address | None, chain: tuple[Key, ...], *, final: bool) -> None:
        user = self._mailbox(address.local)
        if user is None:
            self.expansion.failures.append((str(address), ""))
            self._step(chain, f"{address}: no such user")
            return
        self.expansion.mailboxes.setdefault(user, owner)
        if final:
            self.expansion.final.add(user)
        self._step(chain, f"{address}: the mailbox of {user}")

    def _problem(self, chain: tuple[Key, ...], text: str) -> None:
        self.expansion.problems.append(f"{show_key(chain[0])}: {text}" if chain else text)
        self._step(chain, text)

    def _step(self, chain: tuple[Key, ...], text: str) -> None:
        self.expansion.steps.append((len(chain), text))
