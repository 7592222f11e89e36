"""What the host offers to mail programs, and whether they find it by the domain alone (SRV: RFC 6186, RFC 8314 5.1)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator, Sequence

from smtpmail.admin.dns_records import NO_SERVICE, Address, Service, absolute, same_place
from smtpmail.admin.lookup import Lookup
from smtpmail.dns.errors import DNSError
from smtpmail.settings import certificate
from smtpmail.settings.config import Config
from smtpmail.settings.finding import Finding
from smtpmail.settings.values import Endpoint

READING = "_imaps._tcp"
SENDING = "_submissions._tcp"

CONNECT_SECONDS = 10.0

_GREETINGS = {READING: b"* OK ", SENDING: b"220 "}


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


def door(hostname: str, address: Address, service: Service) -> Iterator[Finding]:
    """What a mail program meets at the port, as far as it can be seen from the host itself."""
    subject = f"{address} port {service.port}"
    try:
        greeting = _greeting(hostname, address, service.port)
    except ssl.SSLError as error:
        yield Finding(
            "port", subject, "error", f"what answers does not begin with TLS: {error.reason or error}",
            "see which program listens there; 993 and 465 are without STARTTLS",
        )  # fmt: skip
        return
    except OSError as error:
        yield Finding(
            "port", subject, "error", f"no server for mail programs answers: {error.strerror or error}",
            f"see that the service runs and that the firewall lets port {service.port} in",
        )  # fmt: skip
        return
    if not greeting.startswith(_GREETINGS[service.name]) or hostname.lower().encode() not in greeting.lower().split():
        shown = greeting.decode("ascii", "replace").strip()[:100]
        yield Finding("port", subject, "error", f"it greets with '{shown}'", "see which program listens there")
        return
    yield Finding("port", subject, "ok", "it answers; whether the provider lets others in, only others can tell")
    clients: list[ssl.SSLSocket] = []

    def handshake(context: ssl.SSLContext) -> ssl.SSLSocket:
        clients.append(_connected(context, hostname, address, service.port))
        return clients[-1]

    try:
        yield certificate.judge(handshake, hostname, subject)
    except OSError as error:
        yield Finding("certificate", subject, "error", f"the TLS handshake fails: {error}", "see the server's log")
    finally:
        for client in clients:
            client.close()


def _greeting(hostname: str, address: Address, port: int) -> bytes:
    """The first line, whatever the certificate. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with _connected(context, hostname, address, port) as client, client.makefile("rb") as replies:
        return replies.readline(1000)


def _connected(context: ssl.SSLContext, hostname: str, address: Address, port: int) -> ssl.SSLSocket:
    """A connection after the TLS handshake. Raises OSError."""
    sock = socket.create_connection((str(address), port), timeout=CONNECT_SECONDS)
    with contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        client = context.wrap_socket(sock, server_hostname=hostname)
        stack.pop_all()
    return client
