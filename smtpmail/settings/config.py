"""Every setting once: its options, its environment variable, its key in the TOML file, its default and its meaning.

The command line (options.py), what is read from the environment and the file (sources.py), the judgement of a whole
configuration (judgement.py) and the manual are made from the fields of `Config`.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from smtpmail import mounts
from smtpmail.mail.retry import RetryPolicy
from smtpmail.network import IPNetwork
from smtpmail.settings.machine import full_hostname, smarthost_credentials, tls_context
from smtpmail.settings.setting import Setting, setting
from smtpmail.settings.values import (
    Endpoint,
    read_account,
    read_address,
    read_count,
    read_domain,
    read_duration,
    read_durations,
    read_host,
    read_ip_address,
    read_journal_size,
    read_loopback,
    read_metrics,
    read_network,
    read_path,
    read_port,
    read_processes,
    read_size,
    read_timeout,
)


@dataclass(frozen=True)
class Config:
    """All settings, each valid by itself; judgement.py looks at how they go together and at the machine.

    A field `given_NAME` is what was set; the property NAME is what holds.
    """

    spool: str = setting(
        "-R", "--spool", metavar="DIR", read=read_path, default="/var/spool/mail",
        help="Folder of the mailboxes.",
    )  # fmt: skip
    suffix: tuple[str, ...] = setting(
        "-s", "--suffix", metavar="DOMAIN", read=read_domain, repeatable=True,
        help="A local domain; repeatable. Default: the host's full name.",
    )  # fmt: skip
    shared_spool: str = setting(
        "--shared-spool", choices=("auto", "yes", "no"), default="auto",
        help="Whether other hosts deliver into the spool, too; auto: on GlusterFS, NFS, CephFS and the like. yes: the "
        "server does not start while the spool is on a local disk.",
    )  # fmt: skip
    users: str | None = setting(
        "-u", "--users", metavar="FILE", read=read_path,
        help="The local users, one a line. Default: every valid name is a user.",
    )  # fmt: skip
    aliases: str | None = setting(
        "--aliases", metavar="FILE", read=read_path,
        help="Where addresses lead that are no users: root, sales, a whole domain.",
    )  # fmt: skip
    blocked: str | None = setting(
        "--blocked", metavar="FILE", read=read_path,
        help="Senders from whom no mail is taken: addresses, and domains with all below them.",
    )  # fmt: skip
    given_origin: str | None = setting(
        "--origin", metavar="DOMAIN", read=read_domain,
        help="The domain behind addresses without one that programs of this host use. Default: the first local domain.",
    )  # fmt: skip
    given_hostname: str | None = setting(
        "-H", "--hostname", metavar="NAME", read=read_domain,
        help="Name in the greeting, in EHLO and in Received. Default: the host's full name.",
    )  # fmt: skip
    user: str | None = setting(
        "--user", metavar="ACCOUNT", read=read_account,
        help="The account that a server started by root becomes once its ports are open. Default: who owns the spool.",
    )  # fmt: skip
    port: int = setting(
        "-p", "--port", metavar="PORT", read=read_port, default=25, group="Listeners",
        help="Port of both listeners.",
    )  # fmt: skip
    loopback: tuple[Endpoint, ...] = setting(
        "--loopback", metavar="ADDR[:PORT]", read=read_loopback, repeatable=True, group="Listeners",
        help="Address of the loopback listener, whose clients may send to the world; repeatable. "
        "Default: 127.0.0.1 and ::1.",
    )  # fmt: skip
    listen: tuple[Endpoint, ...] = setting(
        "--listen", metavar="ADDR[:PORT]", read=read_address, repeatable=True, group="Listeners",
        help="Address of the network listener, whose clients reach local users only; repeatable. "
        "Default: all, IPv4 and IPv6.",
    )  # fmt: skip
    no_network: bool = setting(
        "--no-network", read=bool, default=False, group="Listeners", help="Loopback listener only."
    )
    imap_socket: str | None = setting(
        "--imap-socket", metavar="PATH", read=read_path, group="Reading",
        help="A Unix socket on which accounts of this host read their mail over IMAP, without a password.",
    )  # fmt: skip
    imap_listen: tuple[Endpoint, ...] = setting(
        "--imap-listen", metavar="ADDR[:PORT]", read=read_address, repeatable=True, group="Reading",
        help="Address where devices read mail over IMAP, with TLS at once and their passwords; repeatable. "
        "The port is 993 unless given.",
    )  # fmt: skip
    submission_listen: tuple[Endpoint, ...] = setting(
        "--submission-listen", metavar="ADDR[:PORT]", read=read_address, repeatable=True, group="Reading",
        help="Address where devices send mail, with TLS at once and their passwords; repeatable. "
        "The port is 465 unless given.",
    )  # fmt: skip
    devices: str | None = setting(
        "--devices", metavar="FILE", read=read_path, group="Reading",
        help="The devices and their passwords; smtpmail device changes it.",
    )  # fmt: skip
    given_queue: str | None = setting(
        "--queue", metavar="DIR", read=read_path, group="Relay",
        help="Folder of the mail waiting to be relayed. Default: SPOOL/.queue.",
    )  # fmt: skip
    resolver: tuple[Endpoint, ...] = setting(
        "--resolver", metavar="ADDR[:PORT]", read=read_address, repeatable=True, group="Relay",
        help="DNS server; repeatable. Default: those of /etc/resolv.conf.",
    )  # fmt: skip
    smarthost: Endpoint | None = setting(
        "--smarthost", metavar="HOST[:PORT]", read=read_host, group="Relay",
        help="Send everything there instead of to the MX: port 25, 587 (STARTTLS), or 465 (TLS at once).",
    )  # fmt: skip
    smarthost_auth: str | None = setting(
        "--smarthost-auth", metavar="FILE", read=read_path, group="Relay",
        help="File with user:password for the smarthost; nobody but its owner may read it. "
        "It is sent only over TLS with a certificate that verifies.",
    )  # fmt: skip
    address_family: str = setting(
        "--address-family", choices=("any", "ipv4", "ipv6"), default="any", group="Relay",
        help="IP version that other servers are reached over; any: IPv6 first, then IPv4.",
    )  # fmt: skip
    bind_address: tuple[str, ...] = setting(
        "--bind-address", metavar="ADDR", read=read_ip_address, repeatable=True, group="Relay",
        help="Address of this host to connect from; repeatable, one for each IP version. Default: the system chooses.",
    )  # fmt: skip
    private_network: tuple[IPNetwork, ...] = setting(
        "--private-network", metavar="NETWORK", read=read_network, repeatable=True, group="Relay",
        help="Private network that notifications and forwarded mail may be delivered to; repeatable. Default: none.",
    )  # fmt: skip
    retry_schedule: tuple[float, ...] = setting(
        "--retry-schedule", metavar="TIMES", read=read_durations, default=RetryPolicy().schedule, group="Relay",
        help="Waits between attempts, the last one repeated. Default: 1m 5m 10m 20m 40m 80m 2h.",
    )  # fmt: skip
    queue_lifetime: float = setting(
        "--queue-lifetime", metavar="TIME", read=read_duration, default=RetryPolicy().lifetime, group="Relay",
        help="A message that could not be delivered for so long goes back to its sender. Default: 5d.",
    )  # fmt: skip
    delay_notice: float = setting(
        "--delay-notice", metavar="TIME", read=read_duration, default=RetryPolicy().delay_notice, group="Relay",
        help="After so long the sender is told that a message is delayed. Default: 4h.",
    )  # fmt: skip
    connect_timeout: float = setting(
        "--connect-timeout", metavar="SECONDS", read=read_timeout, default=15.0, group="Relay",
        help="Patience with another server's connection.",
    )  # fmt: skip
    reply_timeout: float = setting(
        "--reply-timeout", metavar="SECONDS", read=read_timeout, default=300.0, group="Relay",
        help="Patience with another server's replies.",
    )  # fmt: skip
    max_deliveries: int = setting(
        "--max-deliveries", metavar="N", read=read_count, default=100, group="Relay",
        help="Connections to other servers at a time.",
    )  # fmt: skip
    max_deliveries_per_destination: int = setting(
        "--max-deliveries-per-destination", metavar="N", read=read_count, default=10, group="Relay",
        help="The same, to one destination.",
    )  # fmt: skip
    tls_cert: str | None = setting(
        "--tls-cert", metavar="FILE", read=read_path, group="TLS",
        help="Certificate chain (PEM); with it STARTTLS is offered.",
    )  # fmt: skip
    tls_key: str | None = setting(
        "--tls-key", metavar="FILE", read=read_path, group="TLS",
        help="Key of the certificate. Default: in the file of --tls-cert.",
    )  # fmt: skip
    dkim_keys: str | None = setting(
        "--dkim-keys", metavar="DIR", read=read_path, group="Authentication",
        help="Folder of the keys that sign what leaves, DOMAIN/SELECTOR.pem; smtpmail dkim new makes them.",
    )  # fmt: skip
    dkim_required: bool = setting(
        "--dkim-required", read=bool, default=False, group="Authentication",
        help="Take no mail that should be signed and can't be, rather than let it leave unsigned.",
    )  # fmt: skip
    verify: str = setting(
        "--verify", choices=("off", "mark", "enforce"), default="mark", group="Authentication",
        help="What to do with mail from the network: nothing, write down whether it is what it says it is (SPF, DKIM, "
        "DMARC), or also refuse what its domain says is forged.",
    )  # fmt: skip
    verify_timeout: float = setting(
        "--verify-timeout", metavar="SECONDS", read=read_duration, default=10.0, group="Authentication",
        help="Patience with the DNS for all checks of a message.",
    )  # fmt: skip
    verify_exempt: str | None = setting(
        "--verify-exempt", metavar="FILE", read=read_path, group="Authentication",
        help="Who is let through whatever the checks say: addresses, domains, networks and List-Ids, one a line.",
    )  # fmt: skip
    max_size: int = setting(
        "--max-size", metavar="SIZE", read=read_size, default=50 * 1024**2, group="Limits",
        help="Octets of a message; K, M, G may stand behind the number.",
    )  # fmt: skip
    max_recipients: int = setting(
        "--max-recipients", metavar="N", read=read_count, default=1000, group="Limits",
        help="Recipients of a message.",
    )  # fmt: skip
    min_free: int = setting(
        "--min-free", metavar="SIZE", read=read_size, default=64 * 1024**2, group="Limits",
        help="Octets that must be free where mailboxes and queue are: with less, mail is refused for the time being.",
    )  # fmt: skip
    max_connections: int = setting(
        "--max-connections", metavar="N", read=read_count, default=1000, group="Limits",
        help="Connections at a time.",
    )  # fmt: skip
    max_connections_per_client: int = setting(
        "--max-connections-per-client", metavar="N", read=read_count, default=100, group="Limits",
        help="Connections at a time from one IPv4 address or IPv6 /64; the loopback listener has no such limit.",
    )  # fmt: skip
    max_messages_per_account: int = setting(
        "--max-messages-per-account", metavar="N", read=read_count, default=1000, group="Limits",
        help="Messages in an hour from one account of this host, root excepted.",
    )  # fmt: skip
    max_recipients_per_account: int = setting(
        "--max-recipients-per-account", metavar="N", read=read_count, default=5000, group="Limits",
        help="The same for recipients.",
    )  # fmt: skip
    timeout: float = setting(
        "--timeout", metavar="SECONDS", read=read_timeout, default=300.0, group="Limits",
        help="Longest silence of a client.",
    )  # fmt: skip
    journal_size: int = setting(
        "--journal-size", metavar="SIZE", read=read_journal_size, default=16 * 1024**2, group="Limits",
        help="Octets of the journal of each process, below the folder of the queue. 0: none, each file is synced.",
    )  # fmt: skip
    given_processes: int | None = setting(
        "--processes", metavar="N", read=read_processes, group="Limits",
        help="Processes that serve clients. Default: one for each processor, at most 4.",
    )  # fmt: skip
    metrics: Endpoint | str | None = setting(
        "--metrics", metavar="ADDRESS", read=read_metrics, group="Log",
        help="Loopback address and port, or path of a socket, on which metrics (OpenMetrics) are fetched.",
    )  # fmt: skip
    given_log_format: str | None = setting(
        "--log-format", choices=("json", "console"), group="Log",
        help="Format of the log. Default: console on a terminal, json elsewhere.",
    )  # fmt: skip
    log_level: str = setting(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", group="Log",
        help="The least level that is logged.",
    )  # fmt: skip

    @cached_property
    def hostname(self) -> str:
        """The name of this server."""
        return self.given_hostname or full_hostname()

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The local domains."""
        return self.suffix or (full_hostname(),)

    @property
    def origin(self) -> str:
        """The domain behind addresses that have none."""
        return self.given_origin or self.domains[0]

    @property
    def queue(self) -> str:
        """The folder of the queue."""
        return self.given_queue or os.path.join(self.spool, ".queue")

    @cached_property
    def is_shared(self) -> bool:
        """Whether other hosts deliver into the spool, too."""
        return self.shared_spool == "yes" or (self.shared_spool == "auto" and mounts.is_shared(self.spool))

    @cached_property
    def is_queue_shared(self) -> bool:
        """Whether other hosts can reach the folder of the queue."""
        if self.shared_spool == "no":
            return False
        below = os.path.abspath(self.queue).startswith(os.path.abspath(self.spool).rstrip("/") + "/")
        return (self.is_shared and below) or mounts.is_shared(self.queue)

    @property
    def processes(self) -> int:
        """How many processes serve clients."""
        return self.given_processes or min(len(os.sched_getaffinity(0)), 4)

    @property
    def retry_policy(self) -> RetryPolicy:
        """When mail is tried again, and for how long."""
        return RetryPolicy(self.retry_schedule, self.queue_lifetime, self.delay_notice)

    @property
    def log_format(self) -> str:
        """json or console."""
        return self.given_log_format or ("console" if os.isatty(2) else "json")

    def read_smarthost_auth(self) -> tuple[str, str]:
        """User and password for the smarthost. Raises ConfigError."""
        return smarthost_credentials(self.smarthost_auth or "")

    def tls_context(self) -> ssl.SSLContext:
        """The TLS of the listeners, from the files as they are now. Raises ConfigError."""
        assert self.tls_cert
        return tls_context(self.tls_cert, self.tls_key)


def settings() -> dict[str, Setting]:
    """All settings by the name of their field."""
    return {f.name: f.metadata["setting"] for f in dataclasses.fields(Config)}


def default(name: str) -> Any:
    """What a setting is when nobody sets it."""
    return next(f.default for f in dataclasses.fields(Config) if f.name == name)
