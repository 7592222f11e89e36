"""What receivers conclude of mail of a domain: its keys, its policies, and a message that is sent in mind only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from smtpmail.admin.dns_records import Address, absolute, quoted, text_of
from smtpmail.admin.lookup import Lookup, answers
from smtpmail.auth import dkim_sign
from smtpmail.auth.dkim_keys import NEXT, RETIRED, SIGNING, Key, public_key, those_that_sign
from smtpmail.auth.dmarc_record import Tree, parse_record
from smtpmail.auth.fields import split_header
from smtpmail.auth.lookup import is_or_below
from smtpmail.auth.tags import colon_list, parse_tags
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
        try:
            yield _key(key, [text_of(value) for value in lookup(absolute(key.record_name), "TXT")])
        except DNSError as error:
            # Others may have names that answer.
            yield Finding(
                "dkim", key.record_name, "error" if key.state == SIGNING else "warning", str(error),
                "see that the zone's servers work",
            )  # fmt: skip


_WHAT_KEYS_DO = {
    SIGNING: ("error", ""),
    NEXT: ("warning", ", so it does not sign yet"),
    RETIRED: ("warning", "; mail that it signed may still be under way"),
}


def _key(key: Key, texts: Sequence[str]) -> Finding:
    """Whether the published records are those of a key."""
    level, what = _WHAT_KEYS_DO[key.state]
    name = key.record_name
    add = f"{absolute(name)} TXT {quoted(key.record)}"
    right = [text for text in texts if public_key(text) == public_key(key.record)]
    if not right:
        text = "the record is of another key" if texts else "the key has no record"
        if key.state == RETIRED and any(public_key(text) == "" for text in texts):
            return Finding("dkim", name, "ok", "the old key is withdrawn")
        return Finding("dkim", name, level, text + what, f"{'replace it by' if texts else 'add'}: {add}")
    if len(texts) > 1:
        return Finding(
            "dkim", name, "error", f"there are {len(texts)} records, and receivers look at one of them",
            f"leave only: {add}",
        )  # fmt: skip
    if "y" in colon_list(parse_tags(right[0]).get("t", "")):
        return Finding(
            "dkim", name, "warning", "the record says that the key is being tested: receivers may overlook signatures",
            f"replace it by: {add}",
        )  # fmt: skip
    does = {SIGNING: "it signs", NEXT: "it comes next", RETIRED: "the old key's, for mail under way"}[key.state]
    return Finding("dkim", name, "ok", f"the key's record is right: {does}")


def _policy(domain: str, lookup: Lookup) -> Iterator[Finding]:
    texts = [text_of(value) for value in lookup(f"_dmarc.{absolute(domain)}", "TXT")]
    policies = [text for text in texts if parse_record(text)]
    found = Tree(answers(lookup)).discover(domain)
    if len(policies) > 1:
        yield Finding(
            "dmarc", domain, "error", f"there are {len(policies)} DMARC records: receivers obey none of them",
            f"remove all but one at _dmarc.{absolute(domain)}",
        )  # fmt: skip
    elif found is None:
        yield Finding(
            "dmarc", domain, "warning", "there is no DMARC policy: anybody can write as this domain",
            f'add: _dmarc.{absolute(domain)} TXT "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"',
        )  # fmt: skip
    elif not found.record.applies:
        yield Finding(
            "dmarc", domain, "warning", "the DMARC record has no valid p=, sp= or np=: receivers overlook it",
            f'replace it by: _dmarc.{absolute(found.domain)} TXT "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"',
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
    nearest = max((key.domain for key in keys if key.state == SIGNING), key=len, default="")
    signing = those_that_sign(key for key in keys if key.domain == nearest)
    signatures = dkim_sign.sign(split_header(header), hashed.digest(), signing)
    check = MessageCheck(address, hostname, f"postmaster@{domain}", time.time())
    check.write(signatures + header + b"\n" + body)
    verdict = check.finish(answers(lookup), SECONDS)
    subject = f"of {domain} from {address}"
    spf = verdict.spf.result if verdict.spf else "none"
    said = (
        f"SPF {spf}, DKIM {', '.join(found.result for found in verdict.dkim) or 'none'}, DMARC {verdict.dmarc.result}"
    )
    signed = any(found.result == "pass" for found in verdict.dkim)
    failures = "; ".join(
        f"DKIM of {found.selector}: {found.reason}" for found in verdict.dkim if found.result != "pass"
    )
    match verdict.dmarc.result:
        case "temperror":
            raise DNSError(verdict.dmarc.reason)
        case "fail" | "permerror":
            done = {"reject": "refuses it", "quarantine": "puts it into Junk"}.get(verdict.disposition, "doubts it")
            text = f"a receiver {done} ({said}): {verdict.reason}"
            yield Finding("message", subject, "error", text, "correct what is named above")
        case "none":
            text = f"a receiver can't tell whether it is from {domain} ({said})"
            yield Finding("message", subject, "warning", text, "add the DMARC record")
        case _ if failures or not signed:
            text = f"a receiver believes it by SPF alone ({said}): forwarded mail will not be believed"
            if signed:
                text = f"a receiver believes it, but not all of its signatures ({said})"
            why = f"; {failures}" if failures else ""
            yield Finding("message", subject, "warning", text + why, "correct what is named above")
        case _ if spf != "pass":
            text = f"a receiver believes it by DKIM alone ({said}): {verdict.spf.reason if verdict.spf else 'no SPF'}"
            yield Finding("message", subject, "warning", text, "correct the SPF record")
        case _:
            yield Finding("message", subject, "ok", f"a receiver believes it ({said})")
