"""`smtpmail report`: what came and went in a time, in sum, out of the log: a page as pflogsumm's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import click

from smtpmail.admin.log_reader import entries, read_log, when
from smtpmail.admin.summary import Share, Summary, Tally
from smtpmail.mail.text import harmless

SHOWN = 200
"""Characters of foreign text in a line."""


@click.command(short_help="What came and went, in sum, out of the log.")
@click.argument("log", metavar="[FILE|-]...", nargs=-1)
@click.option(
    "--since", callback=when, metavar="TIME", help="From this time on: yesterday, '2 h ago', 2026-11-25 14:30."
)
@click.option("--until", callback=when, metavar="TIME", help="Before this time.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--mail-to", metavar="ADDRESS", help="Send it there instead of printing it (root, say).")
def report(
    log: tuple[str, ...], since: datetime | None, until: datetime | None, as_json: bool, mail_to: str | None
) -> None:
    """Sum up the log: messages received, stored, delivered, deferred and refused, why, by whom, and how much with TLS.

    Reads the JSON log from files (.gz, too), from standard input with -, else from `journalctl -u smtpmail`.
    """
    summary = Summary()
    for entry in entries(read_log(log, since, until), since, until):
        summary.take(entry)
    text = json.dumps(summary.as_dict(), indent=2) if as_json else "\n".join(page(summary))
    if mail_to is None:
        click.echo(text)
    else:
        _send(mail_to, click.unstyle(text))


def _send(address: str, text: str) -> None:
    """Hands the report to sendmail(8). Raises click.ClickException with what that said."""
    fields = f"To: {harmless(address)}\nSubject: Mail report\nContent-Type: text/plain; charset=utf-8\n"
    sent = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "smtpmail", "sendmail", "-i", "--", address],
        input=f"{fields}\n{text}\n".encode(), capture_output=True, check=False,
    )  # fmt: skip
    if sent.returncode:
        why = sent.stderr.decode(errors="replace").strip()
        raise click.ClickException(f"the report was not sent: {why or f'exit status {sent.returncode}'}")


def page(summary: Summary) -> Iterator[str]:
    """The report in lines for people."""
    if summary.first is None:
        yield "The log says nothing of this time."
        return
    yield click.style(f"Mail from {_moment(summary.first)} to {_moment(summary.last)} (UTC)", bold=True)
    yield ""
    by = summary.received
    listeners = ", ".join(f"{count:,} {name}" for name, count in by.most().items())
    yield _row("received", by.total, f"{_size(summary.octets)}, {summary.recipients:,} recipients ({listeners})")
    yield _row("stored", summary.stored.total, "copies in mailboxes")
    yield _row("delivered", summary.delivered.total, f"recipients elsewhere{_delays(summary)}")
    yield _row("deferred", summary.deferred.total, "attempts, to be made again")
    yield _row("failed", summary.failed.total, "recipients elsewhere, for good")
    yield _row("refused", summary.refused.total, f"recipients or messages; {summary.turned_away:,} connections")
    notices = ", ".join(f"{count:,} of {kind}" for kind, count in summary.bounces.most().items())
    yield _row("notices", summary.bounces.total, f"to senders ({notices})" if notices else "to senders")
    yield _row("errors", summary.errors.total, ", ".join(summary.errors.most()))
    yield f"{'TLS':10}  in {_percent(summary.tls_in)}, out {_percent(summary.tls_out)}, " + (
        f"of which verified {_percent(summary.verified_out)}"
    )
    yield from _table("Refused, by reason", summary.refused)
    yield from _table("Refused, by client", summary.refused_clients)
    yield from _table("Deferred, by destination", summary.deferred, summary.deferred_why)
    yield from _table("Failed, by destination", summary.failed, summary.failed_why)
    yield from _table("Delivered, by destination", summary.delivered)
    yield from _table("Stored, by mailbox", summary.stored)
    yield from _table("Senders, by messages", summary.senders)
    yield from _table("Senders, by size", summary.sender_octets, octets=True)


def _row(name: str, count: int, text: str) -> str:
    return f"{name:10}  {count:>9,}  {text}".rstrip()


def _table(title: str, tally: Tally, why: dict[str, str] | None = None, *, octets: bool = False) -> Iterator[str]:
    if not tally.total:
        return
    yield ""
    yield click.style(title, bold=True)
    for name, count in tally.most().items():
        reason = (why or {}).get(name, "")
        yield f"{_size(count) if octets else f'{count:,}':>11}  {harmless(name, SHOWN)}" + (
            f": {harmless(reason, SHOWN)}" if reason else ""
        )


def _delays(summary: Summary) -> str:
    told = summary.as_dict()["delivered"]
    if told["seconds_median"] is None:
        return ""
    return f"; half within {told['seconds_median']:.1f} s, 95 % within {told['seconds_95_percent']:.1f} s"


def _percent(share: Share) -> str:
    return "-" if share.percent is None else f"{share.percent:g} %"


def _size(octets: int) -> str:
    size, units = float(octets), iter(("octets", "KiB", "MiB", "GiB"))
    unit = next(units)
    while size >= 1024 and unit != "GiB":
        size, unit = size / 1024, next(units)
    return f"{octets} octets" if unit == "octets" else f"{size:,.1f} {unit}"


def _moment(text: str | None) -> str:
    return (text or "")[:16].replace("T", " ")
