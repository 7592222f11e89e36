"""One question to one DNS server (RFC 1035), through dnspython; imported with the first question."""

from __future__ import annotations

from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rdtypes.txtbase
import dns.rrset

from smtpmail.dns.errors import DNSError, ServerFailed
from smtpmail.network import IPAddress

PAYLOAD = 1232
"""Octets of an answer over UDP (EDNS, RFC 6891) that no path cuts into fragments; a longer one comes over TCP."""

AUTHORITATIVE_SECONDS = 5.0
"""Patience with a server that is asked for its own zone."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said: `values` in zone-file form, `texts` as people mean them; neither when there is none."""

    exists: bool
    """False: the name does not exist (NXDOMAIN)."""
    canonical: str
    """The name at the end of all aliases (CNAME), without its final dot."""
    values: tuple[str, ...]
    texts: tuple[str, ...]
    """The same, but the strings of a TXT record joined; octets that are not UTF-8 as surrogates."""
    ttl: float
    """Seconds that it may be kept."""


def query(name: str, kind: str, server: str, port: int, timeout: float) -> Reply:
    """Asks a server that looks further on its own; over TCP when the answer is long. Raises DNSError, ServerFailed."""
    try:
        wanted = dns.name.from_text(name)
    except (dns.exception.DNSException, ValueError) as error:
        raise DNSError(f"{name} is no name that DNS can have: {error}") from None
    response = _exchange(dns.message.make_query(wanted, kind, use_edns=0, payload=PAYLOAD), server, port, timeout)
    if response.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS):
        # A server of before EDNS.
        response = _exchange(dns.message.make_query(wanted, kind), server, port, timeout)
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise ServerFailed(f"answers {dns.rcode.to_text(response.rcode())}")
    if not isinstance(response, dns.message.QueryMessage):
        raise ServerFailed("answers with nonsense")
    try:
        chain = response.resolve_chaining()
    except dns.exception.DNSException as error:
        raise ServerFailed(f"answers with nonsense ({error})") from None
    records = tuple(chain.answer) if chain.answer is not None else ()
    return Reply(
        bool(records) or response.rcode() == dns.rcode.NOERROR,
        chain.canonical_name.to_text(omit_final_dot=True).lower(),
        tuple(record.to_text() for record in records),
        tuple(_text(record) for record in records),
        float(chain.minimum_ttl if records or response.authority else 0),
    )


def _exchange(question: dns.message.Message, server: str, port: int, timeout: float) -> dns.message.Message:
    """Raises ServerFailed."""
    try:
        response, _ = dns.query.udp_with_fallback(question, server, timeout, port, ignore_unexpected=True)
    except dns.exception.Timeout:
        raise ServerFailed("does not answer", silent=True) from None
    except (OSError, EOFError, dns.exception.DNSException, ValueError) as error:
        raise ServerFailed(f"can't be asked ({error or type(error).__name__})") from None
    return response


def _text(record: dns.rdata.Rdata) -> str:
    if isinstance(record, dns.rdtypes.txtbase.TXTBase):
        return b"".join(record.strings).decode("utf-8", "surrogateescape")
    return record.to_text()


def authoritative(server: IPAddress, name: str, kind: str) -> list[str]:
    """What one server of a zone has itself, asked over TCP without recursion; an alias as `CNAME target`.

    Raises DNSError.
    """
    question = dns.message.make_query(name, kind)
    question.flags &= ~dns.flags.RD
    try:
        response = dns.query.tcp(question, str(server), timeout=AUTHORITATIVE_SECONDS)
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise DNSError(f"{server} does not answer for {name}: {error}") from None
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise DNSError(f"{server} answers {dns.rcode.to_text(response.rcode())} for {name}")
    kinds = (dns.rdatatype.from_text(kind), dns.rdatatype.CNAME)
    return [
        rdata.to_text() if rrset.rdtype != dns.rdatatype.CNAME else f"CNAME {rdata.to_text()}"
        for rrset in response.answer
        if rrset.rdtype in kinds and rrset.name == question.question[0].name
        for rdata in rrset
    ]
