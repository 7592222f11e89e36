"""Makes the mailboxes of accounts: mailboxes.py SPOOL SERVICE ACCOUNT...

The service runs without the right to give files away. So the mailbox of an account is its own from the start, and an
access list gives both of them what either of them makes in it. Prints what it changed, a line each.

Nothing in a folder is touched by root: its owner may put links there, at any moment. What the service stored before it
knew of the account it opens to the account itself, before the folder changes hands; the folder itself is held open,
never found again by its name.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

SEQUENCES = ".mh_sequences"
"""By this file mutt knows an MH folder."""


def main(spool: str, service: str, *accounts: str) -> None:
    with opened(spool) as folder:
        for account in accounts:
            try:
                for change in make(folder, account_of(account), account_of(service)):
                    print(f"{account}: {change}")
            except (OSError, subprocess.CalledProcessError) as error:
                raise SystemExit(f"{account}: {error}") from None


def account_of(name: str) -> pwd.struct_passwd:
    """The account of that name. Raises SystemExit."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise SystemExit(f"{name}: there is no such account on this host") from None


def make(spool: int, account: pwd.struct_passwd, service: pwd.struct_passwd) -> Iterator[str]:
    """Makes one mailbox and yields what was changed. Raises OSError, CalledProcessError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(account.pw_name, 0o700, dir_fd=spool)
        yield "made"
    with opened(account.pw_name, spool) as folder:
        owner = os.fstat(folder).st_uid
        if owner == service.pw_uid:
            # Everything in it is the service's own: so it may, and no more than it may.
            both = [f"user:{account.pw_name}:rwX", f"user:{service.pw_name}:rwX"]
            grant = ",".join([*both, *(f"default:{entry}" for entry in both)])
            acl_tool(folder, service, "setfacl", "--recursive", "--physical", "--modify", grant, ".")
            yield "opened what came before"
        if owner not in (0, service.pw_uid, account.pw_uid):
            raise SystemExit(
                f"{account.pw_name}: the mailbox belongs to the user id {owner}, which is neither {account.pw_name} nor"
                f" {service.pw_name}. If it is {account.pw_name}'s, say so: chown --recursive {account.pw_name} it"
            )
        status = os.fstat(folder)
        if (status.st_uid, status.st_gid) != (account.pw_uid, account.pw_gid):
            os.fchown(folder, account.pw_uid, account.pw_gid)
            yield "given to its user"
        entries = {
            "user::rwx", "group::---", "other::---", f"user:{service.pw_name}:rwx",
            "default:user::rwx", "default:group::---", "default:other::---",
            f"default:user:{service.pw_name}:rwx", f"default:user:{account.pw_name}:rwx",
        }  # fmt: skip
        if entries - set(acl_tool(folder, None, "getfacl", ".").splitlines()):
            acl_tool(folder, None, "setfacl", "--modify", ",".join(sorted(entries)), ".")
            yield "shared"
        with contextlib.suppress(FileExistsError):
            touch(SEQUENCES, folder, account)
            yield "marked as an MH folder"


@contextlib.contextmanager
def opened(path: str, within: int | None = None) -> Iterator[int]:
    """The descriptor of a folder; a link in its place is refused, unless it is the spool's own."""
    flags = os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if within is not None else 0)
    descriptor = os.open(path, flags, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def acl_tool(folder: int, user: pwd.struct_passwd | None, *command: str) -> str:
    """What a tool says that runs in the folder, as root or as a user. Raises CalledProcessError."""
    identity: dict[str, Any] = {}
    if user:
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    here = f"/proc/{os.getpid()}/fd/{folder}"
    return subprocess.run(command, cwd=here, stdout=subprocess.PIPE, text=True, check=True, **identity).stdout


def touch(name: str, folder: int, user: pwd.struct_passwd) -> None:
    """Makes an empty file as a user; the access list of the folder says who may what. Raises OSError."""
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o660, dir_fd=folder))
    finally:
        os.seteuid(0)
        os.setegid(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
