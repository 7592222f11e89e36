"""Whether the packet filter of a host lets new connections to TCP ports in: packet_filter.py PORT...

Prints the chain of each table of nftables whose rules end such a connection, a line each, as `inet filter input`. The
table `smtpmail` is left out. A rule that looks at where a connection comes from says nothing here: one that lets some
in lets not all in.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

Rule = dict[str, Any]
Chains = dict[tuple[str, str, str], list[Rule]]


NAMES = {25: ["smtp"], 465: ["submissions", "smtps", "urd"], 993: ["imaps"]}
"""What /etc/services calls ports of mail."""


def main(*ports: int) -> None:
    if shutil.which("nft") is None:
        return  # a play that only looks (--check) has not installed it: there are no rules of it
    rules = subprocess.run(["nft", "--json", "list", "ruleset"], stdout=subprocess.PIPE, check=True).stdout
    found = [chain for port in ports for chain in ending(json.loads(rules)["nftables"], port)]
    for chain in dict.fromkeys(found):
        print(" ".join(chain))


def ending(objects: list[dict[str, Any]], port: int) -> list[tuple[str, str, str]]:
    """The base chains of the hook `input` that do not let a new connection to the port pass."""
    chains: Chains = {}
    bases = {}
    sets = {}
    for found in objects:
        for kind, value in found.items():
            match kind:
                case "chain":
                    key = (value["family"], value["table"], value["name"])
                    chains.setdefault(key, [])
                    if value.get("hook") == "input" and value["family"] in ("ip", "ip6", "inet"):
                        bases[key] = value.get("policy", "accept")
                case "rule":
                    chains.setdefault((value["family"], value["table"], value["chain"]), []).append(value)
                case "set":
                    sets[value["family"], value["table"], "@" + value["name"]] = value.get("elem", [])
    return [
        base
        for base, policy in bases.items()
        if base[1] != "smtpmail" and (verdict(base, chains, sets, port, ()) or policy) != "accept"
    ]


def verdict(
    chain: tuple[str, str, str], chains: Chains, sets: dict[Any, Any], port: int, above: tuple[Any, ...]
) -> str | None:
    """accept or drop, whatever happens first to the connection in this chain; None when it comes to the end."""
    if chain in above:
        return None
    for rule in chains.get(chain, []):
        matches = [part["match"] for part in rule["expr"] if "match" in part]
        # An extension of iptables that nft cannot show: it says more of a port (`--state NEW`), or nobody knows what.
        extended = [part["xt"] or {} for part in rule["expr"] if "xt" in part]
        unknown = any(one.get("type") != "target" for one in extended) and not any(is_port(m["left"]) for m in matches)
        if unknown or not all(fits(match, chain, sets, port) for match in matches):
            continue
        for part in rule["expr"]:
            (kind, value), *_ = part.items()
            if kind == "vmap":
                kind, value = mapped(value, port)
            if kind == "xt":
                kind = "reject" if value and value.get("name") == "REJECT" else ""
            match kind:
                case "accept":
                    return "accept"
                case "drop" | "reject":
                    return "drop"
                case "return":
                    return None
                case "jump" | "goto":
                    found = verdict((*chain[:2], value["target"]), chains, sets, port, (*above, chain))
                    if found or kind == "goto":
                        return found
    return None


def is_port(left: Any) -> bool:
    return left in [{"payload": {"protocol": protocol, "field": "dport"}} for protocol in ("tcp", "th")]


def values_of(left: Any, port: int) -> list[Any]:
    """What a new connection to the port has there, in the forms that nft prints; [] when that differs."""
    if is_port(left):
        return [port, *NAMES.get(port, [])]
    if left in ({"meta": {"key": "l4proto"}}, {"payload": {"protocol": "ip", "field": "protocol"}}):
        return ["tcp", 6]
    return ["new"] if left == {"ct": {"key": "state"}} else []


def mapped(vmap: dict[str, Any], port: int) -> tuple[str, Any]:
    """The verdict that a map has for the connection."""
    data = vmap["data"]
    for key, found in data["set"] if isinstance(data, dict) else []:
        if any(holds(key, value) for value in values_of(vmap["key"], port)):
            (kind, value), *_ = found.items()
            return kind, value
    return "", None


def fits(match: dict[str, Any], chain: tuple[str, str, str], sets: dict[Any, Any], port: int) -> bool:
    """Whether every new TCP connection to the port, wherever it comes from, matches."""
    left, right, operator = match["left"], match["right"], match.get("op", "==")
    if isinstance(right, str) and right.startswith("@"):
        right = {"set": sets.get((*chain[:2], right), [])}
    known = values_of(left, port)
    if not known:
        return False
    found = any(holds(right, value) for value in known)
    return found != (operator == "!=")


def holds(right: Any, value: Any) -> bool:
    """Whether a value is the one on the right, or among those."""
    match right:
        case {"set": values} | [*values]:
            return any(holds(one, value) for one in ([values] if isinstance(values, (str, int)) else values))
        case {"range": [low, high]}:
            return isinstance(value, int) and low <= value <= high
        case {"elem": {"val": one}}:
            return holds(one, value)
        case _:
            return bool(right == value)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
