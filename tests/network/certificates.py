"""A certificate authority of the tests and the certificates it signs, made with openssl(1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .lab import Host, run

CERTIFICATE = "/etc/ssl/lab/cert.pem"
KEY = "/etc/ssl/lab/key.pem"
AUTHORITY = "/etc/ssl/lab/ca.pem"
"""Where a host finds them."""


class Authority:
    """Signs certificates for the hosts; its own certificate is what they trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        run(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=Authority of the test network",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
            "-keyout",
            str(self._key),
            "-out",
            str(self.certificate),
        )

    def issue(self, names: Sequence[str]) -> tuple[Path, Path]:
        """Return the files of a certificate for DNS names and of its key."""
        certificate, key = self._folder / f"{names[0]}.pem", self._folder / f"{names[0]}.key"
        request, extensions = self._folder / f"{names[0]}.csr", self._folder / f"{names[0]}.ext"
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names) + "\n")
        run(
            "openssl",
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            f"/CN={names[0]}",
            "-keyout",
            str(key),
            "-out",
            str(request),
        )
        run(
            "openssl",
            "x509",
            "-req",
            "-in",
            str(request),
            "-CA",
            str(self.certificate),
            "-CAkey",
            str(self._key),
            "-days",
            "2",
            "-extfile",
            str(extensions),
            "-out",
            str(certificate),
        )
        return certificate, key

    def install(self, host: Host, names: Sequence[str]) -> None:
        """Put a certificate for `names`, its key and the authority's own certificate on a host."""
        certificate, key = self.issue(names)
        host.write(CERTIFICATE, certificate.read_text())
        host.write(KEY, key.read_text(), mode=0o600)
        host.write(AUTHORITY, self.certificate.read_text())
