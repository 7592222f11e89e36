"""How the certificate authority is convinced: what the role makes of a host's port 80 and of what it was told."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import program

webroot = program("webroot")
Value = Callable[..., Any]
HELD = 'LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=7,fd=6))'
SERVER = "https://acme-v02.api.letsencrypt.org/directory"
MATCH = "Hostname mail.example.org does match certificate"


@pytest.mark.parametrize(
    ("held", "shown", "told", "method"),
    [
        ("", "", {}, "standalone"),
        (HELD, "/var/www/html", {}, "webroot"),
        (HELD, "", {}, ""),
        (HELD, "", {"smtpmail_dns": "update"}, "dns"),
        (HELD, "/var/www/html", {"smtpmail_dns": "update"}, "webroot"),
        (HELD, "", {"smtpmail_acme_challenge": "standalone"}, "standalone"),
        ("", "", {"smtpmail_acme_challenge": "webroot", "smtpmail_acme_webroot": "/srv/w"}, "webroot"),
    ],
)
def test_method(value: Value, held: str, shown: str, told: dict[str, str], method: str) -> None:
    variables = {"smtpmail_acme_port": {"stdout": held}, "smtpmail_acme_shown": {"stdout": shown}, **told}
    assert value("smtpmail_acme_method", **variables) == method
    if method == "webroot":
        options = value("smtpmail_acme_options", **variables)["webroot"]
        assert options[:3] == ["--webroot", "--webroot-path", shown or "/srv/w"]


@pytest.mark.parametrize(
    ("lines", "held", "told", "wanted"),
    [
        ([], "", {}, True),
        ([SERVER, "standalone", MATCH], "", {}, False),
        (["standalone", SERVER, MATCH], "", {}, False),
        ([SERVER, "standalone"], "", {}, True),
        (["https://other.example/dir", "standalone", MATCH], "", {}, True),
        ([SERVER, "standalone", MATCH], HELD, {}, True),
        ([SERVER, "webroot", MATCH], HELD, {}, False),
        ([SERVER, "webroot", MATCH], "", {}, False),
        ([SERVER, "dns-rfc2136", MATCH], HELD, {"smtpmail_acme_challenge": "dns"}, False),
        ([SERVER, "dns-rfc2136", MATCH], "", {"smtpmail_acme_challenge": "standalone"}, True),
    ],
)
def test_a_certificate_is_asked_for_when_one_is_missing_or_asked_for_otherwise(
    value: Value, lines: list[str], held: str, told: dict[str, str], wanted: bool
) -> None:
    now = {"stdout_lines": lines, "stdout": "\n".join(lines)}
    assert value("smtpmail_acme_wanted", smtpmail_acme_now=now, smtpmail_acme_port={"stdout": held}, **told) is wanted


def test_the_primary_server_of_the_longest_zone_is_told(value: Value) -> None:
    primaries = {"org.": "192.0.2.1", "example.org.": "192.0.2.2", "other.net.": "192.0.2.3", "le.org.": "192.0.2.4"}
    published = {"stdout": json.dumps({"primaries": primaries})}
    assert value("smtpmail_acme_primary", smtpmail_acme_primaries=published).strip() == "192.0.2.2"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a web server of this host shows."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **more)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        connect = webroot.http.client.HTTPConnection
        monkeypatch.setattr(
            webroot.http.client,
            "HTTPConnection",
            lambda host, port, timeout: connect(host, server.server_port, timeout),
        )
        yield folder
        server.shutdown()


def test_the_folder_that_is_shown_is_found_and_left_clean(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    webroot.main("mail.example.org", str(tmp_path / "missing"), str(other), str(site))
    assert capsys.readouterr().out == str(site)
    webroot.main("mail.example.org", str(other))
    assert capsys.readouterr().out == ""
    assert not [path for folder in (site, other) for path in folder.rglob("*") if path.is_file()]
