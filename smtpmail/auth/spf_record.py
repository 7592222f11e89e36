"""The syntax of SPF records (RFC 7208 4.5, 4.6, 5, 6, 12): text in, terms out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from smtpmail.auth.tags import printable

RESULTS = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}

MAX_RECORD = 16 * 1024
"""Characters; a longer record is not evaluated."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MACRO = r"%(?:\{[slodiphcrtvSLODIPHCRTV][0-9]*[rR]?[-.+,/_=]*\}|[%_-])"
_MACRO_STRING = rf"(?:[!-$&-~]|{_MACRO})*"
_TERM = re.compile(r"(?P<qualifier>[+?~-]?)(?P<name>[A-Za-z][A-Za-z0-9_.-]*)(?P<rest>.*)", re.DOTALL)
_MODIFIER = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_.-]*)=(?P<value>.*)", re.DOTALL)
_MACRO_STRING_RE = re.compile(_MACRO_STRING)
_PIECE = re.compile(rf"{_MACRO}|[!-$&-~]+")
_TOP_LABEL = re.compile(r"[A-Za-z0-9-]+")
_CIDR = re.compile(r"(?:/(?P<four>0|[1-9][0-9]?))?(?://(?P<six>0|[1-9][0-9]{0,2}))?$")
_NETWORK4 = re.compile(r":(?P<address>[0-9.]+)(?:/(?:0|[1-9][0-9]?))?")
_NETWORK6 = re.compile(r":(?P<address>[0-9A-Fa-f:.]+)(?:/(?:0|[1-9][0-9]{0,2}))?")
_EXPLANATION_ONLY = re.compile(r"%\{[crtCRT]")


class PermanentError(Exception):
    """The policy can't be evaluated (permerror, RFC 7208 2.6.7): why."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One directive: what is to be matched, and the result if it does."""

    text: str
    """As it stands in the record."""
    result: str
    name: str
    target: str = ""
    """Its domain-spec, macros and all; "" means the current domain."""
    network: Network | None = None
    """Of ip4 and ip6."""
    prefix4: int = 32
    prefix6: int = 128


@dataclass(frozen=True, slots=True)
class Record:
    """A whole policy."""

    mechanisms: Sequence[Mechanism]
    redirect: str = ""
    explanation: str = ""


def is_record(text: str) -> bool:
    """Whether a TXT record is an SPF policy (RFC 7208 4.5)."""
    return (text + " ")[:7].lower() == "v=spf1 "


def parse(text: str) -> Record:
    """Raises PermanentError for a syntax error anywhere in the record (RFC 7208 4.6)."""
    if len(text) > MAX_RECORD:
        raise PermanentError(f"the record has {len(text)} characters")
    if not text.isascii():
        raise PermanentError("the record is not ASCII")
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, str] = {}
    for term in text[6:].split(" "):
        if not term:
            continue
        if match := _MODIFIER.fullmatch(term):
            _add_modifier(modifiers, match["name"].lower(), match["value"], term)
        else:
            mechanisms.append(_mechanism(term))
    return Record(mechanisms, modifiers.get("redirect", ""), modifiers.get("exp", ""))


def _is_domain_spec(text: str) -> bool:
    """The grammar of 7.1. In steps, each of which takes no longer than the text is: a stranger has written it."""
    if not text or not _MACRO_STRING_RE.fullmatch(text):
        return False
    if _PIECE.findall(text)[-1].startswith("%"):
        return True
    _, dot, label = text.removesuffix(".").rpartition(".")
    return bool(dot and _TOP_LABEL.fullmatch(label)) and "-" not in (label[0], label[-1]) and not label.isdecimal()


def _target(rest: str, wrong: PermanentError) -> str:
    """What follows the colon behind a mechanism's name; "" when there is none. Raises PermanentError."""
    if not rest:
        return ""
    if not rest.startswith(":") or not _is_domain_spec(rest[1:]):
        raise wrong
    return rest[1:]


def is_explanation(text: str) -> bool:
    """Whether a text of `exp=` has valid macros (RFC 7208 6.2, 12)."""
    return all(_MACRO_STRING_RE.fullmatch(word) for word in text.split(" "))


def _add_modifier(modifiers: dict[str, str], name: str, value: str, term: str) -> None:
    if name in ("redirect", "exp"):
        if name in modifiers:
            raise PermanentError(f"{name}= stands twice")
        if not _is_domain_spec(value) or _EXPLANATION_ONLY.search(value):
            raise PermanentError(f"'{printable(term)}' has no domain")
        modifiers[name] = value
    elif not _MACRO_STRING_RE.fullmatch(value):
        raise PermanentError(f"'{printable(term)}' has a macro that is not known")


def _mechanism(term: str) -> Mechanism:
    match = _TERM.fullmatch(term)
    if not match:
        raise PermanentError(f"'{printable(term)}' is not known")
    result, name, rest = RESULTS[match["qualifier"] or "+"], match["name"].lower(), match["rest"]
    wrong = PermanentError(f"'{printable(term)}' is malformed")
    if name == "all":
        if rest:
            raise wrong
        return Mechanism(term, result, name)
    if name in ("ip4", "ip6"):
        return Mechanism(term, result, name, network=_network(name, rest, wrong))
    if name in ("a", "mx"):
        found = _CIDR.search(rest)
        assert found
        target = _target(rest[: found.start()], wrong)
        four, six = int(found["four"] or 32), int(found["six"] or 128)
        if four > 32 or six > 128:
            raise wrong
    elif name in ("include", "exists", "ptr"):
        target = _target(rest, wrong)
        if name != "ptr" and not target:
            raise wrong
        four, six = 32, 128
    else:
        raise PermanentError(f"'{printable(term)}' is not known")
    if _EXPLANATION_ONLY.search(target):
        raise wrong
    return Mechanism(term, result, name, target, prefix4=four, prefix6=six)


def _network(name: str, rest: str, wrong: PermanentError) -> Network:
    match = (_NETWORK4 if name == "ip4" else _NETWORK6).fullmatch(rest)
    if not match:
        raise wrong
    try:
        if name == "ip4":
            return ipaddress.IPv4Network(rest[1:], strict=False)
        return ipaddress.IPv6Network(rest[1:], strict=False)
    except ValueError:
        raise wrong from None
