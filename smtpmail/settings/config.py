"""Every setting once: its options, its environment variable, its key in the TOML file, its default and its meaning.

The command line, the checks and the manual are made from the fields of `Config`. The command line wins over the
environment, that over the file.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from smtpmail.mail.retry import RetryPolicy
from smtpmail.settings.machine import check_folder, full_hostname
from smtpmail.settings.values import (
    ConfigError,
    Endpoint,
    read_address,
    read_count,
    read_domain,
    read_duration,
    read_durations,
    read_host,
    read_loopback,
    read_path,
    read_port,
    read_size,
)

DEFAULT_FILE = "/etc/smtpmail/smtpmail.toml"


# -- how values are read; each raises ValueError with what is wanted


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field of Config is set."""

    names: tuple[str, ...]
    """Its options; the long one without dashes is its key in the file."""
    help: str
    metavar: str
    read: Callable[[str], Any]
    repeatable: bool = False
    choices: tuple[str, ...] = ()
    group: str = "Mail"

    @property
    def key(self) -> str:
        return self.names[-1].removeprefix("--")

    @property
    def variable(self) -> str:
        return "SMTPMAIL_" + self.key.upper().replace("-", "_")

    def parse(self, value: Any, source: str) -> Any:
        """The value of the setting from text, or from what TOML has. Raises ConfigError naming `source`."""
        if self.repeatable:
            values = value if isinstance(value, list | tuple) else [value]
            return tuple(self._parse_one(v, source) for v in values)
        return self._parse_one(value, source)

    def _parse_one(self, value: Any, source: str) -> Any:
        if self.read is bool:
            if isinstance(value, bool):
                return value
            if str(value).lower() in ("1", "true", "yes", "on"):
                return True
            if str(value).lower() in ("0", "false", "no", "off", ""):
                return False
            raise ConfigError(f"{source}: {value!r}: true or false is wanted")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{source}: {value!r}: {self.metavar} is wanted")
        if self.choices:
            if value in self.choices:
                return value
            raise ConfigError(f"{source}: {value!r}: one of {', '.join(self.choices)} is wanted")
        try:
            return self.read(str(value))
        except ValueError as error:
            raise ConfigError(f"{source}: {str(value)!r}: {error}") from None


def _setting(
    *names: str,
    help: str,
    metavar: str = "",
    read: Callable[[str], Any] = str,
    default: Any = None,
    repeatable: bool = False,
    choices: tuple[str, ...] = (),
    group: str = "Mail",
) -> Any:
    setting = Setting(names, help, metavar, read, repeatable, choices, group)
    return field(default=() if repeatable and default is None else default, metadata={"setting": setting})


@dataclass(frozen=True)
class Config:
    """All settings, checked one by one; `check` looks at how they go together and at the machine."""

    spool: str = _setting(
        "-R", "--spool", metavar="DIR", read=read_path, default="/var/spool/mail",
        help="Folder of the mailboxes.",
    )  # fmt: skip
    suffix: tuple[str, ...] = _setting(
        "-s", "--suffix", metavar="DOMAIN", read=read_domain, repeatable=True,
        help="A local domain; repeatable. Default: the host's full name.",
    )  # fmt: skip
    users: str | None = _setting(
        "-u", "--users", metavar="FILE", read=read_path,
        help="The local users, one a line. Default: every valid name is a user.",
    )  # fmt: skip
    given_hostname: str | None = _setting(
        "-H", "--hostname", metavar="NAME", read=read_domain,
        help="Name in the greeting, in EHLO and in Received. Default: the host's full name.",
    )  # fmt: skip
    port: int = _setting(
        "-p", "--port", metavar="PORT", read=read_port, default=25, group="Listeners",
        help="Port of both listeners.",
    )  # fmt: skip
    loopback: tuple[Endpoint, ...] = _setting(
        "--loopback", metavar="ADDR[:PORT]", read=read_loopback, repeatable=True, group="Listeners",
        help="Address of the loopback listener, whose clients may send to the world; repeatable. "
        "Default: 127.0.0.1 and ::1.",
    )  # fmt: skip
    listen: tuple[Endpoint, ...] = _setting(
        "--listen", metavar="ADDR[:PORT]", read=read_address, repeatable=True, group="Listeners",
        help="Address of the network listener, whose clients reach local users only; repeatable. "
        "Default: all, IPv4 and IPv6.",
    )  # fmt: skip
    no_network: bool = _setting(
        "--no-network", read=bool, default=False, group="Listeners", help="Loopback listener only."
    )
    given_queue: str | None = _setting(
        "--queue", metavar="DIR", read=read_path, group="Relay",
        help="Folder of the mail waiting to be relayed. Default: SPOOL/.queue.",
    )  # fmt: skip
    resolver: tuple[Endpoint, ...] = _setting(
        "--resolver", metavar="ADDR[:PORT]", read=read_address, repeatable=True, group="Relay",
        help="DNS server; repeatable. Default: those of /etc/resolv.conf.",
    )  # fmt: skip
    smarthost: Endpoint | None = _setting(
        "--smarthost", metavar="HOST[:PORT]", read=read_host, group="Relay",
        help="Send everything there instead of to the MX: port 25, 587 (STARTTLS), or 465 (TLS at once).",
    )  # fmt: skip
    smarthost_auth: str | None = _setting(
        "--smarthost-auth", metavar="FILE", read=read_path, group="Relay",
        help="File with user:password for the smarthost; nobody but its owner may read it. "
        "It is sent only over TLS with a certificate that verifies.",
    )  # fmt: skip
    retry_schedule: tuple[float, ...] = _setting(
        "--retry-schedule", metavar="TIMES", read=read_durations, default=RetryPolicy().schedule, group="Relay",
        help="Waits between attempts, the last one repeated. Default: 1m 5m 10m 20m 40m 80m 2h.",
    )  # fmt: skip
    queue_lifetime: float = _setting(
        "--queue-lifetime", metavar="TIME", read=read_duration, default=RetryPolicy().lifetime, group="Relay",
        help="A message that could not be delivered for so long goes back to its sender. Default: 5d.",
    )  # fmt: skip
    delay_notice: float = _setting(
        "--delay-notice", metavar="TIME", read=read_duration, default=RetryPolicy().delay_notice, group="Relay",
        help="After so long the sender is told that a message is delayed. Default: 4h.",
    )  # fmt: skip
    connect_timeout: float = _setting(
        "--connect-timeout", metavar="SECONDS", read=read_duration, default=15.0, group="Relay",
        help="Patience with another server's connection.",
    )  # fmt: skip
    reply_timeout: float = _setting(
        "--reply-timeout", metavar="SECONDS", read=read_duration, default=300.0, group="Relay",
        help="Patience with another server's replies.",
    )  # fmt: skip
    max_deliveries: int = _setting(
        "--max-deliveries", metavar="N", read=read_count, default=100, group="Relay",
        help="Connections to other servers at a time.",
    )  # fmt: skip
    max_deliveries_per_destination: int = _setting(
        "--max-deliveries-per-destination", metavar="N", read=read_count, default=10, group="Relay",
        help="The same, to one destination.",
    )  # fmt: skip
    tls_cert: str | None = _setting(
        "--tls-cert", metavar="FILE", read=read_path, group="TLS",
        help="Certificate chain (PEM); with it STARTTLS is offered.",
    )  # fmt: skip
    tls_key: str | None = _setting(
        "--tls-key", metavar="FILE", read=read_path, group="TLS",
        help="Key of the certificate. Default: in the file of --tls-cert.",
    )  # fmt: skip
    max_size: int = _setting(
        "--max-size", metavar="SIZE", read=read_size, default=50 * 1024**2, group="Limits",
        help="Octets of a message; K, M, G may stand behind the number.",
    )  # fmt: skip
    max_recipients: int = _setting(
        "--max-recipients", metavar="N", read=read_count, default=1000, group="Limits",
        help="Recipients of a message.",
    )  # fmt: skip
    max_connections: int = _setting(
        "--max-connections", metavar="N", read=read_count, default=1000, group="Limits",
        help="Connections at a time.",
    )  # fmt: skip
    max_connections_per_client: int = _setting(
        "--max-connections-per-client", metavar="N", read=read_count, default=100, group="Limits",
        help="Connections at a time from one IPv4 address or IPv6 /64; the loopback listener has no such limit.",
    )  # fmt: skip
    timeout: float = _setting(
        "--timeout", metavar="SECONDS", read=read_duration, default=300.0, group="Limits",
        help="Longest silence of a client.",
    )  # fmt: skip
    given_processes: int | None = _setting(
        "--processes", metavar="N", read=read_count, group="Limits",
        help="Processes that serve clients. Default: one for each processor, at most 4.",
    )  # fmt: skip
    given_log_format: str | None = _setting(
        "--log-format", choices=("json", "console"), group="Log",
        help="Format of the log. Default: console on a terminal, json elsewhere.",
    )  # fmt: skip
    log_level: str = _setting(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", group="Log",
        help="The least level that is logged.",
    )  # fmt: skip

    @cached_property
    def hostname(self) -> str:
        """The name of this server."""
        return self.given_hostname or full_hostname()

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The local domains."""
        return self.suffix or (full_hostname(),)

    @property
    def queue(self) -> str:
        """The folder of the queue."""
        return self.given_queue or os.path.join(self.spool, ".queue")

    @property
    def processes(self) -> int:
        """How many processes serve clients."""
        return self.given_processes or min(len(os.sched_getaffinity(0)), 4)

    @property
    def retry_policy(self) -> RetryPolicy:
        """When mail is tried again, and for how long."""
        return RetryPolicy(self.retry_schedule, self.queue_lifetime, self.delay_notice)

    @property
    def log_format(self) -> str:
        """json or console."""
        return self.given_log_format or ("console" if os.isatty(2) else "json")

    def check(self) -> None:
        """Looks at how the settings go together and at files and folders. Raises ConfigError."""
        if self.tls_key and not self.tls_cert:
            raise ConfigError("--tls-key: there is no certificate: give --tls-cert too")
        if self.tls_cert:
            self.tls_context()
        if self.smarthost_auth:
            if not self.smarthost:
                raise ConfigError("--smarthost-auth: there is no smarthost: give --smarthost too")
            self.read_smarthost_auth()
        check_folder(self.spool, "--spool", 0o755)
        check_folder(self.queue, "--queue", 0o700)

    def read_smarthost_auth(self) -> tuple[str, str]:
        """User and password for the smarthost. Raises ConfigError."""
        path = self.smarthost_auth or ""
        try:
            with open(path, encoding="utf-8") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise ConfigError(f"--smarthost-auth: others can read {path}; chmod 600 it")
                user, colon, password = file.readline().rstrip("\r\n").partition(":")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--smarthost-auth: cannot read {path}: {error}") from None
        if not user or not colon or not password:
            raise ConfigError(f"--smarthost-auth: user:password is wanted in the first line of {path}")
        return user, password

    def tls_context(self) -> ssl.SSLContext:
        """The TLS of the listeners, from the files as they are now. Raises ConfigError."""
        assert self.tls_cert
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for name, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key or self.tls_cert)):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise ConfigError(f"{name}: cannot read {path}: {error.strerror}") from None
        try:
            # Without a password function OpenSSL would ask on the terminal.
            context.load_cert_chain(self.tls_cert, self.tls_key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"--tls-cert: {self.tls_cert} and {self.tls_key or 'the key in it'} are no certificate "
                f"(PEM) with its key, without a password: {error}"
            ) from None
        return context


def settings() -> dict[str, Setting]:
    """All settings by the name of their field."""
    return {f.name: f.metadata["setting"] for f in dataclasses.fields(Config)}


def default(name: str) -> Any:
    """What a setting is when nobody sets it."""
    return next(f.default for f in dataclasses.fields(Config) if f.name == name)


def load(options: Mapping[str, Any], environment: Mapping[str, str], file: str | None = None) -> Config:
    """The settings: `options` (by field, only those given) before the environment before the file.

    Raises ConfigError. `file` is an explicit --config; otherwise SMTPMAIL_CONFIG, then DEFAULT_FILE if it exists.
    """
    path = file or environment.get("SMTPMAIL_CONFIG") or None
    if path is None and os.path.exists(DEFAULT_FILE):
        path = DEFAULT_FILE
    from_file = read_file(path) if path else {}
    values: dict[str, Any] = {}
    for name, setting in settings().items():
        if name in options:
            values[name] = setting.parse(options[name], setting.names[-1])
        elif setting.variable in environment:
            text = environment[setting.variable]
            values[name] = setting.parse(text.split() if setting.repeatable else text, setting.variable)
        elif setting.key in from_file:
            values[name] = setting.parse(from_file[setting.key], f"{path}: {setting.key}")
    return Config(**values)


def read_file(path: str) -> dict[str, Any]:
    """The keys of the TOML file, dashes between words (underscores are taken too). Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    known = {setting.key for setting in settings().values()}
    values = {}
    for key, value in raw.items():
        name = key.replace("_", "-")
        if name not in known:
            raise ConfigError(f"{path}: unknown key {key!r}; known are {', '.join(sorted(known))}")
        values[name] = value
    return values
