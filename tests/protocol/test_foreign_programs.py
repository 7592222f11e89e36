"""Clients and readers that nobody here wrote, from Debian's packages and Python's library."""

from __future__ import annotations

import mailbox
import os
import smtplib
import subprocess
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
from support import require
from support.server import Server, Servers, clean_environment, wait_until
from support.spool import visible, with_status
from support.tls import Certificate


def run(command: list[str], *, home: Path, text: str = "", status: int = 0) -> str:
    """Runs a program with nothing but its own settings; its output."""
    ran = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=clean_environment({"HOME": str(home), "LC_ALL": "C.UTF-8", "TERM": "dumb"}),
        cwd=home,
    )
    assert ran.returncode == status, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def only_message(server: Server, user: str = "bob") -> bytes:
    (message,) = server.messages(user).values()
    return message


# -- senders


@pytest.mark.parametrize("listener", ["loopback", "network"])
@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_swaks(server: Server, tmp_path: Path, listener: str, ipv6: bool) -> None:
    host, port = server.address(listener, ipv6=ipv6)
    swaks = [require.tool("swaks"), "--server", f"[{host}]" if ipv6 else host, "--port", str(port)]
    output = run([*swaks, "--to", "bob@dom.fr,carol@dom.fr", "--from", "alice@example.org"], home=tmp_path)
    assert "queued as" in output
    assert b"Subject: test" in only_message(server)
    assert b"Subject: test" in only_message(server, "carol")


def test_a_container_through_a_socket_of_its_own(server: Server, tmp_path: Path) -> None:
    """The recipe of docs/programs.md; a network namespace stands for the container."""
    require.root()
    socat, unshare, swaks = require.tool("socat"), require.tool("unshare"), require.tool("swaks")
    host, port = server.address("loopback")
    way = tmp_path / "smtp"
    proxy = subprocess.Popen([socat, f"UNIX-LISTEN:{way},mode=0600,fork", f"TCP:{host}:{port}"])
    try:
        wait_until(way.exists)
        # Its loopback is its own: nothing of the host's is there.
        inside = (
            f"ip link set lo up && ! {swaks} -s 127.0.0.1 -p {port} -t x@dom.fr -f a@dom.fr -q CONNECT >/dev/null && "
            f"{{ {socat} TCP-LISTEN:25,bind=127.0.0.1,reuseaddr,fork UNIX-CONNECT:{way} & }} && "
            f"for n in $(seq 100); do {socat} -u /dev/null TCP:127.0.0.1:25 2>/dev/null && break; sleep 0.1; done && "
            f"{swaks} -s 127.0.0.1 -t bob@dom.fr -f shop@dom.fr; status=$?; kill %1; exit $status"
        )
        output = run([unshare, "--net", "bash", "-c", f"set -m; {inside}"], home=tmp_path)
    finally:
        proxy.kill()
        proxy.wait()
    assert "queued as" in output
    assert b"Return-Path: <shop@dom.fr>" in only_message(server)


def test_swaks_pipelining_and_refusal(server: Server, tmp_path: Path) -> None:
    host, port = server.address("network")
    swaks = [require.tool("swaks"), "--server", host, "--port", str(port), "--pipeline", "--from", "a@example.org"]
    output = run([*swaks, "--to", "bob@dom.fr,a@example.com"], home=tmp_path)
    assert "550 5.7.1" in output
    assert only_message(server)
    output = run([*swaks, "--to", "a@example.com"], home=tmp_path, status=24)
    assert "550 5.7.1" in output


def test_swaks_with_tls(servers: Servers, certificate: Certificate, tmp_path: Path) -> None:
    server = servers.start(*certificate.options)
    host, port = server.address()
    swaks = [require.tool("swaks"), "--server", host, "--port", str(port), "--tls"]
    output = run([*swaks, "--to", "bob@dom.fr", "--from", "a@b.example"], home=tmp_path)
    assert "TLS started" in output
    assert b" with ESMTPS " in only_message(server)


def test_msmtp(servers: Servers, certificate: Certificate, tmp_path: Path) -> None:
    """With STARTTLS and a certificate that it verifies; a dot and a long line in the content."""
    server = servers.start(*certificate.options)
    host, port = server.address()
    # msmtp checks the name that it is told: the certificate's.
    config = tmp_path / "msmtprc"
    config.write_text(
        f"account default\nhost {host}\nport {port}\nfrom alice@example.org\ntls on\ntls_starttls on\n"
        f"tls_trust_file {certificate.cert}\ntls_host_override {certificate.name}\n"
    )
    config.chmod(0o600)
    text = "Subject: from msmtp\n\n.\n..\n" + "x" * 2000 + "\n"
    run([require.tool("msmtp"), "-C", str(config), "bob@dom.fr"], home=tmp_path, text=text)
    message = only_message(server)
    assert message.endswith(b"\n\n.\n..\n" + b"x" * 2000 + b"\n")
    assert b" with ESMTPS " in message


def test_mutt_sends_and_reads(server: Server, tmp_path: Path) -> None:
    """Sends through its own SMTP client, with an attachment, then opens the mailbox as an MH folder."""
    mutt = require.tool("mutt")
    host, port = server.address()
    attachment = tmp_path / "picture.bin"
    attachment.write_bytes(bytes(range(256)) * 40)
    (tmp_path / "muttrc").write_text(
        f'set smtp_url="smtp://{host}:{port}/"\nset ssl_starttls=no\nset ssl_force_tls=no\n'
        'set from="alice@example.org"\n'
        "set use_envelope_from=yes\nset copy=no\nset sendmail_wait=0\n"
    )
    mutt_with = [mutt, "-F", str(tmp_path / "muttrc")]
    run([*mutt_with, "-s", "von Mütt", "-a", str(attachment), "--", "bob@dom.fr"], home=tmp_path, text="Grüße\n")
    parsed = BytesParser().parsebytes(only_message(server))
    assert [p.get_payload(decode=True) for p in parsed.walk()][-1] == attachment.read_bytes()

    # Batch mode of a reader: open the folder, save the messages that it shows into another, leave.
    copy = tmp_path / "copy"
    commands = f'push "<tag-pattern>~A<enter><tag-prefix><copy-message>{copy}<enter><quit>"'
    script = require.tool("script", "bsdutils")
    (tmp_path / "readrc").write_text(
        "set mbox_type=mbox\nset confirmcreate=no\nset confirmappend=no\nset quit=yes\nset move=no\nset mark_old=no\n"
        "set read_inc=0\nset wait_key=no\n"
    )
    command = f"{mutt} -F {tmp_path}/readrc -R -f {server.spool}/bob -e '{commands}'"
    run([script, "-qec", command, "/dev/null"], home=tmp_path)
    shown = list(mailbox.mbox(copy))
    assert [m["To"] for m in shown] == ["bob@dom.fr"]
    assert visible(server.spool / "bob") == with_status([1])


def test_curl(servers: Servers, certificate: Certificate, tmp_path: Path) -> None:
    curl = require.tool("curl")
    server = servers.start(*certificate.options)
    host, port = server.address()
    (tmp_path / "mail.txt").write_bytes(b"Subject: from curl\r\n\r\n.hidden\r\n")
    resolve = ["--resolve", f"{certificate.name}:{port}:{host}"]
    for url, more in (
        (f"smtp://{host}:{port}/client.example", []),
        (f"smtp://{certificate.name}:{port}", [*resolve, "--ssl-reqd", "--cacert", str(certificate.cert)]),
    ):
        run(
            [curl, "-sS", url, *more, "--mail-from", "a@example.org", "--mail-rcpt", "bob@dom.fr", "-T", "mail.txt"],
            home=tmp_path,
        )
    stored = server.messages("bob")
    assert all(b"\nSubject: from curl\n" in m and m.endswith(b"\n\n.hidden\n") for m in stored.values())
    assert [b" with ESMTPS " in stored[n] for n in (1, 2)] == [False, True]


def test_smtp_source(server: Server, tmp_path: Path) -> None:
    """Postfix's load generator: 20 sessions, several messages and recipients in each."""
    smtp_source = require.tool("smtp-source", "postfix")
    host, port = server.address()
    common = [smtp_source, "-s", "20", "-m", "200", "-l", "4096", "-f", "a@example.org", "-t", "bob@dom.fr"]
    run([*common, "-d", f"inet:{host}:{port}"], home=tmp_path)
    run([*common, f"inet:{host}:{port}"], home=tmp_path)
    stored = server.messages("bob")
    assert sorted(stored) == list(range(1, 401))
    assert min(len(m) for m in stored.values()) > 4000


def test_smtplib(servers: Servers, certificate: Certificate) -> None:
    """Python's own client: extensions, STARTTLS, 8BITMIME and SMTPUTF8, several messages, refused recipients."""
    server = servers.start(*certificate.options)
    host, port = server.address("network")
    with smtplib.SMTP(host, port, timeout=60) as smtp:
        smtp._host = certificate.name  # type: ignore[attr-defined]  # the name that the certificate must have
        smtp.starttls(context=certificate.client_context())
        smtp.ehlo("client.example")
        assert smtp.has_extn("size")
        assert smtp.esmtp_features["size"] == str(50 * 1024**2)
        refused = smtp.sendmail(
            "a@example.org", ["bob@dom.fr", "x@example.net"], "Subject: ü\r\n\r\n8 bit: ü\r\n".encode()
        )
        assert refused.keys() == {"x@example.net"}
        assert refused["x@example.net"][0] == 550
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "éloïse@example.org", "jürgen@dom.fr", "Grüße"
        message.set_content("Grüße\n")
        assert smtp.send_message(message) == {}
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            smtp.sendmail("a@example.org", ["x@example.net"], "x")
    assert only_message(server).endswith("Subject: ü\n\n8 bit: ü\n".encode())
    utf8 = only_message(server, "jürgen")
    assert b" with UTF8SMTPS " in utf8
    assert "Return-Path: <éloïse@example.org>\nDelivered-To: jürgen@dom.fr\n".encode() in utf8


# -- readers


def test_nmh(server: Server, tmp_path: Path) -> None:
    """The folder is one of MH: nmh lists, shows and moves its messages, and the server goes on beside it."""
    scan = require.tool("scan", "nmh")
    host, port = server.address()
    with smtplib.SMTP(host, port, timeout=60) as smtp:
        for n in range(3):
            text = f"From: alice@example.org\nSubject: number {n}\n\nbody {n}\n"
            smtp.sendmail("alice@example.org", "bob@dom.fr", text)
        (tmp_path / ".mh_profile").write_text(f"Path: {server.spool}\nWelcome: disable\n")
        lines = run([scan, "+bob"], home=tmp_path).splitlines()
        assert [line.split()[0].rstrip("+") for line in lines] == ["1", "2", "3"]
        assert all(f"number {n}" in line for n, line in enumerate(lines))
        show = require.tool("mhshow", "nmh")
        assert "body 1" in run([show, "-nomoreproc", "-form", "/dev/null", "+bob", "2"], home=tmp_path)
        run([require.tool("rmm", "nmh"), "-unlink", "+bob", "3"], home=tmp_path)
        smtp.sendmail("alice@example.org", "bob@dom.fr", "Subject: after\n\nx\n")
    assert os.path.exists(server.spool / "bob" / "4")
    assert not os.path.exists(server.spool / "bob" / "3")


def test_mailbox_mh(server: Server) -> None:
    """Python's mailbox.MH, and MH's lock against ours."""
    host, port = server.address()
    with smtplib.SMTP(host, port, timeout=60) as smtp:
        smtp.sendmail("alice@example.org", "bob@dom.fr", "Subject: one\n\nx\n")
        folder: Any = mailbox.MH(server.spool / "bob", create=False)
        assert list(folder.keys()) == [1]
        assert folder[1]["Delivered-To"] == "bob@dom.fr"
        folder.add("Subject: from the reader\n\nx\n")
        smtp.sendmail("alice@example.org", "bob@dom.fr", "Subject: two\n\nx\n")
        folder.remove(1)
        smtp.sendmail("alice@example.org", "bob@dom.fr", "Subject: three\n\nx\n")
    assert {k: folder[k]["Subject"] for k in folder.keys()}  # noqa: SIM118 == {2: "from the reader", 3: "two", 4: "three"}
