"""Puts tables into a Markdown file: between `<!-- bench: KIND -->` and the next `<!-- bench: end -->`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def paste(file: Path, kind: str, circumstances: str, tables: Sequence[str]) -> bool:
    """Replaces what stands there for a kind of measurement; False when the file has no place for it."""
    text = file.read_text()
    found = re.search(rf"(<!-- bench: {kind} -->\n).*?(<!-- bench: end -->)", text, re.DOTALL)
    if found is None:
        return False
    file.write_text(
        text[: found.start()]
        + found[1] + "\n" + "\n\n".join([f"Measured {circumstances}", *tables]) + "\n\n" + found[2]
        + text[found.end() :]
    )  # fmt: skip
    return True
