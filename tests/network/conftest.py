"""The test network: its hosts, their programs, and what they need from the machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faultserver import FaultServer
from support.tls import Authority

from . import certificates, nameservers
from .judge import Judge
from .lab import Host, Lab
from .mailservers import SERVERS, MailServer
from .program import HOSTNAME, Program

CACHE = Path(os.environ.get("SMTPMAIL_LAB_CACHE", "/var/cache/smtpmail-lab"))
COMMANDS = (
    "ip", "nsenter", "unshare", "setpriv", "openssl", "swaks", "knotd", "unbound", "postfix", "smtp-sink",
    "policyd-spf", "opendkim", "opendmarc", "rspamd", "dkimproxy-verify",
)  # fmt: skip


def _addresses(*numbers: int) -> list[str]:
    """192.0.2.N and 2001:db8::N for each N."""
    return [address for n in numbers for address in (f"192.0.2.{n}/24", f"2001:db8::{n}/64")]


# The zones below zones/ say the same.
HOSTS = {
    "ours": _addresses(10),
    "postfix": _addresses(20, 21, 22),
    "exim": _addresses(30, 31),
    "opensmtpd": _addresses(40, 41),
    "judge": _addresses(50),
    "dns": _addresses(53, 54, 55),
    "sink": _addresses(81, 82, 83),
}
BLACKHOLE = ("192.0.2.66", "2001:db8::66")


def _missing() -> str | None:
    """What the machine lacks, None when it has everything."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    lacking = [command for command in COMMANDS if shutil.which(command, path=path) is None]
    lacking += [name for name in ("exim", "opensmtpd") if not (CACHE / name).is_dir()]
    return f"not installed: {', '.join(lacking)}: run tests/network/setup" if lacking else None


@pytest.fixture(scope="session", autouse=True)
def requirements() -> None:
    reason = _missing()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def lab(requirements: None) -> Iterator[Lab]:
    """All hosts, with the DNS running."""
    with Lab(HOSTS, {"exim": CACHE / "exim", "opensmtpd": CACHE / "opensmtpd"}) as lab:
        for host in lab:
            host.write("/etc/resolv.conf", f"nameserver {nameservers.RESOLVER}\n")
            for address in BLACKHOLE:
                # A neighbour who is on no port of the bridge: what is sent to it vanishes without a word.
                host.run(
                    "ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:66", "dev", "eth0", "nud", "permanent"
                )
        nameservers.start(lab["dns"])
        yield lab


@pytest.fixture(scope="session")
def authority(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority that all hosts trust; ours has a certificate of it."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    certificates.install(authority, lab["ours"], [HOSTNAME, "mail4.dom.test", "mail6.dom.test"])
    return authority


@pytest.fixture(scope="session")
def mailservers(lab: Lab, authority: Authority) -> dict[str, MailServer]:
    """The foreign mail servers by name, running."""
    servers = {kind.name: kind(lab[kind.name]) for kind in SERVERS}
    for server in servers.values():
        server.start(authority)
    return servers


@pytest.fixture(params=[kind.name for kind in SERVERS])
def remote(request: pytest.FixtureRequest, mailservers: dict[str, MailServer]) -> MailServer:
    """Each of the foreign mail servers in turn."""
    return mailservers[request.param]


@pytest.fixture(scope="session")
def judge(lab: Lab, authority: certificates.Authority) -> Judge:
    """Postfix with OpenDKIM and OpenDMARC, running, its keys published."""
    judge = Judge(lab["judge"])
    judge.start(authority)
    for selector in ("s", "ed"):
        nameservers.publish(lab["dns"], "_domainkey.judge.test.", selector, judge.key_record(selector))
    return judge


TLS_OPTIONS = ("--tls-cert", certificates.CERTIFICATE, "--tls-key", certificates.KEY)
# Impatient, so that a test sees within seconds what takes minutes in the world.
IMPATIENT = ("--connect-timeout", "1s", "--retry-schedule", "0.2s 0.5s 30s")


@pytest.fixture
def start_ours(lab: Lab, authority: Authority, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts smtpmail on its host with more options; it is stopped, and its exit status looked at, after the test."""
    started: list[Program] = []

    def start(*options: str) -> Program:
        program = Program(lab["ours"], tmp_path, *options)
        started.append(program)
        program.start()
        return program

    yield start
    statuses = [program.stop() for program in started]
    assert statuses == [0] * len(started)


@pytest.fixture(scope="module")
def ours(lab: Lab, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """smtpmail on its host, with STARTTLS, for all tests of a module."""
    program = Program(lab["ours"], tmp_path_factory.mktemp("ours"), *TLS_OPTIONS, *IMPATIENT)
    program.start()
    yield program
    assert program.stop() == 0


class Sinks:
    """A correct server on each of the addresses of the sink host (sink1, sink2, sink3.test), IPv4 and IPv6."""

    def __init__(self, host: Host) -> None:
        self.servers = {
            number: FaultServer(listeners=[host.listener(f"192.0.2.8{number}"), host.listener(f"2001:db8::8{number}")],
                                hostname=f"sink{number}.test")
            for number in (1, 2, 3)
        }  # fmt: skip

    def arrivals(self, subject: str) -> list[tuple[int, str]]:
        """Where a message with that subject has been accepted: numbers of the sinks with their recipients."""
        line = f"Subject: {subject}\r\n".encode()
        return [
            (number, recipient)
            for number, server in self.servers.items()
            for message in server.accepted
            if line in message.content
            for recipient in message.recipients
        ]


@pytest.fixture(scope="module")
def sinks(lab: Lab) -> Iterator[Sinks]:
    sinks = Sinks(lab["sink"])
    for server in sinks.servers.values():
        server.start()
    yield sinks
    for server in sinks.servers.values():
        server.stop()


ServeOne = Callable[..., FaultServer]


@pytest.fixture
def serve_one(lab: Lab) -> Iterator[ServeOne]:
    """Starts a fault server as the MX of one.test."""
    servers: list[FaultServer] = []

    def start(script: dict[str, Any] | None = None, **options: Any) -> FaultServer:
        server = FaultServer(script, listeners=[lab["sink"].listener("192.0.2.81")], **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()
        assert server.violations == []
