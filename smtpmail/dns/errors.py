"""Why DNS has no value: the name does not exist, it has no such record, or nobody answers. Each one line for people."""

from __future__ import annotations


class DNSError(Exception):
    """No value. As itself: nobody answers, not even that there is none; worth another try."""


class NotFound(DNSError):
    """It is known that there is no value."""


class NoSuchName(NotFound):
    """The name does not exist (NXDOMAIN, RFC 8020)."""


class NoSuchRecord(NotFound):
    """The name exists, without a record of that type (NODATA, RFC 2308)."""


class ServerFailed(Exception):
    """One server is of no help: why; `silent` when another try may be worth it."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent
