"""What a sender that verifies (MTA-STS, REQUIRETLS) thinks of a certificate. Said by OpenSSL itself in a handshake."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from smtpmail.settings.finding import Finding

RENEW_DAYS = 14
"""A certificate that is valid for fewer days should have been renewed."""

# Verification results of OpenSSL (x509_vfy.h).
EXPIRED, NOT_YET_VALID, WRONG_NAME = 10, 9, 62
UNKNOWN_ISSUER = frozenset({18, 19, 20, 21})

Handshake = Callable[[ssl.SSLContext], ssl.SSLSocket | ssl.SSLObject]
"""Shakes hands as a client with that context. Raises ssl.SSLError; SSLCertVerificationError when it does not verify."""


def judge(handshake: Handshake, hostname: str, subject: str) -> Finding:
    """What is found about the certificate that the other side of `handshake` shows; `subject` says whose it is.

    Raises ssl.SSLError, OSError.
    """
    trusted = True
    try:
        peer = handshake(ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in UNKNOWN_ISSUER:
            return _refused(error, hostname, subject)
        trusted = False
        try:
            peer = handshake(_trusting(_certificate(handshake)))
        except ssl.SSLCertVerificationError as second:
            return _refused(second, hostname, subject)
    fields = peer.getpeercert()
    assert fields
    expiry = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(fields["notAfter"])), UTC)
    if not trusted:
        return Finding(
            "certificate", subject, "warning", f"it is from no known authority, valid until {expiry:%Y-%m-%d}: "
            "enough against listeners, not for senders that verify", "get one from an authority (ACME)",
        )  # fmt: skip
    if (expiry - datetime.now(UTC)).days < RENEW_DAYS:
        return Finding(
            "certificate", subject, "warning", f"it expires on {expiry:%Y-%m-%d}", "see why it was not renewed"
        )
    return Finding("certificate", subject, "ok", f"it is for {hostname}, until {expiry:%Y-%m-%d}")


def in_memory(server: ssl.SSLContext, hostname: str) -> Handshake:
    """Handshakes with a server context of this process, without a network."""

    def handshake(context: ssl.SSLContext) -> ssl.SSLObject:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client_side = context.wrap_bio(to_client, to_server, server_hostname=hostname)
        server_side = server.wrap_bio(to_server, to_client, server_side=True)
        for side in (client_side, server_side, client_side):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        return client_side

    return handshake


def _refused(error: ssl.SSLCertVerificationError, hostname: str, subject: str) -> Finding:
    if error.verify_code == EXPIRED:
        return Finding("certificate", subject, "error", "it has expired", "renew it")
    if error.verify_code == NOT_YET_VALID:
        return Finding("certificate", subject, "error", "it is not valid yet", "set the clock of this host, or wait")
    if error.verify_code == WRONG_NAME:
        return Finding(
            "certificate", subject, "error", f"it is not for {hostname}", f"get one whose names include {hostname}"
        )
    return Finding("certificate", subject, "error", f"it does not verify: {error.verify_message}", "get another one")


def _certificate(handshake: Handshake) -> bytes:
    """The certificate (DER), whatever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate = handshake(context).getpeercert(binary_form=True)
    assert certificate
    return certificate


def _trusting(certificate: bytes) -> ssl.SSLContext:
    """A context that takes this one certificate's issuer for granted: names and dates still count."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context
