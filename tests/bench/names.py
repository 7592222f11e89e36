"""A name server for the bench: `python -m tests.bench.names ADDRESS DOMAIN=MX-ADDRESS...` answers on port 53."""

from __future__ import annotations

import socket
import sys

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

TTL = 3600


def answer(query: bytes, exchangers: dict[str, str]) -> bytes:
    """The reply to a query: each domain has one MX, `mx.DOMAIN`, which has one address; nothing else exists."""
    asked = dns.message.from_wire(query)
    reply = dns.message.make_response(asked, recursion_available=True)
    question = asked.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    host = name.removeprefix("mx.")
    if host not in exchangers:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    elif host == name and question.rdtype == dns.rdatatype.MX:
        reply.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "MX", f"10 mx.{name}."))
    elif host != name and question.rdtype == dns.rdatatype.A:
        reply.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", exchangers[host]))
    return reply.to_wire()


def main(address: str, *entries: str) -> None:
    """Serves until it is killed."""
    exchangers = dict(entry.split("=") for entry in entries)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        while True:
            query, client = sock.recvfrom(4096)
            sock.sendto(answer(query, exchangers), client)


if __name__ == "__main__":
    main(*sys.argv[1:])
