"""Certificates for tests: the one place that makes them."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BEFORE = datetime.timedelta(days=100)
"""So long ago every certificate became valid."""


@dataclass(frozen=True)
class Certificate:
    """PEM files of a certificate and its key."""

    name: str
    cert: Path
    key: Path

    def client_context(self) -> ssl.SSLContext:
        """A context that trusts this certificate alone."""
        return ssl.create_default_context(cafile=str(self.cert))

    def server_context(self) -> ssl.SSLContext:
        """A context that presents it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]


def make_certificate(folder: Path, name: str, *, days: float = 1) -> Certificate:
    """One that signed itself, valid for so many days from now on, in `folder`/cert.pem and key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _write(_certificate(key, name, [name], name, key, days=days, ca=True), key, name, folder, "cert", "key")


class Authority:
    """Signs certificates; its own, `certificate`, is what clients trust."""

    def __init__(self, folder: Path, name: str = "Test authority") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = _certificate(self._key, name, [], name, self._key, days=1, ca=True)
        self.certificate = _write(own, self._key, name, folder, "ca", "ca-key").cert

    def issue(self, *names: str) -> Certificate:
        """A certificate for DNS names, in files that are called after the first of them."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(key, names[0], names, self._name, self._key, days=1, ca=False)
        return _write(made, key, names[0], self._folder, names[0], f"{names[0]}-key")


def _certificate(
    key: ec.EllipticCurvePrivateKey,
    name: str,
    names: Sequence[str],
    issuer: str,
    issuers_key: ec.EllipticCurvePrivateKey,
    *,
    days: float,
    ca: bool,
) -> x509.Certificate:
    """With all that OpenSSL asks for in its strict mode, which is Python's since 3.13 (RFC 5280 4.2.1)."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(issuers_key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write(
    made: x509.Certificate, key: ec.EllipticCurvePrivateKey, name: str, folder: Path, cert_stem: str, key_stem: str
) -> Certificate:
    files = Certificate(name, folder / f"{cert_stem}.pem", folder / f"{key_stem}.pem")
    files.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files.key.chmod(0o600)
    return files
