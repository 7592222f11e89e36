"""sendmail(8), mailq and newaliases: the real program beside the real server, called by those who call it."""

from __future__ import annotations

import mailbox
import os
import pwd
import re
import subprocess
import sys
from email import message_from_bytes
from pathlib import Path

import pytest
from support import require
from support.server import Server, Servers, clean_environment

ROOT = Path(__file__).parents[2]
ME = pwd.getpwuid(os.getuid()).pw_name
UNREACHABLE = {"SMTPMAIL_LOOPBACK": "127.0.0.1:9"}


class Host:
    """A folder with the programs under their names, and the server that they find."""

    def __init__(self, folder: Path, server: Server | None) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.server = server
        for name in ("sendmail", "mailq", "newaliases"):
            path = folder / name
            start = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom smtpmail.admin.sendmail import main\nmain()\n"
            path.write_text(f"#!{sys.executable}\n{start}")
            path.chmod(0o755)
        self.sendmail = str(folder / "sendmail")
        self.mailq = str(folder / "mailq")
        self.environment = {"HOME": str(self.home), "LC_ALL": "C.UTF-8", "SMTPMAIL_SUFFIX": "dom.fr"}
        self.environment["SMTPMAIL_HOSTNAME"] = "mail.dom.fr"
        if server is not None:
            host, port = server.address()
            self.environment |= {"SMTPMAIL_LOOPBACK": f"{host}:{port}", "SMTPMAIL_SPOOL": str(server.spool)}

    def run(
        self, *command: str, text: bytes = b"Subject: x\n\nHello\n", status: int = 0, more: dict[str, str] | None = None
    ) -> str:
        """Runs a command; what it said."""
        ran = subprocess.run(
            command,
            input=text,
            capture_output=True,
            timeout=120,
            check=False,
            env=clean_environment(self.environment | (more or {})),
            cwd=self.home,
        )
        assert ran.returncode == status, (ran.stdout, ran.stderr)
        return (ran.stdout + ran.stderr).decode()

    def send(self, *arguments: str, **more: object) -> str:
        return self.run(self.sendmail, *arguments, **more)  # type: ignore[arg-type]

    def message(self, user: str = "bob") -> bytes:
        assert self.server is not None
        (message,) = self.server.messages(user).values()
        return message

    @property
    def dead_letters(self) -> list[bytes]:
        path = self.home / "dead.letter"
        if not path.exists():
            return []
        assert path.stat().st_mode & 0o777 == 0o600
        return [m.as_bytes() for m in mailbox.mbox(path)]


@pytest.fixture
def host(server: Server, tmp_path: Path) -> Host:
    return Host(tmp_path, server)


@pytest.fixture
def host_without_server(tmp_path: Path) -> Host:
    return Host(tmp_path, None)


# -- a message


def test_a_message_of_cron(host: Host) -> None:
    host.send("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "bob", text="Subject: Cron\n\n.\nGrüße\n".encode())
    stored = message_from_bytes(host.message())
    assert stored["Return-Path"] == f"<{ME}@dom.fr>"
    assert stored["Delivered-To"] == "bob@dom.fr"
    assert stored["From"] == f"CronDaemon <{ME}@dom.fr>"
    assert stored["Date"]
    assert stored["Message-ID"].endswith("@mail.dom.fr>")
    assert host.message().endswith("\n\n.\nGrüße\n".encode())


def test_recipients_of_the_header(host: Host) -> None:
    text = b"To: Bob <bob>, carol@dom.fr\nCc: (x) dave\nBcc: secret,\n bob@dom.fr\nSubject: x\n\nx\n"
    host.send("-t", "-i", text=text)
    assert host.server
    for user in ("bob", "carol", "dave", "secret"):
        header = message_from_bytes(host.message(user))
        assert header["To"] == "Bob <bob@dom.fr>, carol@dom.fr"
        assert header["Cc"] == "(x) dave@dom.fr"
        assert header["Bcc"] is None
        assert b"secret" not in host.message(user).replace(b"Delivered-To: secret@dom.fr", b"")


def test_what_is_there_stays(host: Host) -> None:
    text = b"From: x@y.example\nDate: then\nMessage-ID: <1@y>\nTo: z@y.example\nX:\ty\n\n\n\nend"
    host.send("-f", "a@example.org", "bob@dom.fr", text=text)
    assert host.message().endswith(text + b"\n")
    assert host.message().startswith(b"Return-Path: <a@example.org>\n")


def test_a_null_sender_and_a_name_of_two_lines(host: Host) -> None:
    host.send("-f", "<>", "-F", "Bob\nX-Evil: yes", "bob")
    stored = message_from_bytes(host.message())
    assert stored["Return-Path"] == "<>"
    assert stored["From"] == f"Bob X-Evil: yes <{ME}@dom.fr>" or stored["From"].startswith('"Bob X-Evil: yes"')
    assert stored["X-Evil"] is None


def test_text_without_a_header(host: Host) -> None:
    host.send("bob", text=b"No header at all\n")
    assert message_from_bytes(host.message()).get_payload() == "No header at all\n"


def test_a_large_message_streams(host: Host) -> None:
    body = b"x" * 70 + b"\n"
    host.send("-i", "bob", text=b"Subject: big\n\n" + body * (20 * 1024**2 // len(body)))
    assert len(host.message()) > 20 * 1024**2 - 1000


def test_utf8_addresses(host: Host) -> None:
    host.send("-f", "éloïse@example.org", "jürgen")
    assert message_from_bytes(host.message("jürgen"))


# -- what is not taken


def test_no_server(host_without_server: Host) -> None:
    host = host_without_server
    said = host.send("bob", text=b"Subject: kept\n\nFrom here\n", status=75, more=UNREACHABLE)
    assert "does not answer: is it running?" in said
    assert f"the message is kept in {host.home}/dead.letter" in said
    (letter,) = host.dead_letters
    assert b"Subject: kept\n" in letter
    assert b"\n>From here\n" in letter
    host.send("bob", status=75, more=UNREACHABLE)
    assert len(host.dead_letters) == 2


def test_no_server_and_no_home(host_without_server: Host) -> None:
    """A link in its place leads nobody elsewhere; the text is on standard error then."""
    host = host_without_server
    target = host.home / "target"
    target.write_text("")
    (host.home / "dead.letter").symlink_to(target)
    said = host.send("bob", text=b"Subject: kept\n\nbody\n", status=75, more=UNREACHABLE)
    assert "Subject: kept\n" in said
    assert said.index("body\n") > said.index("Subject: kept")
    assert target.read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "text", "status", "reason"),
    [
        (["ghost"], b"Subject: x\n\n", 67, "ghost: 550 5.1.1"),
        (["-t"], b"Subject: x\n\n", 65, "no recipient in To, Cc or Bcc"),
        (["-t"], b"To: a@b@c\n\n", 65, "is no address"),
        (["-f", "a@b\nRCPT", "bob"], b"\n", 65, "is no address"),
        (["-f", "no body", "bob"], b"\n", 65, "is no address"),
        (["bob", "bob@x..y"], b"\n", 65, "is no address"),
        (["bob\r\nRCPT TO:<ghost>"], b"\n", 65, "has control characters"),
        (["bob\x7f"], b"\n", 65, "has control characters"),
        (["-f", "a@b>\r\nRCPT TO:<ghost>", "bob"], b"\n", 65, "has control characters"),
        (["b\udcffb"], b"\n", 65, "is no address"),
        (["-f", "a\udcff@b", "bob"], b"\n", 65, "is no address"),
        (["-t"], b"To: bob\0\n\n", 65, "is no address"),
        (["-t"], b"To: b\xffb\n\n", 65, "is no address"),
        (["bob"], b"X: " + b"x" * 1_500_000 + b"\n\n", 65, "the header has more than"),
        (["bob"], b"\n" + b"x" * 70_000, 65, "552 5.3.4"),
    ],
)
def test_refused(servers: Servers, tmp_path: Path, arguments: list[str], text: bytes, status: int, reason: str) -> None:
    users = tmp_path / "users"
    users.write_text("bob\n")
    host = Host(tmp_path, servers.start("--users", str(users), "--max-size", "64K"))
    said = host.send(*arguments, text=text, status=status)
    assert reason in said
    assert all(line.startswith("sendmail: ") for line in said.splitlines())
    assert len(host.dead_letters) == 1
    assert host.server
    assert not host.server.messages("bob")


def test_one_of_two_is_refused(servers: Servers, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("bob\n")
    host = Host(tmp_path, servers.start("--users", str(users)))
    said = host.send("ghost", "bob", status=67)
    assert "the other recipients have the message" in said
    assert host.message()


def test_not_now_is_for_nobody(servers: Servers, tmp_path: Path) -> None:
    """Who tries again must not send twice to those who had it."""
    users = tmp_path / "users"
    users.write_text("bob\n")
    host = Host(tmp_path, servers.start("--users", str(users)))
    users.unlink()
    host.send("bob", "alice@example.net", status=75)
    assert host.server
    assert not host.server.events_named("message.received")


@pytest.mark.parametrize(("arguments", "status"), [([], 64), (["-z"], 64), (["-bd"], 64)])
def test_usage(host_without_server: Host, arguments: list[str], status: int) -> None:
    assert host_without_server.send(*arguments, status=status).startswith("sendmail: ")


# -- the other modes


def test_smtp_on_standard_input(host: Host) -> None:
    lines = ["EHLO me", "MAIL FROM:<a@b.example>", "RCPT TO:<bob@dom.fr>", "DATA", "Subject: x", "", "x", ".", "QUIT"]
    said = host.send("-bs", text="".join(f"{line}\r\n" for line in lines).encode())
    codes = [line[:3] for line in said.splitlines() if line[3:4] == " "]
    assert codes == ["220", "250", "250", "250", "354", "250", "221"]
    assert host.message()


def test_smtp_without_a_server(host_without_server: Host) -> None:
    assert host_without_server.send("-bs", status=75, more=UNREACHABLE).startswith("421 4.3.2 ")


def test_verify(servers: Servers, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("bob\n")
    host = Host(tmp_path, servers.start("--users", str(users)))
    assert host.send("-bv", "bob") == "bob: deliverable\n"
    assert host.send("-bv", "bob", "ghost", status=67).splitlines()[1] == "ghost: 550 5.1.1 No such user here"


def test_mailq_and_flush(host: Host) -> None:
    host.send("alice@example.net")
    assert "alice@example.net" in host.run(host.mailq)
    assert "is tried now" in host.send("-q")
    assert "'abc' is no id" in host.send("-qIabc", status=69)
    settings = [f"--{name[9:].lower()}={value}" for name, value in host.environment.items() if name[:9] == "SMTPMAIL_"]
    for option in ("-bp", "-q"):
        # The settings of the longer command line, too.
        command = [sys.executable, "-m", "smtpmail", *settings, "sendmail", option]
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, env=clean_environment({"PYTHONPATH": str(ROOT)})
        )
        assert "alice@example.net" in said.stdout or "is tried now" in said.stdout


def test_help(host: Host) -> None:
    said = host.run(sys.executable, "-m", "smtpmail", "sendmail", "--help", more={"PYTHONPATH": str(ROOT)})
    assert "-bs" in said
    assert "dead.letter" in said


# -- the callers


def test_mutt(host: Host) -> None:
    (host.home / "muttrc").write_text(
        f'set sendmail="{host.sendmail} -oem -oi"\nset sendmail_wait=0\nset copy=no\nset use_envelope_from=yes\n'
        'set from="alice@example.org"\nset dsn_notify="failure,delay"\nset dsn_return=hdrs\nset use_8bitmime=yes\n'
    )
    mutt = [require.tool("mutt"), "-F", str(host.home / "muttrc"), "-s", "von Mütt", "-b", "dave@dom.fr"]
    host.run(*mutt, "--", "bob@dom.fr", text="Grüße\n.\n".encode(), more={"TERM": "dumb"})
    stored = message_from_bytes(host.message())
    assert stored["Return-Path"] == "<alice@example.org>"
    assert host.message("dave")
    assert b"Bcc" not in host.message()


@pytest.mark.parametrize("program", ["s-nail", "bsd-mailx"])
def test_mail(host: Host, program: str) -> None:
    mail = require.tool(program)
    (host.home / ".mailrc").write_text("" if program == "s-nail" else f"set sendmail={host.sendmail}\n")
    options = ["-S", f"mta=file://{host.sendmail}", "-S", "v15-compat"] if program == "s-nail" else []
    host.run(mail, *options, "-s", "disk failed", "bob", text=b"md0: degraded\n")
    stored = message_from_bytes(host.message())
    assert stored["Subject"] == "disk failed"
    assert stored["To"] == "bob@dom.fr"


def test_git_send_email(host: Host) -> None:
    git = require.tool("git")
    if not Path(host.run(git, "--exec-path").strip(), "git-send-email").exists():
        require.missing("git send-email (apt-get install git-email)")
    (host.home / "0001.patch").write_text(
        "From 1234567890123456789012345678901234567890 Mon Sep 17 00:00:00 2001\n"
        "From: Alice <alice@example.org>\nDate: Wed, 25 Nov 2026 20:00:00 +0000\nSubject: [PATCH] x\n\n.\n---\n x\n"
    )
    identity = {f"GIT_{who}_{what}": value for who in ("COMMITTER", "AUTHOR")
                for what, value in (("NAME", "Alice"), ("EMAIL", "alice@example.org"))}  # fmt: skip
    host.run(git, "send-email", f"--smtp-server={host.sendmail}", "--from=alice@example.org", "--to=bob@dom.fr",
             "--envelope-sender=auto", "--confirm=never", "--quiet", "0001.patch", text=b"", more=identity)  # fmt: skip
    stored = message_from_bytes(host.message())
    assert stored["Return-Path"] == "<alice@example.org>"
    assert stored["Subject"] == "[PATCH] x"


def test_php(host: Host) -> None:
    php = require.tool("php", "php-cli")
    code = 'exit(mail("bob@dom.fr", "from php", "line\\n.\\nline\\n", "From: web@dom.fr\\r\\nX-Form: 1") ? 0 : 1);'
    host.run(php, "-n", "-d", f"sendmail_path={host.sendmail} -t -i", "-r", code)
    stored = message_from_bytes(host.message())
    assert (stored["From"], stored["X-Form"]) == ("web@dom.fr", "1")
    assert re.search(r"line\n\.\nline\n$", str(stored.get_payload()))
