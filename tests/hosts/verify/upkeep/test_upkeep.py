"""What an operator changes: bad input, another certificate, a given version, another mail server, an account."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    CHECKOUT,
    SPOOL,
    deploy,
    deployed,
    main_pid,
    new_subject,
    release,
    send_from_remote,
    the_error,
    the_message,
)
from testinfra.host import Host


def test_account_that_comes_later_reads_the_mail_of_before(mail: Host, remote: Host) -> None:
    before, after = new_subject(), new_subject()
    send_from_remote(remote, "erin@dom.fr", before)
    paths = [the_message(mail, f"{SPOOL}/erin", before)]
    mail.check_output("useradd --create-home erin")
    deployed()
    send_from_remote(remote, "erin@dom.fr", after)
    paths.append(the_message(mail, f"{SPOOL}/erin", after))
    for path in paths:
        assert "Hello from afar." in mail.check_output("runuser -u erin -- cat %s", path)
        mail.check_output("runuser -u erin -- sh -c 'echo \\\\Seen >%s.status'", path)
        assert mail.run("runuser -u bob -- cat %s", path).rc != 0, "nobody else may"


BAD_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "a port that is no number": ({"smtpmail_port": "many"}, r"smtpmail_port.*many.*int"),
    "a firewall that does not exist": ({"smtpmail_firewall": "pf"}, r"smtpmail_firewall must be one of.*pf"),
    "no domain": ({"smtpmail_domains": []}, r"smtpmail_domains is \[\]: list the domains"),
    "a user that is a path": ({"smtpmail_users": ["bob", "../etc"]}, r"smtpmail_users is .*list user names"),
    "a user whom only the program rejects": ({"smtpmail_users": ["a" * 65]}, r"smtpmail_users is .*list user names"),
    "a setting that is unknown": ({"smtpmail_settings": {"max-seize": "1M"}}, r"unknown key 'max-seize'"),
    "a broken TOML": ({"smtpmail_settings": {"max size": "1M"}}, r"not valid TOML"),
    "a TSIG key that the server refuses": (
        {"smtpmail_dns_key_secret": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
        r"192\.0\.2\.20 refused the TSIG key update\.dom\.fr for dom\.fr\.: BADSIG",
    ),
    "a TSIG key that the server does not know": (
        {"smtpmail_dns_key_name": "other"}, r"192\.0\.2\.20 refused the TSIG key other for dom\.fr\.: BADKEY",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_stops_the_play_with_one_message_and_the_server_runs_on(mail: Host, case: str) -> None:
    variables, message = BAD_INPUT[case]
    before = main_pid(mail)
    configuration = mail.check_output("sha256sum /etc/smtpmail/smtpmail.toml /etc/smtpmail/users")
    # The records are there already: with them gone, the key is needed.
    if "TSIG" in case:
        variables = {**variables, "smtpmail_addresses": ["192.0.2.10", "2001:db8::10", "192.0.2.11"]}
    result = deploy(**variables)
    assert result.returncode != 0
    error = the_error(result.stdout)
    assert re.search(message, error), error
    assert "AAAAAAAA" not in result.stdout
    assert main_pid(mail) == before
    assert mail.check_output("sha256sum /etc/smtpmail/smtpmail.toml /etc/smtpmail/users") == configuration
    assert mail.run("swaks --server 127.0.0.1 --quit-after EHLO").rc == 0


def revision(version: str) -> str:
    """A commit like HEAD, of that version; on no branch."""

    def git(*arguments: str, given: str | None = None, **environment: str) -> str:
        return subprocess.run(
            ["git", "-C", CHECKOUT, "-c", "user.name=test", "-c", "user.email=test@example.net", *arguments],
            input=given, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment},
        ).stdout.strip()  # fmt: skip

    changed = git("hash-object", "-w", "--stdin", given=f'__version__ = "{version}"\n')
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        git("read-tree", "HEAD", **index)
        git("update-index", "--cacheinfo", f"100644,{changed},smtpmail/__init__.py", **index)
        tree = git("write-tree", **index)
    return git("commit-tree", tree, "-p", "HEAD", "-m", f"Version {version}")


def test_given_version_and_certificate_without_the_network(mail: Host, remote: Host, tmp_path: Path) -> None:
    cert, key, other_key = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "other.pem"
    curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(["openssl", "genpkey", "-algorithm", "EC", *curve, "-out", other_key], check=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", *curve, "-noenc",
         "-days", "30", "-subj", "/CN=given", "-addext", "subjectAltName=DNS:mail.dom.fr",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    # The key of another certificate is found out before it replaces the one that works.
    before = mail.check_output("sha256sum /etc/smtpmail/tls/cert.pem /etc/smtpmail/tls/key.pem")
    result = deploy(smtpmail_tls="given", smtpmail_tls_cert=str(cert), smtpmail_tls_key=str(other_key))
    assert re.search(
        r"other\.pem .*cannot be used: .*KEY_VALUES_MISMATCH.* nothing was changed", the_error(result.stdout)
    )
    assert mail.check_output("sha256sum /etc/smtpmail/tls/cert.pem /etc/smtpmail/tls/key.pem") == before

    greets = "swaks --server %s --quit-after BANNER"
    deployed(
        smtpmail_wheelhouse="",
        smtpmail_version=revision("0.0.2"),
        smtpmail_tls="given",
        smtpmail_tls_cert=str(cert),
        smtpmail_tls_key=str(key),
        smtpmail_network=False,
    )
    assert release(mail) == "0.0.2"
    shown = (
        "openssl s_client -connect 127.0.0.1:25 -starttls smtp </dev/null 2>/dev/null | openssl x509 -noout -subject"
    )
    assert mail.check_output(shown).endswith("given")
    assert mail.run(greets, "127.0.0.1").rc == 0
    assert not mail.service("smtpmail.socket").is_enabled
    assert remote.run(greets, "192.0.2.10").rc != 0

    deployed()
    assert release(mail) != "0.0.2"
    assert mail.check_output(shown).endswith("given"), "a self-signed one is as good as another"
    assert remote.run(greets, "192.0.2.10").rc == 0


def test_another_mail_server_is_replaced_only_when_told(mail: Host) -> None:
    mail.check_output("systemctl stop smtpmail.socket smtpmail-loopback.socket smtpmail.service")
    mail.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postfix")
    assert mail.socket("tcp://0.0.0.0:25").is_listening
    result = deploy()
    assert result.returncode != 0
    message = r"Port 25 of mail is held by master \(postfix@-\.service\)\. Stop it, or set smtpmail_replace_mta"
    assert re.search(message, the_error(result.stdout))
    assert mail.service("postfix@-").is_running
    deployed(smtpmail_replace_mta=True)
    assert not mail.service("postfix@-").is_running
    assert not mail.service("postfix").is_enabled
    assert "mail.dom.fr" in mail.run("swaks --server 127.0.0.1 --quit-after EHLO").stdout
