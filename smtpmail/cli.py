"""The command line: the options come from settings/, the sub-commands from admin/."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from smtpmail import __version__, systemd
from smtpmail.settings import config
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsGroup, load_config
from smtpmail.settings.values import ConfigError

EPILOG = """
Examples:

\b
  smtpmail --spool ./spool -s dom.fr --port 2525
      Mail for anybody@dom.fr lands in ./spool/anybody/1, 2, 3, ...
  ssh -L 2525:localhost:25 host
      Send through your server from afar: its loopback listener is your outgoing server.

Each option is also an environment variable (SMTPMAIL_SPOOL, ...) and a key of the TOML file given with --config
(default /etc/smtpmail/smtpmail.toml). The command line wins over the environment, that over the file.
"""


class MainCommand(SettingsGroup):
    """`smtpmail [OPTIONS]` is the server, `smtpmail COMMAND` asks it something.

    The modules of the commands are loaded when they are asked for: the server does without them.
    """

    MODULES = (
        "aliases", "check", "checkpoint", "config", "device", "dkim", "dns", "export", "imap", "import", "manual",
        "queue", "report", "sendmail", "setup-systemd", "status", "trace", "verify",
    )  # fmt: skip
    """The commands; each is in the module of its name in smtpmail/admin, or where ELSEWHERE says."""

    ELSEWHERE = {  # noqa: RUF012 - a constant
        "import": ("transfer", "import_"),
        "export": ("transfer", "export"),
        "setup-systemd": ("setup_systemd", "setup_systemd"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those of admin/."""
        return list(self.MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from the module of its name."""
        if cmd_name not in self.MODULES:
            return None
        module, name = self.ELSEWHERE.get(cmd_name, (cmd_name, cmd_name))
        command: click.Command = getattr(import_module(f"smtpmail.admin.{module}"), name)
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By subject; then the commands."""
        groups: dict[str, list[tuple[str, str]]] = {}
        subjects = {setting.names: setting.group for setting in config.settings().values()}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                groups.setdefault(subjects.get(tuple(parameter.opts), "Other"), []).append(record)
        for subject, records in groups.items():
            with formatter.section(subject):
                formatter.write_dl(records)
        self.format_commands(ctx, formatter)


@click.group(
    cls=MainCommand,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="smtpmail")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A very light personal mail server.

    Receives mail for your own domains and stores it as plain numbered files, a folder for each user. Takes mail of
    programs on this machine for the whole world. Runs in the foreground; SIGTERM stops it.
    """
    if ctx.invoked_subcommand is None:
        serve(load_config(ctx))


def serve(settings: Config) -> None:
    """Judges the settings, then runs the server until a signal ends it. Raises ConfigError."""
    # Imported here: the other commands start faster without.
    from smtpmail import log  # noqa: PLC0415
    from smtpmail.server import Server  # noqa: PLC0415
    from smtpmail.settings import judgement, machine, privileges  # noqa: PLC0415

    judgement.require_answers(settings)
    account = privileges.server_account(settings)
    with privileges.acting_as(account):
        warnings = judgement.require(settings, os.environ)
        machine.make_folder(settings.spool, "--spool", 0o755)
        machine.make_folder(settings.queue, "--queue", 0o700)
    log.configure(settings.log_format, settings.log_level)
    if not Server(settings, warnings, account).run():
        sys.exit(1)


def main() -> None:
    """The program. A wrong setting is one line on standard error and exit status 2."""
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "smtpmail"
        fail(f"{error.format_message().rstrip('.')} (see {command} --help)")
    except (ConfigError, click.ClickException) as error:
        fail(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except click.Abort:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read has seen enough (`| head`); the interpreter must not complain of what is left to be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)


def fail(message: str) -> NoReturn:
    """One line for people, and exit status 2."""
    line = f"smtpmail: {' '.join(message.split())}"
    print(systemd.with_priority("error", line) if systemd.is_journal(2) else line, file=sys.stderr)
    sys.exit(2)
