"""The tour of vagrant/README.md, line by line, on a network that has just come up."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pexpect
import pytest

README = Path(__file__).resolve().parents[2] / "vagrant" / "README.md"
PATIENCE = 120.0
"""Seconds until a line must show what it promises: mail is on its way meanwhile, on an emulated machine."""

ELSEWHERE = ("vagrant up", "vagrant provision mail", "vagrant destroy -f")
"""Lines that `run` has for itself."""

# What each of the others shows, in their order.
SHOWN = [
    r"^$",
    r" 1\n(.*\n)*.* 1\.status",
    r"Subject: Hello\n(.*\n)*\\Recent",
    r"alice@example\.n.*Hello",
    r"250 2\.0\.0 Ok: queued as",
    r"Thank you\.",
    r"Thank you\.",
    r"delivered to alice@example\.net by remote\.example\.net \((192\.0\.2\.20|2001:db8::20)\)",
    r"550 5\.7\.1",
    r"^$",
    r"^$",
    r"<?bob@dom\.fr>? +alice@example\.net",
    r"^$",
    r"is tried now",
    r"is empty",
    r"^10 mail\.dom\.fr\.\n2001:db8::10\nmail\.dom\.fr\.\n$",
    r"reverse",
    r"PREAUTH(.*\n)*.* EXISTS",
    r"Password: ",
    r"bob +phone",
    r"phone of bob is removed",
]


def lines_of_the_tour() -> list[str]:
    text = README.read_text()
    tour = text[text.index("## A tour") :]
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", tour, re.DOTALL)).splitlines()
    assert set(ELSEWHERE) <= set(lines)
    return [line for line in lines if line and line not in ELSEWHERE]


def shows(line: str) -> str:
    """What a person sees who types the line on a terminal, and answers mutt."""
    answers = {r"Create it\?": "n", r"q:Quit": "q"}
    shown = pexpect.run(line, timeout=PATIENCE, events=answers, encoding="utf-8")
    return str(shown).replace("\r", "")


@pytest.mark.parametrize(("line", "shown"), zip(lines_of_the_tour(), SHOWN, strict=True))
def test_line_shows_what_the_tour_says(line: str, shown: str) -> None:
    end = time.monotonic() + PATIENCE
    while not re.search(shown, seen := shows(line)):
        assert time.monotonic() < end, seen
        time.sleep(2)
