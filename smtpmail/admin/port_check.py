"""What answers at this host's ports, and its certificate, as far as they can be seen from the host itself."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from smtpmail.admin.dns_records import Address, Service
from smtpmail.admin.dns_services import READING, SENDING
from smtpmail.settings import certificate
from smtpmail.settings.finding import Finding

CONNECT_SECONDS = 10.0

_GREETINGS = {READING: b"* OK ", SENDING: b"220 "}


def smtp(hostname: str, address: Address, port: int) -> Iterator[Finding]:
    """The port for mail, and what STARTTLS shows."""
    subject = f"{address} port {port}"
    try:
        with contextlib.closing(_client(hostname, address, port)) as client:
            starttls = client.has_extn("starttls")
            greeting = client.greeting
    except (OSError, smtplib.SMTPException) as error:
        yield Finding(
            "port", subject, "error", f"no mail server answers: {error}",
            f"see that the service runs and that the firewall lets port {port} in",
        )  # fmt: skip
        return
    if greeting.split(" ")[0].lower() != hostname.lower():
        yield _stranger(subject, greeting)
        return
    yield _well(subject)
    if not starttls:
        yield Finding("certificate", subject, "error", "STARTTLS is not offered", "give --tls-cert and --tls-key")
        return

    def handshake(context: ssl.SSLContext, opened: ExitStack) -> ssl.SSLSocket:
        client = opened.enter_context(contextlib.closing(_client(hostname, address, port)))
        client.docmd("STARTTLS")
        assert client.sock
        client.sock = context.wrap_socket(client.sock, server_hostname=hostname)
        return client.sock

    yield _certificate(handshake, hostname, subject)


def service(hostname: str, address: Address, service: Service) -> Iterator[Finding]:
    """The port of a service for mail programs: TLS at once."""
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
        yield _stranger(subject, greeting.decode("ascii", "replace").strip()[:100])
        return
    yield _well(subject)
    yield _certificate(
        lambda context, opened: opened.enter_context(_connected(context, hostname, address, service.port)),
        hostname,
        subject,
    )


def _well(subject: str) -> Finding:
    return Finding("port", subject, "ok", "it answers; whether the provider lets others in, only others can tell")


def _stranger(subject: str, greeting: str) -> Finding:
    return Finding("port", subject, "error", f"it greets with '{greeting}'", "see which program listens there")


def _certificate(
    handshake: Callable[[ssl.SSLContext, ExitStack], ssl.SSLSocket], hostname: str, subject: str
) -> Finding:
    """What a handshake shows; what it opens is closed afterwards."""
    with ExitStack() as opened:
        try:
            return certificate.judge(lambda context: handshake(context, opened), hostname, subject)
        except OSError as error:
            return Finding("certificate", subject, "error", f"the TLS handshake fails: {error}", "see the server's log")


class _Client(smtplib.SMTP):
    """Keeps the greeting."""

    greeting = ""

    def connect(self, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        code, text = super().connect(*args, **kwargs)
        self.greeting = text.decode("ascii", "replace")
        return code, text


def _client(hostname: str, address: Address, port: int) -> _Client:
    """A client after EHLO. Raises OSError, smtplib.SMTPException."""
    client = _Client(str(address), port, local_hostname=hostname, timeout=CONNECT_SECONDS)
    client.ehlo()
    return client


def _greeting(hostname: str, address: Address, port: int) -> bytes:
    """The first line, whatever the certificate. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with _connected(context, hostname, address, port) as client, client.makefile("rb") as replies:
        return replies.readline(1000)


def _connected(context: ssl.SSLContext, hostname: str, address: Address, port: int) -> ssl.SSLSocket:
    """A connection after the TLS handshake. Raises OSError."""
    sock = socket.create_connection((str(address), port), timeout=CONNECT_SECONDS)
    with ExitStack() as stack:
        stack.callback(sock.close)
        client = context.wrap_socket(sock, server_hostname=hostname)
        stack.pop_all()
    return client
