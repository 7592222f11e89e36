"""What the host offers to mail programs, and whether they find it by the domain alone (SRV: RFC 6186, RFC 8314 5.1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from smtpmail.admin.dns_records import NO_SERVICE, Service, absolute, same_place
from smtpmail.admin.lookup import Lookup
from smtpmail.dns.errors import DNSError
from smtpmail.settings.config import Config
from smtpmail.settings.finding import Finding
from smtpmail.settings.values import Endpoint

READING = "_imaps._tcp"
SENDING = "_submissions._tcp"


def offered(settings: Config) -> tuple[Service, ...]:
    """The services whose doors are set up for others than this host itself."""
    found = []
    for name, endpoints, usual, purpose in (
        (READING, settings.imap_listen, 993, "where mail programs read (IMAP with TLS)"),
        (SENDING, settings.submission_listen, 465, "where mail programs send (submission with TLS)"),
    ):
        port = next((endpoint.port or usual for endpoint in endpoints if not _is_loopback(endpoint)), None)
        if port:
            found.append(Service(name, port, purpose))
    return tuple(found)


def _is_loopback(endpoint: Endpoint) -> bool:
    return ipaddress.ip_address(endpoint.host.partition("%")[0]).is_loopback


def check(hostname: str, domain: str, services: Sequence[Service], lookup: Lookup) -> Iterator[Finding]:
    """Whether the records of a domain say what the host offers, and nothing else. Raises DNSError."""
    ports = {service.name: service.port for service in services}
    for name in (READING, SENDING):
        full_name = f"{name}.{absolute(domain)}"
        try:
            values = lookup(full_name, "SRV")
        except DNSError:
            if name not in ports:
                continue  # nobody needs to know
            raise
        here = [value for value in values if value.split()[-1].lower() == absolute(hostname)]
        if name not in ports:
            if here:
                yield Finding(
                    "srv", domain, "warning", f"{name} leads to {hostname}, which does not offer it",
                    f"remove: {full_name} SRV {here[0]}; or set up --imap-listen and --submission-listen",
                )  # fmt: skip
            continue
        right = f"0 1 {ports[name]} {absolute(hostname)}"
        if any(same_place(value, right) for value in values):
            yield Finding("srv", domain, "ok", f"{name} leads to {hostname} port {ports[name]}")
        elif any(value.split()[-1] == NO_SERVICE for value in values):
            yield Finding("srv", domain, "warning", f"{name} says that this is not offered", f"publish: {right}")
        else:
            said = f"{name} leads to {', '.join(values)}" if values else f"there is no record {name}"
            yield Finding(
                "srv", domain, "warning", f"{said}: mail programs must be told server and port by hand",
                f"add: {full_name} SRV {right}",
            )  # fmt: skip
