"""A configuration profile for Apple's devices: opened there, it sets up a mail account (com.apple.mail.managed)."""

from __future__ import annotations

import contextlib
import errno
import os
import plistlib
import secrets
import stat
import uuid
from typing import Any


def profile(address: str, user: str, password: str, host: str, imap_port: int, submission_port: int) -> bytes:
    """The profile as a property list in XML."""
    identifier = f"smtpmail.{host}.{user}"
    account: dict[str, Any] = {
        "PayloadType": "com.apple.mail.managed",
        "PayloadVersion": 1,
        "PayloadIdentifier": f"{identifier}.mail",
        "PayloadUUID": str(uuid.uuid4()).upper(),
        "PayloadDisplayName": address,
        "EmailAccountDescription": address,
        "EmailAccountName": user,
        "EmailAccountType": "EmailTypeIMAP",
        "EmailAddress": address,
        "IncomingMailServerAuthentication": "EmailAuthPassword",
        "IncomingMailServerHostName": host,
        "IncomingMailServerPortNumber": imap_port,
        "IncomingMailServerUseSSL": True,
        "IncomingMailServerUsername": user,
        "IncomingPassword": password,
        "OutgoingMailServerAuthentication": "EmailAuthPassword",
        "OutgoingMailServerHostName": host,
        "OutgoingMailServerPortNumber": submission_port,
        "OutgoingMailServerUseSSL": True,
        "OutgoingMailServerUsername": user,
        "OutgoingPassword": password,
        "OutgoingPasswordSameAsIncomingPassword": True,
    }
    return plistlib.dumps(
        {
            "PayloadType": "Configuration",
            "PayloadVersion": 1,
            "PayloadIdentifier": identifier,
            "PayloadUUID": str(uuid.uuid4()).upper(),
            "PayloadDisplayName": f"Mail of {address}",
            "PayloadContent": [account],
        }
    )


def write_profile(
    path: str, address: str, user: str, password: str, host: str, imap_port: int, submission_port: int
) -> None:
    """Writes it to a file that only its owner may read; another file of that name gives way. Raises OSError.

    Root may write into a folder of somebody else, who could put a link there, or be about to read what lies there.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(errno.EINVAL, "it is there, and no regular file", path)
    temporary = f"{path}.{secrets.token_hex(8)}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(profile(address, user, password, host, imap_port, submission_port))
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
