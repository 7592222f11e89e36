"""A DNS server on loopback that a test writes itself."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Mapping

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from smtpmail.settings.values import Endpoint


class NameServer:
    """Answers from a zone, over UDP, on a port of 127.0.0.1. What is under broken.test fails; `mute` is silence.

    `wrong` says for a type what is answered instead of the truth: a code, or None for silence.
    """

    def __init__(self, zone: str, wrong: Mapping[str, dns.rcode.Rcode | None] | None = None) -> None:
        self.wrong = dict(wrong or {})
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
                self._socket.sendto(reply.to_wire(max_size=65535), peer)

    def _reply(
        self, query: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.Message | None:
        reply = dns.message.make_response(query, recursion_available=True)
        code = self.wrong.get(dns.rdatatype.to_text(kind), dns.rcode.NOERROR)
        if code is None or b"mute" in name.labels:
            return None
        if code != dns.rcode.NOERROR:
            reply.set_rcode(code)
            return reply
        if name.is_subdomain(dns.name.from_text("broken.test.")):
            reply.set_rcode(dns.rcode.SERVFAIL)
            return reply
        while (found := self._records.get((name, dns.rdatatype.CNAME))) and found not in reply.answer:
            reply.answer.append(found)
            name = found[0].target
        if (name, kind) in self._records:
            reply.answer.append(self._records[name, kind])
        elif not any(name == known for known, _ in self._records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply
