"""Which rules of others let mail in: rules as nft prints them, made by nft and by iptables."""

from __future__ import annotations

import json
import subprocess

import pytest
from conftest import program

packet_filter = program("packet_filter")

EST = "ct state established,related accept; iif lo accept;"
CASES = {
    "a policy that drops": ("type filter hook input priority 0; policy drop;", ["inet f input"]),
    "a policy that drops, behind a rule for mail": (
        f"type filter hook input priority 0; policy drop; {EST} tcp dport {{ 22, 25 }} accept", [],
    ),
    "a rule for mail among others by a map": (
        "type filter hook input priority 0; policy drop; tcp dport vmap { 22 : accept, 25 : accept }", [],
    ),
    "a range": ("type filter hook input priority 0; policy drop; tcp dport 20-30 accept", []),
    "another range": ("type filter hook input priority 0; policy drop; tcp dport 26-30 accept", ["inet f input"]),
    "a set by name": ("type filter hook input priority 0; policy drop; tcp dport @open accept", []),
    "a policy that accepts, and a last rule that rejects": (
        f"type filter hook input priority 0; {EST} ct state new tcp dport 22 accept; counter reject", ["inet f input"],
    ),
    "a last rule that rejects, behind one for mail": (
        f"type filter hook input priority 0; policy accept; {EST} ct state new tcp dport 25 accept; counter reject", [],
    ),
    "a chain that is jumped to": ("type filter hook input priority 0; policy drop; jump services", []),
    "a chain that ends it": ("type filter hook input priority 0; jump refuse; tcp dport 25 accept", ["inet f input"]),
    "mail from one network alone": (
        "type filter hook input priority 0; policy drop; ip saddr 198.51.100.0/24 tcp dport 25 accept",
        ["inet f input"],
    ),
    "one network that is dropped": ("type filter hook input priority 0; ip saddr 198.51.100.0/24 drop", []),
    "all that is not mail": ("type filter hook input priority 0; tcp dport != 25 drop", []),
    "UDP that is dropped": ("type filter hook input priority 0; meta l4proto udp drop", []),
    "another hook": ("type filter hook forward priority 0; policy drop;", []),
}  # fmt: skip


def in_namespace(script: str) -> str:
    """What nft prints of rules that a script made where they are nobody's."""
    return subprocess.run(
        ["unshare", "--net", "bash", "-ec", f"{script}\nnft --json list ruleset"],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rules_of_nft(case: str) -> None:
    chain, ending = CASES[case]
    rules = f"""table inet f {{
        set open {{ type inet_service; elements = {{ 25, 443 }} }}
        chain services {{ tcp dport 25 accept; }}
        chain refuse {{ ct state new reject; }}
        chain input {{
            {chain.replace("; ", chr(10))}
        }}
    }}
    table inet smtpmail {{ chain input {{ type filter hook input priority 0; policy drop; }}; }}"""
    found = in_namespace(f"nft -f - <<'END'\n{rules}\nEND")
    assert [" ".join(chain) for chain in packet_filter.ending(json.loads(found)["nftables"], 25)] == ending


# Oracle's cloud has these in its images.
ORACLE = """
iptables-nft -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A INPUT -p icmp -j ACCEPT
iptables-nft -A INPUT -i lo -j ACCEPT
iptables-nft -A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
%s
iptables-nft -A INPUT -j REJECT --reject-with icmp-host-prohibited
"""


@pytest.mark.parametrize(
    ("more", "ending"),
    [
        ("", [("ip", "filter", "INPUT")]),
        ("iptables-nft -A INPUT -p tcp -m state --state NEW -m tcp --dport 25 -j ACCEPT", []),
    ],
)
def test_rules_of_iptables(more: str, ending: list[tuple[str, str, str]]) -> None:
    assert packet_filter.ending(json.loads(in_namespace(ORACLE % more))["nftables"], 25) == ending
