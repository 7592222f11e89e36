"""What is measured: the rows of the contract, and others that show how the cost grows."""

from __future__ import annotations

from dataclasses import dataclass, replace

KIB, MIB = 1024, 1024**2


@dataclass(frozen=True, slots=True)
class Work:
    """What is done in one measurement, and what the contract asks of smtpmail's share of Postfix's figures."""

    name: str
    kind: str
    """`receive`: until all messages are in the mailboxes. `relay`: until all are at the sink."""
    sessions: int
    reuse: bool
    """Many messages a connection."""
    messages: int
    least_rate: float = 0.0
    """Messages a second, at least so many times Postfix's; 0: nothing is asked."""
    most_cpu: float = 0.0
    """CPU time a message, at most so much of Postfix's; 0: nothing is asked."""
    octets: int = 4096
    """Of content; smtp-source adds a short header."""
    recipients: int = 1
    tls: bool = False

    @property
    def stored(self) -> int:
        """How many copies there are in the end."""
        return self.messages * self.recipients


CONTRACT = (
    Work("receive, 20 sessions, many messages a connection", "receive", 20, True, 6000, 4.5, 0.25),
    Work("receive, 20 sessions, one message a connection", "receive", 20, False, 4000, 2.7, 0.38),
    Work("receive, 1 session, many messages a connection", "receive", 1, True, 1500, 2.2, 0.33),
    Work("receive, 1 session, one message a connection", "receive", 1, False, 1000, 1.8, 0.40),
    Work("relay, 20 sessions, many messages a connection", "relay", 20, True, 3000, 3, 0.38),
    Work("relay, 20 sessions, one message a connection", "relay", 20, False, 3000, 2.7, 0.38),
    Work("relay, 1 session, many messages a connection", "relay", 1, True, 1000, 2, 0.50),
    Work("relay, 1 session, one message a connection", "relay", 1, False, 1000, 1.6, 0.50),
)
"""So many messages that Postfix takes some seconds for them."""

SESSIONS = (
    Work("receive, 200 sessions, many messages a connection", "receive", 200, True, 6000),
    Work("receive, 200 sessions, one message a connection", "receive", 200, False, 4000),
    Work("receive, 20 sessions, 10 recipients a message", "receive", 20, True, 1000, recipients=10),
    Work("receive, 20 sessions over TLS, many messages a connection", "receive", 20, True, 3000, tls=True),
    Work("receive, 20 sessions over TLS, one message a connection", "receive", 20, False, 1000, tls=True),
)

SIZES = (
    Work("receive, 20 sessions, messages of 1 KiB", "receive", 20, True, 6000, octets=KIB),
    Work("receive, 20 sessions, messages of 64 KiB", "receive", 20, True, 2000, octets=64 * KIB),
    Work("receive, 4 sessions, messages of 10 MiB", "receive", 4, True, 16, octets=10 * MIB),
)

PEERS = tuple(replace(work, messages=work.messages // 2) for work in CONTRACT if work.kind == "receive")
"""Fewer messages: some of the others take long."""

GROWTH = tuple(
    Work(f"receive, {sessions} sessions", "receive", sessions, True, min(6000, 1000 + 300 * sessions))
    for sessions in (1, 2, 5, 10, 20, 50, 100, 200)
)
"""How messages a second, CPU and memory go with the sessions."""

MILLION = (
    Work("receive, 20 sessions, into a mailbox of 1,000,000 messages", "receive", 20, True, 3000),
    Work("receive, 1 session, into a mailbox of 1,000,000 messages", "receive", 1, True, 1000),
)
