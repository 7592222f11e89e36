"""Nothing leaves the test network, and it is what its zones say it is."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
from pathlib import Path
from typing import Any

import dns.resolver
import dns.reversename
import pytest

from . import nameservers
from .conftest import BLACKHOLE, HOSTS
from .lab import NETNS, Lab, run

DOCUMENTATION = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32")]
OUTSIDE = ["198.51.100.1", "203.0.113.1", "10.0.0.1", "192.168.0.1", "2001:db8:ffff::1", "fd00::1"]


def namespaces() -> list[str]:
    """All namespaces of this lab, the bridge's included."""
    return [path.name for path in NETNS.glob(f"netlab-{os.getpid()}-*")]


def ip(namespace: str, *arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(run("ip", "-n", namespace, "-json", *arguments).stdout or "[]"))


def test_there_are_only_the_hosts_and_the_bridge(lab: Lab) -> None:
    assert len(namespaces()) == len(HOSTS) + 1


def test_no_route_leads_out(lab: Lab) -> None:
    for namespace in namespaces():
        for family in ("-4", "-6"):
            for route in ip(namespace, family, "route", "show", "table", "all"):
                assert route["dst"] != "default", (namespace, route)
                assert "gateway" not in route and "via" not in route, (namespace, route)


def test_no_interface_leads_out(lab: Lab) -> None:
    """Each end of each cable is in a namespace of the lab; no interface is of a kind that reaches hardware."""
    ends = {}
    for namespace in namespaces():
        for link in ip(namespace, "-details", "link"):
            kind = link.get("linkinfo", {}).get("info_kind")
            assert link["ifname"] == "lo" or kind in {"veth", "bridge"}, (namespace, link)
            if kind == "veth":
                ends[(namespace, link["ifname"])] = link
    hosts = [namespace for namespace, name in ends if name == "eth0"]
    assert len(ends) == 2 * len(hosts) == 2 * len(HOSTS)
    # The machine's own namespace has no end of any of them.
    assert not [
        link
        for link in json.loads(run("ip", "-json", "link").stdout)
        if link.get("link_netnsid") is not None and link["ifname"] in HOSTS
    ]


def test_no_host_forwards(lab: Lab) -> None:
    for host in lab:
        for setting in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            assert host.run("sysctl", "-n", setting).stdout.strip() == "0"
    # The bridge has no address: it passes frames and takes part in nothing above.
    wire = next(name for name in namespaces() if name.endswith("-wire"))
    assert [
        address
        for link in ip(wire, "address", "show", "dev", "br0")
        for address in link["addr_info"]
        if address["scope"] == "global"
    ] == []


@pytest.mark.parametrize("address", OUTSIDE)
def test_no_packet_finds_a_way(lab: Lab, address: str) -> None:
    def send(kind: socket.SocketKind) -> int | None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, kind) as sock:
            sock.settimeout(2)
            return sock.connect_ex((address, 25))

    for host in lab:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            assert host.call(send, kind) == errno.ENETUNREACH


def test_every_address_in_the_zones_is_documentation_or_loopback() -> None:
    harmless = [
        *DOCUMENTATION,
        ipaddress.ip_network("127.0.0.1/32"),
        ipaddress.ip_network("::1/128"),
        ipaddress.ip_network("0.0.0.0/32"),
    ]
    found = 0
    for path in nameservers.ZONES.glob("*.zone"):
        for words in (line.partition(";")[0].split() for line in path.read_text().splitlines()):
            for kind in {"A", "AAAA"} & set(words):
                text = words[words.index(kind) + 1]
                if text != "not-an-address":
                    found += 1
                    address = ipaddress.ip_address(text)
                    assert any(address in net for net in harmless if net.version == address.version), (path, text)
    assert found > 50


def test_names_and_addresses_agree(lab: Lab) -> None:
    """Each host's address has a name that leads back to it (forward-confirmed reverse DNS)."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [nameservers.RESOLVER]
    resolver.lifetime = 5.0

    def ask(name: object, kind: str) -> set[str]:
        return {str(record) for record in lab["ours"].call(resolver.resolve, name, kind)}

    for host in lab:
        for address in host.addresses:
            (name,) = ask(dns.reversename.from_address(address), "PTR")
            assert address in ask(name, "AAAA" if ":" in address else "A")


def test_the_black_hole_is_black(lab: Lab) -> None:
    def connect(address: str) -> int:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as sock:
            sock.settimeout(0.3)
            return sock.connect_ex((address, 25))

    for address in BLACKHOLE:
        assert lab["ours"].call(connect, address) == errno.EAGAIN


def test_hosts_have_their_own_system_folders(lab: Lab) -> None:
    lab["sink"].write("/etc/only-on-sink", "x")
    assert not Path("/etc/only-on-sink").exists()
    assert not lab["ours"].path("/etc/only-on-sink").exists()
