"""Logging in with AUTHENTICATE: PLAIN (RFC 4616), and LOGIN, which old clients know only. For SMTP's AUTH, too."""

from __future__ import annotations

import base64
import binascii

MECHANISMS = ("PLAIN", "LOGIN")


class Aborted(Exception):
    """The client has given up, or does not speak base64."""


class NotAllowed(Exception):
    """Somebody wants to act for somebody else."""


class Exchange:
    """One exchange by one of the MECHANISMS."""

    def __init__(self, mechanism: str) -> None:
        self._mechanism = mechanism
        self._responses: list[bytes] = []
        self._aborted = False

    def take(self, line: bytes) -> None:
        """A response of the client, in base64; `*` gives up."""
        try:
            self._responses.append(base64.b64decode(line, validate=True))
        except (ValueError, binascii.Error):
            self._aborted = True

    def challenge(self) -> bytes | None:
        """What is to be sent next, in base64; None when all is said. Raises Aborted, NotAllowed."""
        if self._aborted:
            raise Aborted
        if self._mechanism == "LOGIN":
            prompts = [b"Username:", b"Password:"][len(self._responses) :]
            return base64.b64encode(prompts[0]) if prompts else None
        if not self._responses:
            return b""
        fields = self._responses[0].split(b"\0")
        if len(fields) != 3 or (fields[0] and fields[0] != fields[1]):
            raise NotAllowed
        return None

    def credentials(self) -> tuple[bytes, bytes]:
        """Name and password, when all is said."""
        if self._mechanism == "LOGIN":
            user, password = self._responses[:2]
        else:
            _, user, password = self._responses[0].split(b"\0")
        return user, password
