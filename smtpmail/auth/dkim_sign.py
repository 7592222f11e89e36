"""Signing with DKIM (RFC 6376 3.7, 5): relaxed/relaxed, no l=, and nothing can be added to what people see."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Sequence

from smtpmail.auth.canonical import BodyHash
from smtpmail.auth.dkim import header_digest
from smtpmail.auth.dkim_keys import Key
from smtpmail.auth.fields import Field

OVERSIGNED = (
    "From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "MIME-Version", "Content-Type",
    "Content-Transfer-Encoding",
)  # fmt: skip
"""Signed once more than they are there, so that nobody can add one (RFC 6376 8.15)."""

SIGNED = ("In-Reply-To", "References")
"""Signed when they are there."""

_WIDTH = 72


def body_hash() -> BodyHash:
    """Takes the body of a message that `sign` will sign."""
    return BodyHash(relaxed=True)


def sign(header: Sequence[Field], body_digest: bytes, keys: Sequence[Key], now: float | None = None) -> bytes:
    """The DKIM-Signature fields to be put above a message, one for each key, with LF line ends."""
    signed = int(time.time() if now is None else now)
    names = _signed_names(header)
    fields = []
    for key in keys:
        start = (
            f"DKIM-Signature: v=1; a={key.algorithm}-sha256; c=relaxed/relaxed; d={key.domain};\n"
            f"\ts={key.selector}; t={signed}; bh={base64.b64encode(body_digest).decode()};\n"
            f"{_folded_names(names)};\n\tb="
        ).encode()
        value = key.sign(header_digest(header, map(str.lower, names), Field(b"dkim-signature", start), relaxed=True))
        text = base64.b64encode(value)
        fields.append(start + b"\n\t ".join(text[i : i + _WIDTH] for i in range(0, len(text), _WIDTH)) + b"\n")
    return b"".join(fields)


def _signed_names(header: Sequence[Field]) -> list[str]:
    count = Counter(field.name for field in header)
    names = []
    for name in OVERSIGNED:
        names += [name] * (count[name.lower().encode()] + 1)
    for name in SIGNED:
        names += [name] * count[name.lower().encode()]
    return names


def _folded_names(names: Sequence[str]) -> str:
    lines, line = [], "\th="
    for i, name in enumerate(names):
        word = name if i == 0 else f":{name}"
        if len(line) + len(word) > _WIDTH:
            lines.append(line)
            line = "\t "
        line += word
    return "\n".join([*lines, line])
