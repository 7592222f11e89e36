"""A certificate from an authority: Debian's pebble on the remote host plays it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from conftest import deployed, eventually, install
from testinfra.host import Host

PEBBLE = {
    "pebble": {
        "listenAddress": "0.0.0.0:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/srv/pebble/cert.pem",
        "privateKey": "/srv/pebble/key.pem",
        "httpPort": 80,
        "tlsPort": 443,
    }
}

# Holds a session open while the certificate is renewed, and goes on in it.
SESSION_OVER_RENEWAL = """
import smtplib, subprocess
with smtplib.SMTP("127.0.0.1", 25) as client:
    client.ehlo()
    renew = ["certbot", "renew", "--force-renewal", "--no-random-sleep-on-renew"]
    subprocess.run(renew, check=True, capture_output=True)
    print(client.noop()[0])
"""


@pytest.fixture(scope="module")
def authority(mail: Host, remote: Host) -> Iterator[str]:
    """The directory URL of an authority that the host trusts."""
    remote.check_output("apt-get install -y -qq pebble")
    remote.check_output("mkdir -p /srv/pebble")
    remote.check_output(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30 -subj /CN=pebble"
        " -addext subjectAltName=DNS:remote.example.net -keyout /srv/pebble/key.pem -out /srv/pebble/cert.pem"
    )
    remote.check_output("printf %%s %s >/srv/pebble/config.json", json.dumps(PEBBLE))
    remote.check_output(
        "systemd-run --quiet --unit pebble --setenv PEBBLE_VA_NOSLEEP=1 --setenv PEBBLE_WFE_NONCEREJECT=0 --"
        " pebble -config /srv/pebble/config.json -dnsserver 192.0.2.20:53"
    )
    mail.check_output("printf %%s %s >/etc/ssl/pebble.pem", remote.file("/srv/pebble/cert.pem").content_string)
    eventually(lambda: remote.socket("tcp://14000").is_listening)
    yield "https://remote.example.net:14000/dir"
    remote.check_output("systemctl stop pebble")


def served_certificate(remote: Host) -> str:
    """Issuer and serial number of the certificate that a sender sees."""
    return remote.check_output(
        "openssl s_client -connect 192.0.2.10:25 -starttls smtp </dev/null 2>/dev/null"
        " | openssl x509 -noout -issuer -serial -ext subjectAltName"
    )


def asked_of(authority: str) -> dict[str, str]:
    """What an operator says who wants its certificate."""
    return {
        "smtpmail_tls": "acme",
        "smtpmail_acme_email": "bob@dom.fr",
        "smtpmail_acme_server": authority,
        "smtpmail_acme_ca_bundle": "/etc/ssl/pebble.pem",
    }


def renewed_by(mail: Host) -> str:
    """How the authority is answered at each renewal."""
    return mail.check_output("sed -n 's/^authenticator = //p' /etc/letsencrypt/renewal/smtpmail.conf")


RENEW = "REQUESTS_CA_BUNDLE=/etc/ssl/pebble.pem certbot renew --force-renewal --no-random-sleep-on-renew"


def open_for_a_moment(mail: Host) -> bool:
    return "elements" in mail.check_output("nft list set inet smtpmail passing")


def test_certificate_comes_and_is_renewed_without_dropping_a_session(mail: Host, remote: Host, authority: str) -> None:
    settings = asked_of(authority)
    deployed(**settings)
    first = served_certificate(remote)
    assert "Pebble" in first
    assert "DNS:mail.dom.fr" in first
    assert not open_for_a_moment(mail), "port 80 is open only while the authority looks"
    assert mail.file("/etc/smtpmail/tls/key.pem").mode == 0o640
    assert mail.service("certbot.timer").is_enabled
    assert "REQUESTS_CA_BUNDLE=/etc/ssl/pebble.pem" in mail.check_output(
        "systemctl show -p Environment certbot.service"
    )
    deployed(**settings)
    assert served_certificate(remote) == first, "what serves is not asked for again"

    assert mail.check_output("REQUESTS_CA_BUNDLE=/etc/ssl/pebble.pem python3 -c %s", SESSION_OVER_RENEWAL) == "250"
    second = served_certificate(remote)
    assert "Pebble" in second
    assert re.search("serial=.*", second)[0] != re.search("serial=.*", first)[0]  # type: ignore[index]
    assert not open_for_a_moment(mail)


@pytest.fixture
def web_server(mail: Host) -> Iterator[None]:
    """A web server that has port 80, as many hosts have one."""
    install(mail, "nginx-light")
    assert mail.socket("tcp://0.0.0.0:80").is_listening
    yield
    mail.check_output("apt-get purge -y -qq nginx-light nginx nginx-common")


@pytest.mark.usefixtures("web_server")
def test_a_web_server_on_the_authoritys_port_stays_and_shows_the_answer(
    mail: Host, remote: Host, authority: str
) -> None:
    before = served_certificate(remote)
    deployed(**asked_of(authority))
    assert renewed_by(mail) == "webroot"
    first = served_certificate(remote)
    assert "Pebble" in first
    assert first != before
    mail.check_output(RENEW)
    assert served_certificate(remote) != first
    assert mail.service("nginx").is_running
    assert not open_for_a_moment(mail)


@pytest.mark.usefixtures("web_server")
def test_a_folder_that_is_shown_no_more_is_not_relied_on(mail: Host, remote: Host, authority: str) -> None:
    deployed(**asked_of(authority))
    assert renewed_by(mail) == "webroot"
    first = served_certificate(remote)

    mail.check_output("sed -i 's#root /var/www/html;#root /srv/elsewhere;#' /etc/nginx/sites-available/default")
    mail.check_output("mkdir -p /srv/elsewhere && systemctl reload nginx")
    said = " ".join(deployed(**asked_of(authority), smtpmail_dns="print").split())
    assert "Port 80 is held by nginx, the authority asks there, and http://mail.dom.fr/ shows no usual folder." in said
    assert "until then the certificate that is there serves, which ends on " in said
    assert served_certificate(remote) == first

    deployed(**asked_of(authority), smtpmail_acme_webroot="/srv/elsewhere/")
    second = served_certificate(remote)
    assert second != first
    mail.check_output(RENEW)
    third = served_certificate(remote)
    assert third != second
    deployed(**asked_of(authority), smtpmail_acme_webroot="/srv/elsewhere/")
    assert served_certificate(remote) == third, "what serves is not asked for again"

    mail.check_output("apt-get purge -y -qq nginx-light nginx nginx-common")
    deployed(**asked_of(authority))
    assert renewed_by(mail) == "standalone"
    mail.check_output(RENEW)


@pytest.mark.usefixtures("web_server")
def test_where_no_folder_is_shown_the_answer_goes_into_the_dns(mail: Host, remote: Host, authority: str) -> None:
    mail.check_output("sed -i 's#root /var/www/html;#root /srv/nowhere;#' /etc/nginx/sites-available/default")
    mail.check_output("systemctl reload nginx")
    deployed(**asked_of(authority), smtpmail_acme_challenge="dns")
    assert renewed_by(mail) == "dns-rfc2136"
    key = mail.file("/etc/smtpmail/acme-dns.ini")
    assert (key.user, key.mode) == ("root", 0o600)
    first = served_certificate(remote)
    mail.check_output(RENEW)
    assert served_certificate(remote) != first
    assert not remote.check_output("dig +short @192.0.2.20 _acme-challenge.mail.dom.fr TXT")
