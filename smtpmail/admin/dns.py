"""`smtpmail dns records | publish | check`: the DNS records of the mail domains."""

from __future__ import annotations

import ipaddress
import json
import sys
from dataclasses import replace
from typing import Any, TextIO

import click

from smtpmail.admin.dns_check import WELL_KNOWN, MailHost, findings
from smtpmail.admin.dns_records import POLICIES, Address, Record, needed, tasks
from smtpmail.admin.dns_services import offered
from smtpmail.admin.dns_update import Publisher, UpdateFailed, parse_key
from smtpmail.admin.lookup import while_answered
from smtpmail.auth.dkim_keys import RETIRED, Key, KeyFileError, KeyFolder
from smtpmail.auth.lookup import is_or_below
from smtpmail.dns.errors import DNSError
from smtpmail.dns.resolver import Resolver
from smtpmail.network import public_addresses
from smtpmail.settings import machine
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsGroup, load_config
from smtpmail.settings.values import ConfigError


class AddressType(click.ParamType):  # type: ignore[type-arg]  # generic since Click 8.4 alone
    """An IP address on the command line."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return ipaddress.ip_address(value)
        except ValueError:
            self.fail(f"{value!r} is no IP address", param, ctx)


HEADINGS = {
    "add": "add",
    "replace": "replace: one stands in the place of another",
    "keep": "keep: these are right",
    "check": "add, unless it is there: DNS did not answer",
}

address_option = click.option(
    "--address", "addresses", type=AddressType(), multiple=True, metavar="ADDR",
    help="A public address of this host; repeatable. Default: those of its interfaces.",
)  # fmt: skip
dmarc_option = click.option(
    "--dmarc",
    type=click.Choice(POLICIES),
    default="none",
    help="The least that the domains ask of receivers of forged mail; a stricter policy stays.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group(cls=SettingsGroup)
def dns() -> None:
    """The DNS records that the local domains need: list, publish or check them."""


@dns.command()
@address_option
@dmarc_option
@json_option
@click.pass_context
def records(ctx: click.Context, /, addresses: tuple[Address, ...], dmarc: str, as_json: bool) -> None:
    """List what to enter at the provider, as lines of a zone file: records to add, to replace, and to keep.

    Records that exist are looked up, and joined as `publish` does it.
    """
    settings = load_config(ctx)
    host = mail_host(settings, addresses)
    lookup, silent = Resolver(settings.resolver).records, set[str]()

    def existing(name: str, kind: str) -> list[str] | None:
        if name in silent or (name.startswith("_") and any(name.endswith(f".{other}") for other in silent)):
            return None
        try:
            alias = lookup(name, "CNAME")
            if alias:
                raise ConfigError(
                    f"{name} is an alias (CNAME {alias[0]}); a mail host and a mail domain may not be one"
                )
            return lookup(name, kind)
        except DNSError as error:
            # Each further question to a zone that does not answer would cost its time, too.
            silent.add(name)
            click.echo(f"smtpmail dns records: {error}", err=True)
            return None

    wanted = tasks(records_of(host, dmarc), existing)
    if as_json:
        click.echo(json.dumps([task.as_dict() for task in wanted], indent=2))
        return
    for action, heading in HEADINGS.items():
        chosen = [task for task in wanted if task.action == action]
        if chosen:
            click.echo(f"; {heading}")
        for task in chosen:
            for value in task.replaces:
                click.echo(f"; remove: {task.record.name} {task.record.type} {value}")
            click.echo(f"{task.record!s:70} ; {task.record.purpose}")


@dns.command()
@address_option
@dmarc_option
@json_option
@click.option("--server", metavar="HOST", help="The primary server. Default: the one that the zone's SOA record names.")
@click.option(
    "--key-file",
    type=click.File(),
    required=True,
    metavar="FILE",
    help="The TSIG key, as tsig-keygen writes it; - for standard input.",
)
@click.option(
    "--wait",
    type=float,
    default=0,
    metavar="SECONDS",
    help="Wait until all authoritative servers answer with the records.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be changed.")
@click.pass_context
def publish(
    ctx: click.Context,
    /,
    addresses: tuple[Address, ...],
    dmarc: str,
    as_json: bool,
    server: str | None,
    key_file: TextIO,
    wait: float,
    dry_run: bool,
) -> None:
    """Send the records to the primary server (RFC 2136); all other records stay as they are."""
    settings = load_config(ctx)
    host = mail_host(settings, addresses)
    wanted = records_of(host, dmarc)
    try:
        publisher = Publisher(Resolver(settings.resolver), parse_key(key_file.read()), server)
        changes = publisher.publish(wanted, dry_run=dry_run)
        if wait and not dry_run:
            publisher.wait(wanted, wait)
    except (DNSError, UpdateFailed) as error:
        click.echo(f"smtpmail dns publish: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps({"changes": [str(change) for change in changes], "primaries": publisher.primaries}))
    else:
        click.echo("\n".join(map(str, changes)) or "all records are there")


@dns.command()
@address_option
@json_option
@click.option(
    "--outbound",
    multiple=True,
    metavar="HOST",
    help="A mail server of others, reached on port 25; repeatable, one is enough. Default: some that everybody knows.",
)
@click.option("--dns-only", is_flag=True, help="Look at the records alone: connect to no port.")
@click.pass_context
def check(
    ctx: click.Context,
    /,
    addresses: tuple[Address, ...],
    as_json: bool,
    outbound: tuple[str, ...],
    dns_only: bool,
) -> None:
    """Look at this host as a sender or receiver of mail sees it. Exit status 1 when something is wrong."""
    settings = load_config(ctx)
    try:
        host = replace(mail_host(settings, addresses), outbound=outbound or WELL_KNOWN, smarthost=smarthost(settings))
        lookup = while_answered(Resolver(settings.resolver).records)
        found = list(findings(host, lookup, look_at_port=not dns_only))
    except DNSError as error:
        click.echo(f"smtpmail dns check: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(str(finding))
    sys.exit(any(finding.level == "error" for finding in found))


def smarthost(settings: Config) -> tuple[str, int] | None:
    """Host and port through which all mail leaves."""
    return (settings.smarthost.host, settings.smarthost.port or 25) if settings.smarthost else None


def records_of(host: MailHost, dmarc: str) -> list[Record]:
    """All records that the host needs."""
    return needed(host.domains, host.hostname, host.addresses, key_records(host), dmarc, host.services)


def key_records(host: MailHost) -> list[tuple[str, str]]:
    """Name and text of the records of the host's keys: of those that sign, and of those that come next."""
    return [(key.record_name, key.record) for key in host.keys if key.state != RETIRED]


def dkim_keys(settings: Config) -> tuple[Key, ...]:
    """The keys of the local domains. Raises ConfigError."""
    if not settings.dkim_keys:
        return ()
    machine.require_answer("--dkim-keys", settings.dkim_keys)
    folder = KeyFolder(settings.dkim_keys)
    try:
        domains = [d for d in folder.domains() if any(is_or_below(d, local) for local in settings.domains)]
        return tuple(key for domain in domains for key in folder.keys(domain))
    except KeyFileError as error:
        raise ConfigError(f"--dkim-keys: {error}") from None


def mail_host(settings: Config, addresses: tuple[Address, ...]) -> MailHost:
    """The host of the settings, with its addresses as given or found. Raises ConfigError."""
    known = addresses or tuple(public_addresses())
    if not known:
        raise ConfigError("--address: no interface of this host has a public address; give those that the world sees")
    return MailHost(
        settings.hostname, settings.domains, known, settings.port,
        keys=dkim_keys(settings), services=offered(settings),
    )  # fmt: skip
