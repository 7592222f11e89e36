"""The settings: where they come from, which wins, and one clear line for each wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtpmail.mail.address import normal_domain
from smtpmail.settings import config, machine, sources
from smtpmail.settings.config import Config
from smtpmail.settings.setting import Setting
from smtpmail.settings.values import ConfigError, Endpoint


@pytest.fixture(autouse=True)
def no_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEFAULT_FILE", str(tmp_path / "default.toml"))


def test_defaults() -> None:
    """Those that the contract names."""
    settings = sources.load({}, {})
    assert settings == Config()
    assert (settings.spool, settings.queue) == ("/var/spool/mail", "/var/spool/mail/.queue")
    assert (settings.port, settings.max_size, settings.timeout) == (25, 50 * 1024**2, 300.0)
    assert (settings.max_recipients, settings.max_connections, settings.max_connections_per_client) == (1000, 1000, 100)
    assert settings.domains == (settings.hostname,) == (machine.full_hostname(),)
    assert (settings.users, settings.smarthost, settings.tls_cert, settings.tls_key) == (None,) * 4
    assert (settings.loopback, settings.listen, settings.no_network) == ((), (), False)
    assert settings.log_level == "info"
    assert sources.DEFAULT_FILE != "/etc/smtpmail/smtpmail.toml"


@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize("variable", [True, False])
@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("by_default", [True, False], ids=["default file", "--config"])
def test_who_wins(tmp_path: Path, option: bool, variable: bool, key: bool, by_default: bool) -> None:
    """The command line over the environment over the file."""
    path = tmp_path / ("default.toml" if by_default else "other.toml")
    path.write_text('port = 3\nsuffix = ["file.fr", "file.org"]\n' if key else "")
    settings = sources.load(
        {"port": "1", "suffix": ("option.fr",)} if option else {},
        {"SMTPMAIL_PORT": "2", "SMTPMAIL_SUFFIX": "variable.fr variable.org"} if variable else {},
        None if by_default else str(path),
    )
    port, suffix = next(
        values
        for given, values in (
            (option, (1, ("option.fr",))),
            (variable, (2, ("variable.fr", "variable.org"))),
            (key, (3, ("file.fr", "file.org"))),
            (True, (25, ())),
        )
        if given
    )
    assert (settings.port, settings.suffix) == (port, suffix)


def test_file_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("port = 7\n")
    assert sources.load({}, {"SMTPMAIL_CONFIG": str(tmp_path / "a.toml")}).port == 7


def test_every_setting_has_option_variable_and_key(tmp_path: Path) -> None:
    """Also those with values of their own kind in TOML: numbers, lists, truth."""
    (tmp_path / "all.toml").write_text(
        'spool = "/s"\nsuffix = "dom.fr"\nusers = "/u"\nhostname = "mail.dom.fr"\nport = 2525\n'
        'loopback = ["127.0.0.1:1", "[::1]:2"]\nlisten = "192.0.2.1"\nno-network = true\nqueue = "/q"\n'
        'resolver = ["192.0.2.53", "[2001:db8::53]:5353"]\nsmarthost = "relay.example:587"\n'
        'tls-cert = "/c"\ntls_key = "/k"\nmax-size = "1M"\nmax-recipients = 5\nmax-connections = 6\n'
        'max-connections-per-client = 7\ntimeout = 1.5\nlog-format = "console"\nlog-level = "debug"\n'
    )
    settings = sources.load({}, {}, str(tmp_path / "all.toml"))
    assert (settings.spool, settings.suffix, settings.users, settings.hostname) == (
        "/s",
        ("dom.fr",),
        "/u",
        "mail.dom.fr",
    )
    assert settings.loopback == (Endpoint("127.0.0.1", 1), Endpoint("::1", 2))
    assert settings.listen == (Endpoint("192.0.2.1"),)
    assert (settings.no_network, settings.queue, settings.port) == (True, "/q", 2525)
    assert settings.resolver == (Endpoint("192.0.2.53"), Endpoint("2001:db8::53", 5353))
    assert settings.smarthost == Endpoint("relay.example", 587)
    assert (settings.tls_cert, settings.tls_key, settings.max_size) == ("/c", "/k", 1024**2)
    assert (settings.max_recipients, settings.max_connections, settings.max_connections_per_client) == (5, 6, 7)
    assert (settings.timeout, settings.log_format, settings.log_level) == (1.5, "console", "debug")
    for setting in config.settings().values():
        assert setting.variable.startswith("SMTPMAIL_")
        assert setting.help


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1000", 1000), ("4K", 4096), ("50 MiB", 50 * 1024**2), ("2g", 2 * 1024**3), ("1kb", 1024)],
)
def test_sizes(text: str, value: int) -> None:
    assert sources.load({"max_size": text}, {}).max_size == value


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("0.5", 0.5), ("90s", 90.0), ("5m", 300.0), ("1h", 3600.0)])
def test_times(text: str, value: float) -> None:
    assert sources.load({"timeout": text}, {}).timeout == value


@pytest.mark.parametrize("name", ["château.fr", "CHÂTEAU.fr", "xn--chteau-xta.fr"])
def test_suffix_has_one_form(name: str) -> None:
    assert sources.load({"suffix": (name,)}, {}).domains == (normal_domain("château.fr"),)


BAD = [
    ("spool", ""),
    ("spool", "a\0b"),
    ("suffix", "dom..fr"),
    ("suffix", "a@dom.fr"),
    ("suffix", ""),
    ("suffix", "-x.fr"),
    ("suffix", "192.0.2.1"),
    ("hostname", "127.0.0.1"),
    ("suffix", "dom fr"),
    ("users", ""),
    ("hostname", "mail dom"),
    ("hostname", "mail/dom"),
    ("port", "x"),
    ("port", "-1"),
    ("port", "65536"),
    ("port", "25.0"),
    ("port", "٢٥"),
    ("loopback", "192.0.2.1"),
    ("loopback", "0.0.0.0"),
    ("loopback", "::"),
    ("loopback", "localhost"),
    ("loopback", "127.0.0.1:x"),
    ("loopback", "127.0.0.1:65536"),
    ("loopback", "[::1]25"),
    ("loopback", "[127.0.0.1]"),
    ("loopback", "::ffff:192.0.2.1"),
    ("listen", "example.org"),
    ("listen", "192.0.2"),
    ("listen", "[2001:db8::1"),
    ("listen", ":25"),
    ("no_network", "perhaps"),
    ("queue", ""),
    ("resolver", "dns.example"),
    ("resolver", "192.0.2.1:"),
    ("smarthost", "relay example"),
    ("address_family", "ipv5"),
    ("bind_address", "mail.dom.fr"),
    ("bind_address", "192.0.2.1:25"),
    ("private_network", "10.0.0.1/8"),
    ("private_network", "home"),
    ("smarthost", ""),
    ("smarthost", "a:b:c"),
    ("tls_cert", ""),
    ("tls_key", ""),
    ("max_size", "0"),
    ("max_size", "-1"),
    ("max_size", "big"),
    ("max_size", "5T"),
    ("max_recipients", "0"),
    ("max_connections", "1.5"),
    ("max_connections_per_client", "many"),
    ("timeout", "0"),
    ("timeout", "5y"),
    ("timeout", "-3"),
    ("timeout", "0.0001"),
    ("timeout", "2d"),
    ("timeout", "9" * 400),
    ("timeout", "1." + "0" * 4000),
    ("timeout", "٣"),
    ("connect_timeout", "0.0001"),
    ("reply_timeout", "1000d"),
    ("retry_schedule", "1m 0.0001s"),
    ("retry_schedule", "10000d"),
    ("queue_lifetime", "1e9"),
    ("processes", "5000"),
    ("processes", "0"),
    ("max_connections", "99999999999"),
    ("max_size", "9" * 400),
    ("log_format", "xml"),
    ("log_level", "loud"),
]


def field_of(name: str) -> tuple[str, Setting]:
    return next((field, s) for field, s in config.settings().items() if s.key == name.replace("_", "-"))


# In a variable, blanks stand between the values of a repeatable setting: some values can't be given there.
CASES = [
    (name, value, source)
    for name, value in BAD
    for source in ("option", "variable", "file")
    if not (source == "variable" and name == "suffix" and value.split() != [value])
]


@pytest.mark.parametrize(("name", "value", "source"), CASES, ids=[f"{n} {v!r} {s}" for n, v, s in CASES])
def test_bad_value(tmp_path: Path, name: str, value: str, source: str) -> None:
    """One line that names the setting where it was given."""
    field, setting = field_of(name)
    file = tmp_path / "bad.toml"
    options: dict[str, object] = {}
    variables = {}
    if source == "option":
        options = {field: (value,) if setting.repeatable else value}
        named = setting.names[-1]
    elif source == "variable":
        variables = {setting.variable: value}
        named = setting.variable
    else:
        escaped = value.replace("\0", "\\u0000")
        file.write_text(f'{setting.key} = "{escaped}"\n')
        named = f"{file}: {setting.key}"
    with pytest.raises(ConfigError) as caught:
        sources.load(options, variables, str(file) if source == "file" else None)
    message = str(caught.value)
    assert message.startswith(named)
    assert "wanted" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ports = 25\n", "ports"),
        ("port = \n", "TOML"),
        ("port = [1]\n", "port"),
        ("port = true\n", "port"),
        ("[server]\nport = 1\n", "server"),
        ("spool = '/s'\nspool = '/t'\n", "TOML"),
        ("max-size = {a = 1}\n", "max-size"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named) as caught:
        sources.load({}, {}, str(path))
    assert str(path) in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    """One that was asked for must be there."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        sources.load({}, {}, str(tmp_path / "nowhere.toml"))


@pytest.mark.parametrize(
    ("wrong", "meant"), [("prot", "port"), ("tls-crt", "tls-cert"), ("max_sise", "max-size"), ("suffixes", "suffix")]
)
def test_an_unknown_key_is_answered_with_the_nearest(tmp_path: Path, wrong: str, meant: str) -> None:
    """Not with all thirty."""
    path = tmp_path / "bad.toml"
    path.write_text(f"{wrong} = 1\n")
    with pytest.raises(ConfigError) as caught:
        sources.load({}, {}, str(path))
    assert str(caught.value) == f"{path}: unknown key {wrong!r}; did you mean {meant}?"


def test_a_key_twice_in_two_spellings(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("max-size = 1\nmax_size = 2\n")
    with pytest.raises(ConfigError, match="max-size"):
        sources.load({}, {}, str(path))


def test_unknown_variables() -> None:
    environment = {"SMTPMAIL_PROT": "1", "SMTPMAIL_PORT": "1", "SMTPMAIL_CONFIG": "x", "HOME": "/", "SMTPMAIL_QQQQ": ""}
    assert sources.unknown_variables(environment) == [
        ("SMTPMAIL_PROT", "there is no such setting; did you mean SMTPMAIL_PORT?"),
        ("SMTPMAIL_QQQQ", "there is no such setting; smtpmail --help lists the settings"),
    ]


def test_each_source_is_known(tmp_path: Path) -> None:
    path = tmp_path / "smtpmail.toml"
    path.write_text("port = 3\nmax-size = 5\ntimeout = 1\n")
    said = sources.sources({"port": "1"}, {"SMTPMAIL_MAX_SIZE": "4K", "SMTPMAIL_PORT": "2"}, str(path))
    assert said == {"port": "--port", "max_size": "SMTPMAIL_MAX_SIZE", "timeout": f"{path}: timeout"}
