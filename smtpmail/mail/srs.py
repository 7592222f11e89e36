"""Sender rewriting (SRS): the sender of a forwarded message as an address of this host, and back.

Who forwards a message with its sender as it is fails the SPF check of the sender's domain. `SRS0=hash=day=domain=local`
says whose message it was, is proved by a key of this host's own, and holds for a few days; of an address that another
forwarder has rewritten, `SRS1=hash=forwarder=...` keeps their part as it is. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from smtpmail.mail.address import Address

VALID_DAYS = 10
"""A bounce may come back for so long: our queue's five days, and the other server's."""

HASH_LENGTH = 8
"""Characters: 40 bits, which nobody guesses over SMTP."""

_DAYS = 1024
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_SRS0 = re.compile(r"srs0[=+-]([^=]+)=([^=]+)=([^=]+)=(.+)", re.IGNORECASE | re.DOTALL)
_SRS1 = re.compile(r"srs1[=+-]([^=]+)=([^=]+)=([=+-].+)", re.IGNORECASE | re.DOTALL)
_ANY_SRS0 = re.compile(r"srs0([=+-].+)", re.IGNORECASE | re.DOTALL)
_ANY_SRS1 = re.compile(r"srs1[=+-][^=]+=([^=]+)=([=+-].+)", re.IGNORECASE | re.DOTALL)


class SRSError(ValueError):
    """An address that says it was rewritten here, and was not, or too long ago."""


def is_rewritten(local_part: str) -> bool:
    """Whether a local part looks like one of SRS."""
    return _SRS0.fullmatch(local_part) is not None or _SRS1.fullmatch(local_part) is not None


def rewrite(sender: Address, domain: str, key: bytes, now: float) -> Address:
    """The sender as an address of `domain`, which must be local here. The null sender stays as it is."""
    if sender.is_null or sender.domain.lower() == domain.lower():
        return sender
    if again := _ANY_SRS1.fullmatch(sender.local):
        # The first forwarder's part is what leads back; those between need not be asked.
        first, rest = again[1], again[2]
        return Address(f"SRS1={_hash(key, first + rest)}={first}={rest}", domain)
    if first_time := _ANY_SRS0.fullmatch(sender.local):
        first, rest = sender.domain, first_time[1]
        return Address(f"SRS1={_hash(key, first + rest)}={first}={rest}", domain)
    day = _day(now)
    text = f"{day}={sender.domain}={sender.local}"
    return Address(f"SRS0={_hash(key, text)}={text}", domain)


def reverse(local_part: str, key: bytes, now: float) -> Address:
    """To whom a bounce to this local part goes. Raises SRSError."""
    if match := _SRS0.fullmatch(local_part):
        given, day, domain, local = match.groups()
        _verify(given, f"{day}={domain}={local}", key)
        if _age(day, now) > VALID_DAYS:
            raise SRSError("the address has expired")
        return Address(local, domain)
    if match := _SRS1.fullmatch(local_part):
        given, first, rest = match.groups()
        _verify(given, first + rest, key)
        return Address(f"SRS0{rest}", first)
    raise SRSError("no address of SRS")


def _hash(key: bytes, text: str) -> str:
    # Servers on the way may change the case of a local part.
    digest = hmac.new(key, text.lower().encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
    return base64.b32encode(digest).decode("ascii")[:HASH_LENGTH].lower()


def _verify(given: str, text: str, key: bytes) -> None:
    expected = _hash(key, text).encode()
    if not hmac.compare_digest(given.lower().encode("utf-8", "surrogateescape"), expected):
        raise SRSError("the address was not made here")


def _day(now: float) -> str:
    number = int(now // 86400) % _DAYS
    return _ALPHABET[number >> 5] + _ALPHABET[number & 31]


def _age(day: str, now: float) -> int:
    """Days since `day`; one from the future (a clock that was set back) is old."""
    try:
        high, low = (_ALPHABET.index(c) for c in day.lower())
    except ValueError:
        raise SRSError("the address has no date") from None
    return (int(now // 86400) - (high * 32 + low)) % _DAYS
