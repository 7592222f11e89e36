"""Puts the manual and the shells' completions into the wheel, from the source that --help is made of.

Hatchling calls it. They come to PREFIX/share, where `pipx` and Debian's packages find them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # type: ignore[import-not-found]


class Manual(BuildHookInterface):  # type: ignore[misc]
    """What lies below share/."""

    folder: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Writes the files and names them."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from smtpmail.admin.manual import shared  # noqa: PLC0415 - found by the line above
        from smtpmail.cli import cli  # noqa: PLC0415

        self.folder = Path(tempfile.mkdtemp())
        for path, text in shared(cli):
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(file)] = f"share/{path}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what was written."""
        if self.folder:
            shutil.rmtree(self.folder)
