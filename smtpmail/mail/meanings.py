"""What a refusal means, for people: by its enhanced status code (RFC 3463, RFC 7372, and large receivers' own)."""

from __future__ import annotations

import re

_CHECK = "The administrator of this server finds out what is wrong with: smtpmail dns check."

MEANINGS = {
    "5.1.1": "There is no such mailbox there. Please check the part before the @.",
    "5.1.2": "This domain does not exist. Please check the part behind the @.",
    "5.1.10": "This domain takes no mail at all.",
    "5.2.2": "The mailbox is full.",
    "5.3.4": "The message is too large for that server.",
    "5.4.4": "No server takes mail for this domain.",
    "5.4.6": "The message loops: that domain's mail is sent to this server, which does not serve it.",
    "5.4.7": "It could not be delivered for so long that it was given up.",
    "5.6.3": "That server cannot take 8-bit text.",
    "5.6.7": "That server cannot take addresses or headers with letters outside of ASCII.",
    "5.7.1": "That server does not want this message.",
    "5.7.30": "You asked for verified TLS all the way (REQUIRETLS), which that server does not give.",
    "5.7.20": f"That server found no valid signature (DKIM) of the sender's domain. {_CHECK}",
    "5.7.21": f"That server found no signature (DKIM) that it accepts. {_CHECK}",
    "5.7.22": f"That server found no signature (DKIM) of the author's domain. {_CHECK}",
    "5.7.23": f"The sender's domain does not allow this server to send its mail (SPF). {_CHECK}",
    "5.7.24": f"The SPF record of the sender's domain can't be evaluated. {_CHECK}",
    "5.7.25": "That server refuses mail from an address whose name does not lead back to it. The administrator of this "
    "server sets its reverse DNS (PTR) at the hosting provider.",
    "5.7.26": f"That server refuses mail that neither SPF nor DKIM prove to be from its author's domain. {_CHECK}",
    "5.7.27": f"The sender's domain does not allow this server to send its mail (SPF). {_CHECK}",
    "5.7.29": "That server refuses mail that comes without encryption (TLS).",
    "5.7.509": f"The author's domain asks that mail be refused which is not proven to be its own (DMARC). {_CHECK}",
    "5.7.515": f"That server (Microsoft) requires SPF, DKIM and DMARC of the author's domain, all passing. {_CHECK}",
}

_STATUS = re.compile(r"^[45]\d\d[ -]([45])(\.7\.\d{1,3})\b")


def meaning(status: str) -> str | None:
    """What a status of a failure means, None when its own text says it."""
    return MEANINGS.get(status)


def of_reply(reply: str) -> str | None:
    """What a reply means whose code is about policy (5.7.x, or 4.7.x before it is for good)."""
    match = _STATUS.match(reply)
    return MEANINGS.get(f"5{match[2]}") if match and match[2] != ".7.1" else None
