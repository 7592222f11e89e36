"""Whole dialogues on folders of a spool: what is answered, and what is on disk then."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from pathlib import Path

import pytest
from support.imap_dialogue import PASSWORD, ImapDialogue
from support.spool import deliver

from smtpmail.imap.executor import MAX_COMPLAINTS
from smtpmail.imap.threads import Node, _by_references
from smtpmail.log import log
from smtpmail.spool.mailbox import Spool

HEADER = b"Return-Path: <alice@example.org>\r\nDelivered-To: bob@dom.fr\r\n"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool with three messages for bob."""
    made = Spool(str(tmp_path))
    for n in (1, 2, 3):
        deliver(made, "bob", content=b"Subject: number %d\n\nbody %d\n" % (n, n))
    return made


@pytest.fixture
def bob(spool: Spool, tmp_path: Path):  # type: ignore[no-untyped-def]
    with ImapDialogue(tmp_path) as dialogue:
        yield dialogue


def other(tmp_path: Path) -> ImapDialogue:
    """Another connection of bob."""
    dialogue = ImapDialogue(tmp_path)
    dialogue.ok("SELECT INBOX")
    return dialogue


def state(tmp_path: Path, name: str) -> set[str]:
    return set((tmp_path / "bob" / f"{name}.status").read_text().split())


# -- logging in


@pytest.mark.parametrize(
    "commands",
    [
        ["a LOGIN bob secret\r\n"],
        ["a LOGIN {3}\r\n", "bob {6}\r\n", "secret\r\n"],
        ["a LOGIN {3+}\r\nbob {6+}\r\nsecret\r\n"],
        ["a AUTHENTICATE PLAIN AGJvYgBzZWNyZXQ=\r\n"],
        ["a AUTHENTICATE PLAIN\r\n", "AGJvYgBzZWNyZXQ=\r\n"],
        ["a AUTHENTICATE PLAIN\r\n", "Ym9iAGJvYgBzZWNyZXQ=\r\n"],
        ["a authenticate login\r\n", "Ym9i\r\n", "c2VjcmV0\r\n"],
        ["a AUTHENTICATE LOGIN Ym9i\r\n", "c2VjcmV0\r\n"],
    ],
)
def test_logging_in(spool: Spool, tmp_path: Path, commands: list[str]) -> None:
    with ImapDialogue(tmp_path, preauth=False) as dialogue:
        assert dialogue.greeting.startswith(b"* OK [CAPABILITY IMAP4rev1 ")
        assert b" IDLE" not in dialogue.greeting
        for command in commands[:-1]:
            assert dialogue.send(command).startswith(b"+ ")
        assert dialogue.send(commands[-1]).startswith(b"a OK [CAPABILITY IMAP4rev1 ")
        dialogue.ok("SELECT INBOX")
        assert dialogue.say("LOGIN bob secret") == [b"BAD Logged in already"]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("LOGIN bob wrong", b"NO [AUTHENTICATIONFAILED]"),
        ('LOGIN "" ""', b"NO [AUTHENTICATIONFAILED]"),
        ("AUTHENTICATE PLAIN YW5uYQBib2IAc2VjcmV0", b"NO [AUTHORIZATIONFAILED]"),
        ("AUTHENTICATE PLAIN ====", b"BAD"),
        ("AUTHENTICATE CRAM-MD5", b"NO [CANNOT]"),
        ("SELECT INBOX", b"BAD"),
        ('LIST "" *', b"BAD"),
        ("IDLE", b"BAD"),
        ("STARTTLS", b"BAD"),
        ("APPEND INBOX {5+}\r\nhello", b"BAD"),
        ("LOGIN {5000+}\r\n" + "x" * 5000 + " y", b""),
    ],
)
def test_strangers(tmp_path: Path, command: str, answer: bytes) -> None:
    with ImapDialogue(tmp_path, preauth=False) as dialogue:
        answered = dialogue.send(f"a {command}\r\n")
        assert answered.startswith(b"a " + answer) if answer else answered.startswith(b"* BYE")
        assert b"* OK" not in answered
        assert dialogue.executor is None
    assert list(tmp_path.iterdir()) == []


TOO_LONG = b"x" * 70_000


def test_a_response_that_is_too_long_ends_the_login(tmp_path: Path) -> None:
    """Nothing of it is taken for a tag or shown: it may be a password."""
    with ImapDialogue(tmp_path, preauth=False) as dialogue:
        dialogue.send("a AUTHENTICATE PLAIN\r\n")
        assert dialogue.send(TOO_LONG + b"\r\n") == b"a BAD The response is too long\r\n"
        assert dialogue.send("b NOOP\r\n") == b"b OK Nothing done\r\n"


def test_what_is_too_long_ends_idle(bob: ImapDialogue) -> None:
    bob.ok("SELECT INBOX")
    bob.send("a IDLE\r\n")
    assert bob.idle
    assert bob.send(TOO_LONG + b"\r\n") == b"a BAD DONE expected\r\n"
    assert not bob.idle
    bob.ok("NOOP")


def test_what_is_too_long_behind_a_message_drops_it(bob: ImapDialogue, tmp_path: Path) -> None:
    assert bob.send(b"a APPEND INBOX {5+}\r\nhello" + TOO_LONG + b"\r\n") == b"a BAD One message at a time\r\n"
    assert bob.executor is not None
    assert bob.executor._appending is None
    assert not (tmp_path / "bob/4").exists()
    assert bob.append("INBOX", b"Subject: x\r\n\r\n").startswith(b"OK")


def test_three_wrong_passwords_are_enough(tmp_path: Path) -> None:
    with ImapDialogue(tmp_path, preauth=False) as dialogue:
        for _ in range(2):
            assert not dialogue.closed
            dialogue.say("LOGIN bob x")
        assert b"* BYE" in dialogue.send("a LOGIN bob x\r\n")
        assert dialogue.closed


def test_who_is_logged_in_by_the_door_may_log_in_again(spool: Spool, tmp_path: Path) -> None:
    """As anybody they like: they stay who they are."""
    deliver(spool, "anna")
    with ImapDialogue(tmp_path) as dialogue:
        assert dialogue.greeting.startswith(b"* PREAUTH ")
        dialogue.ok("LOGIN anna wrong")
        dialogue.ok("SELECT INBOX")
        assert len(dialogue.ok("FETCH 1:* UID")) == 3
    assert PASSWORD != "wrong"


def test_what_a_client_can_make_fail_does_not_fill_the_log(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(log, "error", lambda event, **fields: said.append((event, fields)))
    with ImapDialogue(tmp_path) as dialogue:
        (tmp_path / "bob/odd/.lock").mkdir(parents=True)
        for _ in range(MAX_COMPLAINTS + 30):
            assert dialogue.append("odd", b"Subject: x\r\n\r\n").startswith(b"NO")
    assert [event for event, _ in said] == ["imap.failed"] * MAX_COMPLAINTS + ["imap.failures"]
    assert said[-1][1] == {"user": "bob", "count": 30}


# -- select


def test_select(bob: ImapDialogue, tmp_path: Path) -> None:
    *untagged, tagged = bob.say("SELECT inbox")
    assert tagged == b"OK [READ-WRITE] Opened"
    text = b"\n".join(untagged)
    assert b"* FLAGS (\\Answered \\Deleted \\Draft \\Flagged \\Seen)" in untagged
    assert b"* 3 EXISTS" in untagged
    assert b"* 3 RECENT" in untagged
    assert b"[UNSEEN 1]" in text
    assert b"[UIDNEXT 4]" in text
    assert re.search(rb"\[UIDVALIDITY [1-9]\d*\]", text)
    assert re.search(rb"\[HIGHESTMODSEQ [1-9]\d*\]", text)
    assert state(tmp_path, "1") == set()


def test_recent_is_for_the_first_to_select(bob: ImapDialogue, tmp_path: Path) -> None:
    with ImapDialogue(tmp_path) as examiner:
        assert b"* 3 RECENT" in examiner.ok("EXAMINE INBOX")
        assert examiner.ok("FETCH 1 FLAGS") == [b"* 1 FETCH (FLAGS (\\Recent))"]
    assert state(tmp_path, "1") == {"\\Recent"}
    bob.ok("SELECT INBOX")
    assert bob.ok("SEARCH RECENT") == [b"* SEARCH 1 2 3"]
    with other(tmp_path) as late:
        assert late.ok("SEARCH RECENT") == [b"* SEARCH"]
        assert b"* 0 RECENT" in late.ok("SELECT INBOX")


def test_many_that_are_recent(bob: ImapDialogue, tmp_path: Path) -> None:
    """Their states are not written anew, and yet they are recent to nobody else."""
    box = tmp_path / "bob"
    for number in range(4, 604):
        (box / str(number)).write_bytes(b"Subject: x\n\nx\n")
        (box / f"{number}.status").write_bytes(b"\\Recent\n")
    (box / ".mh_sequences").write_text("unseen: 1-603\n")
    with ImapDialogue(tmp_path) as examiner:
        assert b"* 603 RECENT" in examiner.ok("EXAMINE INBOX")
    assert b"* 603 RECENT" in bob.ok("SELECT INBOX")
    assert bob.ok("FETCH 600 FLAGS") == [b"* 600 FETCH (FLAGS (\\Recent))"]
    assert state(tmp_path, "600") == {"\\Recent"}
    bob.ok("STORE 600 +FLAGS.SILENT (\\Seen)")
    assert state(tmp_path, "600") == {"\\Seen"}
    deliver(Spool(str(tmp_path)), "bob")
    with ImapDialogue(tmp_path) as examiner:
        assert b"* 1 RECENT" in examiner.ok("EXAMINE INBOX")
        assert examiner.ok("SEARCH RECENT") == [b"* SEARCH 604"]
        assert examiner.ok("STATUS INBOX (RECENT)") == [b"* STATUS INBOX (RECENT 1)"]
    (box / ".recent").write_text("nonsense")
    with other(tmp_path) as late:
        assert b"* 604 EXISTS" in late.ok("SELECT INBOX")


def test_examine_changes_nothing(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("EXAMINE INBOX")
    assert bob.ok("FETCH 1 BODY[TEXT]") == [b"* 1 FETCH (BODY[TEXT] {8}\r\nbody 1\r\n)"]
    for command in ("STORE 1 +FLAGS \\Seen", "EXPUNGE", "MOVE 1 Trash", "UID EXPUNGE 1"):
        assert bob.say(command)[-1].startswith(b"NO [READ-ONLY]"), command
    assert state(tmp_path, "1") == {"\\Recent"}
    bob.ok("CLOSE")
    assert bob.say("FETCH 1 FLAGS") == [b"BAD No mailbox is selected"]


def test_a_select_that_fails_selects_nothing(bob: ImapDialogue) -> None:
    bob.ok("SELECT INBOX")
    assert bob.say("SELECT nowhere")[-1].startswith(b"NO [NONEXISTENT]")
    assert bob.say("FETCH 1 FLAGS") == [b"BAD No mailbox is selected"]


def test_a_state_that_cannot_be_opened_for_want_of_descriptors(
    bob: ImapDialogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of the message, which would be new again to its client otherwise."""
    (tmp_path / "bob" / "2.status").write_text("\\Seen\n")
    open_file, there_are = os.open, [False]

    def scarce(path: str, *args: int, **kwargs: int) -> int:
        if path == "2.status" and not there_are[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_file(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", scarce)
        assert bob.say("SELECT INBOX")[-1].startswith(b"NO ")
        there_are[0] = True
        bob.ok("SELECT INBOX")
    assert bob.ok("FETCH 2 FLAGS") == [b"* 2 FETCH (FLAGS (\\Seen))"]


def test_empty_folder(bob: ImapDialogue) -> None:
    bob.ok("CREATE empty")
    assert b"* 0 EXISTS" in bob.ok("SELECT empty")
    assert bob.ok("FETCH 1:* FLAGS") == []
    assert bob.ok("UID FETCH 1:* FLAGS") == []
    assert bob.say("FETCH 1 FLAGS")[-1].startswith(b"BAD")
    assert bob.ok("SEARCH ALL") == [b"* SEARCH"]
    assert bob.ok("EXPUNGE") == []
    bob.ok("CLOSE")


# -- fetch and store


def test_fetch(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("SELECT INBOX")
    content = HEADER + b"Subject: number 2\r\n\r\nbody 2\r\n"
    assert bob.ok("FETCH 2 (UID RFC822.SIZE)") == [b"* 2 FETCH (UID 2 RFC822.SIZE %d)" % len(content)]
    assert bob.ok("FETCH 2 BODY.PEEK[]") == [b"* 2 FETCH (BODY[] {%d}\r\n%s)" % (len(content), content)]
    assert state(tmp_path, "2") == set()
    assert bob.ok("UID FETCH 2 BODY[TEXT]<1.3>") == [
        b"* 2 FETCH (UID 2 BODY[TEXT]<1> {3}\r\nody FLAGS (\\Recent \\Seen))"
    ]
    assert state(tmp_path, "2") == {"\\Seen"}
    assert bob.ok("UID FETCH 2 (UID FLAGS)") == [b"* 2 FETCH (UID 2 FLAGS (\\Recent \\Seen))"]
    assert bob.say("FETCH 4 FLAGS")[-1].startswith(b"BAD")
    assert bob.ok("UID FETCH 4 FLAGS") == []


def test_internal_date_is_that_of_the_file(bob: ImapDialogue, tmp_path: Path) -> None:
    os.utime(tmp_path / "bob/1", (1, 855_000_000))
    bob.ok("SELECT INBOX")
    assert bob.ok("FETCH 1 INTERNALDATE") == [b'* 1 FETCH (INTERNALDATE " 3-Feb-1997 20:00:00 +0000")']


@pytest.mark.parametrize(
    ("command", "flags", "answered"),
    [
        ("STORE 1 FLAGS (\\Seen $Fwd)", {"\\Seen", "$Fwd"}, True),
        ("STORE 1 +FLAGS \\flagged", {"\\Answered", "\\Flagged", "old"}, True),
        ("STORE 1 -FLAGS (\\Answered OLD)", set(), True),
        ("STORE 1 FLAGS ()", set(), True),
        ("UID STORE 1 +FLAGS.SILENT (\\Deleted)", {"\\Answered", "\\Deleted", "old"}, False),
        ("STORE 1 +FLAGS OLD", {"\\Answered", "old"}, True),
    ],
)
def test_store(bob: ImapDialogue, tmp_path: Path, command: str, flags: set[str], answered: bool) -> None:
    bob.ok("SELECT INBOX")
    bob.ok("STORE 1 FLAGS (\\Answered old)")
    fetched = [line for line in bob.ok(command) if b"FETCH" in line]
    assert state(tmp_path, "1") == flags
    assert bool(fetched) is answered
    if answered:
        shown = re.search(rb"FLAGS \(([^)]*)\)", fetched[0])
        assert shown is not None
        assert set(shown[1].decode().split()) == flags | {"\\Recent"}
    assert not [name for name in os.listdir(tmp_path / "bob") if name.startswith(".1")]


def test_mh_readers_see_the_flags(bob: ImapDialogue, tmp_path: Path) -> None:
    sequences = tmp_path / "bob/.mh_sequences"
    sequences.write_text("cur: 2\nunseen: 1-3\n")
    bob.ok("SELECT INBOX")
    bob.ok("STORE 2 +FLAGS (\\Seen \\Flagged)")
    bob.ok("STORE 3 +FLAGS (\\Answered)")
    assert set(sequences.read_text().splitlines()) == {"cur: 2", "unseen: 1 3", "flagged: 2", "replied: 3"}
    bob.ok("STORE 2 -FLAGS (\\Seen \\Flagged)")
    assert set(sequences.read_text().splitlines()) == {"cur: 2", "unseen: 1-3", "replied: 3"}
    bob.ok("STORE 3 +FLAGS \\Deleted")
    bob.ok("EXPUNGE")
    assert set(sequences.read_text().splitlines()) == {"cur: 2", "unseen: 1-2"}


# -- expunge


def test_expunge(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("SELECT INBOX")
    bob.ok("STORE 1,3 +FLAGS.SILENT \\Deleted")
    assert bob.ok("EXPUNGE") == [b"* 3 EXPUNGE", b"* 1 EXPUNGE"]
    assert bob.ok("FETCH 1:* UID") == [b"* 1 FETCH (UID 2)"]
    assert {p.name for p in (tmp_path / "bob").iterdir() if not p.name.startswith(".") and p.is_file()} == {
        "2",
        "2.status",
    }


def test_a_number_is_never_given_twice(bob: ImapDialogue, spool: Spool, tmp_path: Path) -> None:
    """Though it was the highest, and no name is left to tell of it."""
    bob.ok("SELECT INBOX")
    bob.ok("STORE 1:* +FLAGS.SILENT \\Deleted")
    bob.ok("EXPUNGE")
    assert b"[UIDNEXT 4]" in b"".join(bob.ok("SELECT INBOX"))
    assert deliver(spool, "bob") == [4]


def test_uid_expunge_and_close(bob: ImapDialogue) -> None:
    bob.ok("SELECT INBOX")
    bob.ok("STORE 1:* +FLAGS.SILENT \\Deleted")
    assert bob.ok("UID EXPUNGE 2:2") == [b"* 2 EXPUNGE"]
    bob.ok("UNSELECT")
    assert b"* 2 EXISTS" in bob.ok("SELECT INBOX")
    assert bob.ok("CLOSE") == []
    assert b"* 0 EXISTS" in bob.ok("SELECT INBOX")


def test_expunged_by_another(bob: ImapDialogue, tmp_path: Path) -> None:
    """Message numbers change only when the client may be told (RFC 3501 7.4.1)."""
    bob.ok("CREATE there")
    bob.ok("SELECT INBOX")
    with other(tmp_path) as second:
        second.ok("STORE 1 +FLAGS.SILENT \\Deleted")
        second.ok("EXPUNGE")
    assert bob.ok("FETCH 2 UID") == [b"* 2 FETCH (UID 2)"]
    assert bob.say("FETCH 1 BODY[]")[-1].startswith(b"NO [EXPUNGEISSUED]")
    assert bob.ok("SEARCH UID 2") == [b"* SEARCH 2"]
    assert bob.say("STORE 1 +FLAGS \\Seen")[-1].startswith(b"NO [EXPUNGEISSUED]")
    expunged = bob.say("COPY 1:2 there")
    assert expunged[-1].startswith(b"NO [EXPUNGEISSUED]")
    assert b"* 1 EXPUNGE" in expunged
    assert bob.ok("FETCH 1 UID") == [b"* 1 FETCH (UID 2)"]


def test_removed_by_another_program(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("SELECT INBOX")
    (tmp_path / "bob/2").unlink()
    (tmp_path / "bob/2.status").unlink()
    assert bob.ok("NOOP") == [b"* 2 EXPUNGE"]


# -- copy, move, append


def test_copy(bob: ImapDialogue, tmp_path: Path) -> None:
    os.utime(tmp_path / "bob/1", (1, 855_000_000))
    bob.ok("SELECT INBOX")
    bob.ok("STORE 1 +FLAGS (\\Flagged work)")
    bob.ok("CREATE there")
    tagged = bob.say("COPY 1,3 there")[-1]
    assert re.fullmatch(rb"OK \[COPYUID \d+ 1,3 1:2\] Copied", tagged)
    assert (tmp_path / "bob/there/1").read_bytes() == (tmp_path / "bob/1").read_bytes()
    assert (tmp_path / "bob/there/1").stat().st_mtime == 855_000_000
    assert set((tmp_path / "bob/there/1.status").read_text().split()) == {"\\Flagged", "work", "\\Recent"}
    assert bob.say("COPY 1 nowhere")[-1].startswith(b"NO [TRYCREATE]")
    assert bob.say("UID COPY 99 there")[-1].startswith(b"OK")


def test_move(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("CREATE there")
    bob.ok("SELECT INBOX")
    untagged = bob.ok("UID MOVE 2:3 there")
    assert re.fullmatch(rb"\* OK \[COPYUID \d+ 2:3 1:2\] Moved", untagged[0])
    assert untagged[1:] == [b"* 3 EXPUNGE", b"* 2 EXPUNGE"]
    assert not (tmp_path / "bob/2").exists()
    assert b"number 2" in (tmp_path / "bob/there/1").read_bytes()


def test_append(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("SELECT INBOX")
    content = b"Subject: a\r\n\r\none\r\nbare\rCR\r\n"
    tagged = bob.append("INBOX", content, '(\\Seen $x) "17-Jul-1996 02:44:25 -0700" ')
    assert re.fullmatch(rb"OK \[APPENDUID \d+ 4\] Appended", tagged)
    assert (tmp_path / "bob/4").read_bytes() == b"Subject: a\n\none\nbare CR\n"
    assert (tmp_path / "bob/4").stat().st_mtime == 837596665
    assert state(tmp_path, "4") == {"\\Seen", "$x"}
    assert bob.ok("FETCH 4 (RFC822.SIZE FLAGS)") == [
        b"* 4 FETCH (RFC822.SIZE %d FLAGS ($x \\Recent \\Seen))" % len(content)
    ]


def test_append_is_announced_to_its_own_session(bob: ImapDialogue) -> None:
    bob.ok("SELECT INBOX")
    assert b"* 4 EXISTS\r\n" in bob.send(b"x APPEND INBOX {5+}\r\nhello\r\n")


def test_append_with_a_literal_that_waits(bob: ImapDialogue, tmp_path: Path) -> None:
    assert bob.send("a APPEND INBOX {10}\r\n") == b"+ Ready for the message\r\n"
    assert bob.send("Subject: x") == b""
    assert bob.send("\r\n").startswith(b"a OK [APPENDUID ")
    assert (tmp_path / "bob/4").read_bytes() == b"Subject: x"


def test_many_literals(bob: ImapDialogue) -> None:
    """At most so many in one command; the whole of it is dropped then, at the first that is too many."""
    bob.ok("SELECT INBOX")
    answer = bob.send("a SEARCH SUBJECT" + " {1+}\r\nx SUBJECT" * 30_000 + " x\r\nb NOOP\r\n")
    assert answer.startswith(b"a BAD [TOOBIG] Too many literals\r\nb OK ")
    assert b"c OK " in bob.send("c SEARCH " + "TEXT {0+}\r\n " * 150 + "ALL\r\n")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("APPEND nowhere {5}", b"NO [TRYCREATE]"),
        ("APPEND INBOX {2000000}", b"NO [TOOBIG]"),
        ("APPEND INBOX {0}", b"NO"),
        ("APPEND INBOX (\\Nonsense) {5}", b"BAD"),
        ("APPEND {100000}", b"BAD [TOOBIG]"),
        ("APPEND INBOX UTF8 (~{5}", b"BAD"),
    ],
)
def test_append_refused_before_the_message(bob: ImapDialogue, line: str, answer: bytes) -> None:
    assert bob.say(line)[-1].startswith(answer)
    bob.ok("NOOP")


@pytest.mark.parametrize("line", ["APPEND nowhere {5+}\r\nhello", "APPEND INBOX {2000000+}\r\n" + "x" * 2_000_000])
def test_append_refused_though_the_message_comes(bob: ImapDialogue, line: str) -> None:
    assert bob.say(line)[-1].startswith(b"NO")
    bob.ok("NOOP")
    assert b"* 3 EXISTS" in bob.ok("SELECT INBOX")


def test_append_in_utf8(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("ENABLE UTF8=ACCEPT")
    content = "Subject: Ä\r\n\r\nx\r\n".encode()
    assert bob.send(b"a APPEND INBOX UTF8 (~{%d+}\r\n%s)\r\n" % (len(content), content)).startswith(b"a OK")
    assert (tmp_path / "bob/4").read_bytes() == content.replace(b"\r", b"")


def test_one_message_at_a_time(bob: ImapDialogue, tmp_path: Path) -> None:
    """MULTIAPPEND is not offered; nothing is kept of it."""
    assert b"a BAD" in bob.send("a APPEND INBOX {5+}\r\nhello {5+}\r\nworld\r\n")
    bob.ok("NOOP")
    assert not (tmp_path / "bob/4").exists()


# -- mailboxes


def test_mailboxes(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("CREATE a/b")
    bob.ok("CREATE Entw&APw-rfe")
    bob.ok('CREATE "2024"')
    bob.ok('CREATE "7.status"')
    bob.ok("CREATE .x")
    bob.ok("CREATE =y")
    assert {p.name for p in (tmp_path / "bob").iterdir() if p.is_dir()} == {
        "a", "Entwürfe", "=2024", "=7.status", "=.x", "==y",
    }  # fmt: skip
    listed = {line.split(b' "/" ')[1] for line in bob.ok('LIST "" *')}
    assert listed == {b"INBOX", b"a", b"a/b", b"Entw&APw-rfe", b"2024", b"7.status", b".x", b"=y"}
    assert bob.say("CREATE a")[-1].startswith(b"NO [ALREADYEXISTS]")
    assert bob.say("CREATE inbox")[-1].startswith(b"NO [ALREADYEXISTS]")
    assert bob.say("CREATE a//b")[-1].startswith(b"NO [CANNOT]")
    assert bob.say("DELETE INBOX")[-1].startswith(b"NO [CANNOT]")
    assert bob.say("DELETE nowhere")[-1].startswith(b"NO [NONEXISTENT]")
    bob.ok("DELETE .x")
    bob.ok("RENAME a b/c")
    assert {line.split(b' "/" ')[1] for line in bob.ok('LIST "" b*')} == {b"b", b"b/c", b"b/c/b"}


def test_deleting_a_folder_that_has_children(bob: ImapDialogue) -> None:
    """It stays as a name that cannot be selected (RFC 3501 6.3.4)."""
    bob.ok("CREATE a/b")
    bob.append("a", b"hello")
    bob.ok("DELETE a")
    assert bob.ok('LIST "" a*') == [
        b'* LIST (\\Noselect \\HasChildren) "/" a',
        b'* LIST (\\HasNoChildren) "/" a/b',
    ]
    assert bob.say("SELECT a")[-1].startswith(b"NO")
    assert bob.say("DELETE a")[-1].startswith(b"NO [HASCHILDREN]")
    bob.ok("CREATE a")
    assert b"* 0 EXISTS" in bob.ok("SELECT a")


def test_what_was_left_of_a_deleted_folder(bob: ImapDialogue, tmp_path: Path) -> None:
    """A session that still reads it may save its cache while it is removed: nothing stays, no deletion fails."""
    for name in ("a", "b"):
        bob.ok(f"CREATE {name}")
    left = tmp_path / "bob" / f".deleted.{os.getpid()}.{threading.get_ident()}"
    left.mkdir()
    (left / ".cache").touch()
    bob.ok("DELETE a")
    bob.ok("DELETE b")
    assert not list((tmp_path / "bob").glob(".deleted.*"))


def test_a_folder_that_comes_again_has_another_validity(bob: ImapDialogue) -> None:
    def validity(name: str) -> int:
        found = re.search(rb"UIDVALIDITY (\d+)", b"".join(bob.ok(f"STATUS {name} (UIDVALIDITY)")))
        assert found is not None
        return int(found[1])

    bob.ok("CREATE a")
    first = validity("a")
    bob.ok("DELETE a")
    bob.ok("CREATE a")
    second = validity("a")
    assert second > first
    bob.ok("RENAME a b")
    assert validity("b") == second
    bob.ok("CREATE a")
    assert validity("a") > second


def test_renaming_inbox_moves_its_messages(bob: ImapDialogue, spool: Spool) -> None:
    bob.ok("CREATE INBOX/sub")
    bob.ok("RENAME INBOX old")
    assert b"* 3 EXISTS" in bob.ok("SELECT old")
    assert b"* 0 EXISTS" in bob.ok("SELECT INBOX")
    assert bob.ok('LIST "" inbox*') == [b'* LIST (\\HasChildren) "/" INBOX', b'* LIST (\\HasNoChildren) "/" INBOX/sub']
    assert deliver(spool, "bob") == [4]


def test_list_extended(bob: ImapDialogue) -> None:
    for name in ("a", "a/b", "c", "Sent"):
        bob.ok(f"CREATE {name}")
    bob.ok("CREATE mine (USE (\\Trash))")
    for name in ("a/b", "c", "gone"):
        bob.ok(f"SUBSCRIBE {name}")
    assert bob.ok('LIST "" ""') == [b'* LIST (\\Noselect) "/" ""']
    assert bob.ok('LIST (SUBSCRIBED) "" *') == [
        b'* LIST (\\HasNoChildren \\Subscribed) "/" a/b',
        b'* LIST (\\HasNoChildren \\Subscribed) "/" c',
        b'* LIST (\\NonExistent \\HasNoChildren \\Subscribed) "/" gone',
    ]
    assert bob.ok('LIST (SUBSCRIBED RECURSIVEMATCH) "" %') == [
        b'* LIST (\\HasChildren) "/" a ("CHILDINFO" ("SUBSCRIBED"))',
        b'* LIST (\\HasNoChildren \\Subscribed) "/" c',
        b'* LIST (\\NonExistent \\HasNoChildren \\Subscribed) "/" gone',
    ]
    assert bob.ok('LIST (SPECIAL-USE) "" *') == [
        b'* LIST (\\HasNoChildren \\Sent) "/" Sent',
        b'* LIST (\\HasNoChildren \\Trash) "/" mine',
    ]
    assert bob.ok('LIST "" (c a/%) RETURN (SUBSCRIBED STATUS (MESSAGES))') == [
        b'* LIST (\\HasNoChildren \\Subscribed) "/" a/b',
        b"* STATUS a/b (MESSAGES 0)",
        b'* LIST (\\HasNoChildren \\Subscribed) "/" c',
        b"* STATUS c (MESSAGES 0)",
    ]
    assert bob.ok("LSUB a/ %") == [b'* LSUB () "/" a/b']
    assert b'* LSUB (\\Noselect) "/" a' in bob.ok('LSUB "" %')
    bob.ok("UNSUBSCRIBE c")
    assert not [line for line in bob.ok('LSUB "" *') if line.endswith(b" c")]
    assert bob.say("CREATE x (USE (\\All))")[-1].startswith(b"NO [USEATTR]")


def test_the_folders_that_programs_expect(bob: ImapDialogue) -> None:
    assert bob.executor is not None
    bob.executor._account.prepare()
    assert [line.split(b" ")[-1] for line in bob.ok('LSUB "" *')] == [
        b"INBOX", b"Archive", b"Drafts", b"Junk", b"Sent", b"Trash",
    ]  # fmt: skip
    bob.ok("DELETE Junk")
    bob.ok("UNSUBSCRIBE Junk")
    bob.executor._account.prepare()
    assert not [line for line in bob.ok('LIST "" *') if b"Junk" in line]


def test_status(bob: ImapDialogue) -> None:
    bob.ok("SELECT INBOX")
    bob.ok("STORE 1 +FLAGS (\\Seen \\Deleted)")
    size = sum(len(HEADER) + len(b"Subject: number 1\r\n\r\nbody 1\r\n") for _ in range(3))
    (line,) = bob.ok("STATUS INBOX (MESSAGES RECENT UNSEEN DELETED UIDNEXT SIZE APPENDLIMIT)")
    counts = b"MESSAGES 3 RECENT 0 UNSEEN 2 DELETED 1 UIDNEXT 4"
    assert line == b"* STATUS INBOX (%s SIZE %d APPENDLIMIT 1000000)" % (counts, size)
    assert bob.say("STATUS nowhere (MESSAGES)")[-1].startswith(b"NO [NONEXISTENT]")


# -- search, sort, thread


@pytest.fixture
def library(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A mailbox with messages of many kinds."""
    spool = Spool(str(tmp_path))
    contents = [
        "From: Anna <anna@x.org>\nTo: bob@dom.fr\nSubject: Lunch\nDate: Mon, 2 Nov 2026 10:00:00 +0000\n"
        "Message-ID: <1@x>\n\nAt noon?\n",
        "From: bob@dom.fr\nTo: anna@x.org\nCc: Carol <c@y>\nSubject: Re: lunch\n"
        "Date: Mon, 2 Nov 2026 12:00:00 +0200\nMessage-ID: <2@x>\nReferences: <1@x>\n\nYes!\n",
        "From: =?utf-8?q?J=C3=B6rg?= <j@z>\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\nDate: Sun, 1 Nov 2026 23:30:00 -0500\n"
        "Message-ID: <3@x>\nContent-Type: text/plain; charset=iso-8859-1\n"
        "Content-Transfer-Encoding: quoted-printable\n\nViele Gr=FC=DFe aus K=F6ln\n",
        "From: list@y\nSubject: [list] Lunch\nMessage-ID: <4@x>\nIn-Reply-To: <2@x>\n"
        "Content-Type: text/html\nContent-Transfer-Encoding: base64\n\nPHA+aGlkZGVuIHdvcmQ8L3A+\n",
    ]
    for content in contents:
        deliver(spool, "bob", content=content.encode())
    for n, day in enumerate((3, 2, 1, 4), 1):
        os.utime(tmp_path / f"bob/{n}", (0, 1_793_404_800 + day * 86400))  # day is the day of November 2026
    with ImapDialogue(tmp_path) as dialogue:
        dialogue.ok("SELECT INBOX")
        dialogue.ok("STORE 2 +FLAGS (\\Seen work)")
        yield dialogue


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ALL", "1 2 3 4"),
        ("SEEN", "2"),
        ("UNSEEN", "1 3 4"),
        ("KEYWORD WORK", "2"),
        ("UNKEYWORD work", "1 3 4"),
        ("NEW", "1 3 4"),
        ("OLD", ""),
        ("2:3 NOT SEEN", "3"),
        ("UID 3:*", "3 4"),
        ("OR SEEN UID 4", "2 4"),
        ("(SEEN FROM bob)", "2"),
        ("FROM anna", "1"),
        ('FROM "ANNA <anna"', "1"),
        ("TO anna", "2"),
        ("CC carol", "2"),
        ("SUBJECT lunch", "1 2 4"),
        ("HEADER message-id 3@", "3"),
        ('HEADER references ""', "2"),
        ("BODY noon", "1"),
        ("BODY lunch", ""),
        ("TEXT lunch", "1 2 4"),
        ('BODY "hidden word"', "4"),
        ("BODY PHA+", ""),
        ("CHARSET UTF-8 BODY {7+}\r\ngrüße", "3"),
        ("CHARSET UTF-8 SUBJECT {7+}\r\nGRÜSSE", "3"),
        ("CHARSET UTF-8 SUBJECT {7+}\r\nGRÜßE", "3"),
        ("CHARSET UTF-8 FROM {5+}\r\njörg", "3"),
        ("ON 2-Nov-2026", "2"),
        ("BEFORE 2-Nov-2026", "3"),
        ("SINCE 2-Nov-2026", "1 2 4"),
        ("SENTON 2-Nov-2026", "1 2"),
        ("SENTBEFORE 2-Nov-2026", "3"),
        ("SENTSINCE 1-Nov-2026", "1 2 3"),
        ("LARGER 0 SMALLER 5", ""),
        ("LARGER 10 SMALLER 1000", "1 2 3 4"),
        ("YOUNGER 1 OLDER 1", ""),
        ("MODSEQ 1", "1 2 3 4"),
    ],
)
def test_search(library: ImapDialogue, query: str, found: str) -> None:
    lines = [line for line in library.ok(f"SEARCH {query}".encode()) if line.startswith(b"* SEARCH")]
    assert lines[0].partition(b" (MODSEQ")[0] == f"* SEARCH {found}".strip().encode()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("SEARCH RETURN (MIN MAX COUNT) UNSEEN", "MIN 1 MAX 4 COUNT 3"),
        ("SEARCH RETURN () UNSEEN", "ALL 1,3:4"),
        ("UID SEARCH RETURN (ALL) UNSEEN", "UID ALL 1,3:4"),
        ("SEARCH RETURN (COUNT MIN) FROM nobody", "COUNT 0"),
    ],
)
def test_esearch(library: ImapDialogue, command: str, answer: str) -> None:
    (line,) = library.ok(command)
    assert re.sub(rb' \(TAG "[^"]*"\)', b"", line) == f"* ESEARCH {answer}".encode()


def test_saved_result(library: ImapDialogue) -> None:
    assert library.ok("SEARCH RETURN (SAVE) UNSEEN") == []
    assert [line.split()[1] for line in library.ok("FETCH $ UID")] == [b"1", b"3", b"4"]
    assert library.ok("SEARCH $ FROM anna") == [b"* SEARCH 1"]
    library.ok("SEARCH RETURN (SAVE MAX) UNSEEN")
    assert library.ok("UID SEARCH $") == [b"* SEARCH 4"]


@pytest.mark.parametrize(
    ("command", "answer", "left"),
    [
        ("SEARCH RETURN (SAVE) CHARSET KOI8-R SUBJECT x", b"NO [BADCHARSET (US-ASCII UTF-8)]", b""),
        ("SEARCH RETURN (COUNT SAVE) CHARSET KOI8-R $", b"NO [BADCHARSET (US-ASCII UTF-8)]", b""),
        ("SEARCH RETURN (COUNT) CHARSET KOI8-R SUBJECT x", b"NO [BADCHARSET (US-ASCII UTF-8)]", b" 1 3 4"),
        ("SORT (DATE) KOI8-R ALL", b"NO [BADCHARSET (US-ASCII UTF-8)]", b" 1 3 4"),
        ("THREAD REFERENCES KOI8-R ALL", b"NO [BADCHARSET (US-ASCII UTF-8)]", b" 1 3 4"),
        ("SEARCH RETURN (SAVE) CHARSET KOI8-R NONSENSE", b"BAD", b" 1 3 4"),
        ("SEARCH RETURN (SAVE) NONSENSE", b"BAD", b" 1 3 4"),
        ("SEARCH RETURN (SAVE) 99", b"BAD", b" 1 3 4"),
        ("SEARCH FROM nobody", b"OK", b" 1 3 4"),
        ("SEARCH RETURN (SAVE) FROM nobody", b"OK", b""),
    ],
)
def test_saved_result_after_other_searches(library: ImapDialogue, command: str, answer: bytes, left: bytes) -> None:
    """NO to a search with SAVE empties it, BAD does not (RFC 5182 2.1)."""
    library.ok("SEARCH RETURN (SAVE) UNSEEN")
    assert library.say(command)[-1].startswith(answer)
    assert library.ok("SEARCH $") == [b"* SEARCH" + left]


def test_an_unknown_charset_before_anything_is_selected(bob: ImapDialogue) -> None:
    assert bob.say("SEARCH CHARSET KOI8-R SUBJECT x") == [b"BAD No mailbox is selected"]


@pytest.mark.parametrize(
    ("criteria", "order"),
    [
        ("ARRIVAL", "3 2 1 4"),
        ("REVERSE ARRIVAL", "4 1 2 3"),
        ("DATE", "3 1 2 4"),
        ("SUBJECT ARRIVAL", "3 2 1 4"),
        ("FROM", "1 2 3 4"),
        ("SIZE", "1 2 4 3"),
    ],
)
def test_sort(library: ImapDialogue, criteria: str, order: str) -> None:
    assert library.ok(f"SORT ({criteria}) UTF-8 ALL") == [f"* SORT {order}".encode()]


def test_thread(library: ImapDialogue) -> None:
    assert library.ok("THREAD REFERENCES UTF-8 ALL") == [b"* THREAD (3)(1 2 4)"]
    assert library.ok("UID THREAD ORDEREDSUBJECT UTF-8 UNSEEN") == [b"* THREAD (3)(1 4)"]


# -- changes by others


def test_changes_are_told(bob: ImapDialogue, spool: Spool, tmp_path: Path) -> None:
    bob.ok("SELECT INBOX")
    with other(tmp_path) as second:
        second.ok("STORE 2 +FLAGS (\\Flagged new)")
        deliver(spool, "bob")
        assert bob.ok("NOOP") == [
            b"* FLAGS (\\Answered \\Deleted \\Draft \\Flagged \\Seen new)",
            b"* 2 FETCH (FLAGS (\\Flagged \\Recent new))",
            b"* 4 EXISTS",
            b"* 4 RECENT",
        ]
        assert second.ok("NOOP") == [b"* 4 EXISTS", b"* 0 RECENT"]


def test_idle(bob: ImapDialogue, spool: Spool, tmp_path: Path) -> None:
    bob.ok("SELECT INBOX")
    assert bob.send("i IDLE\r\n") == b"+ idling\r\n"
    assert bob.changes() == []
    deliver(spool, "bob")
    assert bob.changes() == [b"* 4 EXISTS", b"* 4 RECENT"]
    with other(tmp_path) as second:
        second.ok("STORE 1 +FLAGS.SILENT \\Deleted")
        second.ok("EXPUNGE")
    assert bob.changes() == [b"* 1 EXPUNGE"]
    # iOS sends what follows in the same packet.
    assert bob.send("DONE\r\nj NOOP\r\n") == b"i OK Idle no more\r\nj OK Done\r\n"


def test_a_folder_that_is_deleted_ends_the_connections_that_read_it(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("CREATE a")
    bob.ok("SELECT a")
    with ImapDialogue(tmp_path) as second:
        second.ok("DELETE a")
    assert b"* BYE" in bob.send("x NOOP\r\n")
    assert bob.closed


def test_numbers_given_anew(bob: ImapDialogue, tmp_path: Path) -> None:
    """`folder -pack`: the numbers mean other messages, so clients must forget what they know."""
    found = re.search(rb"UIDVALIDITY (\d+)", b"".join(bob.ok("SELECT INBOX")))
    assert found is not None
    bob.ok("UNSELECT")
    folder = tmp_path / "bob"
    (folder / "1").unlink()
    for old, new in ((2, 1), (3, 2)):
        (folder / str(old)).rename(folder / str(new))
    with ImapDialogue(tmp_path) as second:
        # Who asks at the moment when it is found out is sent away.
        if second.say("SELECT INBOX")[-1].startswith(b"NO"):
            again = re.search(rb"UIDVALIDITY (\d+)", b"".join(second.ok("SELECT INBOX")))
            assert again is not None
            assert int(again[1]) > int(found[1])
            assert len(second.ok("FETCH 1:* UID")) == 2
            return
    raise AssertionError("not found out")


def test_a_message_without_a_state(bob: ImapDialogue, tmp_path: Path) -> None:
    """Another program has put it there, mutt for one."""
    (tmp_path / "bob/4").write_bytes(b"Subject: by mutt\n\nx\n")
    assert b"* 4 EXISTS" in bob.ok("SELECT INBOX")
    assert bob.ok("FETCH 4 FLAGS") == [b"* 4 FETCH (FLAGS (\\Recent))"]
    bob.ok("STORE 4 +FLAGS \\Seen")
    assert state(tmp_path, "4") == {"\\Seen"}


# -- CONDSTORE, QRESYNC, ENABLE, rev2


def modseqs(lines: list[bytes]) -> dict[int, int]:
    """MODSEQ by message number."""
    found = {}
    for line in lines:
        match = re.match(rb"\* (\d+) FETCH .*MODSEQ \((\d+)\)", line)
        if match:
            found[int(match[1])] = int(match[2])
    return found


def highest(lines: list[bytes]) -> int:
    found = re.search(rb"HIGHESTMODSEQ (\d+)", b"".join(lines))
    assert found is not None
    return int(found[1])


def test_condstore(bob: ImapDialogue, tmp_path: Path) -> None:
    start = highest(bob.ok("SELECT INBOX (CONDSTORE)"))
    before = modseqs(bob.ok("FETCH 1:* MODSEQ"))
    assert len(before) == 3
    assert max(before.values()) <= start < 2**63
    changed = modseqs(bob.ok("STORE 2 +FLAGS \\Seen"))
    assert changed[2] > start
    assert modseqs(bob.ok(f"FETCH 1:* FLAGS (CHANGEDSINCE {start})")) == changed
    assert bob.ok(f"FETCH 1:* FLAGS (CHANGEDSINCE {changed[2]})") == []
    assert len(modseqs(bob.ok("FETCH 1:* FLAGS (CHANGEDSINCE 0)"))) == 3
    lines = bob.say(f"STORE 1,2 (UNCHANGEDSINCE {start}) +FLAGS.SILENT \\Flagged")
    assert lines[-1].startswith(b"OK [MODIFIED 2] ")
    assert list(modseqs(lines)) == [1]
    assert state(tmp_path, "2") == {"\\Seen"}
    assert state(tmp_path, "1") == {"\\Flagged"}
    assert re.fullmatch(rb"\* SEARCH 2 \(MODSEQ %d\)" % changed[2], bob.ok(f"SEARCH MODSEQ {changed[2]} SEEN")[0])
    assert bob.say("STORE 1 (UNCHANGEDSINCE 0) +FLAGS x")[-1].startswith(b"OK [MODIFIED 1]")
    assert highest(bob.ok("STATUS INBOX (HIGHESTMODSEQ)")) >= max(modseqs(bob.ok("FETCH 1:* MODSEQ")).values())


def test_qresync(bob: ImapDialogue, tmp_path: Path) -> None:
    bob.ok("ENABLE QRESYNC")
    lines = bob.ok("SELECT INBOX")
    validity, modseq = re.search(rb"UIDVALIDITY (\d+)", b"".join(lines)), highest(lines)
    assert validity is not None
    bob.ok("UNSELECT")
    with other(tmp_path) as second:
        second.ok("STORE 1 +FLAGS \\Deleted")
        second.ok("STORE 3 +FLAGS \\Seen")
        second.ok("EXPUNGE")
    lines = bob.ok(f"SELECT INBOX (QRESYNC ({int(validity[1])} {modseq} 1:3))")
    assert b"* VANISHED (EARLIER) 1" in lines
    assert re.fullmatch(rb"\* 2 FETCH \(UID 3 FLAGS \(\\Seen\) MODSEQ \(\d+\)\)", lines[-1])
    bob.ok("STORE 2 +FLAGS.SILENT \\Deleted")
    *untagged, tagged = bob.say("EXPUNGE")
    assert untagged == [b"* VANISHED 3"]
    assert tagged.startswith(b"OK [HIGHESTMODSEQ ")
    assert bob.ok(f"UID FETCH 1:10 FLAGS (CHANGEDSINCE {modseq} VANISHED)")[0] == b"* VANISHED (EARLIER) 1,3"
    assert bob.ok("SELECT INBOX")[0].startswith(b"* OK [CLOSED]")
    with ImapDialogue(tmp_path) as second:
        assert second.say("SELECT INBOX (QRESYNC (1 1))")[-1].startswith(b"BAD")


def test_utf8(bob: ImapDialogue) -> None:
    assert bob.ok("ENABLE UTF8=ACCEPT XYZ") == [b"* ENABLED UTF8=ACCEPT"]
    bob.ok("CREATE Entwürfe&mehr".encode())
    assert 'Entwürfe&mehr"'.encode() in b"".join(bob.ok('LIST "" *'))


def test_rev2(bob: ImapDialogue) -> None:
    assert bob.ok("ENABLE IMAP4rev2") == [b"* ENABLED IMAP4rev2"]
    lines = bob.ok("SELECT INBOX")
    assert not [line for line in lines if b"RECENT" in line or b"UNSEEN" in line]
    assert b'* LIST () "/" INBOX' in lines
    assert bob.ok("FETCH 1 FLAGS") == [b"* 1 FETCH (FLAGS ())"]
    assert bob.ok("SEARCH ALL")[0].startswith(b"* ESEARCH (TAG ")


# -- bad clients


def test_errors_in_a_row(bob: ImapDialogue) -> None:
    answers = bob.send("a XYZZY\r\n" * 60)
    assert answers.count(b"a BAD") == 50
    assert b"* BYE Too many errors" in answers
    assert bob.closed


def test_other_users_mail(spool: Spool, tmp_path: Path) -> None:
    deliver(spool, "anna")
    os.symlink(tmp_path / "anna", tmp_path / "bob/link")
    (tmp_path / "bob/real").mkdir()
    os.symlink(tmp_path / "anna", tmp_path / "bob/real/below")
    with ImapDialogue(tmp_path) as dialogue:
        for name in ("../anna", "/anna", "a/../../anna", "link", "real/below", "link/x", "..", ".", "real/../../anna"):
            assert dialogue.say(f"SELECT {name}")[-1].startswith(b"NO"), name
        for name in ("link/new", "real/below/new"):
            assert dialogue.say(f"CREATE {name}")[-1].startswith(b"NO"), name
            assert dialogue.say(f"RENAME real {name}")[-1].startswith(b"NO"), name
        assert [line.split(b' "/" ')[1] for line in dialogue.ok('LIST "" *')] == [b"INBOX", b"real"]
    assert sorted(p.name for p in (tmp_path / "anna").iterdir() if not p.name.startswith(".")) == ["1", "1.status"]


@pytest.mark.parametrize("what", ["link", "fifo", "folder", "socket", "hard link"])
@pytest.mark.parametrize("where", ["1", "1.status", ".uidvalidity", ".cache", ".subscriptions", ".mh_sequences"])
def test_strange_files(spool: Spool, tmp_path: Path, what: str, where: str) -> None:
    """Their owner may put anything there: it never blocks, and nothing elsewhere is read or changed."""
    import socket

    (tmp_path / "secret").write_text("secret")
    place = tmp_path / "bob" / where
    if place.exists():
        place.unlink()
    match what:
        case "link":
            place.symlink_to(tmp_path / "secret")
        case "hard link":
            os.link(tmp_path / "secret", place)
        case "fifo":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(place))
    since = time.monotonic()
    with ImapDialogue(tmp_path) as dialogue:
        dialogue.say("SUBSCRIBE x")
        dialogue.say('LSUB "" *')
        dialogue.say("SELECT INBOX")
        answers = b"".join(dialogue.say("FETCH 1:* (FLAGS RFC822.SIZE BODY[] ENVELOPE)"))
        dialogue.say("STORE 1:* +FLAGS \\Flagged")
        dialogue.say("COPY 1:* INBOX")
        dialogue.say("UNSELECT")
    assert b"secret" not in answers
    assert (tmp_path / "secret").read_text() == "secret"
    assert time.monotonic() - since < 20


@pytest.mark.parametrize(
    "content",
    [b"Subject: longer\n\nmore\n" * 20, b"x\n", b"Subject: number 2\n\nbody\n\n\n", b""],
    ids=["longer", "shorter", "more lines", "empty"],
)
def test_a_message_that_its_owner_writes_over(bob: ImapDialogue, tmp_path: Path, content: bytes) -> None:
    bob.ok("SELECT INBOX")
    bob.ok("FETCH 1:* RFC822.SIZE")
    place = tmp_path / "bob/2"
    with place.open("r+b") as file:
        file.truncate(0)
        file.write(content)
    wire = content.replace(b"\n", b"\r\n")
    expected = [b"* 2 FETCH (BODY[] {%d}\r\n%s RFC822.SIZE %d)" % (len(wire), wire, len(wire)), b"OK Fetched"]
    assert bob.say("FETCH 2 (BODY.PEEK[] RFC822.SIZE)") == expected


def test_a_message_that_its_owner_makes_huge(bob: ImapDialogue, tmp_path: Path) -> None:
    """It takes no room on disk, and would take all memory."""
    bob.ok("SELECT INBOX")
    bob.ok("CREATE there")
    os.truncate(tmp_path / "bob/2", 2**40)
    for command in ("FETCH 2 BODYSTRUCTURE", "FETCH 2 BODY.PEEK[]", "FETCH 2 RFC822.SIZE", "COPY 2 there"):
        assert bob.say(command) == [b"NO [EXPUNGEISSUED] Some of the messages were removed"]
    for command in ("SEARCH TEXT number", "SORT (SUBJECT) UTF-8 ALL", "THREAD REFERENCES UTF-8 ALL"):
        assert b"2" not in bob.ok(command)[0].replace(b"UTF-8", b"")


def test_a_file_too_large_for_a_message_is_none_at_each_look(bob: ImapDialogue, spool: Spool, tmp_path: Path) -> None:
    os.truncate(tmp_path / "bob" / "1", 300 * 1024 * 1024)
    answer = bob.ok("SELECT INBOX")
    assert b"* 2 EXISTS" in answer
    validity = next(line for line in answer if b"UIDVALIDITY" in line)
    for exists in (3, 4):
        deliver(spool, "bob")
        assert b"* %d EXISTS" % exists in bob.ok("NOOP")
    assert validity in bob.ok("SELECT INBOX")


@pytest.mark.parametrize("seconds", [-1, -(2**31), 2**33, 2**34])
def test_times_that_its_owner_makes_up(bob: ImapDialogue, tmp_path: Path, seconds: int) -> None:
    for name in ("2", "2.status", "."):
        os.utime(tmp_path / "bob" / name, (seconds, seconds))
    highest = b"".join(bob.ok("SELECT INBOX"))
    assert 0 < int(re.search(rb"HIGHESTMODSEQ (\d+)", highest)[1]) < 2**63  # type: ignore[index]
    assert bob.ok("FETCH 2 (INTERNALDATE RFC822.SIZE)")[0].startswith(b"* 2 FETCH (INTERNALDATE ")
    os.utime(tmp_path / "bob", (seconds, seconds))
    bob.ok("NOOP")
    bob.ok("CLOSE")
    bob.ok("SELECT INBOX")


def test_idle_ends_with_done_alone(bob: ImapDialogue) -> None:
    bob.ok("SELECT INBOX")
    assert bob.send("a IDLE\r\nb NOOP\r\nc NOOP\r\n") == b"+ idling\r\na BAD DONE expected\r\nc OK Done\r\n"


def test_names_of_fields_that_are_no_atoms(bob: ImapDialogue) -> None:
    bob.ok("SELECT INBOX")
    answer = bob.send(b'a FETCH 1 BODY.PEEK[HEADER.FIELDS ({4+}\r\na\r\nb {1+}\r\n\xe4 "c d")]\r\n')
    assert answer.startswith(b'* 1 FETCH (BODY[HEADER.FIELDS ({4}\r\na\r\nb {1}\r\n\xe4 "c d")] {2}\r\n\r\n)\r\n')


def test_a_literal_that_no_command_has(bob: ImapDialogue) -> None:
    assert bob.send("a NOOP {1+}\r\nx\r\n") == b"a BAD Unexpected text at the end of the command\r\n"


def test_modseq_of_what_a_search_returns(bob: ImapDialogue) -> None:
    """RFC 7162 3.1.10: of the messages that MIN and MAX name."""
    bob.ok("SELECT INBOX (CONDSTORE)")
    bob.ok("STORE 2 +FLAGS x")
    modseqs = [int(line.split(b"(")[2].rstrip(b")")) for line in bob.ok("FETCH 1:* MODSEQ")]

    def told(returns: str) -> int:
        line = bob.ok(f"SEARCH RETURN ({returns}) MODSEQ 1")[0]
        return int(line.split()[-1])

    assert told("MIN") == modseqs[0]
    assert told("MIN MAX") == max(modseqs[0], modseqs[2])
    assert told("MIN COUNT") == told("ALL") == modseqs[1]


def test_hostile_threads_cost_little() -> None:
    """What would be quadratic takes minutes; this takes a second on a busy machine."""
    count = 50_000
    nodes = [Node(n, float(n), f"about {n // 2}") for n in range(count)]
    chain = [[b"%d" % n, b"%d" % (n - 1)] for n in range(count)]
    since = time.process_time()
    assert len(_by_references(nodes, chain)) == 1
    nodes = [Node(n, float(n), f"about {n // 2}") for n in range(count)]
    assert len(_by_references(nodes, [[b"%d" % n] for n in range(count)])) == count // 2
    assert time.process_time() - since < 15
