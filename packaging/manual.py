"""Writes the man pages and shell completions from the source that --help is made of: manual.py FOLDER

FOLDER gets smtpmail.1, a page for each command (smtpmail-queue.1, ...), smtpmail.toml.5, and the completions of bash,
zsh and fish.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from smtpmail import __version__
from smtpmail.cli import cli

SECTION = "smtpmail manual"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (folder / name).write_text(text)
    for shell, name in (("bash", "smtpmail.bash"), ("zsh", "_smtpmail"), ("fish", "smtpmail.fish")):
        completion = get_completion_class(shell)
        assert completion
        (folder / name).write_text(completion(cli, {}, "smtpmail", "_SMTPMAIL_COMPLETE").source())


def pages() -> Iterator[tuple[str, str]]:
    """Names and texts of all pages."""
    root = click.Context(cli, info_name="smtpmail")
    names = cli.list_commands(root)
    yield "smtpmail.1", command_page(cli, root, [f"smtpmail-{name}(1)" for name in names] + ["smtpmail.toml(5)"])
    for name in names:
        command = cli.get_command(root, name)
        assert command
        context = click.Context(command, info_name=name, parent=root)
        yield f"smtpmail-{name}.1", command_page(command, context, ["smtpmail(1)", "smtpmail.toml(5)"])
    yield "smtpmail.toml.5", configuration_page()


def command_page(command: click.Command, context: click.Context, see_also: list[str]) -> str:
    """The page of a command and those below it."""
    path = context.command_path
    name = path.replace(" ", "-")
    text = head(name, 1, first_sentence(command.help or ""))
    text += f".SH SYNOPSIS\n.B {roff(path)}\n{roff(' '.join(command.collect_usage_pieces(context)))}\n"
    text += ".SH DESCRIPTION\n" + paragraphs(command.help or "")
    text += options(command, context, ".SH OPTIONS\n")
    if isinstance(command, click.Group) and context.parent:
        text += ".SH COMMANDS\n"
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below
            inner = click.Context(below, info_name=each, parent=context)
            usage = " ".join(below.collect_usage_pieces(inner))
            text += f".SS {roff(each)} {roff(usage)}\n" + paragraphs(below.help or "") + options(below, inner, "")
    if command.epilog:
        text += ".SH NOTES\n" + paragraphs(command.epilog)
    return text + ".SH SEE ALSO\n" + ", ".join(map(roff, see_also)) + "\n"


def options(command: click.Command, context: click.Context, heading: str) -> str:
    """The list of a command's options; a main command's are those of the server."""
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    shown = [record for record in records if record]
    return heading * bool(shown) + "".join(f".TP\n.B {roff(names)}\n{roff(text)}\n" for names, text in shown)


def configuration_page() -> str:
    """The page of the configuration file: every setting by the name that it has there."""
    text = head("smtpmail.toml", 5, "configuration of smtpmail")
    text += ".SH DESCRIPTION\n" + paragraphs(
        "/etc/smtpmail/smtpmail.toml is read by smtpmail and all its commands, unless --config names another file. It"
        " is TOML; each key is the long name of an option without its dashes. What can be repeated is a list."
        " The command line wins over the environment (SMTPMAIL_ and the key in capitals, with underscores), that over"
        " this file."
    )
    text += ".SH KEYS\n"
    for option in settings():
        key = max(option.opts, key=len).lstrip("-")
        value = "true or false" if option.is_flag else option.make_metavar(click.Context(cli))
        text += f".TP\n.B {roff(key)} = {roff(value)}\n{roff(option.help or '')}\n"
    return (
        text
        + ".SH EXAMPLE\n.nf\n"
        + roff(
            'hostname = "mail.example.org"\nsuffix = ["example.org"]\nusers = "/etc/smtpmail/users"\nmax-size = "20M"'
        )
        + "\n.fi\n.SH SEE ALSO\nsmtpmail(1), smtpmail-config(1)\n"
    )


def settings() -> list[click.Option]:
    """The options of all settings."""
    return [
        parameter for parameter in cli.params
        if isinstance(parameter, click.Option) and not {"--config", "--version", "--help"} & set(parameter.opts)
    ]  # fmt: skip


def head(name: str, section: int, what: str) -> str:
    return (
        f'.\\" Made by packaging/manual.py.\n.TH {name.upper()} {section} "" "smtpmail {__version__}" "{SECTION}"\n'
        f".SH NAME\n{roff(name)} \\- {roff(what)}\n"
    )


def first_sentence(text: str) -> str:
    sentence = " ".join(text.split("\n\n", maxsplit=1)[0].split()).split(". ")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def paragraphs(text: str) -> str:
    """Click's text: paragraphs between empty lines, those that begin with \\b as they are."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.strip("\n").split("\n")
        if lines[0].strip() == "\b":
            found.append(".nf\n" + "\n".join(roff(line) for line in lines[1:]) + "\n.fi")
        else:
            found.append(roff(" ".join(" ".join(lines).split())))
    return ".PP\n".join(f"{paragraph}\n" for paragraph in found)


def roff(text: str) -> str:
    """Text as troff shows it."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^(\.)", r"\\&\1", escaped, flags=re.MULTILINE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
