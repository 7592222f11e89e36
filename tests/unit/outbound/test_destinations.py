"""Where mail for a domain goes, asked of a real DNS server on loopback that the test writes itself."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from smtpmail.network import IPAddress
from smtpmail.outbound import destinations as resolver
from smtpmail.outbound.destinations import Resolver
from smtpmail.outbound.target import RoutingError
from smtpmail.settings.values import Endpoint

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


class NameServer:
    """Answers from a zone, over UDP, on a port of 127.0.0.1. What is under broken.test fails, under mute is silence."""

    def __init__(self, zone: str) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self._records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        for line in zone.strip().splitlines():
            name, ttl, kind, data = line.split(maxsplit=3)
            key = (dns.name.from_text(name), dns.rdatatype.from_text(kind))
            made = dns.rrset.from_text(name, int(ttl), "IN", kind, data)
            if key in self._records:
                self._records[key].update(made)
            else:
                self._records[key] = made
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.endpoint = Endpoint(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            query = dns.message.from_wire(data)
            question = query.question[0]
            self.asked[question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)] += 1
            reply = self._reply(query, question.name, question.rdtype)
            if reply is not None:
                self._socket.sendto(reply.to_wire(), peer)

    def _reply(
        self, query: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.Message | None:
        reply = dns.message.make_response(query, recursion_available=True)
        if name.is_subdomain(dns.name.from_text("mute.")):
            return None
        if name.is_subdomain(dns.name.from_text("broken.test.")):
            reply.set_rcode(dns.rcode.SERVFAIL)
            return reply
        while (name, dns.rdatatype.CNAME) in self._records:
            found = self._records[name, dns.rdatatype.CNAME]
            reply.answer.append(found)
            name = found[0].target
        if (name, kind) in self._records:
            reply.answer.append(self._records[name, kind])
        elif not any(name == known for known, _ in self._records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


def ask(names: NameServer, receives: Sequence[IPAddress] = (OURS,)) -> Resolver:
    return Resolver([names.endpoint], "mail.dom.fr", lambda address, port: port == 25 and address in receives)


@pytest.fixture
def dns_of(names: NameServer) -> Resolver:
    return ask(names)


def addresses(found: Sequence[resolver.Target]) -> list[str]:
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
        ("alias.test", ["2001:db8::1", "192.0.2.1"]),
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
def test_where_mail_goes(dns_of: Resolver, domain: str, expected: list[str]) -> None:
    found = dns_of.targets(domain)
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
def test_no_way(dns_of: Resolver, domain: str, permanent: bool, status: str) -> None:
    with pytest.raises(RoutingError) as caught:
        dns_of.targets(domain)
    assert (caught.value.permanent, caught.value.status) == (permanent, status)
    assert str(caught.value).isprintable()


def test_random_among_equals_only(dns_of: Resolver) -> None:
    seen = Counter(tuple(addresses(dns_of.targets("equal.test"))) for _ in range(120))
    assert len(seen) == 6, "all orders of the three"
    assert {order[3] for order in seen} == {"192.0.2.24"}


def test_a_backup_sends_only_to_those_before_it(names: NameServer) -> None:
    """Hosts of our own preference or behind us would send the mail back (RFC 5321 5.1), in whatever order they come."""
    for _ in range(20):
        assert addresses(ask(names).targets("backup.test")) == ["2001:db8::1", "192.0.2.1"]


def test_silence_is_temporary(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "QUERY_SECONDS", 0.1)
    monkeypatch.setattr(resolver, "LOOKUP_SECONDS", 0.3)
    with pytest.raises(RoutingError) as caught:
        ask(names).targets("x.mute")
    assert (caught.value.permanent, caught.value.status) == (False, "4.4.3")


def test_the_second_server_is_asked_when_the_first_is_silent(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "QUERY_SECONDS", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        both = Resolver([Endpoint(*deaf.getsockname()), names.endpoint], "mail.dom.fr", lambda *_: False)
        assert addresses(both.targets("nomx.test")) == ["2001:db8::31", "192.0.2.31"]


def test_answers_are_kept_for_their_ttl(names: NameServer, dns_of: Resolver) -> None:
    for _ in range(5):
        dns_of.targets("one.test")
    assert names.asked["one.test", "MX"] == 1
    assert names.asked["mx1.one.test", "A"] == 1
    for _ in range(3):
        dns_of.targets("fleeting.test")
    assert names.asked["fleeting.test", "MX"] == 3, "a TTL of 0 is for this once"


def test_many_threads_share_it(dns_of: Resolver) -> None:
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(addresses(dns_of.targets("order.test")))) for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["192.0.2.11", "192.0.2.12", "192.0.2.13"]] * 30


def test_a_failed_aaaa_does_not_hide_an_a(names: NameServer) -> None:
    """Some name servers answer SERVFAIL to what they do not know."""
    reply = names._reply

    def fussy(query, name, kind):  # type: ignore[no-untyped-def]
        answer = reply(query, name, kind)
        if kind == dns.rdatatype.AAAA:
            answer.answer.clear()
            answer.set_rcode(dns.rcode.SERVFAIL)
        return answer

    names._reply = fussy  # type: ignore[method-assign]
    assert addresses(ask(names).targets("nomx.test")) == ["192.0.2.31"]
