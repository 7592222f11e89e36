"""Where mail for a domain goes, asked of a real DNS server on loopback that the test writes itself."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import dns.rcode
import pytest
from support.nameserver import NameServer

from smtpmail.dns.resolver import Resolver
from smtpmail.network import IPAddress
from smtpmail.outbound.destinations import MOST_HOSTS, Destinations
from smtpmail.outbound.mailhost import MailHost, RoutingError

ZONE = """
one.test.       60 MX 10 mx1.one.test.
mx1.one.test.   60 A 192.0.2.1
mx1.one.test.   60 AAAA 2001:db8::1
order.test.     60 MX 30 c.order.test.
order.test.     60 MX 10 a.order.test.
order.test.     60 MX 20 b.order.test.
a.order.test.   60 A 192.0.2.11
b.order.test.   60 A 192.0.2.12
c.order.test.   60 A 192.0.2.13
equal.test.     60 MX 10 e1.equal.test.
equal.test.     60 MX 10 e2.equal.test.
equal.test.     60 MX 10 e3.equal.test.
equal.test.     60 MX 20 e4.equal.test.
e1.equal.test.  60 A 192.0.2.21
e2.equal.test.  60 A 192.0.2.22
e3.equal.test.  60 A 192.0.2.23
e4.equal.test.  60 A 192.0.2.24
nomx.test.      60 A 192.0.2.31
nomx.test.      60 AAAA 2001:db8::31
v6only.test.    60 AAAA 2001:db8::32
null.test.      60 MX 0 .
nullplus.test.  60 MX 0 .
nullplus.test.  60 MX 10 mx1.one.test.
empty.test.     60 TXT "nothing else"
alias.test.     60 MX 10 cname.alias.test.
alias.test.     60 MX 20 mx1.one.test.
cname.alias.test. 60 CNAME real.alias.test.
real.alias.test. 60 A 192.0.2.41
onlyalias.test. 60 MX 10 cname.alias.test.
www.test.       60 CNAME one.test.
cnamehost.test. 60 CNAME nomx.test.
gone.test.      60 MX 10 nothing.gone.test.
gone.test.      60 MX 20 mx1.one.test.
allgone.test.   60 MX 10 nothing.gone.test.
allgone.test.   60 MX 20 empty.test.
halfbroken.test. 60 MX 10 host.broken.test.
halfbroken.test. 60 MX 20 mx1.one.test.
brokenmx.test.  60 MX 10 host.broken.test.
xn--bcher-kva.test. 60 MX 10 mx1.one.test.
ours.test.      60 MX 10 mail.dom.fr.
backup.test.    60 MX 5 mx1.one.test.
backup.test.    60 MX 10 mail.dom.fr.
backup.test.    60 MX 10 e1.equal.test.
backup.test.    60 MX 20 e2.equal.test.
byaddress.test. 60 MX 10 other.dom.fr.
byaddress.test. 60 MX 20 e2.equal.test.
other.dom.fr.   60 A 192.0.2.99
primarydown.test. 60 MX 5 host.broken.test.
primarydown.test. 60 MX 10 mail.dom.fr.
fleeting.test.  0 MX 10 mx1.one.test.
case.test.      60 MX 10 MX1.One.TEST.
"""

OURS = ipaddress.ip_address("192.0.2.99")


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


def ask(names: NameServer, receives: Sequence[IPAddress] = (OURS,), **more: object) -> Destinations:
    dns = Resolver([names.endpoint])
    return Destinations(dns, "mail.dom.fr", lambda address, port: port == 25 and address in receives, **more)  # type: ignore[arg-type]


@pytest.fixture
def dns_of(names: NameServer) -> Destinations:
    return ask(names)


def addresses(found: Iterable[MailHost]) -> list[str]:
    return [t.address for t in found]


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("one.test", ["2001:db8::1", "192.0.2.1"]),
        ("ONE.Test.", ["2001:db8::1", "192.0.2.1"]),
        ("order.test", ["192.0.2.11", "192.0.2.12", "192.0.2.13"]),
        ("nomx.test", ["2001:db8::31", "192.0.2.31"]),
        ("v6only.test", ["2001:db8::32"]),
        ("www.test", ["2001:db8::1", "192.0.2.1"]),
        ("cnamehost.test", ["2001:db8::31", "192.0.2.31"]),
        ("nullplus.test", ["2001:db8::1", "192.0.2.1"]),
        ("alias.test", ["192.0.2.41", "2001:db8::1", "192.0.2.1"]),
        ("onlyalias.test", ["192.0.2.41"]),
        ("gone.test", ["2001:db8::1", "192.0.2.1"]),
        ("halfbroken.test", ["2001:db8::1", "192.0.2.1"]),
        ("bücher.test", ["2001:db8::1", "192.0.2.1"]),
        ("xn--bcher-kva.test", ["2001:db8::1", "192.0.2.1"]),
        ("case.test", ["2001:db8::1", "192.0.2.1"]),
        ("[192.0.2.7]", ["192.0.2.7"]),
        ("[IPv6:2001:DB8::7]", ["2001:db8::7"]),
    ],
)
def test_where_mail_goes(dns_of: Destinations, domain: str, expected: list[str]) -> None:
    found = list(dns_of.hosts(domain))
    assert addresses(found) == expected
    assert {t.port for t in found} == {25}


@pytest.mark.parametrize(
    ("domain", "permanent", "status"),
    [
        ("nosuch.test", True, "5.1.2"),
        ("null.test", True, "5.1.10"),
        ("empty.test", True, "5.4.4"),
        ("allgone.test", True, "5.4.4"),
        ("x.broken.test", False, "4.4.3"),
        ("brokenmx.test", False, "4.4.3"),
        ("ours.test", True, "5.4.6"),
        ("byaddress.test", True, "5.4.6"),
        ("primarydown.test", False, "4.4.3"),
        ("[192.0.2.99]", True, "5.4.6"),
        ("[192.0.2.999]", True, "5.1.2"),
        ("[nonsense]", True, "5.1.2"),
        ("-bad-.test", True, "5.1.2"),
        ("a..test", True, "5.1.2"),
        ("x" * 64 + ".test", True, "5.1.2"),
        ("", True, "5.1.2"),
    ],
)
def test_no_way(dns_of: Destinations, domain: str, permanent: bool, status: str) -> None:
    with pytest.raises(RoutingError) as caught:
        list(dns_of.hosts(domain))
    assert (caught.value.permanent, caught.value.status) == (permanent, status)
    assert str(caught.value).isprintable()


def test_random_among_equals_only(dns_of: Destinations) -> None:
    seen = Counter(tuple(addresses(dns_of.hosts("equal.test"))) for _ in range(120))
    assert len(seen) == 6, "all orders of the three"
    assert {order[3] for order in seen} == {"192.0.2.24"}


def test_a_backup_sends_only_to_those_before_it(names: NameServer) -> None:
    """Hosts of our own preference or behind us would send the mail back (RFC 5321 5.1), in whatever order they come."""
    for _ in range(20):
        assert addresses(ask(names).hosts("backup.test")) == ["2001:db8::1", "192.0.2.1"]


def test_many_threads_share_it(dns_of: Destinations) -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(addresses(dns_of.hosts("order.test")))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["192.0.2.11", "192.0.2.12", "192.0.2.13"]] * 30


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, dns.rcode.NXDOMAIN, dns.rcode.NOTIMP, dns.rcode.REFUSED, None])
@pytest.mark.parametrize("kind", ["AAAA", "MX"])
def test_a_server_that_is_wrong_about_one_type(
    code: dns.rcode.Rcode | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mail that can be delivered is delivered: what exists in one type, exists. No MX at all is only put off."""
    monkeypatch.setattr("smtpmail.dns.resolver.QUERY_SECONDS", 0.1)
    monkeypatch.setattr("smtpmail.dns.resolver.LOOKUP_SECONDS", 0.3)
    with NameServer(ZONE, {kind: code}) as names:
        if kind == "MX" and code != dns.rcode.NXDOMAIN:
            with pytest.raises(RoutingError) as caught:
                list(ask(names).hosts("nomx.test"))
            assert not caught.value.permanent
        else:
            expected = ["192.0.2.31"] if kind == "AAAA" else ["2001:db8::31", "192.0.2.31"]
            assert addresses(ask(names).hosts("nomx.test")) == expected


def test_an_alias_that_works_is_not_passed_over(names: NameServer) -> None:
    """An MX that is an alias breaks RFC 2181 10.3; the one behind it may be down for ever."""
    assert addresses(ask(names).hosts("alias.test"))[0] == "192.0.2.41"


@pytest.mark.parametrize(
    ("family", "expected"),
    [("any", ["2001:db8::31", "192.0.2.31"]), ("ipv4", ["192.0.2.31"]), ("ipv6", ["2001:db8::31"])],
)
def test_one_family_alone(names: NameServer, family: str, expected: list[str]) -> None:
    found = ask(names, family=family)
    assert addresses(found.hosts("nomx.test")) == expected
    if family == "ipv4":
        with pytest.raises(RoutingError, match="has no IPv4 address"):
            list(found.hosts("v6only.test"))
        with pytest.raises(RoutingError):
            list(found.hosts("[IPv6:2001:db8::7]"))


def test_only_as_much_is_looked_up_as_is_needed() -> None:
    zone = "".join(f"many.test. 60 MX {n} mx{n}.many.test.\nmx{n}.many.test. 60 A 192.0.2.{n}\n" for n in range(1, 61))
    with NameServer(zone) as names:
        hosts = ask(names).hosts("many.test")
        assert addresses([next(hosts), next(hosts)]) == ["192.0.2.1", "192.0.2.2"]
        assert sum(count for (_, kind), count in names.asked.items() if kind == "A") == 2
        assert len(addresses(ask(names).hosts("many.test"))) == MOST_HOSTS


PRIVATE = """
inner.test.      60 MX 10 mx.inner.test.
mx.inner.test.   60 A 10.9.0.2
both.test.       60 MX 10 mx.inner.test.
both.test.       60 MX 20 mx.both.test.
mx.both.test.    60 A 192.0.2.7
mx.both.test.    60 A 127.0.0.1
meta.test.       60 A 169.254.169.254
mapped.test.     60 AAAA ::ffff:10.0.0.1
translated.test. 60 AAAA 64:ff9b::7f00:1
self.test.       60 A 127.0.0.1
"""


@pytest.mark.parametrize(
    ("domain", "stranger", "expected"),
    [
        ("inner.test", True, []),
        ("inner.test", False, ["10.9.0.2"]),
        ("both.test", True, ["192.0.2.7"]),
        ("both.test", False, ["10.9.0.2", "192.0.2.7"]),
        ("meta.test", True, []),
        ("mapped.test", True, []),
        ("translated.test", True, []),
        ("self.test", True, []),
        ("self.test", False, []),
        ("[10.9.0.2]", True, []),
        ("[10.9.0.2]", False, ["10.9.0.2"]),
        ("[169.254.169.254]", True, []),
        ("[IPv6:fe80::1]", True, []),
        ("[IPv6:fd00::1]", True, []),
        ("[127.0.0.1]", False, []),
        ("[0.0.0.0]", False, []),
        ("[192.0.2.7]", True, ["192.0.2.7"]),
    ],
)
def test_what_strangers_may_make_us_connect_to(domain: str, stranger: bool, expected: list[str]) -> None:
    with NameServer(PRIVATE) as names:
        if expected:
            assert addresses(ask(names).hosts(domain, stranger=stranger)) == expected
        else:
            with pytest.raises(RoutingError) as caught:
                list(ask(names).hosts(domain, stranger=stranger))
            assert (caught.value.permanent, caught.value.status) == (True, "5.4.4")


def test_private_networks_that_a_setting_names() -> None:
    with NameServer(PRIVATE) as names:
        found = ask(names, private=[ipaddress.ip_network("10.9.0.0/24")])
        assert addresses(found.hosts("inner.test", stranger=True)) == ["10.9.0.2"]
        with pytest.raises(RoutingError):
            list(found.hosts("[10.9.1.2]", stranger=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("192.0.2.5", ["192.0.2.5"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("relay", ["192.0.2.77"]),
        ("Relay.Example", ["192.0.2.77"]),
        ("nomx.test", ["2001:db8::31", "192.0.2.31"]),
    ],
)
def test_a_host_that_a_setting_names(names: NameServer, tmp_path: Path, name: str, expected: list[str]) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.77 relay.example relay # the provider's\n\n#192.0.2.78 relay\n")
    assert addresses(ask(names, hosts_file=str(hosts)).named(name, 25)) == expected
