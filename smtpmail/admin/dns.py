"""`smtpmail dns records | publish | check`: the DNS records of the mail domains."""

from __future__ import annotations

import ipaddress
import json
import sys
from typing import Any, TextIO

import click

from smtpmail.admin.dns_check import MailHost, findings
from smtpmail.admin.dns_records import Address, needed
from smtpmail.admin.dns_update import Publisher, UpdateFailed, parse_key
from smtpmail.dns.lookup import LookupFailed, make_resolver, through
from smtpmail.network import public_addresses
from smtpmail.settings.config import Config
from smtpmail.settings.options import SettingsGroup, load_config
from smtpmail.settings.values import ConfigError


class AddressType(click.ParamType[Address]):
    """An IP address on the command line."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return ipaddress.ip_address(value)
        except ValueError:
            self.fail(f"{value!r} is no IP address", param, ctx)


address_option = click.option(
    "--address", "addresses", type=AddressType(), multiple=True, metavar="ADDR",
    help="A public address of this host; repeatable. Default: those of its interfaces.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group(cls=SettingsGroup)
def dns() -> None:
    """The DNS records that the local domains need: list, publish or check them."""


@dns.command()
@address_option
@json_option
@click.pass_context
def records(ctx: click.Context, /, addresses: tuple[Address, ...], as_json: bool) -> None:
    """List the records as lines of a zone file, to be entered at the provider."""
    host = mail_host(load_config(ctx), addresses)
    wanted = needed(host.domains, host.hostname, host.addresses)
    if as_json:
        click.echo(json.dumps([record.as_dict() for record in wanted], indent=2))
        return
    for record in wanted:
        click.echo(f"{record!s:70} ; {record.purpose}")


@dns.command()
@address_option
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
    as_json: bool,
    server: str | None,
    key_file: TextIO,
    wait: float,
    dry_run: bool,
) -> None:
    """Send the records to the primary server (RFC 2136); all other records stay as they are."""
    settings = load_config(ctx)
    host = mail_host(settings, addresses)
    wanted = needed(host.domains, host.hostname, host.addresses)
    try:
        publisher = Publisher(make_resolver(settings.resolver), parse_key(key_file.read()), server)
        changes = publisher.publish(wanted, dry_run=dry_run)
        if wait and not dry_run:
            publisher.wait(wanted, wait)
    except (LookupFailed, UpdateFailed) as error:
        click.echo(f"smtpmail dns publish: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps({"changes": [str(change) for change in changes]}))
    else:
        click.echo("\n".join(map(str, changes)) or "all records are there")


@dns.command()
@address_option
@json_option
@click.pass_context
def check(ctx: click.Context, /, addresses: tuple[Address, ...], as_json: bool) -> None:
    """Look at this host as a sender or receiver of mail sees it. Exit status 1 when something is wrong."""
    settings = load_config(ctx)
    try:
        found = list(findings(mail_host(settings, addresses), through(make_resolver(settings.resolver))))
    except LookupFailed as error:
        click.echo(f"smtpmail dns check: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(str(finding))
    sys.exit(any(finding.level == "error" for finding in found))


def mail_host(settings: Config, addresses: tuple[Address, ...]) -> MailHost:
    """The host of the settings, with its addresses as given or found. Raises ConfigError."""
    known = addresses or tuple(public_addresses())
    if not known:
        raise ConfigError("--address: no interface of this host has a public address; give those that the world sees")
    return MailHost(settings.hostname, settings.domains, known, settings.port)
