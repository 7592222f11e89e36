"""What only this machine can tell about the settings: its name, its folders, its files."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
import warnings

from smtpmail import mounts
from smtpmail.mail.address import AddressSyntaxError, normal_domain
from smtpmail.settings.values import ConfigError


def answers(path: str, seconds: float) -> bool:
    """Whether the file system of a path answers in time; the servers of a shared one may be away."""
    thread = threading.Thread(target=os.path.lexists, args=(path,), daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


SHARED_PATIENCE = 30.0
"""Seconds that a shared file system has to answer who is about to work on it."""


def require_answer(option: str, path: str) -> None:
    """Raises ConfigError when a path lies on a shared file system that does not answer: whoever looks at it may never
    come back."""
    if mounts.is_shared(path):
        require_answer_of(option, path)


def require_answer_of(option: str, path: str) -> None:
    """The same for a path that is known to be shared. Raises ConfigError."""
    if not answers(path, SHARED_PATIENCE):
        mount = mounts.mount_of(path)
        raise ConfigError(f"{option}: the file system of {path} does not answer ({mount and mount.source})")


def usable_folder(path: str, option: str) -> None:
    """A folder that is there and can be written to, or that could be made. Touches nothing. Raises ConfigError."""
    there = _nearest(path)
    missing = path if there != os.path.abspath(path) else ""
    if not os.path.isdir(there):
        what = "is not a folder" if not missing else f"cannot be made: {there} is not a folder"
        raise ConfigError(f"{option}: {path} {what}")
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        reason = f"cannot be made: {there}" if missing else "cannot be used: it"
        raise ConfigError(f"{option}: the folder {path} {reason} is not writable for user id {os.geteuid()}")
    if missing and os.statvfs(there).f_flag & os.ST_RDONLY:
        raise ConfigError(f"{option}: the folder {path} cannot be made: {there} is read-only")


def free_octets(path: str) -> int:
    """Octets free where a folder is or would be made. Raises OSError."""
    status = os.statvfs(_nearest(path))
    return status.f_bavail * status.f_frsize


def _nearest(path: str) -> str:
    """The path itself, or the first above it that is there."""
    there = os.path.abspath(path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    return there


def make_folder(path: str, option: str, mode: int) -> None:
    """Makes a folder if it is not there. Raises ConfigError."""
    try:
        os.makedirs(path, mode, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option}: cannot make the folder {path}: {error.strerror}") from None


def permissions(path: str) -> int:
    """The permission bits of a file or folder; 0 when there is none."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return 0


def full_hostname() -> str:
    """The host's full name as the host itself knows it: its name, or what /etc/hosts makes of it."""
    name = socket.gethostname()
    if "." not in name:
        name = socket.getfqdn(name)
    try:
        return normal_domain(name)
    except AddressSyntaxError:
        return "localhost"


def smarthost_credentials(path: str) -> tuple[str, str]:
    """User and password from the first line of the file. Raises ConfigError."""
    try:
        with open(path, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(f"--smarthost-auth: others can read {path}; chmod 600 it")
            user, colon, password = file.readline().rstrip("\r\n").partition(":")
    except OSError as error:
        raise ConfigError(f"--smarthost-auth: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--smarthost-auth: {path} must be UTF-8") from None
    if not user or not colon or not password:
        raise ConfigError(f"--smarthost-auth: the first line of {path} must be user:password")
    return user, password


def tls_context(cert: str, key: str | None) -> ssl.SSLContext:
    """The TLS of a server with this certificate chain; the key is in the same file unless given. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Opportunistic: what this refuses comes in clear text instead. So what Postfix takes is taken (RFC 7435).
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("HIGH:MEDIUM:!aNULL:!eNULL:!RC4:!MD5:@SECLEVEL=0")
    # Senders of Outlook abort a handshake that is followed by session tickets.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    for name, path in (("--tls-cert", cert), ("--tls-key", key or cert)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{name}: cannot read {path}: {error.strerror}") from None
    try:
        # Without a password function OpenSSL would ask on the terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--tls-cert: {cert} and {key or 'the key in it'} are no certificate "
            f"(PEM) with its key, without a password: {error}"
        ) from None
    return context
