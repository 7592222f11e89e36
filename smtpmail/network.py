"""The addresses of this host, as the kernel knows them."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


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


NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # RFC 1918
        "100.64.0.0/10",  # RFC 6598, behind a provider's translation
        "fc00::/7",  # RFC 4193
        "64:ff9b:1::/48",  # RFC 8215, a translation to whatever this network likes
    )
)  # fmt: skip

NEVER_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/128", "::1/128", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
"""This host, its links, groups, and what is reserved; cloud services answer at link-local addresses (RFC 6890)."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _really(address: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 one stands for (mapped, compatible, 6to4, Teredo, NAT64), or the address."""
    if address.version == 4:
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is None and (address in _NAT64 or 1 < int(address) < 1 << 32):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def is_public(address: IPAddress) -> bool:
    """Whether an address is for everybody. Documentation networks (RFC 5737, RFC 3849) count."""
    real = _really(address)
    return not any(real in network for network in (*NOT_PUBLIC, *NEVER_PUBLIC) if network.version == real.version)


def is_loopback(address: IPAddress) -> bool:
    """Whether an address is this host for itself; 0.0.0.0 and :: are, to the kernel."""
    real = _really(address)
    return real.is_loopback or real.is_unspecified


SIOCGIFADDR = 0x8915
IPV6_TEMPORARY_OR_DEPRECATED = 0x01 | 0x20


def public_addresses() -> list[IPAddress]:
    """The addresses of this host's interfaces that the world may know: the first IPv4 one of each, all IPv6 ones."""
    found: list[IPAddress] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(sock, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has none
            found.append(ipaddress.IPv4Address(answer[20:24]))
    with contextlib.suppress(FileNotFoundError), open("/proc/net/if_inet6", encoding="ascii") as file:
        for line in file:
            address, _, _, _, flags, _ = line.split()
            if not int(flags, 16) & IPV6_TEMPORARY_OR_DEPRECATED:
                found.append(ipaddress.IPv6Address(bytes.fromhex(address)))
    return [
        address
        for address in found
        if not (address.is_loopback or address.is_link_local or any(address in net for net in NOT_PUBLIC))
    ]
