"""Dovecot beside it: the same messages, flags and dates, and the same words about them."""

from __future__ import annotations

import imaplib
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import dovecot, require
from support.server import NO_RESOLVER, clean_environment, program

SETTINGS = ["-s", "dom.fr", "-H", "mail.dom.fr", *NO_RESOLVER]

DATES = ("01-Jan-1999 00:00:00 +0000", "29-Feb-2024 23:59:59 +0000", "25-Nov-2026 10:00:00 +0000")
FLAGS = ("", "\\Seen", "\\Seen \\Answered $Forwarded", "\\Flagged \\Draft", "\\Deleted \\Seen")
"""mbsync carries no other keywords."""

TEXTS = {
    "plain": "From: Alice <alice@example.org>\nTo: bob@dom.fr\nSubject: plain\n\nOne\nTwo\n",
    "no body": "From: a@b\nSubject: no body\n\n",
    "no end of line": "From: a@b\n\nends here",
    "folded": """\
From: "Doe, John" <j@example.org>,
\t=?utf-8?q?J=C3=BCrgen?= <j2@example.org>
To: A Group: x@example.org, y@example.org;, z@example.org
Cc: undisclosed-recipients:;
Subject: a long
 subject
Date: Wed, 25 Nov 2026 10:00:00 +0100
Message-ID: <1@x>
In-Reply-To: <0@x>
Reply-To: r@example.org
Sender: s@example.org

x
""",
    "alternative": """\
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="=_x"

preamble
--=_x
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße
--=_x
Content-Type: text/html
Content-Transfer-Encoding: quoted-printable
Content-Language: de, en

<p>Gr=C3=BC=C3=9Fe</p>

--=_x--
epilogue
""",
    "nested": """\
Content-Type: multipart/mixed; boundary=outer

--outer
Content-Type: message/rfc822

From: in@example.org
Subject: within
Content-Type: multipart/mixed; boundary=inner

--inner

first
--inner
Content-Type: application/octet-stream; name="a b.bin"
Content-Transfer-Encoding: base64
Content-ID: <c@x>
Content-Description: some octets
Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==
Content-Disposition: attachment; filename="a b.bin"; size=3
Content-Location: http://x/

QUJD
--inner--

--outer
Content-Type: image/png

x
--outer--
""",
    "digest": """\
Content-Type: multipart/digest; boundary=d

--d

Subject: one

1
--d

Subject: two

2
--d--
""",
    "no boundary": "Content-Type: multipart/mixed; boundary=b\n\nthere is none\n",
    "not closed": """\
Content-Type: multipart/mixed; boundary=b

--b

one
--b
Content-Type: text/html

two
""",
}
MESSAGES = {name: text.replace("\n", "\r\n").encode() for name, text in TEXTS.items()}


def ours(folder: Path) -> list[str]:
    (folder / "spool").mkdir(exist_ok=True)
    return [*program(), "imap", "--spool", str(folder / "spool"), *SETTINGS]


def script(folder: Path) -> Path:
    path = folder / "ours"
    path.write_text(f"#!/bin/sh\ncd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(ours(folder))}\n")
    path.chmod(0o755)
    return path


def connected(command: list[str]) -> imaplib.IMAP4_stream:
    reader = imaplib.IMAP4_stream(shlex.join(command))
    assert reader.state == "AUTH"
    return reader


def fill(reader: imaplib.IMAP4, folder: str) -> None:
    """All messages, with various flags and dates."""
    for n, content in enumerate(MESSAGES.values()):
        date = f'"{DATES[n % len(DATES)]}"'
        assert reader.append(folder, f"({FLAGS[n % len(FLAGS)]})", date, content)[0] == "OK"


def everything(command: list[str], folder: str) -> list[tuple[bytes, ...]]:
    """Content, flags and date of each message; what mbsync adds is left out."""
    reader = connected(command)
    assert reader.select(folder, readonly=True)[0] == "OK"
    found = []
    _, answers = reader.fetch("1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")
    pieces: list[Any] = list(answers)
    for (head, content), tail in zip(pieces[::2], pieces[1::2], strict=True):
        flags = re.search(rb"FLAGS \(([^)]*)\)", head + tail)
        date = re.search(rb'INTERNALDATE "([^"]+)"', head + tail)
        assert flags and date
        kept = b" ".join(sorted(f for f in flags[1].split() if f != b"\\Recent"))
        # The day may have a blank or a zero before it.
        found.append((re.sub(rb"(?m)^X-TUID: .*\r\n", b"", content), kept, re.sub(b"^ ", b"0", date[1])))
    reader.logout()
    return sorted(found)


def sync(folder: Path, *names: tuple[str, Path]) -> None:
    """mbsync between two programs, both ways."""
    mbsync = require.tool("mbsync", "isync")
    stores = "".join(f'IMAPStore {name}\nTunnel "{tunnel}"\n\n' for name, tunnel in names)
    settings = folder / "mbsyncrc"
    settings.write_text(
        stores + f"Channel all\nFar :{names[0][0]}:\nNear :{names[1][0]}:\nPatterns *\nCreate Both\nExpunge None\n"
        f"Sync All\nCopyArrivalDate yes\nSyncState {folder}/state-\n"
    )
    done = subprocess.run(
        [mbsync, "-c", str(settings), "all"], capture_output=True, text=True, timeout=120, env=clean_environment(),
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_mbsync_from_dovecot_and_back(tmp_path: Path) -> None:
    """What goes from Dovecot to smtpmail and on to another Dovecot is the same there: messages, flags, dates."""
    first, second = dovecot.tunnel(tmp_path / "first"), dovecot.tunnel(tmp_path / "second")
    reader = connected(first)
    reader.create("Projects/2026")
    for folder in ("INBOX", "Projects/2026"):
        fill(reader, folder)
    reader.logout()
    (tmp_path / "there").mkdir()
    (tmp_path / "back").mkdir()
    sync(tmp_path / "there", ("dovecot", dovecot.script(tmp_path / "first")), ("smtpmail", script(tmp_path)))
    sync(tmp_path / "back", ("smtpmail", script(tmp_path)), ("dovecot", dovecot.script(tmp_path / "second")))
    for folder in ("INBOX", "Projects/2026"):
        before = everything(first, folder)
        assert len(before) == len(MESSAGES)
        assert everything(ours(tmp_path), folder) == before
        assert everything(second, folder) == before
    # Flags and a message from either side reach the other.
    reader = connected(first)
    reader.select()
    reader.store("1", "+FLAGS", "(\\Flagged $Forwarded)")
    reader.logout()
    reader = connected(ours(tmp_path))
    reader.append("INBOX", "(\\Seen)", f'"{DATES[0]}"', b"Subject: new\r\n\r\nx\r\n")
    reader.select()
    reader.store("2", "-FLAGS", "(\\Seen)")
    reader.logout()
    sync(tmp_path / "there", ("dovecot", dovecot.script(tmp_path / "first")), ("smtpmail", script(tmp_path)))
    assert everything(ours(tmp_path), "INBOX") == everything(first, "INBOX")
    assert len(everything(first, "INBOX")) == len(MESSAGES) + 1


Words = list[bytes | None]

_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"|[()]|[^\s()"]+')


def _words(answer: Sequence[bytes | tuple[bytes, bytes] | None]) -> Words:
    """An answer in words, whatever is sent in quotation marks or as a literal: nothing is None, as is an empty string.

    Types have no capitals, and a charset that is said is as good as one that goes without saying.
    """
    found: Words = []
    for piece in answer:
        text, literal = piece if isinstance(piece, tuple) else (piece or b"", None)
        for word in _WORD.finditer(text.replace(b'("charset" "us-ascii")', b"NIL")):
            if literal is None or word.end() < len(text):  # else the size of the literal
                found.append(None if word[0] in (b"NIL", b'""') else (word[1] or word[0]).lower())
        if literal is not None:
            found.append(literal.lower() or None)
    return found


@pytest.mark.parametrize("name", [name for name in MESSAGES if name != "no boundary"])
def test_the_same_words(tmp_path: Path, name: str) -> None:
    """Sizes, envelopes and structures are what Dovecot says of the same octets.

    A multipart without its boundary is text to be read here, and a part without a word there.
    """
    items = ("RFC822.SIZE", "ENVELOPE", "BODYSTRUCTURE", "BODY", "BODY.PEEK[1]", "BODY.PEEK[1.MIME]", "BODY.PEEK[TEXT]",
             "BODY.PEEK[2]", "BODY.PEEK[1.1]", "BODY.PEEK[1.2]", "BODY.PEEK[1.HEADER]", "BODY.PEEK[1.TEXT]",
             "BODY.PEEK[HEADER.FIELDS (SUBJECT FROM)]", "BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT)]",
             "BODY.PEEK[]<3.10>")  # fmt: skip
    ours_said, dovecot_said = (
        _said(command, items, name) for command in (ours(tmp_path), dovecot.tunnel(tmp_path / "d"))
    )
    if dovecot_said["BODY.PEEK[1.1]"][3:] == dovecot_said["BODY.PEEK[1]"][3:]:
        # It takes the only part of a part for the part.
        dovecot_said["BODY.PEEK[1.1]"] = ours_said["BODY.PEEK[1.1]"]
    assert ours_said == dovecot_said


def _said(command: list[str], items: tuple[str, ...], name: str) -> dict[str, Words]:
    reader = connected(command)
    assert reader.append("INBOX", "", f'"{DATES[0]}"', MESSAGES[name])[0] == "OK"
    reader.select()
    said = {}
    for item in items:
        status, answer = reader.fetch("1", f"({item})")
        assert status == "OK"
        said[item] = _words(answer)
    reader.logout()
    return said
