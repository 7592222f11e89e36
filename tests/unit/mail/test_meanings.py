"""What refusals of large receivers mean."""

from __future__ import annotations

import pytest

from smtpmail.mail.meanings import meaning, of_reply


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("550 5.7.25 The IP address sending this message does not have a PTR record", "reverse DNS (PTR)"),
        ("550-5.7.26 This mail has been blocked because the sender is unauthenticated", "neither SPF nor DKIM"),
        ("450 4.7.26 Service does not accept messages without authentication", "neither SPF nor DKIM"),
        ("421 4.7.29 TLS required", "without encryption"),
        ("550 5.7.515 Access denied, sending domain does not meet the required level", "Microsoft"),
        ("550 5.7.1 go away", None),
        ("550 5.1.1 no such user", None),
        ("connection refused", None),
        ("", None),
    ],
)
def test_replies(reply: str, said: str | None) -> None:
    found = of_reply(reply)
    assert (found is None) == (said is None)
    assert said is None or (found and said in found)


def test_statuses() -> None:
    assert "no such mailbox" in (meaning("5.1.1") or "")
    assert meaning("5.9.9") is None
