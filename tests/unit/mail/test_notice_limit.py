"""How many notifications an address gets."""

from __future__ import annotations

from smtpmail.mail.notice_limit import BURST, ENTRIES, NoticeLimit


def test_a_burst_then_a_trickle() -> None:
    limit = NoticeLimit()
    assert [limit.admits("eve@x.test", 0.0) for _ in range(BURST + 5)] == [True] * BURST + [False] * 5
    assert limit.admits("bob@x.test", 0.0), "others are not concerned"
    assert not limit.admits("eve@x.test", 60.0)
    assert limit.admits("eve@x.test", 180.0)
    assert not limit.admits("eve@x.test", 60.0), "a clock that was set back gives nothing"


def test_memory_is_bounded() -> None:
    limit = NoticeLimit()
    for n in range(ENTRIES + 50):
        limit.admits(str(n), 0.0)
    assert len(limit._buckets) == ENTRIES
