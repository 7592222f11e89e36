"""The field that tells readers what the checks found, and what forgers write in its place (RFC 8601)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from smtpmail.auth.dkim import DkimResult
from smtpmail.auth.dmarc import DmarcResult
from smtpmail.auth.fields import split_header, unfolded
from smtpmail.auth.iprev import IprevResult
from smtpmail.auth.lookup import a_labels
from smtpmail.auth.spf import SpfResult
from smtpmail.auth.tags import printable

NAME = b"authentication-results"
_MAX_COMMENT = 200
_MAX_VALUE = 500
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
_ADDRESS = re.compile(
    r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\u0080-\U0010ffff-]+|\"(?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*\")"
    r"@[A-Za-z0-9_.\u0080-\U0010ffff-]+"
)


def build(
    authserv_id: str,
    *,
    sender: str,
    helo: str,
    spf: SpfResult | None,
    dkim: Sequence[DkimResult] | None,
    dmarc: DmarcResult | None,
    iprev: IprevResult | None,
    remark: str = "",
) -> bytes:
    """The whole field, with LF line ends; None for a method that was not tried. `remark`: a comment at its end."""
    parts: list[str] = []
    if spf:
        identity = f"smtp.mailfrom={_value(sender)}" if sender else f"smtp.helo={_value(helo)}"
        parts.append(_method("spf", spf.result, identity, reason=spf.reason))
    if dkim is not None:
        for found in dkim:
            domain = f"header.d={found.domain}" if found.domain else ""
            selector = f"header.s={_value(found.selector)}" if found.selector else ""
            parts.append(_method("dkim", found.result, domain, selector, reason=found.reason))
        if not dkim:
            parts.append("dkim=none")
    if dmarc:
        author = f"header.from={dmarc.domain}" if dmarc.domain else ""
        reason = f"p={dmarc.policy}: {dmarc.reason}" if dmarc.result == "fail" else dmarc.reason
        parts.append(_method("dmarc", dmarc.result, author, reason=reason))
    if iprev:
        parts.append(_method("iprev", iprev.result, f"policy.iprev={_value(iprev.address)}", reason=iprev.reason))
    if not parts:
        parts.append("none")
    if remark:
        parts[-1] += f" {_comment(remark)}"
    lines = ";\n\t".join([_value(authserv_id), *parts])
    return f"Authentication-Results: {lines}\n".encode("utf-8", "replace")


def _method(method: str, result: str, *properties: str, reason: str) -> str:
    words = [f"{method}={result}", *filter(None, properties)]
    if result not in ("pass", "none") and reason:
        words.append(_comment(reason))
    return " ".join(words)


def _value(text: str) -> str:
    """A property's value as the grammar has it: nothing in it ends the field, the method or the value (2.2)."""
    text = "".join(c if c.isprintable() else "?" for c in text[:_MAX_VALUE])
    if _TOKEN.fullmatch(text) or _ADDRESS.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _comment(text: str) -> str:
    escaped = re.sub(r"([\\()])", r"\\\1", printable(text, _MAX_COMMENT))
    return f"({escaped})"


def without_forged(header: bytes, authserv_id: str) -> bytes:
    """A header without the fields that claim to be of this server (5); all else byte for byte.

    Of such a name we have written none before: each one that came is forged. So is one whose writer can't be read.
    """
    if NAME not in header.lower():
        return header
    ours = a_labels(authserv_id) or authserv_id.lower()
    kept = []
    fields = split_header(header)
    if not fields[0].name:
        return header  # text whose first line is no field is stored as a body
    for field in fields:
        if field.name == NAME:
            claimed = _authserv_id(unfolded(field.value))
            if claimed is None or (a_labels(claimed) or claimed.lower()) == ours:
                continue
        kept.append(field.raw)
    return b"".join(kept)


def _authserv_id(value: str) -> str | None:
    """Who says that he wrote a field; None when that can't be read."""
    text = _without_comments(value).strip()
    match = re.match(r'"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s;"]+)', text)
    if not match:
        return None
    if match["quoted"] is not None:
        return re.sub(r"\\(.)", r"\1", match["quoted"]).strip()
    return match["token"]


def _without_comments(value: str) -> str:
    kept: list[str] = []
    depth = 0
    quoted = False
    escaped = False
    for character in value:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"' and not depth:
            quoted = not quoted
        elif character == "(" and not quoted:
            depth += 1
            continue
        elif character == ")" and not quoted and depth:
            depth -= 1
            continue
        if not depth:
            kept.append(character)
    return "".join(kept)


def plain(results: Iterable[tuple[str, str, str]]) -> list[str]:
    """Lines for people: method, result, and why."""
    return [f"{method:6} {result:9} {reason}".rstrip() for method, result, reason in results]
