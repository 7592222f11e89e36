"""`smtpmail dns check`: what the world sees of this mail host, each finding with what to do about it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from smtpmail.admin import auth_check, dns_services, port_check
from smtpmail.admin.dns_records import NULL_MX, Address, Service, absolute
from smtpmail.admin.lookup import Lookup, addresses, answers, has_cname
from smtpmail.auth import spf
from smtpmail.auth.dkim_keys import Key
from smtpmail.dns.errors import DNSError
from smtpmail.settings.finding import Finding

OUTBOUND_SECONDS = 5.0

WELL_KNOWN = ("gmail-smtp-in.l.google.com", "mx.yandex.net", "mx1.mail.icloud.com")
"""Mail servers that always answer on port 25: whoever reaches none of them reaches nobody."""


@dataclass(frozen=True)
class MailHost:
    """The host as it should be seen: its name, its domains, its public addresses, its port."""

    hostname: str
    domains: Sequence[str]
    addresses: Sequence[Address]
    port: int = 25
    outbound: Sequence[str] = WELL_KNOWN
    """Mail servers of others, of which one must be reached on port 25; none: nobody is tried."""
    smarthost: tuple[str, int] | None = None
    """Through which all mail leaves: then it is tried, and nobody else."""
    keys: Sequence[Key] = ()
    """That sign, come next, or have signed."""
    services: Sequence[Service] = ()
    """What it offers to mail programs."""


def findings(host: MailHost, lookup: Lookup, *, look_at_port: bool = True) -> Iterator[Finding]:
    """All findings, in the order in which a sender would run into them, and then whether mail can leave.

    Without the port, those of DNS alone.
    """
    checks: list[tuple[str, str, Callable[[], Iterator[Finding]]]] = []
    for domain in host.domains:
        checks.append(("mx", domain, lambda domain=domain: _mx(host, domain, lookup)))  # type: ignore[misc]
    checks.append(("address", host.hostname, lambda: _addresses(host, lookup)))
    for address in host.addresses:
        checks.append(("reverse", str(address), lambda address=address: _reverse(host, address, lookup)))  # type: ignore[misc]
        for domain in host.domains:
            checks.append(
                ("spf", domain, lambda domain=domain, address=address: _spf(host, domain, address, lookup))  # type: ignore[misc]
            )
    if host.hostname not in host.domains:
        for address in host.addresses:
            checks.append(
                ("spf", host.hostname, lambda address=address: _spf(host, host.hostname, address, lookup))  # type: ignore[misc]
            )
    for domain in host.domains:
        checks += auth_check.checks(host.hostname, domain, host.addresses, host.keys, lookup)
        checks.append(
            ("srv", domain, lambda domain=domain: dns_services.check(host.hostname, domain, host.services, lookup))  # type: ignore[misc]
        )
    for address in host.addresses if look_at_port else ():
        checks.append(("port", str(address), lambda a=address: port_check.smtp(host.hostname, a, host.port)))  # type: ignore[misc]
        for service in host.services:
            checks.append(
                ("port", str(address), lambda a=address, s=service: port_check.service(host.hostname, a, s))  # type: ignore[misc]
            )
    if look_at_port and (host.outbound or host.smarthost):
        checks.append(("outbound", "port 25", lambda: _outbound(host, lookup)))
    for check, subject, run in checks:
        try:
            yield from run()
        except DNSError as error:
            yield Finding(
                check, subject, "error", str(error), "see that the host's resolver and the zone's servers work"
            )


def _mx(host: MailHost, domain: str, lookup: Lookup) -> Iterator[Finding]:
    values = lookup(absolute(domain), "MX")
    target = absolute(host.hostname)
    names = [value.split()[1].lower() for value in values]
    if not values:
        yield Finding("mx", domain, "error", "there is no MX record", f"add: {absolute(domain)} MX 10 {target}")
    elif NULL_MX in values:
        yield Finding("mx", domain, "error", "the null MX says that the domain takes no mail", "remove it (RFC 7505)")
    elif target not in names:
        yield Finding(
            "mx",
            domain,
            "error",
            f"mail goes to {', '.join(names)}, not here",
            f"add: {absolute(domain)} MX 10 {target}",
        )
    elif len(set(names)) > 1:
        others = ", ".join(sorted(set(names) - {target}))
        yield Finding("mx", domain, "warning", f"mail may also go to {others}", "remove what is no backup of this host")
    else:
        yield Finding("mx", domain, "ok", f"mail comes to {host.hostname}")


def _addresses(host: MailHost, lookup: Lookup) -> Iterator[Finding]:
    if has_cname(host.hostname, lookup):
        yield Finding(
            "address", host.hostname, "error", "the name is an alias (CNAME)",
            "give it address records of its own: an MX may not point to an alias (RFC 2181 10.3)",
        )  # fmt: skip
    known = {ipaddress.ip_address(value) for value in addresses(absolute(host.hostname), lookup)}
    for address in host.addresses:
        kind = "A" if address.version == 4 else "AAAA"
        if address in known:
            yield Finding("address", host.hostname, "ok", f"{kind} {address}")
        else:
            yield Finding(
                "address", host.hostname, "error", f"there is no {kind} {address}",
                f"add: {absolute(host.hostname)} {kind} {address}",
            )  # fmt: skip
    for address in sorted(known - set(host.addresses), key=str):
        yield Finding(
            "address", host.hostname, "warning", f"{address} is not known as an address of this host",
            "remove the record if it is not; behind a translated address give --address",
        )  # fmt: skip


def _reverse(host: MailHost, address: Address, lookup: Lookup) -> Iterator[Finding]:
    """Forward-confirmed reverse DNS: many servers refuse mail from an address without it."""
    names = [name.lower() for name in lookup(address.reverse_pointer + ".", "PTR")]
    advice = f"set the PTR record of {address} to {absolute(host.hostname)} at the hosting provider"
    others = sorted({4, 6} & {other.version for other in host.addresses} - {address.version})
    if others:
        advice += f"; until then send with --address-family ipv{others[0]}"
    if not names:
        yield Finding("reverse", str(address), "error", "there is no PTR record", advice)
    elif absolute(host.hostname) not in names:
        yield Finding("reverse", str(address), "warning", f"the PTR record says {', '.join(names)}", advice)
    elif address not in {ipaddress.ip_address(a) for a in addresses(absolute(host.hostname), lookup)}:
        yield Finding(
            "reverse", str(address), "error", f"it is called {host.hostname}, but that name has not this address",
            f"add the address record of {host.hostname}",
        )  # fmt: skip
    else:
        yield Finding("reverse", str(address), "ok", f"it is {host.hostname}, and back")


def _spf(host: MailHost, domain: str, address: Address, lookup: Lookup) -> Iterator[Finding]:
    sender = "" if domain == host.hostname else f"postmaster@{domain}"
    found = spf.check(address, host.hostname, sender, answers(lookup))
    needs = "mx" if sender else "a"
    if found.result == "pass":
        yield Finding("spf", domain, "ok", f"{address} may send")
    elif found.result == "none":
        yield Finding(
            "spf", domain, "error", "there is no SPF record", f'add: {absolute(domain)} TXT "v=spf1 {needs} -all"'
        )
    elif found.result == "temperror":
        raise DNSError(found.reason)
    elif found.result == "permerror":
        yield Finding("spf", domain, "error", f"{found.reason} (for {address})", "correct it (RFC 7208)")
    else:
        yield Finding("spf", domain, "error", f"{address} gets {found.result}", f"add {needs} right behind v=spf1")


def _outbound(host: MailHost, lookup: Lookup) -> Iterator[Finding]:
    """Whether mail can leave. Most providers of small hosts block port 25 until they are asked."""
    if host.smarthost:
        name, port = host.smarthost
        failure = _unreachable(name, port, lookup)
        if failure:
            yield Finding(
                "outbound", f"{name} port {port}", "error", f"the smarthost does not answer: {failure}",
                "see that name and port are right; the mail waits in the queue",
            )  # fmt: skip
        else:
            yield Finding("outbound", f"{name} port {port}", "ok", "the smarthost answers")
        return
    failures = []
    for name in host.outbound:
        failure = _unreachable(name, 25, lookup)
        if not failure:
            yield Finding("outbound", "port 25", "ok", f"{name} answers")
            return
        failures.append(failure)
    yield Finding(
        "outbound", "port 25", "error", f"no other mail server can be reached: {'; '.join(failures)}",
        "ask the hosting provider to open port 25 outwards, or send through a smarthost (--smarthost; with the Ansible "
        "role smtpmail_smarthost): until then mail to others waits in the queue",
    )  # fmt: skip


def _unreachable(name: str, port: int, lookup: Lookup) -> str:
    """Why no address of a server can be connected to, '' when one can: IPv4 first, as the other is less often there."""
    failure = f"{name} has no address"
    try:
        known = [str(ipaddress.ip_address(name))] if _is_address(name) else addresses(absolute(name), lookup)
    except DNSError as error:
        return str(error)
    for address in known[:1] + [address for address in known[1:] if ":" in address][:1]:
        try:
            socket.create_connection((address, port), timeout=OUTBOUND_SECONDS).close()
        except OSError as error:
            failure = f"{name} [{address}]: {error.strerror or 'no answer'}"
        else:
            return ""
    return failure


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False
