"""smtpmail check: what it says of configuration, users and certificates, and with which exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.tls import make_certificate

from smtpmail.auth.dkim_keys import KeyFolder
from smtpmail.cli import cli


def certificate(folder: Path, *, key_mode: int = 0o600, name: str = "mail.dom.fr", days: int = 90) -> list[str]:
    """A self-signed certificate that is valid for so many days from now on; the options that name it."""
    made = make_certificate(folder, name, days=days)
    made.key.chmod(key_mode)
    return made.options


def check(folder: Path, *options: str) -> Result:
    """Runs it with a good configuration, which `options` change."""
    users = folder / "users"
    if not users.exists():
        users.write_text("bob\n")
    config = folder / "smtpmail.toml"
    if not config.exists():
        config.write_text(f'suffix = ["dom.fr"]\nhostname = "mail.dom.fr"\nspool = "{folder}"\nusers = "{users}"\n')
    return CliRunner().invoke(cli, ["check", "--config", str(config), *options])


def test_a_good_configuration(tmp_path: Path) -> None:
    result = check(tmp_path)
    assert (result.exit_code, result.output) == (0, "smtpmail check: the configuration is valid\n")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("users", "", "names nobody"),
        ("users", "bob\n../etc\n", "line 2: '../etc' is no user name"),
        ("users", "bob@dom.fr\n", "line 1: 'bob@dom.fr' is no user name"),
        ("users", "bo b\n", "line 1: 'bo b' is no user name"),
    ],
)
def test_a_wrong_users_file(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    result = check(tmp_path)
    assert result.exit_code == 1
    assert message in result.output


def test_a_users_file_of_junk(tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes(b"\xff\xfe\x00")
    result = check(tmp_path)
    assert result.exit_code == 1
    assert "it is not UTF-8" in result.output


def test_a_users_file_that_is_missing(tmp_path: Path) -> None:
    result = check(tmp_path, "--users", str(tmp_path / "nobody"))
    assert result.exit_code == 1
    assert "cannot read" in result.output


def test_all_wrong_lines_are_named_for_programs(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("a/b\nbob\n.c\n")
    result = check(tmp_path, "--json")
    assert result.exit_code == 1
    assert [finding["level"] for finding in json.loads(result.output)] == ["error", "error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "from no known authority"),
        ({"name": "other.net"}, "it is not for mail.dom.fr"),
        ({"days": -1}, "it has expired"),
    ],
)
def test_a_certificate_that_not_all_will_trust_is_a_warning(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    result = check(tmp_path, *certificate(tmp_path, **arguments))  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    assert "warning: --tls-cert" in result.output
    assert message in result.output


def test_a_certificate_with_another_key_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    options = certificate(tmp_path)
    other = certificate(tmp_path / "other")
    result = check(tmp_path, *options[:2], *other[2:])
    assert result.exit_code == 2
    assert "no certificate (PEM) with its key" in result.output


def test_a_key_that_everybody_reads(tmp_path: Path) -> None:
    result = check(tmp_path, *certificate(tmp_path, key_mode=0o644))
    assert result.exit_code == 0
    assert "warning: --tls-key" in result.output
    assert "chmod" in result.output


def test_it_touches_nothing(tmp_path: Path) -> None:
    check(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = check(tmp_path, "--spool", str(tmp_path / "new" / "spool"))
    assert (result.exit_code, sorted(tmp_path.rglob("*"))) == (0, before)


def test_options_may_stand_on_both_sides(tmp_path: Path) -> None:
    """Of the command; the later one holds."""
    result = CliRunner().invoke(cli, ["--max-size", "1K", "--port", "7", "config", "--json", "--max-size", "2K"])
    shown = json.loads(result.output)
    assert (shown["max-size"], shown["port"]) == (
        {"value": "2K", "source": "--max-size"},
        {"value": 7, "source": "--port"},
    )


def test_the_shown_configuration_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    options = [
        "-s",
        "dom.fr",
        "-s",
        "bücher.example",
        "--timeout",
        "90s",
        "--retry-schedule",
        "1m 1.5h",
        "--no-network",
    ]
    first = CliRunner().invoke(cli, ["config", *options])
    (tmp_path / "shown.toml").write_text(first.stdout)
    second = CliRunner().invoke(cli, ["config", "--config", str(tmp_path / "shown.toml")])
    assert second.exit_code == 0, second.output
    assert [line.split("#")[0] for line in first.stdout.splitlines()] == [
        line.split("#")[0] for line in second.stdout.splitlines()
    ]
    assert "xn--bcher-kva.example" in first.stdout


def test_keys_and_exemptions(tmp_path: Path) -> None:
    """A key that nobody can use, a domain without one, a line that exempts nobody."""
    keys = KeyFolder(str(tmp_path / "keys"))
    Path(keys.path).mkdir()
    (tmp_path / "exempt").write_text("friend@example.org\nno address at all\n")
    options = ["--dkim-keys", keys.path]
    result = check(tmp_path, *options)
    assert (result.exit_code, "there is no key that signs mail of dom.fr" in result.output) == (0, True)
    keys.create("dom.fr", "ed25519", "a")
    assert check(tmp_path, *options).output == "smtpmail check: the configuration is valid\n"
    Path(keys.path, "dom.fr", "a.pem").chmod(0o644)
    result = check(tmp_path, *options)
    assert (result.exit_code, "a.pem (mode 0644); chmod 600 it" in result.output) == (1, True)
    result = check(tmp_path, "--verify-exempt", str(tmp_path / "exempt"))
    assert (result.exit_code, "line 2: 'no address at all'" in result.output) == (1, True)
