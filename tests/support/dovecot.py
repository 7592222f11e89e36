"""Dovecot on standard input and output, as a reference beside the program under test."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from support import require

PROGRAM = "/usr/lib/dovecot/imap"


def tunnel(folder: Path) -> list[str]:
    """The command that serves a Maildir in `folder` over IMAP, logged in already; `folder` is made if need be."""
    if not Path(PROGRAM).exists():
        require.missing("Dovecot (tests/setup packages, or apt-get install dovecot-imapd)")
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "dovecot.conf"
    settings.write_text(
        f"mail_location = maildir:{folder}/Maildir\nlog_path = {folder}/dovecot.log\nbase_dir = {folder}/run\n"
        f"state_dir = {folder}/state\nstats_writer_socket_path =\nmail_fsync = optimized\nssl = no\n"
        "first_valid_uid = 0\n"
        "namespace inbox {\n  inbox = yes\n  separator = /\n}\n"
    )
    return [*as_a_person(), "env", f"HOME={folder}", f"USER=u{os.getuid()}", PROGRAM, "-c", str(settings)]


def as_a_person() -> list[str]:
    """What starts a program that serves nobody as root: it believes to be somebody else."""
    if os.getuid():
        return []
    return [require.tool("unshare", "util-linux"), "--user", "--map-user=1000", "--map-group=1000"]


def script(folder: Path) -> Path:
    """The same as a program of its own."""
    path = folder / "dovecot"
    command = tunnel(folder)
    path.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    path.chmod(0o755)
    return path
