"""How TLS is spoken to other servers, and what is remembered of who can do it how well."""

from __future__ import annotations

import enum
import ssl
import threading
import time
from functools import cache

MEMORY_SECONDS = 3600.0
"""So long a weakness of a server is remembered; then it gets the chance to do better."""


class Level(enum.IntEnum):
    """From the best to the last resort."""

    VERIFIED = 0
    """The certificate is for the host's name and leads to a known root."""
    UNVERIFIED = 1
    """TLS, but anybody could be at the other end."""
    CLEAR = 2


@cache
def context(level: Level) -> ssl.SSLContext:
    """The TLS settings of a level: TLS 1.2 and newer."""
    made = ssl.create_default_context()
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if level is not Level.VERIFIED:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


class Memory:
    """The level at which TLS with a host (name, address) worked last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: dict[tuple[str, str], tuple[Level, float]] = {}

    def level(self, host: str, address: str) -> Level:
        """Where to begin."""
        with self._lock:
            level, until = self._levels.get((host, address), (Level.VERIFIED, 0.0))
            return level if until > time.monotonic() else Level.VERIFIED

    def remember(self, host: str, address: str, level: Level) -> None:
        """TLS at a better level than this has failed."""
        with self._lock:
            if len(self._levels) > 1000:
                now = time.monotonic()
                self._levels = {key: value for key, value in self._levels.items() if value[1] > now}
            self._levels[host, address] = (level, time.monotonic() + MEMORY_SECONDS)
