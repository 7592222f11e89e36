"""`smtpmail verify FILE`: is a message what it says it is, and why it was let through, refused, or put into Junk."""

from __future__ import annotations

import ipaddress
import json
import re
import sys
import time
from dataclasses import dataclass
from typing import Any, BinaryIO

import click

from smtpmail.auth.fields import Field, split_header, unfolded
from smtpmail.auth.inspector import ExemptionsFile
from smtpmail.auth.verify import Address, MessageCheck, Verdict
from smtpmail.dns.resolver import Resolver
from smtpmail.mail.head import HEAD_LIMIT, header_of
from smtpmail.settings.options import SettingsCommand, load_config
from smtpmail.smtp.framing import LineEnds

PIECE = 64 * 1024
TEMPORARY = 75
"""Exit status: try again later (EX_TEMPFAIL of sysexits.h)."""

_RECEIVED = re.compile(r"from\s+(?P<helo>\S+)\s+\([^()]*?\[(?:IPv6:)?(?P<address>[0-9A-Fa-f.:]+)\]", re.IGNORECASE)


@dataclass(frozen=True)
class Origin:
    """Where a message came from; `client` is None when nobody knows."""

    client: Address | None
    helo: str
    sender: str


@click.command(cls=SettingsCommand, short_help="Is a message what it says it is, and why.")
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE]")
@click.option("--ip", metavar="ADDR", help="Who brought it. Default: as the first Received field says.")
@click.option("--helo", metavar="NAME", help="What that called itself. Default: the same.")
@click.option("--sender", metavar="ADDR", help="The sender of the envelope. Default: as Return-Path says.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def verify(
    ctx: click.Context, /, file: BinaryIO, ip: str | None, helo: str | None, sender: str | None, as_json: bool
) -> None:
    """Check a stored message (or standard input) by SPF, DKIM, DMARC and reverse DNS, as the server does it.

    Exit status 0: DMARC passes or has nothing to say; 1: it fails; 75: the DNS did not answer.
    """
    config = load_config(ctx)
    pieces = LineEnds()
    start = _without_separator(pieces.convert(file.read(HEAD_LIMIT)))
    known = origin(split_header(header_of(start)))
    try:
        client = ipaddress.ip_address(ip) if ip else known.client
    except ValueError:
        raise click.BadParameter(f"{ip!r} is no IP address", param_hint="--ip") from None
    known = Origin(client, helo or known.helo, sender if sender is not None else known.sender)
    check = MessageCheck(known.client, known.helo, known.sender, time.time())
    check.write(start)
    while data := file.read(PIECE):
        check.write(pieces.convert(data))
    check.write(pieces.convert(b"", last=True))
    resolver = Resolver(config.resolver)
    verdict = check.finish(
        lambda name, kind: resolver.lookup(name, kind, patience=config.verify_timeout),
        config.verify_timeout,
        ExemptionsFile(config.verify_exempt).current(),
    )
    if as_json:
        click.echo(json.dumps(as_dict(verdict, known), indent=2))
    else:
        click.echo("\n".join(lines(verdict, known)))
    sys.exit(status(verdict))


def _without_separator(text: bytes) -> bytes:
    """Without the line that begins a message in an mbox file."""
    return text.partition(b"\n")[2] if text.startswith(b"From ") else text


def origin(header: list[Field]) -> Origin:
    """What the fields say that a server writes when it takes a message: the first of each."""
    sender, helo, client = "", "", None
    for field in header:
        value = unfolded(field.value)
        if field.name == b"return-path" and not sender:
            sender = value.strip("<> ")
        elif field.name == b"received":
            if match := _RECEIVED.search(value):
                helo = match["helo"]
                try:
                    client = ipaddress.ip_address(match["address"])
                except ValueError:
                    client = None
            break
    if client is not None and client.is_loopback:
        client = None
    return Origin(client, helo, sender)


def status(verdict: Verdict) -> int:
    """The exit status."""
    return {"pass": 0, "none": 0, "temperror": TEMPORARY}.get(verdict.dmarc.result, 1)


def lines(verdict: Verdict, known: Origin) -> list[str]:
    """The verdict for people."""
    said = [
        f"author     {verdict.dmarc.domain or 'unknown'}",
        f"sender     <{known.sender}>",
        f"brought by {known.client} ({known.helo or 'without a name'})"
        if known.client
        else "brought by a program of this host, or nobody knows; --ip says it: without it there is no SPF",
        "",
    ]
    said += [f"{method:7}{result:11}{reason}".rstrip() for method, result, reason in verdict.rows()]
    said += ["", _conclusion(verdict)]
    return said


def _conclusion(verdict: Verdict) -> str:
    dmarc = verdict.dmarc
    if verdict.exempted:
        return f"It is let through whatever the checks say: {verdict.exempted} is exempted (--verify-exempt)."
    match dmarc.result:
        case "pass":
            return f"It is from {dmarc.domain}."
        case "none":
            return f"Nobody can tell whether it is from {dmarc.domain}: {dmarc.reason}."
        case "temperror":
            return "Nobody can tell now: the DNS did not answer. It would be let through."
    advice = {"reject": "to refuse it", "quarantine": "to put it into Junk"}.get(verdict.disposition)
    asks = f"the domain asks {advice}" if advice else "the domain asks for nothing"
    return f"It is not proven to be from {dmarc.domain or 'anybody'}, and {asks}: {verdict.reason}."


def as_dict(verdict: Verdict, known: Origin) -> dict[str, Any]:
    """The verdict for programs."""
    return {
        "client": str(known.client) if known.client else None,
        "helo": known.helo,
        "sender": known.sender,
        "spf": verdict.spf
        and {"result": verdict.spf.result, "domain": verdict.spf.domain, "reason": verdict.spf.reason},
        "dkim": [
            {"result": d.result, "domain": d.domain, "selector": d.selector, "reason": d.reason} for d in verdict.dkim
        ],
        "dmarc": {
            "result": verdict.dmarc.result,
            "domain": verdict.dmarc.domain,
            "policy": verdict.dmarc.policy,
            "reason": verdict.dmarc.reason,
        },
        "iprev": verdict.iprev and {"result": verdict.iprev.result, "reason": verdict.iprev.reason},
        "disposition": verdict.disposition,
        "exempted": verdict.exempted,
    }
