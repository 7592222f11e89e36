"""The tour of vagrant/README.md, line by line, on a network that has just come up."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pexpect
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
README = CHECKOUT / "vagrant" / "README.md"
LINE = 300.0
"""Seconds that one line may take: on an emulated machine, and a busy computer."""

PATIENCE = 300.0
"""Seconds until a line must show what it promises: mail is on its way meanwhile."""

ELSEWHERE = ("vagrant up", "vagrant provision mail", "vagrant destroy -f")
"""Lines that `run` has for itself."""

LOOK, FLAG = "q", "=Fq"
"""What a person types who looks into a mailbox with mutt, and who flags the first message."""

# What each of the others shows, in their order; and what is typed into mutt.
SHOWN = [
    (r"^$", ""),
    (r" 1\n(.*\n)*.* 1\.status", ""),
    (r"Subject: Hello\n(.*\n)*\\Recent", ""),
    (r"alice@example\.n.*Hello", LOOK),
    (r"250 2\.0\.0 Ok: queued as", ""),
    (r"Thank you\.", ""),
    (r"Thank you\.", ""),
    (r"delivered to alice@example\.net by remote\.example\.net \((192\.0\.2\.20|2001:db8::20)\)", ""),
    (r"550 5\.7\.1", ""),
    (r"^$", ""),
    (r"^$", ""),
    (r"<?bob@dom\.fr>? +alice@example\.net", ""),
    (r"^$", ""),
    (r"is tried now", ""),
    (r"is empty", ""),
    (r"^10 mail\.dom\.fr\.\n2001:db8::10\nmail\.dom\.fr\.\n$", ""),
    (r"reverse", ""),
    (r"^$", ""),
    (r"^$", ""),
    (r"^$", ""),
    (r"Subject: Hello\n(.*\n)*How are you\?", ""),
    (r"FETCH \(.*\\Answered", ""),
    (r"1 r .*Hello", FLAG),
    (r"FETCH \(FLAGS \((?=.*\\Answered)(?=.*\\Flagged)", ""),
    (r"Password: ", ""),
    (r"a OK .*\n(.*\n)*\* \d+ EXISTS\n(.*\n)*c OK", ""),
    (r"235 2\.7\.0 (.*\n)*.*250 2\.0\.0 Ok: queued as", ""),
    (r"Subject: On my way", ""),
    (r"bob +phone .*(192\.0\.2\.20|2001:db8::20)", ""),
    (r"phone of bob is removed", ""),
    (r"Exit request sent", ""),
]


def lines_of_the_tour() -> list[str]:
    text = README.read_text()
    tour = text[text.index("## A tour") :]
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", tour, re.DOTALL)).splitlines()
    assert set(ELSEWHERE) <= set(lines)
    return [line for line in lines if line and line not in ELSEWHERE]


class Person:
    """Types the lines on a terminal, and remembers the password that was shown."""

    def __init__(self) -> None:
        self.password = "none was shown"

    def types(self, line: str, keys: str) -> str:
        """What the line shows. `keys` are for mutt, which first asks whether to make a folder of its own."""
        shown = pexpect.run(
            "bash", args=["-c", line.replace("PASSWORD", self.password)], cwd=str(CHECKOUT), timeout=LINE,
            events={r"Create it\?": "n", r"q:Quit": keys}, encoding="utf-8",
        )  # fmt: skip
        seen = str(shown).replace("\r", "")
        if found := re.search(r"^Password: +(\S+)$", seen, re.MULTILINE):
            self.password = found[1]
        return seen


@pytest.fixture(scope="module")
def person() -> Person:
    return Person()


@pytest.mark.parametrize(
    ("line", "shown", "keys"),
    [(line, *shows) for line, shows in zip(lines_of_the_tour(), SHOWN, strict=True)],
)
def test_line_shows_what_the_tour_says(person: Person, line: str, shown: str, keys: str) -> None:
    end = time.monotonic() + PATIENCE
    while not re.search(shown, seen := person.types(line, keys)):
        assert time.monotonic() < end, seen
        time.sleep(2)
