"""The certificate that the listeners present: one that was renewed is read without a restart."""

from __future__ import annotations

from smtpmail.log import log
from smtpmail.settings.config import Config
from smtpmail.settings.values import ConfigError


class Certificate:
    """`context` is for the next handshake. Raises ConfigError when there is no valid one at first."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.context = config.tls_context()

    def reload(self) -> bool:
        """Reads it again; whether that went well. One that can't be read leaves the one before in use."""
        try:
            self.context = self._config.tls_context()
        except ConfigError as error:
            log.error("server.reload_failed", error=str(error), hint="the certificate from before stays in use")
            return False
        return True
