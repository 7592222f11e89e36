"""How the certificate authority is convinced: what the role makes of a host's port 80 and of what it was told."""

from __future__ import annotations

import http.server
import json
import subprocess
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
SHOWN = "webroot_path = /var/www/html,"


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
    variables = {**seen([], held, shown), **told}
    assert value("smtpmail_acme_method", **variables) == method
    if method == "webroot":
        options = value("smtpmail_acme_options", **variables)["webroot"]
        assert options[:3] == ["--webroot", "--webroot-path", shown or "/srv/w"]


@pytest.mark.parametrize(
    ("lines", "held", "shown", "told", "wanted"),
    [
        ([], "", "", {}, True),
        ([SERVER, "standalone", MATCH], "", "", {}, False),
        (["standalone", SERVER, MATCH], "", "", {}, False),
        ([SERVER, "standalone"], "", "", {}, True),
        (["https://other.example/dir", "standalone", MATCH], "", "", {}, True),
        ([SERVER, "standalone", MATCH], HELD, "", {}, True),
        ([SERVER, "webroot", SHOWN, MATCH], HELD, "/var/www/html", {}, False),
        ([SERVER, "webroot", SHOWN, MATCH], HELD, "/srv/www", {}, True),
        ([SERVER, "webroot", SHOWN, MATCH], HELD, "", {}, True),
        ([SERVER, "webroot", MATCH], HELD, "", {}, True),
        ([SERVER, "webroot", SHOWN, MATCH], "", "", {}, True),
        ([SERVER, "webroot", SHOWN, MATCH], "", "", {"challenge": "webroot", "webroot": "/var/www/html/"}, False),
        ([SERVER, "webroot", SHOWN, MATCH], "", "", {"challenge": "webroot", "webroot": "/srv/www"}, True),
        ([SERVER, "dns-rfc2136", MATCH], HELD, "", {"challenge": "dns"}, False),
        ([SERVER, "dns-rfc2136", MATCH], "", "", {"challenge": "standalone"}, True),
        ([SERVER, "dns-rfc2136", MATCH], HELD, "", {"challenge": "auto", "dns": "update"}, False),
        ([SERVER, "dns-rfc2136", MATCH], HELD, "", {"challenge": "auto", "dns": "print"}, True),
    ],
)
def test_a_certificate_is_asked_for_when_one_is_missing_or_its_renewals_would_not_work(
    value: Value, lines: list[str], held: str, shown: str, told: dict[str, str], wanted: bool
) -> None:
    variables = {f"smtpmail_{key}" if key == "dns" else f"smtpmail_acme_{key}": told[key] for key in told}
    found = seen(lines, held, shown)
    assert value("smtpmail_acme_wanted", **found, **variables) is wanted


def seen(lines: list[str], held: str = "", shown: str = "") -> dict[str, object]:
    """What the role sees on a host: certificate and renewal, who has port 80, the folder that is shown there."""
    return {
        "smtpmail_acme_now": {"stdout_lines": lines, "stdout": "\n".join(lines)},
        "smtpmail_acme_port": {"stdout": held},
        "smtpmail_acme_shown": {"stdout": shown},
    }


@pytest.mark.parametrize(
    ("lines", "held", "shown", "dns", "method"),
    [
        (["webroot", SHOWN], "", "", "print", "standalone"),
        (["webroot", SHOWN], HELD, "/srv/www", "print", "webroot"),
        (["webroot", SHOWN], HELD, "", "update", "dns"),
        (["webroot", SHOWN], HELD, "", "print", ""),
        (["dns-rfc2136"], "", "", "update", "dns"),
        (["dns-rfc2136"], "", "", "print", "standalone"),
    ],
)
def test_what_works_no_more_gives_way_to_what_does(
    value: Value, lines: list[str], held: str, shown: str, dns: str, method: str
) -> None:
    found = seen([SERVER, *lines, MATCH], held, shown)
    assert value("smtpmail_acme_method", **found, smtpmail_dns=dns) == method


def test_what_serves_where_there_is_no_way(value: Value) -> None:
    assert value("smtpmail_acme_meanwhile", **seen([])) == "a self-signed certificate serves"
    lines = [SERVER, "webroot", SHOWN, "notAfter=Jan 24 06:00:00 2027 GMT", MATCH]
    ends = "the certificate that is there serves, which ends on Jan 24 06:00:00 2027 GMT"
    assert value("smtpmail_acme_meanwhile", **seen(lines)) == ends


KEY = "/etc/smtpmail/acme-dns.ini"
ENDS = "notAfter=Jan 24 06:00:00 2027 GMT"
BY_DNS = [SERVER, "dns-rfc2136", KEY, ENDS, MATCH]


@pytest.mark.parametrize(
    ("lines", "dns", "goes_on"),
    [
        (BY_DNS, "print", True),
        (BY_DNS, "none", True),
        (BY_DNS, "update", False),
        ([SERVER, "dns-rfc2136", ENDS, MATCH], "print", False),
        ([SERVER, "dns-rfc2136", KEY, ENDS], "print", False),
        (["https://other.example/dir", "dns-rfc2136", KEY, ENDS, MATCH], "print", False),
        ([SERVER, "webroot", SHOWN, ENDS, MATCH], "print", False),
    ],
)
def test_renewals_that_go_on_without_the_play_are_told(value: Value, lines: list[str], dns: str, goes_on: bool) -> None:
    """smtpmail_dns is update no more and port 80 no way: certbot still has the key."""
    found = seen(lines, HELD)
    said = value("smtpmail_acme_no_way", **found, smtpmail_dns=dns).strip()
    held = "Port 80 is held by nginx, the authority asks there, and http://mail.example.org/ shows no usual folder. "
    assert said.startswith(held)
    if goes_on:
        assert said.startswith(
            f"{held}certbot goes on renewing the certificate by dynamic updates, as it did before smtpmail_dns was"
            f" {dns}, for as long as the name server takes the key in {KEY} (the certificate that serves ends on"
            " Jan 24 06:00:00 2027 GMT). To be independent of that key, set smtpmail_acme_webroot"
        )
        assert "until then" not in said
    else:
        assert f"{held}Set smtpmail_acme_webroot" in said
        assert "; until then " in said
        assert value("smtpmail_acme_goes_on", **found, smtpmail_dns=dns) == ""


@pytest.mark.parametrize(
    ("lines", "dns", "serves", "port"),
    [
        ([], "print", "the one of before serves.", True),
        (BY_DNS, "print", "certbot goes on renewing the certificate by dynamic updates", True),
        (BY_DNS, "update", "the one of before serves.", False),
    ],
)
def test_a_failure_tells_what_serves_and_what_to_do(
    value: Value, lines: list[str], dns: str, serves: str, port: bool
) -> None:
    """Nobody on the host has port 80: that it is closed from outside is only seen by the attempt."""
    said = value("smtpmail_acme_failure", **seen(lines), smtpmail_dns=dns)
    assert said.startswith(f"certbot got no certificate for mail.example.org; {serves}")
    assert ("The authority must reach port 80 of the host from outside; where it cannot, set" in said) is port


@pytest.mark.parametrize(("name", "taken"), [("mail.example.org", True), ("old.example.org", False)])
def test_a_certificate_for_the_name_of_before_is_not_served(
    render: Callable[..., str], tmp_path: Path, name: str, taken: bool
) -> None:
    lineage, log = tmp_path / "lineage", tmp_path / "log"
    lineage.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc",
         "-subj", "/CN=x", "-addext", f"subjectAltName=DNS:{name}",
         "-keyout", tmp_path / "key.pem", "-out", lineage / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    for command in ("install", "mv", "systemctl"):
        (tmp_path / command).write_text(f'#!/bin/sh\necho "{command} $*" >>{log}\n')
        (tmp_path / command).chmod(0o755)
    subprocess.run(
        ["/bin/sh"], input=render("acme-deploy"), text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "RENEWED_LINEAGE": str(lineage)},
    )  # fmt: skip
    assert log.exists() is taken


@pytest.mark.parametrize("path", ["/var/www/html", "/srv/my site"])
def test_the_folder_of_last_time_is_read_as_certbot_writes_it(value: Value, path: str) -> None:
    assert value("smtpmail_acme_folder", **seen([f"webroot_path = {path},"])) == path


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
    webroot.main("mail.example.org", f"{site}/")
    assert capsys.readouterr().out == str(site), "as certbot writes it"
    webroot.main("mail.example.org", str(other))
    assert capsys.readouterr().out == ""
    assert not [path for folder in (site, other) for path in folder.rglob("*") if path.is_file()]
