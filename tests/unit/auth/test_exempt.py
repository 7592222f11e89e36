"""The file of those who are let through."""

from __future__ import annotations

import ipaddress

import pytest

from smtpmail.auth.exempt import list_ids, parse
from smtpmail.auth.fields import split_header

TEXT = """
# friends
Boss@Work.example        # his server is broken
old.example
192.0.2.7
198.51.100.0/24
2001:db8::/32
<devel.lists.example>
bücher.example
"""


@pytest.mark.parametrize(
    ("client", "senders", "ids", "line"),
    [
        ("203.0.113.1", ["boss@work.example"], [], "boss@work.example"),
        ("203.0.113.1", ["", "BOSS@WORK.EXAMPLE"], [], "boss@work.example"),
        ("203.0.113.1", ["other@work.example"], [], None),
        ("203.0.113.1", ["x@old.example"], [], "old.example"),
        ("203.0.113.1", ["x@mail.old.example"], [], "old.example"),
        ("203.0.113.1", ["x@cold.example"], [], None),
        ("203.0.113.1", ["x@xn--bcher-kva.example"], [], "xn--bcher-kva.example"),
        ("192.0.2.7", ["x@y.example"], [], "192.0.2.7"),
        ("::ffff:192.0.2.7", ["x@y.example"], [], "192.0.2.7"),
        ("198.51.100.9", [""], [], "198.51.100.0/24"),
        ("2001:db8::9", [""], [], "2001:db8::/32"),
        ("203.0.113.1", ["x@y.example"], ["Devel.Lists.Example"], "devel.lists.example"),
        ("203.0.113.1", ["x@y.example"], ["other.lists.example"], None),
        (None, ["x@y.example"], [], None),
    ],
)
def test_who_is_let_through(client: str | None, senders: list[str], ids: list[str], line: str | None) -> None:
    exemptions, complaints = parse(TEXT.splitlines())
    assert complaints == []
    assert exemptions.match(ipaddress.ip_address(client) if client else None, senders, ids) == line


def test_what_makes_no_sense_is_named() -> None:
    exemptions, complaints = parse(["a b", "@", "x@", "192.0.2.0/99", "good.example"])
    assert [complaint.partition(":")[0] for complaint in complaints] == ["line 1", "line 2", "line 3", "line 4"]
    assert exemptions.domains == {"good.example"}


def test_list_ids() -> None:
    header = split_header(b"List-Id: The <developers> list\n <devel.lists.example>\nX: <y>\n")
    assert list_ids(header) == ["developers", "devel.lists.example"]
