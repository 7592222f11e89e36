"""Names of mailboxes as they travel: modified UTF-7 (RFC 3501 5.1.3), UTF-8, and the patterns of LIST."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata

DELIMITER = "/"

INBOX = "INBOX"

MAX_NAME = 1000
"""Octets of a mailbox name in UTF-8."""


class NameSyntaxError(ValueError):
    """A name that cannot be one of a mailbox."""


def decode_utf7(data: bytes) -> str:
    """Text from modified UTF-7. Raises NameSyntaxError, also for what is encoded though it must not be."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise NameSyntaxError("8-bit characters in a mailbox name: modified UTF-7 is required") from None
    if not text.isprintable():
        raise NameSyntaxError("a control character")
    decoded: list[str] = []
    position = 0
    while (start := text.find("&", position)) >= 0:
        decoded.append(text[position:start])
        end = text.find("-", start)
        if end < 0:
            raise NameSyntaxError("a shift in modified UTF-7 that does not end")
        decoded.append(_decode_shifted(text[start + 1 : end]) if end > start + 1 else "&")
        position = end + 1
        if end > start + 1 and text[position : position + 1] == "&" and text[position + 1 : position + 2] != "-":
            raise NameSyntaxError("two shifts in modified UTF-7 that must be one")
    decoded.append(text[position:])
    return "".join(decoded)


def _decode_shifted(shifted: str) -> str:
    try:
        if "/" in shifted or "=" in shifted:
            raise NameSyntaxError("a character that base64 of modified UTF-7 lacks")
        octets = base64.b64decode(shifted.replace(",", "/") + "=" * (-len(shifted) % 4), validate=True)
        text = octets.decode("utf-16-be")
    except (binascii.Error, UnicodeDecodeError):
        raise NameSyntaxError("not valid modified UTF-7") from None
    # One form only: else two names of a client would be one mailbox.
    if not text or any(" " <= c <= "~" for c in text) or _encode_shifted(text) != shifted:
        raise NameSyntaxError("modified UTF-7 that encodes what must stand for itself")
    return text


def _encode_shifted(text: str) -> str:
    encoded = base64.b64encode(text.encode("utf-16-be", "surrogatepass")).decode("ascii")
    return encoded.rstrip("=").replace("/", ",")


def encode_utf7(name: str) -> bytes:
    """Modified UTF-7 of a name."""
    pieces = re.split(r"([^ -~]+)", name)
    encoded = (f"&{_encode_shifted(piece)}-" if n % 2 else piece.replace("&", "&-") for n, piece in enumerate(pieces))
    return "".join(encoded).encode("ascii")


def decode_name(data: bytes, *, utf8: bool) -> str:
    """The name of a mailbox that a client sent: INBOX in capitals, no delimiter at its end.

    With `utf8` (RFC 6855 and IMAP4rev2) it is UTF-8, in which `&` is a character like others. Raises NameSyntaxError.
    """
    if len(data) > 2 * MAX_NAME:
        raise NameSyntaxError("the name is too long")
    if utf8:
        try:
            name = data.decode()
        except UnicodeDecodeError:
            raise NameSyntaxError("not valid UTF-8") from None
    else:
        name = decode_utf7(data)
    return unicodedata.normalize("NFC", canonical(name.removesuffix(DELIMITER)))


def canonical(name: str) -> str:
    """The same name with INBOX, which has no case, in capitals."""
    first, delimiter, rest = name.partition(DELIMITER)
    return INBOX + delimiter + rest if first.upper() == INBOX else name


def encode_name(name: str, *, utf8: bool) -> bytes:
    """The name as the client reads it."""
    return name.encode() if utf8 else encode_utf7(name)


class Pattern:
    """A pattern of LIST: `*` stands for anything, `%` for anything within a level.

    Tries all ways at once, as an automaton: no pattern makes it slow.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = re.sub(r"[*%]*\*[*%]*", "*", re.sub(r"%+", "%", pattern))

    def matches(self, name: str) -> bool:
        """Whether the whole of a name fits."""
        pattern = self._pattern
        without_case = len(INBOX) if name == INBOX or name.startswith(INBOX + DELIMITER) else 0
        reached = self._past_wildcards(pattern, {0})
        for index, character in enumerate(name):
            following = set()
            for place in reached:
                if place == len(pattern):
                    continue
                wildcard = pattern[place]
                if wildcard == "*" or (wildcard == "%" and character != DELIMITER):
                    following.add(place)
                elif wildcard == character or (index < without_case and wildcard.upper() == character):
                    following.add(place + 1)
            reached = self._past_wildcards(pattern, following)
            if not reached:
                return False
        return len(pattern) in reached

    @staticmethod
    def _past_wildcards(pattern: str, places: set[int]) -> set[int]:
        """These places, and those behind the wildcards there, which may stand for nothing."""
        reached = set(places)
        for place in places:
            following = place
            while following < len(pattern) and pattern[following] in "*%":
                following += 1
                reached.add(following)
        return reached
