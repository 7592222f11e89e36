"""Import and export: other programs' mail into a mailbox and back, with states and dates, twice without doubling."""

from __future__ import annotations

import mailbox
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smtpmail.admin.mail_sources import kind_of, read
from smtpmail.cli import cli
from smtpmail.spool.reader.account import Account
from smtpmail.spool.reader.index import MAX_MESSAGE

TEXTS = {
    "1": b"From: a@b.example\nSubject: one\n\nFrom here\n",
    "2": b"Subject: two\n\n\xff\n\n\nend",
    "3": b"Subject: three\n\nno line end",
}
DATE = 1_700_000_000.0


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir()
    return path


def run(spool: Path, *arguments: str, status: int = 0) -> str:
    (spool.parent / "users").write_text("bob\n")
    options = ["--spool", str(spool), "--users", str(spool.parent / "users"), "-s", "dom.fr"]
    result: Result = CliRunner().invoke(cli, [*options, *arguments])
    assert result.exit_code == status, result.output
    return result.output


def states(folder: Path) -> dict[str, tuple[str, float]]:
    """Subject: flags and date."""
    found = {}
    for path in folder.iterdir():
        if path.name.isdecimal():
            subject = path.read_bytes().partition(b"Subject: ")[2].partition(b"\n")[0].decode()
            flags = (folder / f"{path.name}.status").read_text().split()
            found[subject] = (" ".join(sorted(flags)), path.stat().st_mtime)
    return found


def make_mbox(path: Path) -> None:
    box = mailbox.mbox(path)
    for text, flags in zip(TEXTS.values(), ("RO", "ROAF", ""), strict=True):
        message = mailbox.mboxMessage(text)
        message.set_from("a@b.example", __import__("time").gmtime(DATE))
        message.set_flags(flags)
        box.add(message)
    box.close()


def make_maildir(path: Path) -> None:
    box = mailbox.Maildir(path)
    for text, flags in zip(TEXTS.values(), ("S", "RSF", ""), strict=True):
        message = mailbox.MaildirMessage(text)
        message.set_subdir("cur" if flags else "new")
        message.set_flags(flags)
        message.set_date(DATE)
        box.add(message)


def make_mh(path: Path) -> None:
    box = mailbox.MH(path)
    for text in TEXTS.values():
        os.utime(path / str(box.add(text)), (DATE, DATE))
    (path / ".mh_sequences").write_text("unseen: 3\nreplied: 2\nflagged: 2\n")


@pytest.mark.parametrize(("kind", "make"), [("mbox", make_mbox), ("maildir", make_maildir), ("mh", make_mh)])
def test_import_twice(spool: Path, kind: str, make) -> None:  # type: ignore[no-untyped-def]
    source = spool.parent / "source"
    make(source)
    assert kind_of(str(source)) == kind
    assert "3 messages imported, 0 were there" in run(spool, "import", "bob", str(source))
    found = states(spool / "bob")
    assert {subject: flags.replace("\\Recent", "").strip() for subject, (flags, _) in found.items()} == {
        "one": "\\Seen", "two": "\\Answered \\Flagged \\Seen", "three": "",
    }  # fmt: skip
    assert {date for _, date in found.values()} == {DATE}
    texts = {p.read_bytes() for p in (spool / "bob").iterdir() if p.name.isdecimal()}
    assert {t.rstrip(b"\n") for t in texts} == {t.rstrip(b"\n") for t in TEXTS.values()}
    assert "0 messages imported, 3 were there" in run(spool, "import", "bob", str(source))
    assert len(states(spool / "bob")) == 3


@pytest.mark.parametrize("form", ["mbox", "maildir"])
def test_out_and_in_again(spool: Path, form: str) -> None:
    make_maildir(spool.parent / "source")
    run(spool, "import", "bob", str(spool.parent / "source"))
    target = spool.parent / "target"
    assert "3 messages exported" in run(spool, "export", "bob", str(target), "--format", form)
    box: mailbox.Mailbox[mailbox.Message] = (
        mailbox.mbox(target) if form == "mbox" else mailbox.Maildir(target, factory=None)  # type: ignore[assignment]
    )
    assert sorted(str(m["Subject"]) for m in box) == ["one", "three", "two"]
    assert "0 messages imported, 3" in run(spool, "import", "bob", str(target))
    run(spool, "import", "bob", str(target), "--folder", "Copy")
    assert states(spool / "bob" / "Copy") == states(spool / "bob")
    if form == "mbox":
        assert "is there already" in run(spool, "export", "bob", str(target), status=1)
    else:
        run(spool, "export", "bob", str(target), "--format", "maildir")
        assert len(mailbox.Maildir(target)) == 3


def test_a_message_that_its_owner_makes_huge_is_left_out(spool: Path) -> None:
    """Out of nothing, after its size was noted: it is never read whole."""
    make_mbox(spool.parent / "box")
    run(spool, "import", "bob", str(spool.parent / "box"))
    time.sleep(0.05)  # so that what is found counts for the next time
    account = Account(str(spool), "bob")
    folder = account.open("INBOX")
    folder.refresh()
    folder.close()
    account.close()
    os.truncate(spool / "bob/2", MAX_MESSAGE + 1)
    assert "2 messages exported" in run(spool, "export", "bob", str(spool.parent / "out"))


def test_quotes_come_back(spool: Path) -> None:
    """mboxrd: `>From ` is told from a quoted `From `."""
    source = spool.parent / "mh"
    source.mkdir()
    text = b"Subject: x\n\nFrom a\n>From b\n>>From c\n\nFrom d\n\n"
    (source / "1").write_bytes(text)
    run(spool, "import", "bob", str(source))
    run(spool, "export", "bob", str(spool.parent / "mbox"))
    assert [found.text.rstrip(b"\n") for found in read(str(spool.parent / "mbox"), "mbox")] == [text.rstrip(b"\n")]
    assert "0 messages imported, 1 were" in run(spool, "import", "bob", str(spool.parent / "mbox"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("import", "ghost", "x"), "there is no user 'ghost'"),
        (("import", "../bob", "x"), "there is no user"),
        (("import", "bob", "/nowhere"), "/nowhere: No such file"),
        (("import", "bob", "/dev/null"), "neither a file nor a folder"),
        (("import", "bob", "/etc/hostname"), "no mailbox"),
        (("export", "bob", "x"), "bob has no mailbox yet"),
    ],
)
def test_complaints(spool: Path, arguments: tuple[str, ...], complaint: str) -> None:
    if arguments[1] == "bob" and arguments[2] == "/etc/hostname":
        (spool.parent / "text").write_text("just text\n")
        arguments = ("import", "bob", str(spool.parent / "text"))
    assert complaint in run(spool, *arguments, status=1)


def test_hostile_sources(spool: Path) -> None:
    """FIFOs and links in a Maildir, nonsense in sequences, a separator without a date."""
    source = spool.parent / "source"
    make_maildir(source)
    os.mkfifo(source / "cur" / "fifo")
    (source / "cur" / "folder").mkdir()
    assert "3 messages imported" in run(spool, "import", "bob", str(source))
    mh = spool.parent / "mh"
    make_mh(mh)
    (mh / ".mh_sequences").write_text("unseen: 1-999999999999 x 3-\nreplied\n")
    assert len(list(read(str(mh), "mh"))) == 3
    mbox = spool.parent / "mbox"
    mbox.write_bytes(b"From x\nDate: Tue, 14 Nov 2023 22:13:20 +0000\n\nx\n\nFrom y\n\nFrom z\n\n")
    assert next(read(str(mbox), "mbox")).date == DATE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_imports_for_the_owner(open_folder: Path) -> None:
    spool = open_folder / "spool"
    spool.mkdir()
    make_mbox(spool.parent / "source")
    os.chown(spool, 4711, 4711)
    run(spool, "import", "bob", str(spool.parent / "source"))
    owners = {p.stat().st_uid for p in [spool / "bob", *(spool / "bob").iterdir()]}
    assert owners == {4711}
