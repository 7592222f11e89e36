"""What becomes of mail for a domain, for everything that a domain's DNS can say."""

from __future__ import annotations

import time

import pytest
from support.faultserver import close

from . import nameservers
from .conftest import Sinks
from .lab import Lab
from .program import Program
from .reports import concerns, recipients


def delivered(ours: Program, sinks: Sinks, recipient: str, timeout: float = 20.0) -> int:
    """Send a message to the recipient; returns the number of the sink that it arrived at, once, at the first try."""
    sent = ours.post(recipient)
    ours.wait_for("delivery.succeeded", id=sent.id, recipient=recipient, timeout=timeout)
    ((number, accepted),) = sinks.arrivals(sent.subject)
    assert accepted == recipient
    assert not ours.events("delivery.deferred", id=sent.id)
    return number


@pytest.mark.parametrize(
    ("domain", "sink"),
    [
        pytest.param("prefer.test", 1, id="the most preferred of several"),
        pytest.param("dead-first.test", 1, id="the first refuses connections"),
        pytest.param("blackhole-first.test", 1, id="the first never answers"),
        pytest.param("unreachable-first.test", 1, id="no route to the first"),
        pytest.param("dual-mx.test", 1, id="IPv6 dead, IPv4 alive"),
        pytest.param("address4.test", 1, id="no MX, an IPv4 address"),
        pytest.param("address6.test", 1, id="no MX, an IPv6 address"),
        pytest.param("address46.test", 1, id="no MX, both"),
        pytest.param("cname-first.test", 1, id="the first MX is an alias: taken as it comes"),
        pytest.param("cname-only.test", 1, id="the only MX is an alias: better than nothing"),
        pytest.param("missing-first.test", 2, id="the first MX does not exist"),
        pytest.param("text-first.test", 2, id="the first MX has no address"),
        pytest.param("broken-first.test", 2, id="the zone of the first MX is broken"),
        pytest.param("domain-alias.test", 1, id="the domain is an alias (RFC 5321 5.1)"),
        pytest.param("xn--bcher-kva.test", 1, id="an A-label"),
        pytest.param("ours-is-backup.test", 1, id="we are the backup MX"),
        pytest.param("[192.0.2.81]", 1, id="an IPv4 literal"),
        pytest.param("[IPv6:2001:db8::82]", 2, id="an IPv6 literal"),
    ],
)
def test_delivered(ours: Program, sinks: Sinks, domain: str, sink: int) -> None:
    assert delivered(ours, sinks, f"bob@{domain}") == sink


@pytest.mark.parametrize(
    ("domain", "status"),
    [
        pytest.param("null.test", "5.1.10", id="null MX (RFC 7505)"),
        pytest.param("missing.test", "5.1.2", id="NXDOMAIN"),
        pytest.param("no.such.tld.nowhere", "5.1.2", id="no such top-level domain"),
        pytest.param("loop.test", "5.4.6", id="its MX is our own name"),
        pytest.param("loop-address.test", "5.4.6", id="no MX, our own address"),
        pytest.param("loop-localhost.test", "5.4.6", id="its MX is a loopback address"),
        pytest.param("loop-unspecified.test", "5.4.6", id="its MX is 0.0.0.0"),
        pytest.param("ours-is-first.test", "5.4.6", id="we are its first MX, the others are behind us (RFC 5321 5.1)"),
    ],
)
def test_bounced_at_once(ours: Program, sinks: Sinks, domain: str, status: str) -> None:
    recipient = f"bob@{domain}"
    sent = ours.post(recipient)
    assert ours.wait_for("delivery.failed", id=sent.id, recipient=recipient)["attempt"] == 1
    notice = ours.wait_for_mail("alice", lambda message: concerns(message, recipient), f"a bounce of {recipient}")
    assert recipients(notice)[recipient].status == status
    assert sinks.arrivals(sent.subject) == []
    assert not ours.events("delivery.deferred", id=sent.id)
    assert not ours.events("message.received", recipients=[recipient], listener="network")


@pytest.mark.parametrize("domain", ["text-only.test", "missing-only.test"])
def test_no_exchanger_at_all_bounces(ours: Program, sinks: Sinks, domain: str) -> None:
    """The domain exists, but nobody takes its mail: not a matter of time."""
    recipient = f"bob@{domain}"
    sent = ours.post(recipient)
    ours.wait_for("delivery.failed", id=sent.id, recipient=recipient)
    notice = ours.wait_for_mail("alice", lambda message: concerns(message, recipient), f"a bounce of {recipient}")
    assert recipients(notice)[recipient].status in {"5.1.2", "5.4.4"}
    assert sinks.arrivals(sent.subject) == []


@pytest.mark.parametrize(
    "domain",
    [
        pytest.param("broken.test", id="SERVFAIL"),
        pytest.param("broken-exchanger.test", id="SERVFAIL for the only exchanger"),
        pytest.param("dead.test", id="connection refused"),
        pytest.param("many.test", id="the last of twelve, in an answer that needs TCP: five are tried at a time"),
        pytest.param("blackholed.test", id="no answer to the connection"),
    ],
)
def test_deferred_and_tried_again(ours: Program, domain: str) -> None:
    recipient = f"bob@{domain}"
    sent = ours.post(recipient)
    for attempt in (1, 2):
        entry = ours.wait_for("delivery.deferred", id=sent.id, recipient=recipient, count=attempt)
        assert entry["attempt"] == attempt
        assert entry["reply"], "the reason is recorded"
    assert not ours.events("delivery.failed", id=sent.id)


def test_the_dead_do_not_delay_the_living(ours: Program, sinks: Sinks) -> None:
    """One message to two dead destinations and to a living one."""
    sent = ours.post("bob@blackholed.test", "bob@dead.test", "bob@one.test")
    ours.wait_for("delivery.succeeded", id=sent.id, recipient="bob@one.test", timeout=2)
    ours.wait_for("delivery.deferred", id=sent.id, recipient="bob@blackholed.test", timeout=40)
    assert sinks.arrivals(sent.subject) == [(1, "bob@one.test")]


def test_random_among_equals(ours: Program, sinks: Sinks) -> None:
    """Sixteen domains with the same two exchangers: that all choose the same one is a matter of 1 in 32,768."""
    names = [f"bob@{number}.equal.test" for number in range(16)]
    sent = ours.post(*names)
    for name in names:
        ours.wait_for("delivery.succeeded", id=sent.id, recipient=name)
    arrivals = sinks.arrivals(sent.subject)
    assert sorted(recipient for _, recipient in arrivals) == sorted(names)
    assert {number for number, _ in arrivals} == {1, 2}


def test_a_u_label_is_looked_up_as_its_a_label(ours: Program, sinks: Sinks) -> None:
    content = b"From: alice@dom.test\r\nSubject: to a U-label\r\n\r\nx\r\n"
    sent = ours.submit(content, "bob@bücher.test", mail_options=["SMTPUTF8"])
    ours.wait_for("delivery.succeeded", id=sent.id)
    ((number, _),) = sinks.arrivals(sent.subject)
    assert number == 1


def test_our_own_address_is_local(ours: Program) -> None:
    for literal in ("[192.0.2.10]", "[IPv6:2001:db8::10]"):
        sent = ours.post(f"bob@{literal}")
        assert ours.wait_for_subject("bob", sent.subject)
        assert not ours.events("delivery.succeeded", id=sent.id)


def test_as_backup_with_the_primary_down_it_waits(ours: Program, sinks: Sinks) -> None:
    """With a worse or equal preference than a living other MX we queue; we never send to ourselves."""
    server = sinks.servers[1]
    server.script["connect"] = close("421 4.3.2 not today")
    try:
        sent = ours.post("bob@ours-is-backup.test")
        ours.wait_for("delivery.deferred", id=sent.id)
        assert not ours.events("delivery.failed", id=sent.id)
    finally:
        del server.script["connect"]
    ours.wait_for("delivery.succeeded", id=sent.id)


@pytest.mark.parametrize(("domain", "asked"), [("three.test", 1), ("short-lived.test", 3)])
def test_answers_are_kept_for_their_ttl_and_no_longer(
    ours: Program, lab: Lab, sinks: Sinks, domain: str, asked: int
) -> None:
    """Three messages, one after the other; the TTLs are 300 seconds and 0."""
    before = nameservers.questions(lab["dns"], domain, "MX")
    for _ in range(3):
        delivered(ours, sinks, f"bob@{domain}")
        time.sleep(2.5)  # a connection that is kept for the next message needs no answer
    assert nameservers.questions(lab["dns"], domain, "MX") == before + asked
