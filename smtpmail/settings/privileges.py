"""What root gives up: a server becomes an account without privileges, a command the owner of what it works on.

Root may do too much: it would make files that the server can't read, and follow what others put in its way.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this host, with all groups that it is in."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def account_named(name: str) -> Account:
    """The account of that name. Raises ConfigError."""
    try:
        return _account(pwd.getpwnam(name))
    except KeyError:
        raise ConfigError(f"--user: there is no account {name!r}") from None


def owner_of(path: str) -> Account | None:
    """The owner of a folder; None when that is root, or there is no such folder."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not status.st_uid:
        return None
    try:
        return _account(pwd.getpwuid(status.st_uid))
    except KeyError:
        return Account(str(status.st_uid), status.st_uid, status.st_gid, (status.st_gid,))


def server_account(config: Config) -> Account | None:
    """Whom a server that root starts becomes: --user, else the owner of the spool; None: it stays root, or is not root.

    Raises ConfigError.
    """
    if os.geteuid():
        if config.user is not None and account_named(config.user).uid != os.geteuid():
            raise ConfigError(f"--user: only root can become {config.user}")
        return None
    account = owner_of(config.spool) if config.user is None else account_named(config.user)
    if account is None or not account.uid:
        return None
    with acting_as(account):
        readable = all(os.access(path, os.R_OK, effective_ids=True) for path in (__file__, os.__file__))
    if not readable:
        who = f"--spool: its owner {account.name}" if config.user is None else f"--user: {account.name}"
        raise ConfigError(f"{who} cannot read the program in {sys.prefix}: install it elsewhere, or say --user root")
    return account


def become(account: Account) -> None:
    """Makes this process the account's, for good; only root can. Raises OSError."""
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)


def become_owner(path: str) -> None:
    """Root becomes the owner of the folder, for good; for others, and where root owns it, nothing happens."""
    owner = None if os.geteuid() else owner_of(path)
    if owner is not None:
        become(owner)


@contextlib.contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """What the account may do and see; None changes nothing. For the main thread, before there are others."""
    if account is None:
        yield
        return
    before = os.getgroups(), os.getegid()
    os.setgroups(account.groups)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[1])
        os.setgroups(before[0])


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))
