"""One address of one host that mail can be taken to, and why there may be none."""

from __future__ import annotations

from dataclasses import dataclass

SMTP_PORT = 25


class RoutingError(Exception):
    """No way to a domain: `permanent`, or worth another try; `status` is the enhanced status code (RFC 3463)."""

    def __init__(self, permanent: bool, status: str, text: str) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.status = status


@dataclass(frozen=True, slots=True)
class MailHost:
    """One address of one host that takes mail for a domain."""

    name: str
    """The name of the MX; a literal for an address given as such."""
    address: str
    port: int = SMTP_PORT

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.address

    def __str__(self) -> str:
        return f"{self.name} [{self.address}]:{self.port}"
