"""The field of results: its form, what can't break it, and what forgers put in its place."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.auth.dkim import DkimResult
from smtpmail.auth.dmarc import DmarcResult
from smtpmail.auth.iprev import IprevResult
from smtpmail.auth.results import build, without_forged
from smtpmail.auth.spf import SpfResult

SPF = SpfResult("pass", "x.example", "")
DKIM = [DkimResult("pass", "x.example", "sel")]
DMARC = DmarcResult("pass", "x.example", "")
IPREV = IprevResult("pass", "192.0.2.1", "")


def field(**values) -> str:
    given = {"sender": "a@x.example", "helo": "h.example", "spf": SPF, "dkim": DKIM, "dmarc": DMARC, "iprev": IPREV}
    return build("mx.dom.fr", **{**given, **values}).decode()


def test_the_form_others_rely_on() -> None:
    assert re.sub(r"\n\t", " ", field()) == (
        "Authentication-Results: mx.dom.fr; spf=pass smtp.mailfrom=a@x.example; "
        "dkim=pass header.d=x.example header.s=sel; dmarc=pass header.from=x.example; "
        "iprev=pass policy.iprev=192.0.2.1\n"
    )


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"sender": ""}, "; spf=pass smtp.helo=h.example;"),
        ({"sender": "", "helo": "[192.0.2.1]"}, '; spf=pass smtp.helo="[192.0.2.1]";'),
        ({"sender": "", "helo": 'x";dkim=pass('}, '; spf=pass smtp.helo="x\\";dkim=pass(";'),
        ({"sender": '"a b; dmarc=pass"@x.example'}, ' smtp.mailfrom="a b; dmarc=pass"@x.example;'),
        ({"sender": 'a;dmarc=pass"@x.example'}, ' smtp.mailfrom="a;dmarc=pass\\"@x.example";'),
        ({"sender": "a\n\tb@x.example"}, ' smtp.mailfrom=a??b@x.example;'),
        ({"sender": "é@x.example"}, " smtp.mailfrom=é@x.example;"),
        ({"dkim": []}, "; dkim=none;"),
        ({"dkim": [*DKIM, DkimResult("fail", "y.example", "s2", "the body was changed")]},
         "header.s=sel; dkim=fail header.d=y.example header.s=s2 (the body was changed);"),
        ({"dkim": [DkimResult("permerror", reason="it is (very) \\ bad\r\nX: y")]},
         "; dkim=permerror (it is \\(very\\) \\\\ bad X: y);"),
        ({"dmarc": DmarcResult("fail", "x.example", "why", "reject")},
         "; dmarc=fail header.from=x.example (p=reject: why);"),
        ({"dmarc": DmarcResult("permerror", "", "why")}, "; dmarc=permerror (why);"),
        ({"iprev": IprevResult("fail", "2001:db8::1", "why")}, '; iprev=fail policy.iprev="2001:db8::1" (why)'),
        ({"spf": None, "iprev": None}, "mx.dom.fr; dkim=pass"),
        ({"remark": "let through"}, "policy.iprev=192.0.2.1 (let through)\n"),
    ],
)  # fmt: skip
def test_parts(values: dict, part: str) -> None:
    assert part in re.sub(r"\n\t", " ", field(**values))


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_nothing_ends_the_field(sender: str, helo: str, reason: str) -> None:
    """Whatever a stranger says, it is one field, and the methods in it are those that were tried."""
    for who in (sender, ""):
        dkim = [DkimResult("fail", "x.example", "s", reason)]
        text = field(sender=who, helo=helo, dkim=dkim, spf=SpfResult("fail", "x.example", reason))
        lines = text.removesuffix("\n").split("\n")
        assert all(line.startswith("\t") for line in lines[1:])
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', "Q", re.sub(r"\((?:[^()\\]|\\.)*\)", "", text))
        assert [part.split("=")[0].strip() for part in bare.split(";")[1:]] == ["spf", "dkim", "dmarc", "iprev"]


@pytest.mark.parametrize(
    "forged",
    [
        b"Authentication-Results: mx.dom.fr; dmarc=pass\n",
        b"authentication-results:MX.Dom.FR;dmarc=pass\n",
        b"Authentication-Results : mx.dom.fr 1; none\n",
        b"Authentication-Results:\n\tmx.dom.fr;\n\tdmarc=pass\n",
        b"Authentication-Results: (a (comment)) mx.dom.fr; none\n",
        b'Authentication-Results: "mx.dom.fr"; none\n',
        b'Authentication-Results: "mx\\.dom.fr"; none\n',
        b"Authentication-Results: mx.dom.fr(x); none\n",
        b"Authentication-Results: mx.dom.fr.; none\n",
        b"Authentication-Results:\n",
        b"Authentication-Results: ; none\n",
        b"Authentication-Results: (never closed\n",
    ],
)
def test_forged_fields_are_removed(forged: bytes) -> None:
    header = b"Received: x\n" + forged + b"From: a@b\n" + forged
    assert without_forged(header, "mx.dom.fr") == b"Received: x\nFrom: a@b\n"


@pytest.mark.parametrize(
    "kept",
    [
        b"Authentication-Results: other.example; dmarc=pass (mx.dom.fr)\n",
        b"Authentication-Results: mx.dom.fr.evil.example; none\n",
        b"X-Authentication-Results: mx.dom.fr; none\n",
        b"Subject: Authentication-Results: mx.dom.fr\n",
        b"From: a@b\n\tAuthentication-Results: mx.dom.fr\n",
        b"plain text\nAuthentication-Results: mx.dom.fr; none\n",
    ],
)
def test_other_fields_stay(kept: bytes) -> None:
    header = kept + b"From : a\n  b\nno field\nTo: x"
    assert without_forged(header, "mx.dom.fr") == header or without_forged(header, "mx.dom.fr") == header + b"\n"


@given(st.binary(max_size=100))
def test_any_header_is_no_crash(value: bytes) -> None:
    without_forged(b"Authentication-Results: " + value, "mx.dom.fr")
