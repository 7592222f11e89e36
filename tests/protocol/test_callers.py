"""Programs that call /usr/sbin/sendmail by its path: what they send to root reaches a person."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from support import require
from support.machine import Machine
from support.server import Server, Servers, wait_until


@pytest.fixture
def server(servers: Servers, tmp_path: Path) -> Server:
    (tmp_path / "users").write_text("bob\n")
    (tmp_path / "aliases").write_text("root: bob\n")
    return servers.start("--users", str(tmp_path / "users"), "--aliases", str(tmp_path / "aliases"))


@pytest.fixture
def machine(server: Server, tmp_path: Path) -> Machine:
    return Machine(tmp_path, server)


def only_message(server: Server) -> Message:
    (text,) = server.messages("bob").values()
    message = message_from_bytes(text)
    assert message["Return-Path"] == "<root@dom.fr>"
    assert message["Delivered-To"] == "root@dom.fr"
    for name in ("From", "To", "Date", "Message-ID"):
        assert len(message.get_all(name, [])) == 1, name
    return message


def test_cron(server: Server, machine: Machine) -> None:
    cron = require.tool("cron")
    job = "@reboot printf 'Gr\\303\\274\\303\\237e\\n.\\nend\\n'"
    with machine.running(f"crontab - <<'END'\n{job}\nEND\nexec {cron} -f"):
        wait_until(lambda: server.messages("bob"))
    message = only_message(server)
    assert message["Subject"].startswith("Cron <root@")
    assert message["From"] == "root@dom.fr (Cron Daemon)"
    assert message["To"] == "root@dom.fr"
    assert message.get_payload(decode=True) == "Grüße\n.\nend\n".encode()


def test_at(server: Server, machine: Machine) -> None:
    at, atd = require.tool("at"), require.tool("atd", "at")
    with machine.running(f"{atd} -f &\nsleep 1\necho 'echo from at' | {at} now\nwait"):
        wait_until(lambda: server.messages("bob"))
    message = only_message(server)
    assert message["Subject"].startswith("Output from your job")
    assert message.get_payload() == "from at\n"


def test_mdadm(server: Server, machine: Machine) -> None:
    mdadm = require.tool("mdadm")
    machine.run(mdadm, "--monitor", "--test", "--oneshot", "--mail=root", "/dev/md/of-a-test")
    message = only_message(server)
    assert message["Subject"].startswith("TestMessage event on /dev/md/of-a-test")
    assert message["To"] == "root@dom.fr"


def test_logwatch(server: Server, machine: Machine) -> None:
    logwatch = require.tool("logwatch")
    machine.run(logwatch, "--output", "mail", "--mailto", "root", "--detail", "high", "--service", "zz-network")
    message = only_message(server)
    assert message["Subject"].startswith("Logwatch for ")
    assert "Network Report" in str(message.get_payload())


def test_unattended_upgrades(server: Server, machine: Machine) -> None:
    script = Path(require.tool("unattended-upgrade", "unattended-upgrades"))
    load = (
        "from importlib.machinery import SourceFileLoader as L; from importlib.util import *;"
        f"l = L('u', '{script}'); m = module_from_spec(spec_from_loader('u', l)); l.exec_module(m);"
        "raise SystemExit(m._send_mail_using_sendmail('root', 'root', 'unattended-upgrades result', '\\u00e9'))"
    )
    machine.run("/usr/bin/python3", "-c", load)
    message = only_message(server)
    assert message["Subject"] == "unattended-upgrades result"
    assert message["From"] == "root@dom.fr"


def test_git_finds_it(server: Server, machine: Machine, tmp_path: Path) -> None:
    """Without any setting."""
    git = require.tool("git")
    if not Path(machine.run(git, "--exec-path").strip(), "git-send-email").exists():
        require.missing("git send-email (apt-get install git-email)")
    patch = tmp_path / "0001.patch"
    patch.write_text(
        "From 1234567890123456789012345678901234567890 Mon Sep 17 00:00:00 2001\n"
        "From: root <root>\nDate: Wed, 25 Nov 2026 20:00:00 +0000\nSubject: [PATCH] x\n\n.\n---\n x\n"
    )
    options = ["--from=root@dom.fr", "--to=root", "--confirm=never", "--quiet", "--suppress-cc=all"]
    machine.run(git, "-c", "user.name=root", "-c", "user.email=root@dom.fr", "send-email", *options, str(patch))
    assert only_message(server)["Subject"] == "[PATCH] x"


def test_fail2ban(server: Server, machine: Machine) -> None:
    """Its action, as its configuration spells it."""
    line = 'printf %b "Subject: [Fail2Ban] sshd: banned\\nFrom: Fail2Ban <root>\\nTo: root\\n\\nHi,\\n" |'
    machine.run("sh", "-c", f'{line} /usr/sbin/sendmail -f "root" "root"')
    assert only_message(server)["From"] == "Fail2Ban <root@dom.fr>"


def test_an_account_without_privileges(server: Server, machine: Machine) -> None:
    """It needs nothing but the listener: not the settings, not the spool."""
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    said = machine.run(*drop, "/usr/sbin/sendmail", "-v", "root", text="Subject: from nobody\n\nx\n")
    assert "queued as" in said
    (text,) = server.messages("bob").values()
    assert message_from_bytes(text)["From"] == "nobody <nobody@dom.fr>"
    assert "by root and the server's account only" in machine.run(*drop, "/usr/bin/mailq", status=77)
