"""Where the hosts of the network find their certificates, which an authority of the tests signs."""

from __future__ import annotations

from collections.abc import Sequence

from support.tls import Authority

from .lab import Host

CERTIFICATE = "/etc/ssl/lab/cert.pem"
KEY = "/etc/ssl/lab/key.pem"
AUTHORITY = "/etc/ssl/lab/ca.pem"


def install(authority: Authority, host: Host, names: Sequence[str]) -> None:
    """Puts a certificate for `names`, its key and the authority's own certificate on a host."""
    issued = authority.issue(*names)
    host.write(CERTIFICATE, issued.cert.read_text())
    host.write(KEY, issued.key.read_text(), mode=0o600)
    host.write(AUTHORITY, authority.certificate.read_text())
