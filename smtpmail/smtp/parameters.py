"""The ESMTP parameters of MAIL and RCPT (RFC 5321 4.1.2, RFC 3461, 6152, 6531, 8689): text in, values out."""

from __future__ import annotations

import re

_PARAMETER = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>[!-<>-~\u0080-\U0010ffff]+))?")


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
