"""How a message leaves: as itself, and once more for each address of this host that sends it on. Pure.

What an alias or a user forwards goes in the name of this host, with an envelope of its own, so that each has its own
fate; a forwarded message that comes back is not forwarded again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain, parse_address
from smtpmail.mail.envelope import Envelope, Recipient, new_id
from smtpmail.mail.route import Local, Remote, Route

_DELIVERED_TO = re.compile(rb"^delivered-to:[ \t]*([^\n]*)", re.IGNORECASE | re.MULTILINE)


class ForwardingLoop(Exception):
    """The message has been at this address before, and there is no mailbox in which it could stay."""

    def __init__(self, address: Address) -> None:
        super().__init__(f"forwarding loop at {address}")
        self.address = address


@dataclass(slots=True)
class Departure:
    """One envelope that leaves."""

    id: str
    sender: Address
    forwarder: Address | None = None
    """The address of this host that sends it on; None for the message itself."""
    leads: dict[Address, tuple[Recipient, tuple[str, ...]]] = field(default_factory=dict)
    """The addresses elsewhere, each with the recipient that led there, and when a notification is asked for."""


def departures(envelope: Envelope, rewrite: Callable[[Address], Address]) -> list[Departure]:
    """All envelopes that leave; the first has the id of the message. `rewrite` makes the sender of forwarded mail."""
    found: dict[tuple[Address, Address | None], Departure] = {}
    for recipient, route in sorted(envelope.remote, key=lambda way: way[1].forwarded):
        sender = route.sender or (rewrite(envelope.sender) if route.forwarded else envelope.sender)
        forwarder = recipient.address if route.forwarded else None
        key = (sender, forwarder)
        if key not in found:
            found[key] = Departure(new_id() if found else envelope.id, sender, forwarder)
        found[key].leads.setdefault(route.address, (recipient, _notify(envelope, recipient, route, sender)))
    return list(found.values())


def _notify(envelope: Envelope, recipient: Recipient, route: Remote, sender: Address) -> tuple[str, ...]:
    """When a notification is asked for. Of a forward that fails, no stranger is told: senders are forged."""
    from_here = envelope.peer is None or envelope.peer.is_ours
    if route.forwarded and route.sender is None and (sender != envelope.sender or not from_here):
        return ("NEVER",)
    return recipient.notify


def delivered_to(header: bytes) -> set[tuple[str, str]]:
    """The addresses at which a message has been, in the form in which they are compared."""
    found = set()
    for text in _DELIVERED_TO.findall(header):
        try:
            found.add(_key(parse_address(text.strip().decode("utf-8", "surrogateescape"))))
        except AddressSyntaxError:
            continue
    return found


def stop_loops(recipients: Iterable[Recipient], header: bytes) -> list[Recipient]:
    """The recipients without forwards of a message that has been at that address before. Raises ForwardingLoop.

    What a user forwards stays in their mailbox then.
    """
    forwarding = [r for r in recipients if any(isinstance(w, Remote) and w.forwarded for w in r.routes)]
    if not forwarding:
        return list(recipients)
    before = delivered_to(header)
    return [_stopped(r) if r in forwarding and _key(r.address) in before else r for r in recipients]


def _stopped(recipient: Recipient) -> Recipient:
    kept: dict[Route, None] = {}
    for route in recipient.routes:
        if isinstance(route, Local) or not route.forwarded:
            kept[route] = None
        elif route.keeper is not None:
            kept[Local(route.keeper, route.sender)] = None
    if not kept:
        raise ForwardingLoop(recipient.address)
    return replace(recipient, routes=tuple(kept))


def _key(address: Address) -> tuple[str, str]:
    try:
        domain = normal_domain(address.domain) if address.domain else ""
    except AddressSyntaxError:
        domain = address.domain.lower()
    return address.local.lower(), domain
