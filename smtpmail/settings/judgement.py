"""Whether a server can start with these settings, and what in them is likely not meant.

The one judgement: `smtpmail check` tells all of it, the start refuses at the first error and logs the warnings. It
looks, and touches nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace

from smtpmail import mounts
from smtpmail.network import is_own_address
from smtpmail.settings import machine
from smtpmail.settings.config import Config
from smtpmail.settings.finding import Finding
from smtpmail.settings.machine import free_octets, permissions, usable_folder
from smtpmail.settings.sources import unknown_variables
from smtpmail.settings.values import ConfigError, Endpoint

PATIENCE = 10.0
"""Seconds: a shorter time-out loses mail of slow clients; RFC 5321 4.5.3.2 asks for minutes."""

SMALLEST_SIZE = 64 * 1024
"""Octets of a message that every server must take (RFC 5321 4.5.3.1.7)."""

FEWEST_RECIPIENTS = 100
"""And recipients (4.5.3.1.8)."""


def require(config: Config, environment: Mapping[str, str]) -> list[Finding]:
    """The warnings, when the server can start. Raises ConfigError with the first error otherwise."""
    found = list(judge(config, environment))
    for finding in found:
        if finding.level == "error":
            raise ConfigError(finding.line)
    return found


def _error(subject: str, text: str) -> Finding:
    return Finding("setting", subject, "error", text)


def _warning(subject: str, text: str, advice: str = "") -> Finding:
    return Finding("setting", subject, "warning", text, advice)


def judge(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    """All errors and warnings. With sockets that systemd passes, addresses are not judged."""
    for look in (_sharing, _tls, _smarthost, _outbound, _authentication, _folders, _doors):
        try:
            yield from look(config)
        except ConfigError as error:
            subject, _, text = str(error).partition(": ")
            yield _error(subject, text)
            if look is _sharing:
                return  # whoever looks any further may never come back
    if "LISTEN_FDS" not in environment:
        yield from _listeners(config)
    yield from _names(config)
    yield from _limits(config)
    for complaint in unknown_variables(environment):
        yield _warning(*complaint)


def _limits(config: Config) -> Iterator[Finding]:
    if config.timeout < PATIENCE:
        yield _warning("--timeout", f"{config.timeout:g} s are too short for slow clients: their mail is lost")
    if config.reply_timeout < PATIENCE:
        yield _warning("--reply-timeout", f"{config.reply_timeout:g} s are too short for slow servers: mail stays here")
    if config.max_size < SMALLEST_SIZE:
        yield _warning("--max-size", f"{config.max_size} octets: RFC 5321 asks for {SMALLEST_SIZE} at least")
    if config.max_recipients < FEWEST_RECIPIENTS:
        yield _warning("--max-recipients", f"{config.max_recipients}: RFC 5321 asks for {FEWEST_RECIPIENTS} at least")
    policy = config.retry_policy
    if policy.delay_notice >= policy.lifetime:
        yield _warning("--delay-notice", "it is not shorter than --queue-lifetime: nobody is ever told of a delay")
    if policy.schedule[0] >= policy.lifetime:
        yield _warning("--retry-schedule", "its first wait is as long as --queue-lifetime: nothing is tried again")
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    for option, count in (("--max-connections", config.max_connections), ("--max-deliveries", config.max_deliveries)):
        if descriptors != resource.RLIM_INFINITY and count >= descriptors:
            yield _warning(option, f"{count} are more than this process may have open ({descriptors}: ulimit -n)")
    with contextlib.suppress(OSError):
        free = free_octets(config.spool)
        if free < config.min_free:
            yield _warning("--min-free", f"{free} octets are free for {config.spool}: all mail gets 452")


def require_answers(config: Config) -> None:
    """Raises ConfigError when the shared file system of mailboxes or queue does not answer."""
    for option, path, shared in (
        ("--spool", config.spool, config.is_shared),
        ("--queue", config.queue, config.is_queue_shared),
    ):
        if shared:
            machine.require_answer_of(option, path)


def _sharing(config: Config) -> Iterator[Finding]:
    """What hosts share, and that it is there."""
    require_answers(config)
    mount = mounts.mount_of(config.spool) if config.is_shared else None
    if config.shared_spool == "yes" and mount is not None and mount.kind in mounts.LOCAL:
        raise ConfigError(
            f"--shared-spool: {config.spool} is on {mount.kind}, which no other host has: "
            "is the shared file system mounted?"
        )
    name = socket.gethostname()
    if config.is_queue_shared and name.partition(".")[0] not in config.queue:
        yield _warning(
            "--queue",
            f"other hosts reach {config.queue}, and it is this host's alone",
            f"name it after the host, {os.path.join(config.spool, '.queue.' + name)}, or keep it on a local disk",
        )


def _tls(config: Config) -> Iterator[Finding]:
    if config.tls_key and not config.tls_cert:
        raise ConfigError("--tls-key: there is no certificate: give --tls-cert too")
    if not config.tls_cert:
        return
    context = config.tls_context()
    # Loaded only here: most configurations are judged without.
    from smtpmail.settings import certificate  # noqa: PLC0415

    found = certificate.judge(certificate.in_memory(context, config.hostname), config.hostname, "--tls-cert")
    if found.level != "ok":
        # Senders that do not verify take any certificate, so the server starts with it.
        yield replace(found, level="warning", text=f"{config.tls_cert}: {found.text}")
    key = config.tls_key or config.tls_cert
    if permissions(key) & (stat.S_IROTH | stat.S_IWOTH):
        yield _warning("--tls-key", f"every account of this host can read {key}", f"chmod o= {key}")


def _smarthost(config: Config) -> Iterator[Finding]:
    if config.smarthost_auth:
        if not config.smarthost:
            raise ConfigError("--smarthost-auth: there is no smarthost: give --smarthost too")
        config.read_smarthost_auth()
    yield from ()


def _outbound(config: Config) -> Iterator[Finding]:
    """Where connections to other servers come from."""
    versions = [ipaddress.ip_address(address).version for address in config.bind_address]
    if len(set(versions)) < len(versions):
        raise ConfigError("--bind-address: one address for each IP version, no more")
    wrong = {"ipv4": 6, "ipv6": 4}.get(config.address_family)
    for address, version in zip(config.bind_address, versions, strict=True):
        if version == wrong:
            raise ConfigError(f"--bind-address: {address} is of no use with --address-family {config.address_family}")
        if not is_own_address(ipaddress.ip_address(address)):
            yield _error("--bind-address", f"{address} is no address of this host: nothing can be sent from it")


def _authentication(config: Config) -> Iterator[Finding]:
    if config.dkim_required and not config.dkim_keys:
        raise ConfigError("--dkim-required: there are no keys: give --dkim-keys too")
    if config.dkim_keys:
        if not os.path.isdir(config.dkim_keys):
            raise ConfigError(f"--dkim-keys: {config.dkim_keys} is no folder")
        if not os.access(config.dkim_keys, os.R_OK | os.X_OK):
            raise ConfigError(f"--dkim-keys: cannot read the folder {config.dkim_keys}")
        if permissions(config.dkim_keys) & (stat.S_IWGRP | stat.S_IWOTH):
            yield _warning(
                "--dkim-keys",
                f"others than its owner may write to {config.dkim_keys}",
                f"chmod go-w {config.dkim_keys}",
            )
    if config.verify_exempt and not (os.path.isfile(config.verify_exempt) and os.access(config.verify_exempt, os.R_OK)):
        raise ConfigError(f"--verify-exempt: cannot read {config.verify_exempt}")


def _folders(config: Config) -> Iterator[Finding]:
    spool, queue = os.path.realpath(config.spool), os.path.realpath(config.queue)
    if spool == queue:
        raise ConfigError(f"--queue: {config.queue} is the spool: its files would be taken for mailboxes")
    if spool.startswith(queue.rstrip("/") + "/"):
        raise ConfigError(f"--spool: {config.spool} lies in the queue {config.queue}")
    if queue.startswith(spool.rstrip("/") + "/"):
        first = os.path.relpath(queue, spool).split("/")[0]
        if not first.startswith("."):
            raise ConfigError(
                f"--queue: {config.queue} lies in what would be the mailbox of {first}; "
                "within the spool its name must begin with a dot"
            )
    for option, path in (("--spool", config.spool), ("--queue", config.queue)):
        usable_folder(path, option)
    if permissions(config.queue) & (stat.S_IWGRP | stat.S_IWOTH):
        yield _warning(
            "--queue", f"others than its owner may write to {config.queue}: they can send mail as anybody",
            f"chmod 700 {config.queue}",
        )  # fmt: skip
    if permissions(config.spool) & stat.S_IWOTH:
        yield _warning(
            "--spool", f"every account of this host may write to {config.spool}", f"chmod o-w {config.spool}"
        )


def _doors(config: Config) -> Iterator[Finding]:
    for option, endpoints in (
        ("--imap-listen", config.imap_listen),
        ("--submission-listen", config.submission_listen),
    ):
        if endpoints and not config.tls_cert:
            raise ConfigError(f"{option}: passwords travel by TLS only: give --tls-cert")
        if endpoints and not config.devices:
            raise ConfigError(f"{option}: nobody could log in: give --devices")
    if config.imap_socket:
        folder = os.path.dirname(os.path.abspath(config.imap_socket))
        if not os.path.isdir(folder):
            raise ConfigError(f"--imap-socket: there is no folder {folder}")
    if config.devices:
        folder = os.path.dirname(os.path.abspath(config.devices))
        if not os.path.isdir(folder):
            raise ConfigError(f"--devices: there is no folder {folder}")
        if os.path.exists(config.devices) and not (
            os.path.isfile(config.devices) and os.access(config.devices, os.R_OK)
        ):
            raise ConfigError(f"--devices: cannot read {config.devices}")
    if config.devices and permissions(config.devices) & (stat.S_IWGRP | stat.S_IWOTH):
        yield _warning(
            "--devices", f"others than its owner may write to {config.devices}: they can read all mail",
            f"chmod 600 {config.devices}",
        )  # fmt: skip


def _listeners(config: Config) -> Iterator[Finding]:
    loopback = [_bound(e, config) for e in config.loopback or (Endpoint("127.0.0.1"), Endpoint("::1"))]
    network = () if config.no_network else config.listen
    for endpoint in network:
        where = _bound(endpoint, config)
        if where in loopback and where.port:
            yield _error("--listen", f"{where} is the loopback listener's, whose clients may send to the world")
    for option, endpoints in (("--loopback", config.loopback), ("--listen", network)):
        for endpoint in endpoints:
            if not is_own_address(ipaddress.ip_address(endpoint.host)):
                yield _error(option, f"{endpoint.host} is no address of this machine")


def _bound(endpoint: Endpoint, config: Config) -> Endpoint:
    return Endpoint(endpoint.host, config.port if endpoint.port is None else endpoint.port)


def _names(config: Config) -> Iterator[Finding]:
    if config.no_network:
        return
    for option, names in (("--hostname", (config.hostname,)), ("--suffix", config.domains)):
        for name in names:
            if "." not in name or name.endswith((".localdomain", ".local", ".localhost")):
                yield _warning(option, f"{name} is no public name: other servers can't send to it")
