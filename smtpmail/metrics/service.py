"""The metrics of a server: memory that its processes share, and the socket on which they are fetched."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from smtpmail.metrics.counts import Counts
from smtpmail.metrics.endpoint import Endpoint, open_socket
from smtpmail.metrics.exposition import expose


class Service:
    """Made before the processes are. `gauges` is asked at each look. Raises OSError for want of a socket."""

    def __init__(
        self, address: str | tuple[str, int], processes: int, gauges: Callable[[], Mapping[str, float]], version: str
    ) -> None:
        self._pid = os.getpid()
        self._path = address if isinstance(address, str) else None
        self._sock: socket.socket = open_socket(address)
        self._gauges = gauges
        self._version = version
        self.counts = Counts(processes)

    def in_child(self, process: int) -> None:
        """A child counts, and leaves the answers to its parent."""
        self._sock.close()
        self.counts.use_row(process)

    def start(self) -> None:
        """Answers from here on."""
        Endpoint(self._sock, self._text).start()

    def stop(self) -> None:
        """Takes the path of the socket away."""
        if self._path is not None and os.getpid() == self._pid:
            os.unlink(self._path)

    def _text(self, openmetrics: bool) -> str:
        return expose(self.counts, self._gauges(), openmetrics=openmetrics, version=self._version)
