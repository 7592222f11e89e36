"""`smtpmail manual DIR`: man pages, made from what --help and docs/ say, so that nothing is said twice."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from smtpmail import __version__
from smtpmail.admin.manual_files import FILES, FilePage
from smtpmail.admin.sendmail_options import OPTIONS
from smtpmail.settings.config import settings
from smtpmail.settings.options import SettingsCommand

SENDMAIL = {
    "sendmail": "send a message",
    "smtpmail-sendmail": "send a message",
    "mailq": "list the mail queue",
    "newaliases": "check the file of aliases",
}
COMPLETIONS = {
    "bash": "bash-completion/completions/smtpmail",
    "zsh": "zsh/site-functions/_smtpmail",
    "fish": "fish/vendor_completions.d/smtpmail.fish",
}
"""Where the shells look below share/."""

SAME = {"smtpmail-sendmail": "sendmail", "mailq": "smtpmail queue list", "newaliases": "smtpmail aliases"}
"""Names of sendmail(8) that do what another command does."""

TOML = """
TOML; /etc/smtpmail/smtpmail.toml, or what --config or SMTPMAIL_CONFIG names. The keys are the long options of
smtpmail(1) without their dashes; text, numbers, true and false, lists where an option is repeatable. The command line
wins over the environment (SMTPMAIL_SPOOL, ...), that over the file.
"""

CONFIGURATION = FilePage("smtpmail.toml", "the configuration file of smtpmail", TOML)


@click.command(short_help="Write the man pages into a folder.")
@click.argument("folder", type=click.Path(file_okay=False))
@click.pass_context
def manual(ctx: click.Context, folder: str) -> None:
    """Write the man pages of all commands and files into FOLDER/man1, man5 and man8, to be copied to /usr/share/man."""
    count = 0
    for place, text in _page_files(main_command(ctx)):
        path = Path(folder) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        count += 1
    click.echo(f"{count} pages written to {os.path.join(folder, 'man*')}")


def main_command(ctx: click.Context) -> click.Group:
    """`smtpmail` itself, from a command of it."""
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    return group


def shared(group: click.Group) -> Iterator[tuple[str, str]]:
    """Paths below share/ and texts: man pages, and what lets shells complete commands and options."""
    for place, text in _page_files(group):
        yield f"man/{place}", text
    for shell, place in COMPLETIONS.items():
        completion = get_completion_class(shell)
        assert completion
        yield place, completion(group, {}, "smtpmail", "_SMTPMAIL_COMPLETE").source()


def _page_files(group: click.Group) -> Iterator[tuple[str, str]]:
    for name, section, text in pages(group):
        yield f"man{section}/{name}.{section}", text


def pages(group: click.Group) -> Iterator[tuple[str, str, str]]:
    """Name, section and text (man(7)) of every page."""
    context = click.Context(group, info_name="smtpmail")
    yield "smtpmail", "1", command_page(context, "smtpmail", "1", "a very light personal mail server", _server_end())
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden or name == "sendmail":
            continue
        yield from _of_command(command, click.Context(command, context, name), f"smtpmail-{name}")
    for name, what in SENDMAIL.items():
        section = "1" if name.startswith("smtpmail-") else "8"
        yield name, section, sendmail_page(name, section, what)
    yield "smtpmail.toml", "5", file_page(CONFIGURATION, _keys())
    for page in FILES:
        yield page.name, "5", file_page(page)


def _of_command(command: click.Command, context: click.Context, page: str) -> Iterator[tuple[str, str, str]]:
    yield page, "1", command_page(context, page, "1", command.get_short_help_str(200).rstrip("."))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            if sub is not None and not sub.hidden:
                yield from _of_command(sub, click.Context(sub, context, name), f"{page}-{name}")


def command_page(context: click.Context, name: str, section: str, what: str, end: str = "") -> str:
    """The page of a command: what its --help says."""
    command = context.command
    usage = command.collect_usage_pieces(context)
    lines = [_head(name, section, what), ".SH SYNOPSIS", f".B {escape(context.command_path)}", escape(" ".join(usage))]
    lines += [".SH DESCRIPTION", *_paragraphs(command.help or "")]
    records = [r for p in command.get_params(context) if (r := p.get_help_record(context))]
    if records:
        lines += [".SH OPTIONS", *(line for record in records for line in _item(*record))]
    if isinstance(command, SettingsCommand) and context.parent is not None:
        lines += [".PP", escape("It takes the options of smtpmail(1), too.")]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for sub_name in command.list_commands(context):
            sub = command.get_command(context, sub_name)
            if sub is not None and not sub.hidden:
                lines += _item(sub_name, sub.get_short_help_str(200))
    return "\n".join(lines) + "\n" + end + _see_also(name)


def _server_end() -> str:
    lines = [".SH SIGNALS", *_item("SIGTERM, SIGINT", "Stop gracefully; a second one stops at once.")]
    lines += _item("SIGHUP", "Read users, aliases and the certificate again.")
    lines += [".SH EXIT STATUS", *_item("0", "Stopped by a signal."), *_item("1", "A process of the server died.")]
    lines += _item("2", "A setting is wrong, or a port cannot be had.")
    return "\n".join(lines) + "\n"


def sendmail_page(name: str, section: str, what: str) -> str:
    """The page of sendmail(8), and of its other names."""
    synopsis = "[OPTIONS] [RECIPIENT]..." if name.endswith("sendmail") else ""
    command = name.replace("smtpmail-", "smtpmail ")
    lines = [_head(name, section, what), ".SH SYNOPSIS", f".B {escape(command)}", escape(synopsis)]
    lines = [line for line in lines if line]
    if name in SAME:
        lines += [".SH DESCRIPTION", escape(f"The same as `{SAME[name]}`. It is sendmail(8) under another name.")]
        return "\n".join(lines) + "\n" + _see_also(name)
    lines += [".SH DESCRIPTION", *_paragraphs(
        "Hands the message on standard input to the loopback listener of smtpmail(1). It needs no privilege. Date, "
        "Message-ID and From are added where they are missing, bare addresses get the domain of the host, Bcc is "
        "removed.\n\nWhat is not taken goes to the file dead.letter in the caller's home, or to standard error."
    )]  # fmt: skip
    lines += [".SH OPTIONS", *(line for record in OPTIONS.items() for line in _item(*record)), ".SH EXIT STATUS"]
    for status, meaning in (
        ("0", "Everybody's copy is on disk."), ("64", "The command line makes no sense."),
        ("65", "The message or an address in it is no good."), ("67, 68", "A recipient does not exist."),
        ("69", "The server refuses it."), ("74, 75", "Not now: nobody has the message."),
        ("70", "A fault of sendmail itself: nobody has the message."),
        ("77", "The queue may not be read."), ("78", "A setting is wrong."),
    ):  # fmt: skip
        lines += _item(status, meaning)
    return "\n".join(lines) + "\n" + _see_also(name)


def file_page(page: FilePage, end: Sequence[str] = ()) -> str:
    """The page of a file."""
    lines = [_head(page.name, "5", page.what), ".SH DESCRIPTION", *_paragraphs(page.text), *end]
    return "\n".join(lines) + "\n" + _see_also(page.name)


def _keys() -> list[str]:
    """The settings, as keys of the configuration file."""
    lines = [".SH KEYS"]
    for setting in settings().values():
        value = "|".join(setting.choices) or setting.metavar or "true|false"
        lines += _item(f"{setting.key} = {value}", setting.help)
    return lines


def _head(name: str, section: str, what: str) -> str:
    what = what[0].lower() + what[1:] if what[:2] != what[:2].upper() else what
    title = escape(name.upper())
    return f'.TH {title} {section} "" "smtpmail {__version__}" ""\n.SH NAME\n{escape(name)} \\- {escape(what)}'


def _see_also(name: str) -> str:
    pages = ("smtpmail(1)", "sendmail(8)", "smtpmail.toml(5)", *(f"{page.name}(5)" for page in FILES))
    others = [other for other in pages if other.partition("(")[0] != name]
    return f".SH SEE ALSO\n{escape(', '.join(others))}\n"


def _item(term: str, text: str) -> list[str]:
    return [".TP", f".B {escape(term)}", escape(" ".join(text.split()))]


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs; one that begins with \\b keeps its lines."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *(escape(line) for line in paragraph.splitlines()[1:]), ".fi")
        else:
            yield escape(" ".join(paragraph.split()))


def escape(text: str) -> str:
    """Text as roff reads it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
