"""How the server begins, and why it does not: one line, exit status 2, no socket opened."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import require
from support.client import Client
from support.server import NO_RESOLVER, Server, Servers, clean_environment, program, wait_until
from support.tls import Certificate, make_certificate


def run(*options: str, wrapper: tuple[str, ...] = (), **environment: Any) -> subprocess.CompletedProcess[str]:
    """The program with these options alone, which must not start."""
    return subprocess.run(
        [*wrapper, *program(), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env=clean_environment(environment),
    )


def assert_one_line(ran: subprocess.CompletedProcess[str], *named: str) -> None:
    """What people see: one line that names what is wrong, and the exit status of a wrong call."""
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout == ""
    assert ran.stderr.startswith("smtpmail: ")
    assert ran.stderr.endswith("\n")
    assert ran.stderr.count("\n") == 1, ran.stderr
    for name in named:
        assert name in ran.stderr, ran.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--nonsense"], ["--nonsense"]),
        (["--por", "25"], ["--por"]),
        (["nonsense"], ["nonsense"]),
        (["--port"], ["--port"]),
        (["--port", "x"], ["--port", "'x'"]),
        (["--port", "65536"], ["--port"]),
        (["--suffix", "a@b"], ["--suffix", "a@b"]),
        (["-H", "a b"], ["--hostname"]),
        (["--loopback", "192.0.2.1"], ["--loopback", "192.0.2.1"]),
        (["--loopback", "0.0.0.0"], ["--loopback", "0.0.0.0"]),
        (["--loopback", "::"], ["--loopback"]),
        (["--loopback", "localhost"], ["--loopback", "localhost"]),
        (["--listen", "example.org"], ["--listen", "example.org"]),
        (["--listen", "[::1"], ["--listen"]),
        (["--listen", "192.0.2.1:0"], ["192.0.2.1"]),
        (["--max-size", "huge"], ["--max-size"]),
        (["--timeout", "0"], ["--timeout"]),
        (["--log-format", "xml"], ["--log-format", "json"]),
        (["--log-level", "loud"], ["--log-level"]),
        (["--smarthost", "a b"], ["--smarthost"]),
        (["--resolver", "dns.example"], ["--resolver"]),
        (["--spool", "/proc/nonsense"], ["--spool", "/proc/nonsense"]),
        (["--spool", "/etc/passwd"], ["--spool", "/etc/passwd"]),
        (["--queue", "/etc/passwd"], ["--queue", "/etc/passwd"]),
        (["--config", "/nonsense.toml"], ["--config", "/nonsense.toml"]),
        (["--tls-cert", "/nonsense.pem"], ["--tls-cert", "/nonsense.pem"]),
        (["--tls-cert", "/etc/passwd"], ["--tls-cert", "/etc/passwd"]),
        (["--tls-key", "/nonsense.pem"], ["--tls-key", "--tls-cert"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_option(tmp_path: Path, options: list[str], named: list[str]) -> None:
    good = ["--spool", str(tmp_path / "spool"), "--loopback", "127.0.0.1:0", "--port", "0", *NO_RESOLVER]
    assert_one_line(run(*good, *(["--no-network"] if "--listen" not in options else []), *options), *named)


@pytest.mark.parametrize(("name", "value"), [("PORT", "x"), ("LOOPBACK", "192.0.2.1"), ("SPOOL", "/etc/passwd")])
def test_wrong_variable(tmp_path: Path, name: str, value: str) -> None:
    options = [] if name == "SPOOL" else ["--spool", str(tmp_path / "spool")]
    assert_one_line(run(*options, wrapper=(), **{f"SMTPMAIL_{name}": value}), name if name != "SPOOL" else value)


def test_wrong_file(tmp_path: Path) -> None:
    (tmp_path / "smtpmail.toml").write_text(f'spool = "{tmp_path}/spool"\nprot = 2525\n')
    assert_one_line(run("--config", str(tmp_path / "smtpmail.toml")), "smtpmail.toml", "prot")


def test_key_of_another_certificate(tmp_path: Path, certificate: Certificate) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other", "other.example")
    options = ["--spool", str(tmp_path / "spool"), "--tls-cert", str(certificate.cert), "--tls-key", str(other.key)]
    assert_one_line(run(*options), str(certificate.cert), str(other.key))


def test_no_socket_before_all_is_checked(tmp_path: Path) -> None:
    """Not even for a moment: the fault of the last thing checked is found before the first socket."""
    strace = require.tool("strace")
    trace = tmp_path / "trace"
    wrapper = (strace, "-f", "-qq", "-e", "trace=bind,listen", "-o", str(trace))
    for wrong in (["--tls-cert", "/etc/passwd"], ["--spool", "/etc/passwd"], ["--loopback", "192.0.2.1"]):
        assert_one_line(run("--spool", str(tmp_path / "spool"), "--port", "0", *wrong, wrapper=wrapper))
        assert "listen(" not in trace.read_text()
        assert "AF_INET" not in trace.read_text()
    assert not (tmp_path / "spool").exists() or list((tmp_path / "spool").iterdir()) == []


def test_port_that_may_not_be_bound(tmp_path: Path) -> None:
    """It names the port and the two ways out."""
    require.root()
    unshare, setpriv, ip = require.tool("unshare"), require.tool("setpriv"), require.tool("ip", "iproute2")
    # A network of its own: there, ports below 1024 need the privilege whatever this machine allows.
    script = f'{ip} link set lo up && exec "$@"'
    wrapper = (unshare, "--net", "sh", "-c", script, "sh", setpriv, "--bounding-set", "-net_bind_service")
    options = ["--spool", str(tmp_path / "spool"), "-s", "dom.fr", "--loopback", "127.0.0.1", "--no-network"]
    ran = run(*options, wrapper=wrapper)
    assert_one_line(ran, "port 25 ", "--port 2525", "CAP_NET_BIND_SERVICE")


def test_port_in_use(servers: Servers, tmp_path: Path) -> None:
    """By another server of this kind or by anything else; the first one is not disturbed."""
    first = servers.start()
    for listener in ("loopback", "network"):
        address = f"127.0.0.1:{first.address(listener)[1]}"
        for option in ("--loopback", "--listen"):
            others = ["--loopback", "127.0.0.1:0"] if option == "--listen" else ["--no-network"]
            ran = run("--spool", str(tmp_path / "other"), "-s", "dom.fr", *others, option, address)
            assert_one_line(ran, f"port {first.address(listener)[1]}", "in use")
    with first.client() as client:
        client.ehlo()
        assert client.deliver().code == 250


def test_queue_in_use(servers: Servers, tmp_path: Path) -> None:
    """The second server on a queue is refused with a line that names the first; commands are not."""
    first = servers.start()
    options = ["--spool", str(first.spool), "-s", "dom.fr", "--loopback", "127.0.0.1:0", "--no-network", *NO_RESOLVER]
    ran = run(*options, "--port", "0")
    assert_one_line(ran, "--queue", f"process {first.pid} on ", str(first.spool / ".queue"))
    listed = subprocess.run(
        [*program(), "queue", "list", "--spool", str(first.spool), "-s", "dom.fr"],
        capture_output=True, text=True, timeout=60, check=False, env=clean_environment(),
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    with first.client() as client:
        client.ehlo()
        assert client.deliver().code == 250
    first.kill()
    assert servers.start().stop() == 0, "and whoever was killed holds it no longer"


def test_same_port_for_both_listeners(servers: Servers) -> None:
    """As with the defaults: who connects to 127.0.0.1 reaches the loopback listener, though all addresses have one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = servers.start("--port", str(port), addresses=["--loopback", "127.0.0.1", "--listen", "127.0.0.2"])
    for host, listener in (("127.0.0.1", "loopback"), ("127.0.0.2", "network")):
        with Client((host, port)) as client:
            client.ehlo()
            assert client.deliver().code == 250
        server.wait_event("message.received", listener=listener)


def test_defaults_listen_everywhere(servers: Servers) -> None:
    """Without --loopback and --listen: loopback addresses and all others, IPv4 and IPv6, in a network of its own."""
    require.root()
    unshare, ip = require.tool("unshare"), require.tool("ip", "iproute2")
    server = servers.start(
        addresses=[], wrapper=[unshare, "--net", "sh", "-c", f'{ip} link set lo up && exec "$@"', "sh"]
    )
    started = server.wait_event("server.started")
    assert started["loopback"] == ["127.0.0.1:25", "[::1]:25"]
    assert started["network"] == ["0.0.0.0:25", "[::]:25"]
    assert server.stop() == 0


@pytest.mark.parametrize("kinds", [["loopback", "network"], ["network", "loopback"], ["loopback"]])
def test_socket_activation(servers: Servers, kinds: list[str]) -> None:
    """The manager's sockets are used, by their names, and no other is opened."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in kinds]
    addresses = {kind: sock.getsockname() for kind, sock in zip(kinds, sockets, strict=True)}
    # LISTEN_PID is the program's: the shell that moves the descriptors to their places becomes it.
    top = [dup_high(sock.fileno()) for sock in sockets]
    moves = " ".join(f"{3 + n}<&{fd}" for n, fd in enumerate(top))
    bash = shutil.which("bash") or "bash"
    script = f'export LISTEN_PID=$$; exec {moves} {" ".join(f"{fd}<&-" for fd in top)}; exec "$@"'
    server = servers.start(
        addresses=[],
        wrapper=[bash, "-c", script, "bash"],
        environment={"LISTEN_FDS": str(len(kinds)), "LISTEN_FDNAMES": ":".join(kinds)},
        pass_fds=top,
    )
    for fd in top:
        os.close(fd)
    for kind in kinds:
        with Client(addresses[kind]) as client:
            client.ehlo()
            assert client.deliver().code == 250
        server.wait_event("message.received", listener=kind)
    started = server.wait_event("server.started")
    assert len(started["loopback"]) + len(started["network"]) == len(kinds)
    assert server.stop() == 0
    # The manager keeps the sockets: who connects now waits for the next start.
    for sock, kind in zip(sockets, kinds, strict=True):
        socket.create_connection(addresses[kind], timeout=5).close()
        sock.close()


def dup_high(fd: int) -> int:
    """A copy of the descriptor far from those that a manager passes."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD, 100)


def test_activated_loopback_socket_must_be_one(tmp_path: Path) -> None:
    """A socket that the network reaches, by the name of loopback, would be an open relay."""
    with socket.create_server(("0.0.0.0", 0)) as sock:
        top = dup_high(sock.fileno())
        script = f'export LISTEN_PID=$$; exec 3<&{top}; exec "$@"'
        environment = clean_environment({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "loopback"})
        ran = subprocess.run(
            ["bash", "-c", script, "bash", *program(), "--spool", str(tmp_path / "spool"), "-s", "dom.fr"],
            capture_output=True, text=True, timeout=60, check=False, env=environment, pass_fds=[top],
        )  # fmt: skip
        os.close(top)
    assert_one_line(ran, "loopback", "0.0.0.0")


# -- what people see


def test_help_and_version() -> None:
    ran = run("--help")
    assert ran.returncode == 0
    assert ran.stderr == ""
    for word in ("--spool DIR", "--suffix", "--loopback", "--smarthost", "--max-size", "50M", "300", "SMTPMAIL_SPOOL"):
        assert word in ran.stdout
    assert run("-h").stdout == ran.stdout
    version = run("--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "smtpmail,")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    command = str(Path(sys.executable).parent / "smtpmail")
    environment = clean_environment({"_SMTPMAIL_COMPLETE": f"{shell}_source"})
    ran = subprocess.run([command], capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert "smtpmail" in ran.stdout


def test_a_warning_when_every_name_is_a_user(servers: Servers) -> None:
    assert servers.start().wait_event("users.any")["level"] == "warning"


def test_users_that_cannot_be_read(servers: Servers) -> None:
    """The server starts, for the file may come back, and says so; recipients get 451 until then."""
    users = servers._folder / "users"
    server = servers.start("--users", str(users))
    assert server.wait_event("users.unreadable")["level"] == "error"
    with server.client() as client:
        client.ehlo()
        client.expect("MAIL FROM:<a@b>", 250)
        client.expect("RCPT TO:<bob@dom.fr>", 451, "4.3.0")
        users.write_text("bob\n")
        client.expect("RCPT TO:<bob@dom.fr>", 250)
        client.expect("RCPT TO:<carol@dom.fr>", 550, "5.1.1")


def test_console_log(tmp_path: Path, servers: Servers) -> None:
    """Lines for people; what a client says can't steer the terminal."""
    server = servers.launch(
        "--log-format", "console", "--port", "0", addresses=["--loopback", "127.0.0.1:0", "--no-network"]
    )
    try:
        wait_until(lambda: any("server.started" in line for line in server.other_output))
        assert all(line.isprintable() for line in server.other_output)
    finally:
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_settings_from_environment_and_file(servers: Servers, tmp_path: Path) -> None:
    """The whole chain in the real program."""
    (tmp_path / "smtpmail.toml").write_text('max-recipients = 7\nmax-size = "2K"\ntimeout = 9\n')
    server: Server = servers.start(
        "--config", str(tmp_path / "smtpmail.toml"), "--max-recipients", "5", environment={"SMTPMAIL_MAX_SIZE": "3K"}
    )
    with server.client() as client:
        lines = client.ehlo().lines
    assert any(line.endswith("SIZE 3072") for line in lines)
    assert any("RCPTMAX=5" in line for line in lines)


def test_the_start_says_what_it_serves_with(servers: Servers, certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("bob\n")
    server = servers.start(*certificate.options, "--users", str(tmp_path / "users"), "--log-level", "debug")
    started = server.wait_event("server.started")
    assert started["tls"] == str(certificate.cert)
    assert (started["queue"], started["users"]) == (f"{server.spool}/.queue", str(tmp_path / "users"))
    with server.client() as client:
        client.ehlo()
    wait_until(
        lambda: any("STARTTLS" in line for event in server.events_named("session.replied") for line in event["replies"])
    )


def test_a_reload_that_fails_is_none(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    own = make_certificate(tmp_path / "tls", "mail.dom.fr")
    server = servers.start("--tls-cert", str(own.cert), "--tls-key", str(own.key), "--processes", "1")
    own.cert.write_text("no certificate\n")
    server.signal(1)
    server.wait_event("server.reload_failed")
    with server.client() as client:
        assert any("STARTTLS" in line for line in client.ehlo().lines)
    assert not server.events_named("server.reloaded")


def test_a_doubtful_certificate_is_said_at_the_start(servers: Servers, certificate: Certificate) -> None:
    doubt = servers.start(*certificate.options).wait_event("setting.doubtful", setting="--tls-cert")
    assert doubt["level"] == "warning" and str(certificate.cert) in doubt["text"]


def test_a_misspelt_variable_is_said_at_the_start(servers: Servers) -> None:
    server = servers.start(environment={"SMTPMAIL_PROT": "2525"})
    assert "SMTPMAIL_PORT" in server.wait_event("setting.doubtful", setting="SMTPMAIL_PROT")["text"]


def test_started_means_that_every_process_serves(servers: Servers, tmp_path: Path) -> None:
    """Who hears it may take the queue away: no process looks for it any more to begin with."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/sitecustomize.py").write_text(
        "import os, time\nos.register_at_fork(after_in_child=lambda: time.sleep(1))\n"
    )
    environment = {"PYTHONPATH": f"{tmp_path / 'slow'}:{os.environ.get('PYTHONPATH', '')}"}
    server = servers.start("--processes", "2", environment=environment)
    (server.spool / ".queue").rename(server.spool / ".aside")
    time.sleep(2)
    assert server.process.poll() is None
    (server.spool / ".aside").rename(server.spool / ".queue")
    assert server.stop() == 0
