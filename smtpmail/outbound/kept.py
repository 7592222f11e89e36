"""A worker's connection to a destination, kept from message to message."""

from __future__ import annotations

from smtpmail.outbound.client import Client


class Kept:
    """A worker's connection to a destination, kept from message to message."""

    def __init__(self, destination: str) -> None:
        self.destination = destination
        self.client: Client | None = None
        self.fallback = False
        """It is in clear text because TLS failed."""

    @property
    def is_open(self) -> bool:
        return self.client is not None

    @property
    def sending(self) -> bool:
        """Whether content is on its way."""
        client = self.client
        return client is not None and client.sending

    def close(self) -> None:
        """Says good-bye, if there is somebody."""
        if self.client is not None:
            self.client.quit()
            self.client = None

    def drop(self) -> None:
        """The connection is of no more use."""
        if self.client is not None:
            self.client.close()
            self.client = None
