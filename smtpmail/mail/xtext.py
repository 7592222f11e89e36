"""xtext, the encoding of DSN parameters (RFC 3461 4)."""

from __future__ import annotations

import re

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")


def is_xtext(text: str) -> bool:
    """Whether `text` is xtext of RFC 3461 4."""
    return _XTEXT.fullmatch(text) is not None


def decode_xtext(text: str) -> str:
    """What an xtext stands for (RFC 3461 4)."""
    return re.sub(r"\+([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), text)


def encode_xtext(text: str) -> str:
    """`text` as xtext; octets outside of printable ASCII as their hexadecimal value (RFC 3461 4)."""
    return "".join(
        chr(o) if 33 <= o <= 126 and o not in b"+=" else f"+{o:02X}" for o in text.encode("utf-8", "surrogateescape")
    )
