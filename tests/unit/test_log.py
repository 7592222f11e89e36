"""The lines of the log: JSON, times, and nothing that a client could do to a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

EVIL = 'x\r\n{"event": "forged"}\x1b[2J\u202e\x9b'


def logged(log_format: str, level: str = "info") -> list[str]:
    code = (
        "import sys; from smtpmail import log\n"
        "log.configure(sys.argv[1], sys.argv[2])\n"
        "log.log.debug('d'); log.log.info('recipient.refused', sender=sys.argv[3], names=[sys.argv[3]])\n"
        "log.log.error('e')"
    )
    ran = subprocess.run([sys.executable, "-c", code, log_format, level, EVIL], check=True, capture_output=True)
    assert ran.stdout == b""
    return ran.stderr.decode().split("\n")[:-1]


def test_json() -> None:
    info, error = (json.loads(line) for line in logged("json"))
    assert list(info)[:3] == ["timestamp", "level", "event"]
    assert (info["level"], info["event"], info["sender"]) == ("info", "recipient.refused", EVIL)
    assert error["level"] == "error"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", info["timestamp"])


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_control_characters(log_format: str) -> None:
    lines = logged(log_format)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines), lines


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 1)])
def test_levels(level: str, count: int) -> None:
    assert len(logged("json", level)) == count
