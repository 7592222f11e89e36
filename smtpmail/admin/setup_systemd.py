"""`smtpmail setup-systemd`: makes an installation with pip or pipx a service of the host."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from smtpmail.admin.manual import main_command, shared

FILES = Path(__file__).resolve().parents[1] / "units"
"""Units, account and folders, as the Debian package has them, too."""

UNITS = (
    "smtpmail.service",
    "smtpmail-loopback.socket",
    "smtpmail.socket",
    "smtpmail-imap.socket",
    "smtpmail-submission.socket",
    "smtpmail-imap-local.socket",
    "smtpmail-report.timer",
    "smtpmail-report.service",
)
"""The first two are enabled."""

PROGRAM = "/usr/bin/smtpmail"
"""What the units start where the package put it."""

OURS = "# Written by `smtpmail setup-systemd`.\n"
PACKAGE = "/usr/lib/systemd/system/smtpmail.service"
CONFIGURATION = "/etc/smtpmail/smtpmail.toml"
OTHER_NAMES = {"sendmail": "/usr/sbin/sendmail", "mailq": "/usr/bin/mailq", "newaliases": "/usr/bin/newaliases"}
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 - nothing is written there
"""Where the service does not see what others see (ProtectHome, PrivateTmp)."""


@click.command("setup-systemd", short_help="Make it a service of this host; for installations with pip or pipx.")
@click.option("--root", metavar="DIR", default="/", help="Write below DIR (an image, say), and start nothing.")
@click.option("--remove", is_flag=True, help="Stop it and take away what was written; mail, queue and settings stay.")
@click.pass_context
def setup_systemd(ctx: click.Context, root: str, remove: bool) -> None:
    """Make smtpmail a service of this host: units, account, folders, man pages, completions, sendmail(8).

    For installations with pip or pipx: the Debian package and the Ansible role bring their own. It can be repeated,
    after an upgrade, say. A configuration that exists is left alone. What is set up serves the programs of this host,
    and takes nothing from the network until smtpmail.socket is enabled.
    """
    program = installed_program()
    in_place = os.path.realpath(root) == "/"
    require_a_free_place(root, program)
    if in_place:
        if os.geteuid() != 0:
            raise click.ClickException("setup-systemd writes to /etc: it must be run as root (or use --root DIR)")
        if not os.path.isdir("/run/systemd/system"):
            raise click.ClickException("systemd does not run here; --root DIR writes its files all the same")
    texts = dict(files(ctx, program))
    if remove:
        _take_away(root, in_place, texts, program)
        return
    for path, text in texts.items():
        _write(below(root, path), text)
    if not os.path.lexists(below(root, CONFIGURATION)):
        _write(below(root, CONFIGURATION), (FILES / "smtpmail.toml").read_text())
    for name, path in OTHER_NAMES.items():
        # Another mail server's stay.
        if not os.path.lexists(below(root, path)):
            os.makedirs(os.path.dirname(below(root, path)), exist_ok=True)
            os.symlink(sibling(program, name), below(root, path))
    if in_place:
        _run("systemd-sysusers", "smtpmail.conf")
        _run("systemd-tmpfiles", "--create", "smtpmail.conf")
        _run("systemctl", "daemon-reload")
        _run("systemctl", "enable", "--quiet", *UNITS[:2])
        _run("systemctl", "start", UNITS[1])
        _run("systemctl", "restart", UNITS[0])
        click.echo("smtpmail serves this host: sendmail(8), and port 25 of loopback.")
    else:
        click.echo(f"Written below {root}.")
    click.echo(
        f"For mail from the network: edit {CONFIGURATION}, `smtpmail check`, then `systemctl stop smtpmail && "
        "systemctl enable --now smtpmail.socket smtpmail`, and `smtpmail dns check`."
    )


def installed_program() -> str:
    """The program as it is installed, beside its Python. Raises click.ClickException."""
    program = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "smtpmail")
    if not os.access(program, os.X_OK):
        raise click.ClickException(f"setup-systemd needs an installed smtpmail (pip or pipx): there is no {program}")
    # The Python of an environment may be another one's.
    needed = (program, os.path.realpath(program), os.path.realpath(sys.executable), f"{sys.base_prefix}/")
    if hidden := [place for place in needed if place.startswith(HIDDEN)]:
        raise click.ClickException(
            f"{hidden[0]} lies where a service does not see it: install smtpmail for all users, with a Python that is "
            "theirs (pipx install --global smtpmail, or python3 -m venv /opt/smtpmail)"
        )
    return program


def require_a_free_place(root: str, program: str) -> None:
    """Raises click.ClickException where units of another origin are."""
    if program == PROGRAM or os.path.lexists(below(root, PACKAGE)):
        raise click.ClickException("the Debian package brings its own units: systemctl enable --now smtpmail.socket")
    for unit in UNITS:
        path = below(root, f"/etc/systemd/system/{unit}")
        with contextlib.suppress(FileNotFoundError):
            if not Path(path).read_text(errors="replace").startswith(OURS):
                raise click.ClickException(
                    f"{path} is not of setup-systemd (of the Ansible role, say): it stays as it is"
                )


def files(ctx: click.Context, program: str) -> Iterator[tuple[str, str]]:
    """Path and text of each file that setup-systemd writes and takes away."""
    for unit in UNITS:
        text = (FILES / unit).read_text()
        yield (
            f"/etc/systemd/system/{unit}",
            OURS + re.sub(f"^ExecStart={PROGRAM}(?= |$)", f"ExecStart={program}", text, flags=re.MULTILINE),
        )
    for kind in ("sysusers", "tmpfiles"):
        yield f"/etc/{kind}.d/smtpmail.conf", OURS + (FILES / f"smtpmail.{kind}").read_text()
    for path, text in shared(main_command(ctx)):
        yield f"/usr/local/share/{path}", text


def below(root: str, path: str) -> str:
    """An absolute path below `root`."""
    return os.path.join(root, path.lstrip("/"))


def sibling(program: str, name: str) -> str:
    """Another program of the same installation."""
    return os.path.join(os.path.dirname(program), name)


def _take_away(root: str, in_place: bool, texts: dict[str, str], program: str) -> None:
    if in_place and os.path.exists(below(root, f"/etc/systemd/system/{UNITS[0]}")):
        _run("systemctl", "disable", "--quiet", "--now", *UNITS)
    for path in texts:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(below(root, path))
    for name, path in OTHER_NAMES.items():
        with contextlib.suppress(OSError):
            if os.readlink(below(root, path)) == sibling(program, name):
                os.unlink(below(root, path))
    if in_place:
        _run("systemctl", "daemon-reload")
    click.echo("Removed. These stay: /etc/smtpmail, the mailboxes in /var/mail, the queue in /var/lib/smtpmail.")


def _write(path: str, text: str) -> None:
    """A file that is there whole or not at all, for everybody to read. Raises click.ClickException."""
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        os.replace(new, path)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None


def _run(*command: str) -> None:
    """Raises click.ClickException with what the program said."""
    ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if ran.returncode:
        raise click.ClickException(f"{' '.join(command)}: {ran.stderr.strip() or f'exit status {ran.returncode}'}")
