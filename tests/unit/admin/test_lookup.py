"""Questions of the admin commands: a name server that is silent holds nobody for minutes."""

from __future__ import annotations

import pytest

from smtpmail.admin.lookup import SILENCE_SECONDS, while_answered
from smtpmail.dns.errors import DNSError, NoSuchName


class Names:
    """Answers for some names at once; of others it takes `seconds` to find out that nobody does."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.asked = 0

    def __call__(self, name: str, kind: str) -> list[str]:
        self.asked += 1
        if name == "here.":
            return ["192.0.2.1"]
        if name == "nowhere.":
            raise NoSuchName("the name nowhere does not exist")
        self.now += self.seconds
        raise DNSError(f"DNS does not answer for {name} {kind}")


def test_silence_is_waited_for_so_long_and_no_longer() -> None:
    names = Names(12.0)
    lookup = while_answered(names, lambda: names.now)
    for n in range(100):
        with pytest.raises(DNSError, match=f"silent{n}. A"):
            lookup(f"silent{n}.", "A")
    assert names.now < SILENCE_SECONDS + 12.0
    assert names.asked == 2


@pytest.mark.parametrize(
    ("seconds", "name", "error"),
    [
        pytest.param(0.01, "broken.", DNSError, id="failures that come at once"),
        pytest.param(12.0, "nowhere.", NoSuchName, id="that there is nothing is an answer"),
    ],
)
def test_what_stops_nothing(seconds: float, name: str, error: type[DNSError]) -> None:
    names = Names(seconds)
    lookup = while_answered(names, lambda: names.now)
    for _ in range(100):
        with pytest.raises(error):
            lookup(name, "A")
    assert lookup("here.", "A") == ["192.0.2.1"]
