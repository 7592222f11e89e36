"""The ESMTP parameters of MAIL and RCPT (RFC 5321 4.1.2, RFC 3461, 6152, 6531, 8689): text in, values out."""

from __future__ import annotations

import re

from smtpmail.mail.envelope import Envelope
from smtpmail.mail.xtext import is_xtext
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal

_PARAMETER = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>[!-<>-~\u0080-\U0010ffff]+))?")

_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
"""That of an ORCPT: an atom (RFC 3461 4.2); it stands in notifications as it came."""


def parse_parameters(text: str) -> dict[str, str | None]:
    """The ESMTP parameters behind a path, names in upper case. Raises ValueError for bad syntax or a name twice."""
    parameters: dict[str, str | None] = {}
    for word in text.split(" "):
        if not word:
            continue
        match = _PARAMETER.fullmatch(word)
        if not match or match["name"].upper() in parameters:
            raise ValueError(word)
        parameters[match["name"].upper()] = match["value"]
    return parameters


def mail_parameters(
    envelope: Envelope, parameters: dict[str, str | None], *, dsn: bool, authenticates: bool = False
) -> None:
    """Puts the parameters of MAIL into the envelope. Raises Refusal.

    `dsn`: whether those of RFC 3461 are known; `authenticates`: whether that of RFC 4954.
    """
    for name, value in parameters.items():
        match name:
            case "SIZE":
                if value is None or not (value.isascii() and value.isdigit()) or len(value) > 20:
                    raise _bad(name, "it must be a number of octets")
                envelope.size = int(value)
            case "BODY":
                envelope.body = (value or "").upper()
                if envelope.body == "BINARYMIME":
                    raise Refusal(replies.unknown_parameter("BODY=BINARYMIME"))
                if envelope.body not in ("7BIT", "8BITMIME"):
                    raise _bad(name, "it must be 7BIT or 8BITMIME")
            case "SMTPUTF8":
                if value is not None:
                    raise _bad(name, "it takes no value")
                envelope.smtputf8 = True
            case "REQUIRETLS" if envelope.tls:
                if value is not None:
                    raise _bad(name, "it takes no value")
                envelope.requiretls = True
            case "RET" if dsn:
                envelope.ret = (value or "").upper()
                if envelope.ret not in ("FULL", "HDRS"):
                    raise _bad(name, "it must be FULL or HDRS")
            case "ENVID" if dsn:
                if value is None or len(value) > 100 or not is_xtext(value):
                    raise _bad(name, "it must be xtext of at most 100 characters")
                envelope.envid = value
            case "AUTH" if authenticates:
                pass  # who sends is known by the password (RFC 4954 5)
            case _:
                raise Refusal(replies.unknown_parameter(name))


def rcpt_parameters(parameters: dict[str, str | None], *, dsn: bool) -> tuple[tuple[str, ...], str | None]:
    """NOTIFY and ORCPT of a recipient; `dsn`: whether they are known at all. Raises Refusal."""
    notify: tuple[str, ...] = ()
    orcpt = None
    for name, value in parameters.items():
        match name:
            case "NOTIFY" if dsn:
                notify = tuple((value or "").upper().split(","))
                known = {"SUCCESS", "FAILURE", "DELAY"}
                if notify != ("NEVER",) and (not known.issuperset(notify) or len(set(notify)) < len(notify)):
                    raise _bad(name, "it must be NEVER, or some of SUCCESS, FAILURE, DELAY")
            case "ORCPT" if dsn:
                kind, _, text = (value or "").partition(";")
                utf8 = kind.lower() == "utf-8" and text.isprintable()
                readable = is_xtext(text) or (text and utf8)
                if not _ADDRESS_TYPE.fullmatch(kind) or not readable or len(text) > 500:
                    raise _bad(name, "it must be address-type;xtext")
                orcpt = value
            case _:
                raise Refusal(replies.unknown_parameter(name))
    return notify, orcpt


def _bad(name: str, why: str) -> Refusal:
    return Refusal(replies.bad_parameter(name, why))
