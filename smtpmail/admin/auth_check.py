"""What receivers conclude of mail of a domain: its keys, its policies, and a message that is sent in mind only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from smtpmail.admin.dns_records import Address, absolute, quoted, text_of
from smtpmail.admin.lookup import Lookup, answers
from smtpmail.auth import dkim_sign
from smtpmail.auth.dkim_keys import SIGNING, Key
from smtpmail.auth.dmarc_record import Tree
from smtpmail.auth.fields import split_header
from smtpmail.auth.lookup import is_or_below
from smtpmail.auth.tags import without_blanks
from smtpmail.auth.verify import MessageCheck
from smtpmail.dns.errors import DNSError
from smtpmail.settings.finding import Finding

SECONDS = 20.0
"""Patience with the DNS for the message."""

Check = tuple[str, str, Callable[[], Iterator[Finding]]]


def checks(
    hostname: str, domain: str, addresses: Sequence[Address], keys: Sequence[Key], lookup: Lookup
) -> list[Check]:
    """The checks of a domain, each with its kind and its subject."""
    own = [key for key in keys if is_or_below(domain, key.domain)]
    found: list[Check] = [
        ("dkim", domain, lambda: _keys(domain, [key for key in keys if is_or_below(key.domain, domain)], lookup)),
        ("dmarc", domain, lambda: _policy(domain, lookup)),
        ("tls-rpt", domain, lambda: _tls_reports(domain, lookup)),
    ]
    found += [
        ("message", domain, lambda address=address: _message(hostname, domain, address, own, lookup))  # type: ignore[misc]
        for address in addresses
    ]
    return found


def _keys(domain: str, keys: Sequence[Key], lookup: Lookup) -> Iterator[Finding]:
    if not any(key.state == SIGNING for key in keys):
        yield Finding(
            "dkim", domain, "warning", "mail is not signed: large receivers take it for spam",
            f"smtpmail dkim new {domain} --dkim-keys DIR; publish what it prints; start the server with --dkim-keys",
        )  # fmt: skip
    for key in keys:
        texts = [text_of(value) for value in lookup(absolute(key.record_name), "TXT")]
        right = any(_public(text) == _public(key.record) for text in texts)
        if right:
            yield Finding("dkim", key.record_name, "ok", "the key's record is right")
            continue
        level = "error" if key.state == SIGNING else "warning"
        text = "the record is of another key" if texts else "the key has no record"
        if key.state != SIGNING:
            text += ", so it does not sign yet"
        yield Finding(
            "dkim", key.record_name, level, text, f"add: {absolute(key.record_name)} TXT {quoted(key.record)}"
        )


def _public(record: str) -> str:
    return without_blanks(record.partition("p=")[2].partition(";")[0])


def _policy(domain: str, lookup: Lookup) -> Iterator[Finding]:
    found = Tree(answers(lookup)).discover(domain)
    if found is None:
        yield Finding(
            "dmarc", domain, "warning", "there is no DMARC policy: anybody can write as this domain",
            f'add: _dmarc.{absolute(domain)} TXT "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"',
        )  # fmt: skip
    elif found.policy == "none":
        yield Finding(
            "dmarc", domain, "ok",
            "p=none: receivers tell about forged mail, and let it through; when their reports name no sender of yours, "
            "smtpmail dns publish --dmarc quarantine, later reject",
        )  # fmt: skip
    else:
        where = "" if found.domain == domain else f", by the policy of {found.domain}"
        yield Finding("dmarc", domain, "ok", f"forged mail is to be {_DONE[found.policy]}{where}")


_DONE = {"quarantine": "put aside", "reject": "refused"}


def _tls_reports(domain: str, lookup: Lookup) -> Iterator[Finding]:
    name = f"_smtp._tls.{absolute(domain)}"
    if any(text_of(value).startswith("v=TLSRPTv1") for value in lookup(name, "TXT")):
        yield Finding("tls-rpt", domain, "ok", "reports of failed encryption are asked for")
    else:
        yield Finding(
            "tls-rpt", domain, "warning", "nobody is told when mail for it can't be encrypted",
            f'add: {name} TXT "v=TLSRPTv1; rua=mailto:postmaster@{domain}"',
        )  # fmt: skip


def _message(hostname: str, domain: str, address: Address, keys: Sequence[Key], lookup: Lookup) -> Iterator[Finding]:
    """Signs a message, and judges it as a receiver would: by what the DNS says."""
    header = (
        f"From: postmaster@{domain}\nTo: somebody@example.org\nSubject: check\n"
        f"Date: Thu, 1 Jan 1970 00:00:00 +0000\nMessage-ID: <check@{hostname}>\n"
    ).encode()
    body = b"Would you believe this?\n"
    hashed = dkim_sign.body_hash()
    hashed.update(body)
    signing = [key for key in keys if key.state == SIGNING]
    nearest = max((key.domain for key in signing), key=len, default="")
    signatures = dkim_sign.sign(split_header(header), hashed.digest(), [k for k in signing if k.domain == nearest])
    check = MessageCheck(address, hostname, f"postmaster@{domain}", time.time())
    check.write(signatures + header + b"\n" + body)
    verdict = check.finish(answers(lookup), SECONDS)
    subject = f"of {domain} from {address}"
    said = f"SPF {verdict.spf.result if verdict.spf else 'none'}, DKIM " + (
        ", ".join(found.result for found in verdict.dkim) or "none"
    )
    result = verdict.dmarc.result
    if result == "fail":
        yield Finding(
            "message", subject, "error", f"a receiver concludes: {verdict.reason}", "correct what is named above"
        )
    elif result == "temperror":
        raise DNSError(verdict.dmarc.reason)
    elif result == "none":
        yield Finding("message", subject, "warning", f"{said}, no DMARC policy", "add the DMARC record")
    else:
        yield Finding("message", subject, "ok", f"a receiver believes it: {said}, DMARC {result}")
