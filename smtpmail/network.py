"""The addresses of this host, as the kernel knows them."""

from __future__ import annotations

import ipaddress
import socket

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_own_address(address: IPAddress) -> bool:
    """Whether a connection to `address` would reach this very host: only then can a socket be bound to it.

    0.0.0.0 and :: count: the kernel takes them for this host.
    """
    if address.is_multicast:
        return False
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((str(address), 0))
    except OSError:
        return False
    return True
