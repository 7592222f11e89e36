"""What only this machine can tell about the settings: its name, its folders, its certificates."""

from __future__ import annotations

import os
import socket

from smtpmail.mail.address import AddressSyntaxError, normal_domain
from smtpmail.settings.values import ConfigError


def check_folder(path: str, option: str, mode: int) -> None:
    """A folder that is there, or can be made, and can be written to. Raises ConfigError."""
    try:
        os.makedirs(path, mode, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{option}: {path} is not a folder") from None
    except OSError as error:
        raise ConfigError(f"{option}: cannot make the folder {path}: {error.strerror}") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{option}: the folder {path} is not writable for user id {os.getuid()}")


def full_hostname() -> str:
    """The host's full name as the host itself knows it: its name, or what /etc/hosts makes of it."""
    name = socket.gethostname()
    if "." not in name:
        name = socket.getfqdn(name)
    try:
        return normal_domain(name)
    except AddressSyntaxError:
        return "localhost"
