"""Where a message goes that the server did not take: `dead.letter` in the caller's home, else standard error."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import stat
import sys
import time
from typing import IO

DEAD_LETTER = "dead.letter"


def keep(message: IO[bytes], sender: str) -> list[str]:
    """Keeps a message (LF line ends); what to tell the caller about it. Raises nothing."""
    home = _home()
    if home is not None:
        path = os.path.join(home, DEAD_LETTER)
        try:
            _append(path, message, sender)
        except OSError as error:
            told = [f"cannot write to {path}: {error.strerror or error}"]
        else:
            return [f"the message is kept in {path}"]
    else:
        told = []
    message.seek(0)
    sys.stderr.flush()
    try:
        shutil.copyfileobj(message, sys.stderr.buffer)
        sys.stderr.buffer.flush()
    except (OSError, ValueError):
        return [*told, "the message is lost: standard error cannot be written to"]
    return told


def _home() -> str | None:
    """The home of the account that runs this, if it is its own."""
    candidates = [os.environ.get("HOME", "")]
    with contextlib.suppress(KeyError):
        candidates.append(pwd.getpwuid(os.geteuid()).pw_dir)
    for path in candidates:
        try:
            status = os.stat(path)
        except OSError:
            continue
        if os.path.isabs(path) and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            return path
    return None


def _append(path: str, message: IO[bytes], sender: str) -> None:
    """As one more message of a mailbox file (mbox). Raises OSError; then the file is as it was."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "ab") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(None, "it is no file of this account")
        fcntl.flock(file, fcntl.LOCK_EX)
        before = os.fstat(file.fileno()).st_size
        try:
            file.write(f"From {sender or 'MAILER-DAEMON'} {time.asctime()}\n".encode())
            message.seek(0)
            whole = True
            for line in iter(lambda: message.readline(65536), b""):
                file.write(b">" + line if whole and re.match(rb">*From ", line) else line)
                whole = line.endswith(b"\n")
            file.write(b"\n" if whole else b"\n\n")
            file.flush()
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise
