"""Names that lead back to an address."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from support.zone import TIMEOUT, Zone

from smtpmail.auth.iprev import MAX_NAMES, check

PTR = "1.2.0.192.in-addr.arpa"


@pytest.mark.parametrize(
    ("records", "result", "reason"),
    [
        ({PTR: {"PTR": ["Mx.a.example."]}, "mx.a.example": {"A": ["192.0.2.1"]}}, "pass", "is mx.a.example, and"),
        (
            {PTR: {"PTR": ["a.example.", "b.example."]}, "b.example": {"A": ["192.0.2.9", "192.0.2.1"]}},
            "pass",
            "192.0.2.1 is b.example, and back",
        ),
        ({}, "permerror", "192.0.2.1 has no name"),
        ({PTR: {"TXT": ["x"]}}, "permerror", "192.0.2.1 has no name"),
        ({PTR: TIMEOUT}, "temperror", "does not answer"),
        ({PTR: {"PTR": ["a.example."]}, "a.example": TIMEOUT}, "temperror", "does not answer"),
        ({PTR: {"PTR": ["a.example."]}, "a.example": {"A": ["192.0.2.2"]}}, "fail", "is called a.example, which"),
        ({PTR: {"PTR": ["a.example."]}, "a.example": {"AAAA": ["2001:db8::1"]}}, "fail", "does not lead back"),
        ({PTR: {"PTR": ["a.example."]}}, "fail", "does not lead back"),
    ],
)  # fmt: skip
def test_results(records: dict[str, Any], result: str, reason: str) -> None:
    found = check(ipaddress.ip_address("192.0.2.1"), Zone(records))
    assert (found.result, reason in found.reason) == (result, True), found


def test_ipv6() -> None:
    address = ipaddress.ip_address("2001:db8::1")
    zone = Zone({address.reverse_pointer: {"PTR": ["a.example."]}, "a.example": {"AAAA": ["2001:DB8:0::1"]}})
    found = check(address, zone)
    assert (found.result, found.name) == ("pass", "a.example")
    assert check(ipaddress.ip_address("::ffff:192.0.2.1"), Zone({})).address == "192.0.2.1"


def test_a_thousand_names() -> None:
    zone = Zone({PTR: {"PTR": [f"h{i}.example." for i in range(1000)]}})
    found = check(ipaddress.ip_address("192.0.2.1"), zone)
    assert (found.result, len(zone.asked)) == ("fail", 1 + MAX_NAMES)
    assert len(found.reason) < 200
