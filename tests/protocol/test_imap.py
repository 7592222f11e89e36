"""The doors to the mailboxes, and mail readers that others wrote."""

from __future__ import annotations

import contextlib
import imaplib
import json
import os
import pwd
import re
import shlex
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import require
from support.server import NO_RESOLVER, Server, Servers, clean_environment, program, split_address, wait_until
from support.spool import deliver
from support.tls import Certificate

from smtpmail.spool.mailbox import Spool

ME = pwd.getpwuid(os.getuid()).pw_name
SETTINGS = ["-s", "dom.fr", "-H", "mail.dom.fr", "--log-format", "json"]


class UnixImap(imaplib.IMAP4):
    """imaplib over a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        super().__init__()

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)
        self.file = self.sock.makefile("rb")


def run(*command: str | Path, status: int = 0, **more: object) -> str:
    """The output of a program that must end with this status."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(),
        **more,  # type: ignore[call-overload]
    )
    assert done.returncode == status, (command, done.stdout, done.stderr)
    return str(done.stdout)


def device(folder: Path, *words: str | Path, status: int = 0) -> str:
    return run(*program(), "device", *words, "--devices", folder / "devices", *SETTINGS, status=status)


def add_device(folder: Path, name: str, user: str = "bob") -> str:
    """The password of a new device."""
    found = re.search(r"^Password: +(\S+)$", device(folder, "add", user, name), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.fixture
def reading(servers: Servers, tmp_path: Path, certificate: Certificate) -> Server:
    """A server with a socket and a port for mail readers."""
    return servers.start(
        *certificate.options, "--imap-socket", str(tmp_path / "imap.sock"),
        "--imap-listen", "127.0.0.1:0", "--devices", str(tmp_path / "devices"),
    )  # fmt: skip


def port(server: Server) -> int:
    """That of the door for devices."""
    return split_address(server.wait_event("server.started")["imap"][1])[1]


@contextlib.contextmanager
def connected(server: Server, certificate: Certificate) -> Iterator[imaplib.IMAP4_SSL]:
    """A connection with TLS, not logged in."""
    context = certificate.client_context()
    context.check_hostname = False
    connection = imaplib.IMAP4_SSL("127.0.0.1", port(server), ssl_context=context, timeout=60)
    try:
        yield connection
    finally:
        connection.shutdown()


def tunnel(spool: Path) -> list[str]:
    """The command that speaks IMAP on standard input and output, without a server."""
    return [*program(), "imap", "--spool", str(spool), *SETTINGS, *NO_RESOLVER]


def script(folder: Path, spool: Path) -> Path:
    """The same as a program of its own, for settings in which arguments are a nuisance."""
    path = folder / "tunnel"
    path.write_text(f"#!/bin/sh\ncd {shlex.quote(os.getcwd())} && exec {shlex.join(tunnel(spool))}\n")
    path.chmod(0o755)
    return path


def mailbox(spool: Path, count: int = 3, user: str = ME) -> Path:
    """A mailbox with some messages."""
    spool.mkdir(exist_ok=True)
    for n in range(1, count + 1):
        header = f"From: a@b\nSubject: number {n}\nMessage-ID: <{n}@x>\nDate: Wed, 25 Nov 2026 10:00:{n:02} +0000\n"
        deliver(Spool(str(spool)), user, content=f"{header}\nbody\n".encode())
    return spool / user


def state(folder: Path, number: int) -> set[str]:
    return set((folder / f"{number}.status").read_text().split())


# -- the doors


def test_unix_socket(reading: Server, tmp_path: Path) -> None:
    """The kernel says who it is; the delivery reaches a client in IDLE."""
    with reading.client() as client:
        client.ehlo()
        client.deliver(b"Subject: one\r\n\r\nx\r\n", f"{ME}@dom.fr")
        reader = UnixImap(tmp_path / "imap.sock")
        assert reader.state == "AUTH"
        assert reader.select() == ("OK", [b"1"])
        assert reader.login("anybody", "anything")[0] == "OK" if reader.state == "AUTH" else True
        reader.send(b"x IDLE\r\n")
        assert reader.readline().startswith(b"+")
        client.deliver(b"Subject: two\r\n\r\nx\r\n", f"{ME}@dom.fr")
        since = time.monotonic()
        assert reader.readline() == b"* 2 EXISTS\r\n"
        # A second is promised; a busy machine is slow in everything.
        assert time.monotonic() - since < 10
    assert reading.wait_event("imap.opened")["user"] == ME
    assert reading.stop() == 0
    assert b"BYE" in reader.readline() + reader.readline()


def test_unix_socket_of_another_account(open_folder: Path, servers: Servers) -> None:
    """Nobody has a mailbox of their own, and sees no other."""
    require.root()
    path = open_folder / "imap.sock"
    server = servers.start("--imap-socket", str(path))
    code = (
        "my $s = IO::Socket::UNIX->new($ARGV[0]) or die; print $s qq(a SELECT INBOX\\r\\nb LOGOUT\\r\\n); "
        "$s->flush; print while <$s>"
    )
    mailbox(server.spool, 2)
    perl = require.tool("perl")
    said = run("setpriv", "--reuid=nobody", "--clear-groups", perl, "-MIO::Socket::UNIX", "-e", code, path)
    assert said.startswith("* PREAUTH")
    assert "* 0 EXISTS" in said
    assert server.wait_event("imap.opened", user="nobody")


def test_devices(reading: Server, tmp_path: Path, certificate: Certificate) -> None:
    password = add_device(tmp_path, "phone")
    mailbox(reading.spool, 2, "bob")
    with connected(reading, certificate) as reader:
        for name, wrong in (("bob", "wrong"), ("bob@elsewhere.example", password)):
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                reader.login(name, wrong)
        assert reader.login("Bob@dom.fr", password.upper().replace("-", " "))[0] == "OK"
        assert reader.select() == ("OK", [b"2"])
        assert re.search(r"^bob +phone +\S+ +just now +127.0.0.1$", device(tmp_path, "list"), re.MULTILINE)
        device(tmp_path, "remove", "bob", "phone")
        since = time.monotonic()
        assert reader.readline() == b"* BYE The device was removed\r\n"
        assert time.monotonic() - since < 10
    with connected(reading, certificate) as reader, pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        reader.login("bob", password)
    assert "no device" in run_failing(tmp_path, "remove", "bob", "phone")
    assert len(reading.events_named("login.failed")) == 3
    assert reading.wait_event("login.succeeded")["device"] == "phone"
    assert not [e for e in reading.events if password in str(e)]


def run_failing(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [*program(), "device", *words, "--devices", str(folder / "devices"), *SETTINGS],
        capture_output=True, text=True, timeout=60, env=clean_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    return done.stderr


def test_fail2ban(reading: Server, tmp_path: Path, certificate: Certificate) -> None:
    """The filter in docs/ finds who guesses, and nobody who was let in."""
    fail2ban = require.tool("fail2ban-regex", "fail2ban")
    password = add_device(tmp_path, "phone")
    with connected(reading, certificate) as reader:
        # imaplib sends a name as it is: one with quotation marks must be quoted here.
        for name in ("bob", r'"bob\", \"client\": \"192.0.2.9:1"', "nobody"):
            with contextlib.suppress(imaplib.IMAP4.error):
                reader.login(name, "wrong")
    with connected(reading, certificate) as reader:
        reader.login("bob", password)
    reading.wait_event("login.succeeded")
    lines = tmp_path / "log"
    lines.write_text("".join(json.dumps(event) + "\n" for event in reading.events))
    found = run(fail2ban, "-o", "ip", lines, Path("docs/fail2ban/smtpmail.conf").resolve())
    assert found.split() == ["127.0.0.1"] * 3


def test_apple_profile(tmp_path: Path) -> None:
    import plistlib

    profile = tmp_path / "x.mobileconfig"
    shown = device(tmp_path, "add", "bob", "iPhone", "--profile", profile)
    assert profile.stat().st_mode & 0o077 == 0
    (account,) = plistlib.loads(profile.read_bytes())["PayloadContent"]
    assert account["IncomingPassword"] in shown
    assert (account["EmailAddress"], account["IncomingMailServerPortNumber"]) == ("bob@dom.fr", 993)
    assert (tmp_path / "devices").stat().st_mode & 0o077 == 0
    assert account["IncomingPassword"] not in (tmp_path / "devices").read_text()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--imap-listen", "127.0.0.1:0"], "give --tls-cert"),
        (["--imap-socket", "/nowhere/imap.sock"], "there is no folder /nowhere"),
        (["--imap-listen", "example.org"], "IP address"),
        (["--devices", "/nowhere/devices"], "there is no folder /nowhere"),
        (["--devices", "/tmp"], "cannot read /tmp"),
    ],
)
def test_doors_that_cannot_be(servers: Servers, options: list[str], complaint: str) -> None:
    server = servers.launch(*options)
    assert server.wait() == 2
    assert complaint in server.other_output[0]


def test_the_port_speaks_tls_only(reading: Server) -> None:
    with socket.create_connection(("127.0.0.1", port(reading)), timeout=60) as sock:
        sock.sendall(b"a LOGIN bob secret\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"OK" not in sock.recv(1000)
    assert reading.wait_event("tls.failed")
    assert not reading.events_named("imap.opened")


def test_encryption_ends_before_the_connection(reading: Server, certificate: Certificate) -> None:
    """By its last record the client knows that nothing was cut off (RFC 8446 6.1)."""
    context = certificate.client_context()
    context.check_hostname = False
    with (
        socket.create_connection(("127.0.0.1", port(reading)), timeout=60) as sock,
        context.wrap_socket(sock, suppress_ragged_eofs=False) as encrypted,
    ):
        encrypted.sendall(b"a LOGOUT\r\n")
        answer = b""
        while data := encrypted.recv(1000):
            answer += data
    assert b"\r\na OK " in answer


def test_a_stale_socket_is_replaced(servers: Servers, tmp_path: Path) -> None:
    options = ["--imap-socket", str(tmp_path / "imap.sock")]
    servers.start(*options).kill()
    assert (tmp_path / "imap.sock").exists()
    second = servers.start(*options)
    assert UnixImap(tmp_path / "imap.sock").state == "AUTH"
    third = servers.launch(*options, spool=tmp_path / "other")
    assert third.wait() == 2
    assert "another program listens" in third.other_output[0]
    assert second.stop() == 0


def test_the_tunnel_speaks_with_the_running_server(reading: Server, tmp_path: Path) -> None:
    mailbox(reading.spool)
    command = [*program(), "imap", "--imap-socket", str(tmp_path / "imap.sock"), "--spool", "/nowhere"]
    reader = imaplib.IMAP4_stream(shlex.join(command))
    assert reader.select() == ("OK", [b"3"])
    reader.logout()
    assert reading.wait_event("imap.closed", door="imap-socket")


# -- readers that others wrote


def test_imaplib(tmp_path: Path) -> None:
    folder = mailbox(tmp_path / "spool")
    reader = imaplib.IMAP4_stream(shlex.join(tunnel(tmp_path / "spool")))
    assert reader.select() == ("OK", [b"3"])
    assert reader.search(None, "SUBJECT", '"number 2"') == ("OK", [b"2"])
    assert reader.store("2", "+FLAGS", "(\\Flagged)")[0] == "OK"
    assert (
        reader.append("Sent", "(\\Seen)", imaplib.Time2Internaldate(1_000_000_000), b"Subject: s\r\n\r\nx\r\n")[0]
        == "OK"
    )
    assert reader.uid("COPY", "1:3", "Archive")[0] == "OK"
    assert reader.store("1", "+FLAGS", "(\\Deleted)")[0] == "OK"
    assert reader.expunge() == ("OK", [b"1"])
    assert reader.logout()[0] == "BYE"
    assert state(folder, 2) == {"\\Flagged"}
    assert not (folder / "1").exists()
    assert (folder / "Sent/1").stat().st_mtime == 1_000_000_000
    assert {p.name for p in (folder / "Archive").iterdir() if p.name.isdigit()} == {"1", "2", "3"}


def test_curl(reading: Server, tmp_path: Path, certificate: Certificate) -> None:
    curl = require.tool("curl")
    password = add_device(tmp_path, "curl")
    mailbox(reading.spool, 2, "bob")
    url = f"imaps://mail.dom.fr:{port(reading)}"
    base = [
        curl, "--silent", "--show-error", "--cacert", str(certificate.cert), "-u", f"bob:{password}",
        "--connect-to", f"mail.dom.fr:{port(reading)}:127.0.0.1:{port(reading)}", "--max-time", "60",
    ]  # fmt: skip
    assert (
        "\r\n\r\nbody\r\n"
        in subprocess.run(
            [*base, f"{url}/INBOX;MAILINDEX=2"], check=True, capture_output=True, timeout=90
        ).stdout.decode()
    )
    assert (
        "* SEARCH 1\r\n"
        in subprocess.run(
            [*base, f"{url}/INBOX?SUBJECT 1".replace(" ", "%20")], check=True, capture_output=True, timeout=90
        ).stdout.decode()
    )
    (tmp_path / "new").write_bytes(b"Subject: by curl\r\n\r\nx\r\n")
    run(*base, "-T", tmp_path / "new", f"{url}/Drafts")
    assert (reading.spool / "bob/Drafts/1").read_bytes() == b"Subject: by curl\n\nx\n"


def test_mbsync_two_ways(tmp_path: Path) -> None:
    mbsync = require.tool("mbsync", "isync")
    folder = mailbox(tmp_path / "spool")
    near = tmp_path / "near"
    near.mkdir()
    (tmp_path / "mbsyncrc").write_text(
        f'IMAPStore far\nTunnel "{script(tmp_path, tmp_path / "spool")}"\n\n'
        f"MaildirStore near\nPath {near}/\nInbox {near}/INBOX\nSubFolders Verbatim\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nRemove Both\nExpunge Both\nSyncState *\n"
        "CopyArrivalDate yes\n"
    )
    sync = [mbsync, "-c", str(tmp_path / "mbsyncrc"), "all"]
    run(*sync)
    local = sorted(path for part in ("new", "cur") for path in (near / "INBOX" / part).iterdir())
    assert len(local) == 3
    assert {int(p.stat().st_mtime) for p in local} == {int((folder / str(n)).stat().st_mtime) for n in (1, 2, 3)}
    # A flag from here, a message from here, a flag from there, a message removed there.
    second = next(p for p in local if "Subject: number 2\n" in p.read_text())
    second.rename(near / "INBOX/cur" / (second.name.partition(":")[0] + ":2,FS"))
    (near / "INBOX/cur/own:2,").write_bytes(b"Subject: mine\n\nx\n")
    reader = imaplib.IMAP4_stream(shlex.join(tunnel(tmp_path / "spool")))
    reader.select()
    reader.store("1", "+FLAGS", "(\\Answered)")
    reader.store("3", "+FLAGS", "(\\Deleted)")
    reader.expunge()
    reader.logout()
    run(*sync)
    assert state(folder, 2) == {"\\Seen", "\\Flagged"}
    # mbsync adds a field of its own, by which it finds its message again.
    assert b"Subject: mine\n" in (folder / "4").read_bytes()
    texts = {
        p.name.partition(":")[2]: p.read_text() for part in ("new", "cur") for p in (near / "INBOX" / part).iterdir()
    }
    assert len(texts) == 3
    assert "number 1" in texts["2,R"]
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.name[0].isdigit()}
    run(*sync)
    assert before == {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.name[0].isdigit()}


def test_offlineimap(tmp_path: Path) -> None:
    offlineimap = require.tool("offlineimap", "offlineimap3")
    folder = mailbox(tmp_path / "spool")
    (tmp_path / "rc").write_text(
        "[general]\naccounts = a\n"
        f"metadata = {tmp_path}/meta\n"
        "[Account a]\nlocalrepository = near\nremoterepository = far\n"
        f"[Repository near]\ntype = Maildir\nlocalfolders = {tmp_path}/near\n"
        f"[Repository far]\ntype = IMAP\npreauthtunnel = {script(tmp_path, tmp_path / 'spool')}\n"
    )
    command = [offlineimap, "-c", str(tmp_path / "rc"), "-o", "-u", "basic"]
    run(*command)
    new = [p for part in ("new", "cur") for p in (tmp_path / "near/INBOX" / part).iterdir()]
    assert len(new) == 3
    first = next(p for p in new if "number 1" in p.read_text())
    first.rename(tmp_path / "near/INBOX/cur" / re.sub(r":2,.*", ":2,FS", first.name))
    (tmp_path / "near/INBOX/cur/1.own.x:2,S").write_bytes(b"Subject: mine\nMessage-ID: <m@x>\n\nx\n")
    run(*command)
    assert state(folder, 1) == {"\\Seen", "\\Flagged"}
    assert state(folder, 4) >= {"\\Seen"}


@pytest.mark.parametrize("name", ["mutt", "neomutt"])
def test_mutt_through_a_tunnel(tmp_path: Path, name: str) -> None:
    """Reads, flags, saves and removes, on a terminal that nobody sees."""
    mutt = require.tool(name)
    folder = mailbox(tmp_path / "spool")
    (tmp_path / "rc").write_text(
        f'set tunnel="{script(tmp_path, tmp_path / "spool")}"\nset folder=imap://host/\nset spoolfile=+INBOX\n'
        "set quit=yes\nset delete=yes\nset confirmappend=no\nset wait_key=no\nset sort=date\nset move=no\n"
        "set header_cache=\nset mail_check=0\nset pager_stop\nset resolve=no\n"
        f"set tmpdir={tmp_path}\n"
        # First message flagged, second read, third saved elsewhere (which removes it here), then out.
        'push "<first-entry><flag-message><next-entry><display-message><exit>'
        '<last-entry><save-message><kill-line>=Archive<enter><sync-mailbox><quit>"\n'
    )
    run("script", "-qec", shlex.join([mutt, "-n", "-F", str(tmp_path / "rc")]), "/dev/null", stdin=subprocess.DEVNULL)
    assert "\\Flagged" in state(folder, 1)
    assert "\\Seen" in state(folder, 2)
    assert not (folder / "3").exists()
    assert b"number 3" in (folder / "Archive/1").read_bytes()


@pytest.mark.parametrize("name", ["mutt", "neomutt"])
def test_mutt_by_port_993(reading: Server, tmp_path: Path, certificate: Certificate, name: str) -> None:
    """With a device's password; the certificate is one that the person has accepted before."""
    mutt = require.tool(name)
    for n in (1, 2, 3):
        deliver(Spool(str(reading.spool)), "bob", content=b"From: a@b\nSubject: number %d\n\nx\n" % n)
    (tmp_path / "rc").write_text(
        f"set folder=imaps://bob@127.0.0.1:{port(reading)}/\nset spoolfile=+INBOX\n"
        f"set imap_pass={add_device(tmp_path, 'desk')}\nset certificate_file={certificate.cert}\n"
        "set ssl_verify_host=no\nset ssl_verify_dates=no\n"
        "set quit=yes\nset delete=yes\nset confirmappend=no\nset wait_key=no\nset sort=mailbox-order\nset move=no\n"
        f"set header_cache=\nset mail_check=0\nset pager_stop\nset resolve=no\nset tmpdir={tmp_path}\n"
        'push "<first-entry><flag-message><next-entry><display-message><exit>'
        '<last-entry><delete-message><sync-mailbox><quit>"\n'
    )
    run("script", "-qec", shlex.join([mutt, "-n", "-F", str(tmp_path / "rc")]), "/dev/null", stdin=subprocess.DEVNULL)
    bob = reading.spool / "bob"
    assert "\\Flagged" in state(bob, 1)
    assert "\\Seen" in state(bob, 2)
    assert not (bob / "3").exists()


def test_mutt_on_the_folder_sees_the_same(tmp_path: Path) -> None:
    """The flags that IMAP sets are there when mutt opens the folder itself."""
    require.tool("mutt")
    folder = mailbox(tmp_path / "spool")
    reader = imaplib.IMAP4_stream(shlex.join(tunnel(tmp_path / "spool")))
    reader.select()
    reader.store("1", "+FLAGS", "(\\Seen)")
    reader.store("2", "+FLAGS", "(\\Seen \\Flagged)")
    reader.logout()
    lines = set((folder / ".mh_sequences").read_text().splitlines())
    assert {"unseen: 3", "flagged: 2"} <= lines


@pytest.mark.parametrize("name", ["mutt", "neomutt"])
def test_what_mutt_marks_in_the_folder(tmp_path: Path, name: str) -> None:
    """And the other way round, while a client is connected."""
    mutt = require.tool(name)
    folder = mailbox(tmp_path / "spool", 4)
    time.sleep(0.2)
    reader = imaplib.IMAP4_stream(shlex.join(tunnel(tmp_path / "spool")))
    reader.select()
    reader.store("4", "+FLAGS", "(\\Flagged \\Seen)")

    def in_mutt(keys: str) -> None:
        (tmp_path / "rc").write_text(
            "set quit=yes\nset delete=yes\nset wait_key=no\nset sort=date\nset move=no\nset header_cache=\n"
            f"set pager_stop\nset resolve=no\nset tmpdir={tmp_path}\nset folder={tmp_path}\n"
            f'push "{keys}<sync-mailbox><quit>"\n'
        )
        command = [mutt, "-n", "-F", str(tmp_path / "rc"), "-f", str(folder)]
        run("script", "-qec", shlex.join(command), "/dev/null", stdin=subprocess.DEVNULL)

    def flags() -> list[str]:
        reader.noop()
        reader.response("FETCH")  # what it tells is not what is asked for next
        _, answer = reader.fetch("1:*", "(FLAGS)")
        shown = [{flag.decode() for flag in imaplib.ParseFlags(line)} - {"\\Recent"} for line in answer]  # type: ignore[arg-type]
        return [" ".join(sorted(some)) for some in shown]

    in_mutt("<first-entry><flag-message><next-entry><display-message><exit>")
    assert flags() == ["\\Flagged", "\\Seen", "", "\\Flagged \\Seen"]
    in_mutt("<first-entry><flag-message><next-entry><toggle-new><last-entry><flag-message>")
    assert flags() == ["", "", "", "\\Seen"]
    reader.logout()
    assert state(folder, 4) == {"\\Seen"}


def test_what_nmh_marks_in_the_folder(tmp_path: Path) -> None:
    mark = require.tool("mark", "nmh")
    folder = mailbox(tmp_path / "spool")
    time.sleep(0.2)
    (tmp_path / "profile").write_text(f"Path: {tmp_path / 'spool'}\nUnseen-Sequence: unseen\n")

    def nmh(*words: str) -> str:
        return run("env", f"MH={tmp_path}/profile", f"HOME={tmp_path}", *words)

    nmh(mark, f"+{folder.name}", "2", "-sequence", "unseen", "-delete", "-nozero")
    nmh(mark, f"+{folder.name}", "3", "-sequence", "flagged", "-add", "-nozero")
    reader = imaplib.IMAP4_stream(shlex.join(tunnel(tmp_path / "spool")))
    reader.select()
    assert reader.search(None, "SEEN") == ("OK", [b"2"])
    assert reader.search(None, "FLAGGED") == ("OK", [b"3"])
    reader.store("1", "+FLAGS", "(\\Seen \\Answered)")
    reader.logout()
    scan = require.tool("scan", "nmh")
    assert nmh(scan, f"+{folder.name}", "unseen", "-format", "%(msg)").split() == ["3"]
    assert nmh(scan, f"+{folder.name}", "replied", "-format", "%(msg)").split() == ["1"]


# -- hostile clients


def test_slow_reader_costs_little(reading: Server, tmp_path: Path) -> None:
    """A client that asks for much and reads nothing holds neither memory nor the others up."""
    deliver(
        Spool(str(reading.spool)),
        ME,
        content=b"Subject: large\n\n" + b"x" * 99 + b"\n" * 1 + b"y" * 70 + b"\n" * 300_000,
    )
    before = reading.resident()
    slow = []
    for _ in range(10):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "imap.sock"))
        sock.sendall(b"a SELECT INBOX\r\nb FETCH 1:* BODY[]\r\n" + b"c FETCH 1 BODY[]\r\n" * 20)
        slow.append(sock)
    reader = UnixImap(tmp_path / "imap.sock")
    assert reader.select()[0] == "OK"
    assert reader.fetch("1", "(RFC822.SIZE)")[0] == "OK"
    assert reading.resident() - before < 40 * 1024**2
    for sock in slow:
        sock.close()


def test_a_thousand_connections(reading: Server, tmp_path: Path) -> None:
    """One account does not get more than its share; others come in all the same."""
    mailbox(reading.spool, 1)
    socks = []
    refused = 0
    for _ in range(300):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "imap.sock"))
        sock.settimeout(60)
        socks.append(sock)
    for sock in socks:
        refused += sock.recv(100).startswith(b"* BYE Too many")
    assert refused >= 195
    for sock in socks:
        sock.close()
    wait_until(lambda: len(reading.events_named("imap.closed")) >= 300 - refused)
    assert UnixImap(tmp_path / "imap.sock").state == "AUTH"


def test_crash_in_the_middle_of_changes(tmp_path: Path) -> None:
    """What was answered with OK is there after a SIGKILL; nothing is half there, no number is given twice."""
    folder = mailbox(tmp_path / "spool", 20)
    for attempt in range(4):
        process = subprocess.Popen(
            tunnel(tmp_path / "spool"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()
        )
        assert process.stdin is not None and process.stdout is not None
        lines = [b"s SELECT INBOX\r\n"]
        for n in range(30):
            lines.append(b"f%d STORE 1:* +FLAGS.SILENT (k%d-%d)\r\n" % (n, attempt, n))
            lines.append(b"a%d APPEND INBOX {12+}\r\nSubject: x\r\n\r\n" % n)
            lines.append(b"d%d STORE 1 +FLAGS.SILENT (\\Deleted)\r\ne%d EXPUNGE\r\n" % (n, n))
        process.stdin.write(b"".join(lines))
        process.stdin.flush()
        answers: list[bytes] = []
        while len(answers) < 40 + 17 * attempt and (line := process.stdout.readline()):
            answers.append(line)
        process.kill()
        answers += process.stdout.readlines()
        process.wait()
        for stream in (process.stdin, process.stdout):
            stream.close()
        appended = {int(m[1]) for line in answers if (m := re.search(rb"OK \[APPENDUID \d+ (\d+)\]", line))}
        stored = max((int(m[1]) for line in answers if (m := re.match(rb"f(\d+) OK", line))), default=-1)
        names = {p.name for p in folder.iterdir() if p.name[0].isdigit()}
        numbers = {int(n) for n in names if n.isdigit()}
        assert appended
        for number in numbers:
            assert f"{number}.status" in names
            if number <= min(appended):
                flags = state(folder, number)
                assert {f"k{attempt}-{n}" for n in range(stored + 1)} <= flags
        highest = max(appended)
        assert deliver(Spool(str(tmp_path / "spool")), ME)[0] > highest


# -- sending from afar


@pytest.fixture
def sending(servers: Servers, tmp_path: Path, certificate: Certificate) -> Server:
    """A server that takes mail of devices."""
    (tmp_path / "users").write_text("bob\nanna\n")
    return servers.start(
        *certificate.options, "--submission-listen", "127.0.0.1:0", "--devices", str(tmp_path / "devices"),
        "--users", str(tmp_path / "users"),
    )  # fmt: skip


def submit(server: Server, certificate: Certificate) -> smtplib.SMTP_SSL:
    context = certificate.client_context()
    context.check_hostname = False
    host, number = split_address(server.wait_event("server.started")["submission"][0])
    return smtplib.SMTP_SSL(host, number, context=context, timeout=60)


def test_submission(sending: Server, tmp_path: Path, certificate: Certificate) -> None:
    """A device sends to the world and to users, as its user and nobody else."""
    password = add_device(tmp_path, "phone")
    with submit(sending, certificate) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        assert client.docmd("MAIL FROM:<bob@dom.fr>")[0] == 530
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("bob", "wrong")
        client.login("bob", password)
        assert "auth" not in {line.partition(" ")[0].lower() for line in client.ehlo()[1].decode().splitlines()}
        for sender in ("anna@dom.fr", "bob@elsewhere.example", "alice@example.org"):
            assert client.docmd(f"MAIL FROM:<{sender}>")[0] == 553, sender
        client.sendmail("bob+list@dom.fr", ["anna@dom.fr", "alice@example.org"], b"From: Bob <bob@dom.fr>\r\n\r\nx\r\n")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("bob@dom.fr", ["anna@dom.fr"], b"From: Anna <anna@dom.fr>\r\n\r\nx\r\n")
        assert refused.value.smtp_code == 550
        device(tmp_path, "remove", "bob", "phone")
        wait_until(lambda: client.docmd("MAIL FROM:<bob@dom.fr>")[0] == 553 or client.docmd("RSET")[0] != 250)
    received = sending.wait_event("message.received")
    assert received["recipients"] == ["anna@dom.fr", "alice@example.org"]
    text = (sending.spool / "anna/1").read_text()
    assert " with ESMTPSA " in text
    assert not (sending.spool / "anna/2").exists()
    assert sending.wait_event("message.queued")["recipients"] == ["alice@example.org"]


@pytest.mark.parametrize("method", ["auth_plain", "auth_login"])
def test_ways_to_log_in(sending: Server, tmp_path: Path, certificate: Certificate, method: str) -> None:
    password = add_device(tmp_path, "phone")
    with submit(sending, certificate) as client:
        client.ehlo()
        client.user, client.password = "bob@dom.fr", password
        for initial in (False, True):
            if initial:
                assert client.docmd("AUTH PLAIN AAAA")[0] == 503
            else:
                assert (
                    client.auth(
                        method.removeprefix("auth_").upper(), getattr(client, method), initial_response_ok=False
                    )[0]
                    == 235
                )
    with submit(sending, certificate) as client:
        client.ehlo()
        for line, code in (
            ("AUTH", 501),
            ("AUTH CRAM-MD5", 504),
            ("AUTH PLAIN ====", 501),
            ("AUTH PLAIN YQBiAGM=", 535),
        ):
            assert client.docmd(line)[0] == code, line
        assert client.docmd("AUTH LOGIN")[0] == 334
        assert client.docmd("*")[0] == 501
        assert client.docmd("NOOP")[0] == 250


def test_port_25_knows_no_passwords(sending: Server) -> None:
    with sending.client() as client:
        assert "AUTH" not in str(client.ehlo())
        client.expect("AUTH PLAIN AGJvYgB4", 502)
