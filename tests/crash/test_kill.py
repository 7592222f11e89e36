"""SIGKILL at random moments under load: nothing acknowledged is lost, doubled or half there.

A few in CI; 1,000 with `make test-kills` (`__main__.py`).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.lives import live

KILLS = int(os.environ.get("SMTPMAIL_KILLS", "4"))
SEED = os.environ.get("SMTPMAIL_SEED", str(random.SystemRandom().randrange(10**6)))


@pytest.mark.parametrize("journal", ["16M", "1M", "0"])
def test_killed(tmp_path: Path, journal: str) -> None:
    """With a journal that is never full, one that always is, and none."""
    print(f"seed {SEED}")
    print(live(tmp_path, f"{SEED}.{journal}", KILLS, journal))


# A server that answers before its messages have names.
FORGETFUL = """
import os
os.link = lambda *args, **more: None
"""


def test_the_test_sees_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forgetful").mkdir()
    (tmp_path / "forgetful/sitecustomize.py").write_text(FORGETFUL)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'forgetful'}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(AssertionError, match="accepted and lost"):
        live(tmp_path / "life", SEED, 1, "0")
