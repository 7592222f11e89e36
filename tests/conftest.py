"""What all tests share: the rule about what may be missing, and the settings of hypothesis."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.require import in_ci
from support.server import Server, Servers
from support.tls import Certificate, make_certificate

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if in_ci() else "default")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other accounts can reach: pytest's own are closed to them, by each run that begins."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Makes servers; all are ended with the test."""
    with Servers(tmp_path) as made:
        yield made


@pytest.fixture
def server(servers: Servers) -> Server:
    """The real program with both listeners on IPv4 and IPv6 and a fresh spool."""
    return servers.start()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for `mail.dom.fr` that its own authority signed."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "mail.dom.fr")
