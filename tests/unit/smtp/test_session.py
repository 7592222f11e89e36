"""Tables of dialogues with the pure session: what the client says, and what must come back.

A reply in a table is a code, or code and enhanced status code (RFC 3463); more than one when the input gives several.
"""

from __future__ import annotations

import pytest
from support.dialogue import PEER, PROGRAM, Dialogue

from smtpmail.mail.address import Address
from smtpmail.mail.envelope import Peer
from smtpmail.mail.route import Local, Remote
from smtpmail.smtp import replies
from smtpmail.smtp.actions import MoreRefused, RecipientRefused, SenderRefused
from smtpmail.smtp.replies import Reply
from smtpmail.smtp.session import MAX_ERRORS, MAX_REFUSED, MAX_REFUSED_TOLD, State

EHLO = "EHLO client.example"
MAIL = "MAIL FROM:<alice@example.org>"
RCPT = "RCPT TO:<bob@dom.fr>"


def codes(lines: list[str]) -> str:
    """The last line of each reply, as code and enhanced code."""
    shown = []
    for line in lines:
        if line[3:4] == "-":
            continue
        word = line[4:].partition(" ")[0]
        shown.append(line[:3] + (f" {word}" if word.count(".") == 2 and word.replace(".", "").isdigit() else ""))
    return ", ".join(shown)


def after(*commands: str, **options: object) -> Dialogue:
    """A dialogue in which these commands went before."""
    dialogue = Dialogue(**options)  # type: ignore[arg-type]
    for command in commands:
        lines = dialogue.say(command)
        assert lines[-1][0] in "23", f"{command}: {lines}"
    return dialogue


def test_greeting_and_ehlo() -> None:
    dialogue = Dialogue(max_size=52_428_800, max_recipients=1000, peer=PROGRAM)
    assert dialogue.greeting == ["220 mail.dom.fr ESMTP smtpmail"]
    first, *extensions = dialogue.say(EHLO)
    assert first.startswith("250-mail.dom.fr")
    assert [line[4:] for line in extensions] == [
        "PIPELINING",
        "SIZE 52428800",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        "DSN",
        "LIMITS RCPTMAX=1000",
        "HELP",
    ]
    assert {line[3] for line in extensions[:-1]} == {"-"}
    assert extensions[-1][3] == " "


def test_helo_has_one_line() -> None:
    assert Dialogue().say("HELO client.example") == ["250 mail.dom.fr"]


NOTHING, GREETED, SENDER, RECIPIENT, CHUNKS = (
    (),
    (EHLO,),
    (EHLO, MAIL),
    (EHLO, MAIL, RCPT),
    (EHLO, MAIL, RCPT, "BDAT 0"),
)
"""What went before: one for each state in which commands are read."""

IN_EVERY_STATE = [
    # command        nothing       greeted       sender        recipient     chunks
    ("EHLO a.b",     "250",        "250",        "250",        "250",        "250"),
    ("ehlo [::1]",   "250",        "250",        "250",        "250",        "250"),
    ("HELO a.b",     "250",        "250",        "250",        "250",        "250"),
    ("EHLO",         "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"),
    ("HELO",         "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"),
    ("EHLO a b",     "250",        "250",        "250",        "250",        "250"),
    ("EHLO \u00e9",  "250",        "250",        "250",        "250",        "250"),
    (MAIL,           "503 5.5.1",  "250 2.1.0",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"),
    (RCPT,           "503 5.5.1",  "503 5.5.1",  "250 2.1.5",  "250 2.1.5",  "503 5.5.1"),
    ("DATA",         "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "354",        "503 5.5.1"),
    ("DATA x",       "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "501 5.5.4",  "503 5.5.1"),
    ("BDAT 0",       "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "250 2.0.0",  "250 2.0.0"),
    ("BDAT 0 LAST",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "250 2.0.0",  "250 2.0.0"),
    ("BDAT",         "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"),
    ("BDAT -1",      "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"),
    ("BDAT 1 FIRST", "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"),
    ("RSET",         "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0"),
    ("RSET x",       "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"),
    ("NOOP",         "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0"),
    ("NOOP x y",     "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0"),
    ("VRFY bob",     "252 2.5.0",  "252 2.5.0",  "252 2.5.0",  "252 2.5.0",  "252 2.5.0"),
    ("VRFY",         "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"),
    ("HELP",         "214 2.0.0",  "214 2.0.0",  "214 2.0.0",  "214 2.0.0",  "214 2.0.0"),
    ("HELP MAIL",    "214 2.0.0",  "214 2.0.0",  "214 2.0.0",  "214 2.0.0",  "214 2.0.0"),
    ("STARTTLS",     "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1"),
    ("QUIT x",       "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"),
    ("AUTH PLAIN",   "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1"),
    ("EXPN list",    "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1"),
    ("ETRN dom.fr",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1"),
    ("TURN",         "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1"),
    ("SEND FROM:<>", "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1"),
    ("XYZZY",        "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2"),
    ("MAILFROM:<>",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2"),
    ("MAIL\tx",      "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2"),
    ("",             "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2"),
    (" NOOP",        "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2"),
]  # fmt: skip


@pytest.mark.parametrize("column", range(5), ids=["nothing", "greeted", "sender", "recipient", "chunks"])
@pytest.mark.parametrize("row", IN_EVERY_STATE, ids=[repr(row[0]) for row in IN_EVERY_STATE])
def test_every_command_in_every_state(row: tuple[str, ...], column: int) -> None:
    """The reply; and after a refusal the transaction goes on as if nothing had been said."""
    before = (NOTHING, GREETED, SENDER, RECIPIENT, CHUNKS)[column]
    dialogue = after(*before)
    state = dialogue.session.state
    lines = dialogue.say(row[0])
    assert codes(lines) == row[column + 1]
    assert not dialogue.closed
    if lines[-1][0] == "5":
        assert dialogue.session.state is state
        assert codes(dialogue.say("NOOP")) == "250 2.0.0"
        if before == RECIPIENT:
            assert codes(dialogue.send("DATA\r\nx\r\n.\r\n")) == "354, 250 2.0.0"
            assert [m.content for m in dialogue.messages] == [b"x\n"]


@pytest.mark.parametrize("verb", ["QUIT", "quit", "EXIT", "Exit"])
@pytest.mark.parametrize("before", [NOTHING, GREETED, SENDER, RECIPIENT, CHUNKS])
def test_quit(verb: str, before: tuple[str, ...]) -> None:
    dialogue = after(*before)
    assert codes(dialogue.say(verb)) == "221 2.0.0"
    assert dialogue.closed
    assert not dialogue.storing
    assert dialogue.send("NOOP\r\n") == []
    assert dialogue.messages == []


@pytest.mark.parametrize("verb", ["GET / HTTP/1.1", "POST / HTTP/1.0", "CONNECT a:25", "get /", "PRI * HTTP/2.0"])
def test_http_is_closed_at_once(verb: str) -> None:
    """What a browser was made to send must not become commands (cross-protocol attacks)."""
    dialogue = Dialogue()
    assert codes(dialogue.send(f"{verb}\r\n{EHLO}\r\n{MAIL}\r\n")) == "421 4.7.0"
    assert dialogue.closed


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("MAIL FROM:<>", "250 2.1.0"),
        ("mail from:<a@b>", "250 2.1.0"),
        ("MAIL FROM: <a@b>", "250 2.1.0"),  # a blank that many clients send
        ("MAIL FROM:<@x.example,@y.example:a@b>", "250 2.1.0"),  # source route, RFC 5321 C
        ('MAIL FROM:<"a b\\"c"@b.example>', "250 2.1.0"),
        ("MAIL FROM:<a@[192.0.2.1]>", "250 2.1.0"),
        ("MAIL FROM:<a@[IPv6:2001:db8::1]>", "250 2.1.0"),
        ("MAIL FROM:<" + "v" * 200 + "@b.example>", "250 2.1.0"),  # VERP
        ("MAIL", "501 5.5.4"),
        ("MAIL TO:<a@b>", "501 5.5.4"),
        ("MAIL FROM", "501 5.5.4"),
        ("MAIL FROM:", "501 5.1.7"),
        ("MAIL FROM:a@b", "250 2.1.0"),
        ("MAIL FROM:root", "501 5.1.7"),
        ("MAIL FROM:<a>", "501 5.1.7"),
        ("MAIL FROM:<a@>", "501 5.1.7"),
        ("MAIL FROM:<@b>", "501 5.1.7"),
        ("MAIL FROM:<a b@c>", "501 5.1.7"),
        ("MAIL FROM:<a..b@c>", "250 2.1.0"),
        ("MAIL FROM:<.a@c>", "250 2.1.0"),
        ("MAIL FROM:<a@b..c>", "501 5.1.7"),
        ("MAIL FROM:<a@-b>", "501 5.1.7"),
        ("MAIL FROM:<a@[999.0.0.1]>", "501 5.1.7"),
        ("MAIL FROM:<a@b>x", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=", "501 5.5.4"),
        ("MAIL FROM:<a@b> =1", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=1 SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=x", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=-1", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=1000", "250 2.1.0"),
        ("MAIL FROM:<a@b> size=1001", "552 5.3.4"),
        ("MAIL FROM:<a@b> SIZE=99999999999999999999", "552 5.3.4"),
        ("MAIL FROM:<a@b> BODY=8BITMIME", "250 2.1.0"),
        ("MAIL FROM:<a@b> BODY=7bit", "250 2.1.0"),
        ("MAIL FROM:<a@b> BODY=9BIT", "501 5.5.4"),
        ("MAIL FROM:<a@b> BODY", "501 5.5.4"),
        ("MAIL FROM:<a@b> BODY=BINARYMIME", "555 5.5.4"),
        ("MAIL FROM:<a@b> SMTPUTF8", "250 2.1.0"),
        ("MAIL FROM:<a@b> SMTPUTF8=1", "501 5.5.4"),
        ("MAIL FROM:<\u00e9@b> SMTPUTF8", "250 2.1.0"),
        ("MAIL FROM:<a@\u00e9.fr> SMTPUTF8", "250 2.1.0"),
        ("MAIL FROM:<\u00e9@b>", "553 5.6.7"),
        ("MAIL FROM:<a@\u00e9.fr>", "553 5.6.7"),
        ("MAIL FROM:<a@b> RET=FULL ENVID=QQ314159", "250 2.1.0"),
        ("MAIL FROM:<a@b> RET=hdrs", "250 2.1.0"),
        ("MAIL FROM:<a@b> RET=SOME", "501 5.5.4"),
        ("MAIL FROM:<a@b> ENVID=", "501 5.5.4"),
        ("MAIL FROM:<a@b> ENVID=a+zz", "501 5.5.4"),
        ("MAIL FROM:<a@b> ENVID=" + "x" * 101, "501 5.5.4"),
        ("MAIL FROM:<a@b> NOTIFY=NEVER", "555 5.5.4"),
        ("MAIL FROM:<a@b> AUTH=<>", "555 5.5.4"),
        ("MAIL FROM:<a@b> FUTURE=1", "555 5.5.4"),
    ],
)
def test_mail(line: str, reply: str) -> None:
    dialogue = after(EHLO, peer=PROGRAM)
    assert codes(dialogue.say(line)) == reply
    assert codes(dialogue.say("RSET")) == "250 2.0.0"
    assert codes(dialogue.say(MAIL)) == "250 2.1.0"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("RCPT TO:<bob@dom.fr>", "250 2.1.5"),
        ("rcpt to: <bob@DOM.FR>", "250 2.1.5"),
        ("RCPT TO:<postmaster>", "250 2.1.5"),
        ("RCPT TO:<PostMaster>", "250 2.1.5"),
        ('RCPT TO:<"b o b"@dom.fr>', "250 2.1.5"),
        ("RCPT TO:<bob@dom.fr.>", "250 2.1.5"),
        ("RCPT TO:<@relay.example:bob@dom.fr>", "250 2.1.5"),
        ("RCPT TO:<nobody@dom.fr>", "550 5.1.1"),
        ("RCPT TO:<bob@example.org>", "550 5.7.1"),
        ("RCPT", "501 5.5.4"),
        ("RCPT TO", "501 5.5.4"),
        ("RCPT FROM:<bob@dom.fr>", "501 5.5.4"),
        ("RCPT TO:", "501 5.1.3"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:bob@dom.fr", "250 2.1.5"),
        ("RCPT TO:<bob>", "501 5.1.3"),
        ("RCPT TO:<bob@@dom.fr>", "501 5.1.3"),
        ("RCPT TO:<\u00e9@dom.fr>", "553 5.6.7"),
        ("RCPT TO:<bob@dom.fr> NOTIFY=NEVER", "250 2.1.5"),
        ("RCPT TO:<bob@dom.fr> NOTIFY=success,FAILURE,delay ORCPT=rfc822;bob+40dom.fr", "250 2.1.5"),
        ("RCPT TO:<bob@dom.fr> NOTIFY=NEVER,DELAY", "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> NOTIFY=DELAY,DELAY", "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> NOTIFY=", "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> NOTIFY", "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> NOTIFY=ALWAYS", "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> ORCPT=bob", "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> ORCPT=;bob", "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> ORCPT=rfc822;", "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> ORCPT=rfc822;" + "x" * 501, "501 5.5.4"),
        ("RCPT TO:<bob@dom.fr> SIZE=1", "555 5.5.4"),
    ],
)
def test_rcpt(line: str, reply: str) -> None:
    """The reply; and it does not harm a recipient before and one behind."""
    dialogue = after(EHLO, MAIL, "RCPT TO:<first@dom.fr>", peer=PROGRAM)
    assert codes(dialogue.say(line)) == reply
    assert codes(dialogue.say("RCPT TO:<last@dom.fr>")) == "250 2.1.5"
    assert codes(dialogue.say("DATA") + dialogue.say(".")) == "354, 250 2.0.0"
    (message,) = dialogue.messages
    users = list(message.envelope.mailboxes)
    assert (users[0], users[-1], len(users)) == ("first", "last", 3 if reply[0] == "2" else 2)


def test_parameters_without_ehlo() -> None:
    """HELO has no extensions (RFC 5321 2.2.1)."""
    dialogue = after("HELO client.example")
    assert codes(dialogue.say("MAIL FROM:<a@b> SIZE=1")) == "555 5.5.4"
    assert codes(dialogue.say(MAIL)) == "250 2.1.0"
    assert codes(dialogue.say("RCPT TO:<bob@dom.fr> NOTIFY=NEVER")) == "555 5.5.4"
    assert codes(dialogue.say(RCPT)) == "250 2.1.5"


def test_envelope_keeps_what_was_said() -> None:
    dialogue = after(
        EHLO,
        "MAIL FROM:<a@b> SIZE=3 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B1",
        "RCPT TO:<bob@dom.fr> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob@dom.fr",
        "RCPT TO:<carol@second.fr>",
        "DATA",
        peer=PROGRAM,
    )
    dialogue.send("x\r\n.\r\n")
    (message,) = dialogue.messages
    envelope = message.envelope
    assert (envelope.sender, envelope.peer, envelope.helo) == (Address("a", "b"), PROGRAM, "client.example")
    assert (envelope.size, envelope.body, envelope.smtputf8) == (3, "8BITMIME", True)
    assert (envelope.ret, envelope.envid) == ("HDRS", "QQ+2B1")
    bob, carol = envelope.recipients
    assert (bob.routes, bob.notify, bob.orcpt) == ((Local("bob"),), ("SUCCESS", "DELAY"), "rfc822;Bob@dom.fr")
    assert (carol.routes, carol.notify, carol.orcpt) == ((Local("carol"),), (), None)


def test_recipient_twice_is_one() -> None:
    dialogue = after(EHLO, MAIL, RCPT, "RCPT TO:<bob@DOM.fr>", "RCPT TO:<BOB@dom.fr>")
    dialogue.send("DATA\r\n.\r\n")
    assert [str(r.address) for r in dialogue.messages[0].envelope.recipients] == ["bob@dom.fr", "BOB@dom.fr"]
    assert list(dialogue.messages[0].envelope.mailboxes) == ["bob"]


def test_a_local_part_has_its_case() -> None:
    """Of Anna and anna elsewhere none is lost: only their own host knows whether they are one (RFC 5321 2.4)."""
    elsewhere = lambda address: (Remote(address),)  # noqa: E731
    dialogue = Dialogue(routes=elsewhere)
    for line in (EHLO, MAIL, "RCPT TO:<Anna@example.org>", "RCPT TO:<anna@EXAMPLE.org>", "RCPT TO:<anna@example.org>"):
        dialogue.say(line)
    dialogue.send("DATA\r\n.\r\n")
    remote = [str(route.address) for _, route in dialogue.messages[0].envelope.remote]
    assert remote == ["Anna@example.org", "anna@EXAMPLE.org"]


def test_too_many_recipients() -> None:
    """452 4.5.3, and those before are kept (RFC 5321 4.5.3.1.10)."""
    dialogue = after(EHLO, MAIL, *(f"RCPT TO:<u{n}@dom.fr>" for n in range(3)), max_recipients=3)
    for n in range(3, 30):
        assert codes(dialogue.say(f"RCPT TO:<u{n}@dom.fr>")) == "452 4.5.3"
    assert codes(dialogue.send("DATA\r\nx\r\n.\r\n")) == "354, 250 2.0.0"
    assert list(dialogue.messages[0].envelope.mailboxes) == ["u0", "u1", "u2"]
    assert codes(dialogue.send(f"{MAIL}\r\n{RCPT}\r\n")) == "250 2.1.0, 250 2.1.5"


# -- groups of commands


def test_pipelining() -> None:
    """Everything in one packet (RFC 2920), and the next message behind it."""
    one = f"{MAIL}\r\n{RCPT}\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"
    dialogue = Dialogue()
    assert (
        codes(dialogue.send(f"{EHLO}\r\n{one}{one}QUIT\r\nNOOP\r\n"))
        == "250, 250 2.1.0, 250 2.1.5, 354, 250 2.0.0, 250 2.1.0, 250 2.1.5, 354, 250 2.0.0, 221 2.0.0"
    )
    assert [m.content for m in dialogue.messages] == [b"Subject: x\n\nx\n"] * 2
    assert dialogue.closed


def test_pipelining_with_all_recipients_refused() -> None:
    """DATA gets 554, not 354: the client's content does not follow (RFC 2920 3.1); a sole dot would be a 500."""
    dialogue = after(EHLO)
    group = f"{MAIL}\r\nRCPT TO:<nobody@dom.fr>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n"
    assert codes(dialogue.send(group)) == "250 2.1.0, 550 5.1.1, 550 5.7.1, 554 5.5.1"
    assert codes(dialogue.send("RSET\r\n" + MAIL + "\r\n")) == "250 2.0.0, 250 2.1.0"
    assert dialogue.messages == []


def test_octet_by_octet() -> None:
    dialogue = Dialogue()
    text = f"{EHLO}\r\n{MAIL}\r\n{RCPT}\r\nDATA\r\n..x\r\n.\r\nRSET\r\nQUIT\r\n"
    lines = [line for octet in text for line in dialogue.send(octet)]
    assert codes(lines) == "250, 250 2.1.0, 250 2.1.5, 354, 250 2.0.0, 250 2.0.0, 221 2.0.0"
    assert [m.content for m in dialogue.messages] == [b".x\n"]


@pytest.mark.parametrize("again", ["RSET", EHLO, "HELO client.example"])
@pytest.mark.parametrize("before", [SENDER, RECIPIENT, CHUNKS])
def test_rset_forgets_the_transaction(again: str, before: tuple[str, ...]) -> None:
    """So do EHLO and HELO (RFC 5321 4.1.4)."""
    dialogue = after(*before)
    dialogue.say(again)
    assert not dialogue.storing
    assert codes(dialogue.say(RCPT)) == "503 5.5.1"
    assert codes(dialogue.say("DATA")) == "503 5.5.1"
    assert codes(dialogue.send(f"{MAIL}\r\nRCPT TO:<carol@dom.fr>\r\nDATA\r\n.\r\n")).endswith("354, 250 2.0.0")
    assert list(dialogue.messages[0].envelope.mailboxes) == ["carol"]


# -- chunks


def test_bdat() -> None:
    """Chunks may end anywhere, hold dots, and nothing in them is a command (RFC 3030)."""
    dialogue = after(*RECIPIENT)
    assert codes(dialogue.send(b"BDAT 5\r\n.\r\n\r\r")) == "250 2.0.0"
    assert codes(dialogue.send(b"BDAT 7\r\n\nQUIT\r\n")) == "250 2.0.0"
    assert codes(dialogue.send(b"bdat 2 last\r\n..NOOP\r\n")) == "250 2.0.0, 250 2.0.0"
    assert [m.content for m in dialogue.messages] == [b".\n \nQUIT\n.."]
    assert dialogue.messages[0].size == 14


def test_bdat_of_nothing() -> None:
    dialogue = after(*RECIPIENT)
    assert codes(dialogue.say("BDAT 0 LAST")) == "250 2.0.0"
    assert [m.content for m in dialogue.messages] == [b""]


@pytest.mark.parametrize("last", ["", " LAST"])
@pytest.mark.parametrize(
    ("before", "reply"),
    [(NOTHING, "503 5.5.1"), (GREETED, "503 5.5.1"), (SENDER, "503 5.5.1")],
)
def test_bdat_in_wrong_state_is_read_and_dropped(before: tuple[str, ...], reply: str, last: str) -> None:
    """The chunk comes whatever we think of it; else its octets would be commands."""
    dialogue = after(*before)
    state = dialogue.session.state
    assert codes(dialogue.send(f"BDAT 6{last}\r\nQUIT\r\nNOOP\r\n")) == f"{reply}, 250 2.0.0"
    assert dialogue.session.state is state
    assert dialogue.messages == []


def test_bdat_with_all_recipients_refused() -> None:
    dialogue = after(*SENDER)
    dialogue.say("RCPT TO:<nobody@dom.fr>")
    assert codes(dialogue.send("BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")) == "554 5.5.1, 250 2.0.0"


def test_bdat_too_large() -> None:
    """552 for the chunk that is too much, the sequence ends with it; the rest of it is dropped (RFC 3030 2)."""
    dialogue = after(*RECIPIENT)
    assert codes(dialogue.send(b"BDAT 900\r\n" + b"x" * 900)) == "250 2.0.0"
    assert codes(dialogue.send(b"BDAT 200 LAST\r\n" + b"QUIT\r\n" * 33 + b"..NOOP\r\n")) == "552 5.3.4, 250 2.0.0"
    assert dialogue.messages == []
    assert not dialogue.storing


# -- the content of DATA


@pytest.mark.parametrize(("octets", "reply"), [(1000, "250 2.0.0"), (1001, "552 5.3.4"), (5000, "552 5.3.4")])
def test_size_is_counted(octets: int, reply: str) -> None:
    """The limit holds for the content as it came; what is too much is read and dropped, not taken for commands."""
    dialogue = after(*RECIPIENT)
    line = b"NOOP\r\nQUIT\r\n"
    content = (line * 500)[: octets - 2] + b"\r\n"
    assert codes(dialogue.send(b"DATA\r\n" + content + b".\r\nNOOP\r\n")) == f"354, {reply}, 250 2.0.0"
    assert len(dialogue.messages) == (reply[0] == "2")
    assert not dialogue.storing
    assert codes(dialogue.send(f"{MAIL}\r\n{RCPT}\r\nDATA\r\n.\r\n")).endswith("354, 250 2.0.0")


def test_failed_storage_is_told_at_the_end() -> None:
    """The disk fails in the middle: the rest is read and dropped, then the reply comes."""
    dialogue = after(*RECIPIENT)
    dialogue.send("DATA\r\nx\r\n")
    dialogue.session.message_failed(replies.NO_SPACE)
    assert codes(dialogue.send("QUIT\r\n.\r\nNOOP\r\n")) == "452 4.3.1, 250 2.0.0"
    assert dialogue.messages == []
    assert not dialogue.storing


@pytest.mark.parametrize("reply", [replies.NO_SPACE, replies.STORAGE_ERROR, replies.MAILBOX_BUSY])
def test_failed_commit(reply: Reply) -> None:
    dialogue = after(*RECIPIENT, answer=reply)
    assert codes(dialogue.send("DATA\r\nx\r\n.\r\n")) == f"354, {reply.code} {reply.enhanced}"
    assert dialogue.session.messages == 0
    assert codes(dialogue.say(MAIL)) == "250 2.1.0"


# -- the limits of patience


@pytest.mark.parametrize("line", ["XYZZY", "MAIL", "RCPT TO:<a@b>", "EXPN x", "x" * 3000, "\xff", "BDAT 0", "BDAT x"])
def test_errors_in_a_row_end_the_session(line: str) -> None:
    dialogue = Dialogue()
    data = line.encode("latin-1") + b"\r\n"
    lines = [reply for _ in range(MAX_ERRORS + 5) for reply in dialogue.send(data)]
    assert dialogue.closed
    assert codes(lines[-1:]) == "421 4.7.0"
    assert len(lines) == MAX_ERRORS + 1


def test_errors_not_in_a_row_are_forgiven() -> None:
    dialogue = after(EHLO)
    for _ in range(5 * MAX_ERRORS):
        dialogue.say("XYZZY")
        dialogue.send(f"{MAIL}\r\n{RCPT}\r\nDATA\r\n.\r\n")
    assert not dialogue.closed
    assert len(dialogue.messages) == 5 * MAX_ERRORS


@pytest.mark.parametrize("line", ["NOOP", "RSET", "HELP", "VRFY x", EHLO, f"{MAIL}\r\nRSET"])
def test_a_client_may_not_live_on_commands_that_do_nothing(line: str) -> None:
    dialogue = after(EHLO)
    for _ in range(1000):
        if dialogue.closed:
            break
        dialogue.say(line)
    assert dialogue.closed


def test_guessing_addresses_ends_the_session() -> None:
    dialogue = after(*SENDER)
    for _ in range(2000):
        if dialogue.closed:
            break
        dialogue.say("RCPT TO:<nobody@dom.fr>")
    assert dialogue.closed


@pytest.mark.parametrize("length", [3000, 100_000])
def test_line_too_long(length: int) -> None:
    """500, and nothing of the line is kept or taken for a command."""
    dialogue = after(EHLO)
    for _ in range(length // 1000):
        assert dialogue.send("QUIT " * 200) == []
        assert len(dialogue.session._lines.buffer) < 4096
    assert codes(dialogue.send("\r\nNOOP\r\n")) == "500 5.5.6, 250 2.0.0"


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"NOOP\n", "500 5.5.2"),
        (b"NOOP\nNOOP\r\n", "500 5.5.2, 250 2.0.0"),
        (b"\n", "500 5.5.2"),
        (b"NOOP\r\r\n", "500 5.5.2"),
        (b"NOOP x\rQUIT\r\n", "250 2.0.0"),
        (b"\xff\xfe\r\n", "500 5.5.2"),
        (b"NO\0OP\r\n", "500 5.5.2"),
        (b"MAIL FROM:<a\0@b>\r\n", "501 5.1.7"),
        (b"MAIL FROM:<a\rb@c>\r\n", "501 5.1.7"),
        (b"MAIL FROM:<\xff@b> SMTPUTF8\r\n", "500 5.5.2"),
        (b"EHLO a\x07b\r\n", "250"),
        (b"EHLO caf\xe9\r\n", "250"),
        (b"EHLO " + b"a" * 256 + b"\r\n", "250"),
    ],
)
def test_octets_that_are_no_text(data: bytes, reply: str) -> None:
    dialogue = after(EHLO)
    assert codes(dialogue.send(data)) == reply
    assert codes(dialogue.say(MAIL)) == "250 2.1.0"


@pytest.mark.parametrize("before", [NOTHING, GREETED, SENDER, RECIPIENT, CHUNKS])
def test_close_from_our_side(before: tuple[str, ...]) -> None:
    dialogue = after(*before)
    dialogue.session.close(replies.SHUTTING_DOWN)
    dialogue._run()
    assert codes(dialogue.take()) == "421 4.3.2"
    assert dialogue.closed
    assert not dialogue.storing
    assert dialogue.session.state is State.CLOSED


# -- STARTTLS


def test_starttls_is_offered_until_it_is_used() -> None:
    dialogue = Dialogue(offer_tls=True)
    assert "250-STARTTLS" in dialogue.say(EHLO)
    assert codes(dialogue.say("STARTTLS")) == "220 2.0.0"
    assert dialogue.handshakes == 1
    assert not any("STARTTLS" in line for line in dialogue.say(EHLO))
    assert codes(dialogue.say("STARTTLS")) == "503 5.5.1"


def test_starttls_forgets_what_was_said() -> None:
    """RFC 3207 4.2: nothing that came unprotected counts."""
    dialogue = after(EHLO, "STARTTLS", offer_tls=True)
    assert codes(dialogue.say(MAIL)) == "503 5.5.1"
    assert codes(dialogue.send(f"{EHLO}\r\n{MAIL}\r\n{RCPT}\r\nDATA\r\n.\r\n")).endswith("354, 250 2.0.0")
    assert dialogue.messages[0].envelope.tls == "TLSv1.3 TLS_AES_256_GCM_SHA384"


def test_starttls_discards_what_was_injected() -> None:
    """CVE-2011-0411: what came in the packet of STARTTLS is never executed."""
    dialogue = after(EHLO, offer_tls=True)
    assert codes(dialogue.send(f"STARTTLS\r\n{EHLO}\r\n{MAIL}\r\nRCPT TO:")) == "220 2.0.0"
    assert dialogue.session.state is State.CONNECTED
    assert codes(dialogue.say("NOOP")) == "250 2.0.0"


@pytest.mark.parametrize("before", [SENDER, RECIPIENT, CHUNKS])
def test_starttls_in_a_transaction(before: tuple[str, ...]) -> None:
    dialogue = after(*before, offer_tls=True)
    assert codes(dialogue.say("STARTTLS")) == "503 5.5.1"
    assert dialogue.handshakes == 0


def test_starttls_takes_no_argument() -> None:
    dialogue = after(EHLO, offer_tls=True)
    assert codes(dialogue.say("STARTTLS now")) == "501 5.5.4"
    assert dialogue.handshakes == 0


# -- what real clients and hostile ones send


def test_dsn_is_for_programs_on_this_host() -> None:
    """A stranger could have reports of success written to whomever they name (RFC 3461 offered to nobody else)."""
    dialogue = after(EHLO)
    assert not [line for line in dialogue.say(EHLO) if "DSN" in line]
    assert codes(dialogue.say(f"{MAIL} RET=FULL")) == "555 5.5.4"
    assert codes(dialogue.say(f"{MAIL} ENVID=x")) == "555 5.5.4"
    dialogue.say(MAIL)
    assert codes(dialogue.say("RCPT TO:<bob@dom.fr> NOTIFY=SUCCESS")) == "555 5.5.4"
    assert codes(dialogue.say("RCPT TO:<bob@dom.fr> ORCPT=rfc822;x@y")) == "555 5.5.4"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (b"my pc", "my pc"),
        ("caf\u00e9".encode(), "caf\u00e9"),
        (b"caf\xe9", "caf\ufffd"),
        (b"a(b)", "a(b)"),
        (b"x" * 400, "x" * 255),
    ],
)
def test_names_as_real_machines_have_them(name: bytes, kept: str) -> None:
    dialogue = Dialogue()
    assert codes(dialogue.say(b"EHLO " + name)) == "250"
    for line in (MAIL, RCPT, "DATA", "."):
        dialogue.say(line)
    assert dialogue.messages[0].envelope.helo == kept


@pytest.mark.parametrize(
    ("peer", "line", "address"),
    [
        (PROGRAM, "MAIL FROM:<root>", "root@home.fr"),
        (PROGRAM, "MAIL FROM:root", "root@home.fr"),
        (PROGRAM, "MAIL FROM:<>", ""),
        (PROGRAM, "MAIL FROM:<a@b>", "a@b"),
        (PEER, "MAIL FROM:<root>", None),
    ],
)
def test_addresses_without_a_domain(peer: Peer, line: str, address: str | None) -> None:
    """Programs on this host leave it out; it is that of the host."""
    dialogue = after(EHLO, peer=peer, origin="home.fr" if peer is PROGRAM else None)
    if address is None:
        assert codes(dialogue.say(line)) == "501 5.1.7"
        return
    assert codes(dialogue.say(line)) == "250 2.1.0"
    for command in (RCPT, "DATA", "."):
        dialogue.say(command)
    assert str(dialogue.messages[0].envelope.sender) == address


@pytest.mark.parametrize(("peer", "reply"), [(PROGRAM, "250 2.1.5"), (PEER, "501 5.1.3")])
def test_a_recipient_without_a_domain(peer: Peer, reply: str) -> None:
    dialogue = after(EHLO, MAIL, peer=peer, origin="dom.fr" if peer is PROGRAM else None)
    assert codes(dialogue.say("RCPT TO:<root>")) == reply
    assert codes(dialogue.say("RCPT TO:<postmaster>")) == "250 2.1.5"


INNER = "MAIL FROM:<evil@example.org>\r\nRCPT TO:<bob@dom.fr>\r\nDATA\r\nx\r\n.\r\n"


@pytest.mark.parametrize("peer", [PEER, PROGRAM])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_body_behind_refused_recipients_is_never_read_as_commands(peer: Peer, pieces: int) -> None:
    """A client that does not wait for 354 sends the content all the same, and its first line is no command."""
    dialogue = after(EHLO, MAIL, peer=peer)
    dialogue.say("RCPT TO:<nobody@dom.fr>")
    body = f"From: a@b\r\n\r\n{INNER}.\r\n"
    if pieces == 1:
        assert codes(dialogue.send(f"DATA\r\n{body}")) == "554 5.5.0"
    else:
        assert codes(dialogue.send("DATA\r\n")) == "554 5.5.1"
        assert codes(dialogue.send(body)) == "554 5.5.0"
    assert dialogue.closed
    assert dialogue.messages == []


def test_a_body_of_commands_behind_refused_recipients(peer: Peer = PEER) -> None:
    dialogue = after(EHLO, MAIL)
    dialogue.say("RCPT TO:<nobody@dom.fr>")
    assert codes(dialogue.send(f"DATA\r\n{INNER}")) == "554 5.5.0"
    assert dialogue.closed and dialogue.messages == []


@pytest.mark.parametrize(
    "before",
    [
        "DATA",
        f"{MAIL}\r\nDATA",
        f"MAIL FROM:<@@>\r\n{RCPT}\r\nDATA",
        f"MAIL FROM:<a@b> SIZE=999999999999\r\n{RCPT}\r\nDATA",
        f"{MAIL}\r\n{RCPT}\r\nDATA now",
        f"{MAIL}\r\n{RCPT}\r\nBDAT x LAST",
        f"{MAIL}\r\n{RCPT}\r\nBDAT 99999999999999999999999 LAST",
        f"{MAIL}\r\n{RCPT}\r\nBDAT 10 FIRST",
        f"{MAIL}\r\n{RCPT}\r\nBDAT",
    ],
)
def test_a_body_of_commands_behind_a_refused_command(before: str) -> None:
    """Whatever it was refused for."""
    dialogue = after(EHLO)
    dialogue.send(f"{before}\r\nRSET\r\n{INNER}")
    assert dialogue.closed and dialogue.messages == []


def test_who_waits_for_the_reply_may_go_on() -> None:
    dialogue = after(EHLO, MAIL)
    dialogue.say("RCPT TO:<nobody@dom.fr>")
    assert codes(dialogue.say("DATA")) == "554 5.5.1"
    assert codes(dialogue.send("RSET\r\n")) == "250 2.0.0"
    assert not dialogue.closed


@pytest.mark.parametrize(
    "blind",
    [
        b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@dom.fr>\r\nDATA\r\nx\r\n.\r\n",
        b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@dom.fr>\r\nDATA\r\nx\r\n.\r\n",
        b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@dom.fr>\r\nBDAT 1 LAST\r\nx",
        b"POST / HTTP/1.1\r\nHost: localhost:25\r\n\r\nEHLO x\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\nEHLO x\r\nMAIL FROM:<a@b>\r\n",
        b"\xff\r\nEHLO x\r\n",
    ],
)
def test_one_blind_write_to_loopback_sends_nothing(blind: bytes) -> None:
    """Another protocol's client was made to write to localhost: nothing of it leaves for the world."""
    dialogue = Dialogue(peer=PROGRAM)
    dialogue.send(blind)
    assert dialogue.closed
    assert dialogue.messages == []


def test_content_ahead_of_its_354_on_loopback() -> None:
    dialogue = after(EHLO, MAIL, RCPT, peer=PROGRAM)
    assert codes(dialogue.send("DATA\r\nx\r\n.\r\n")) == "554 5.5.0"
    assert dialogue.closed and dialogue.messages == []


def test_programs_may_pipeline_what_may_be_pipelined() -> None:
    dialogue = after(EHLO, peer=PROGRAM)
    assert codes(dialogue.send(f"{MAIL}\r\n{RCPT}\r\nDATA\r\n")) == "250 2.1.0, 250 2.1.5, 354"
    assert codes(dialogue.send(f"x\r\n.\r\n{MAIL}\r\n{RCPT}\r\nBDAT 1 LAST\r\nxQUIT\r\n")).endswith("221 2.0.0")
    assert len(dialogue.messages) == 2


def test_refusals_are_summed_up() -> None:
    """Of thousands in one transaction the log tells the first ones, and how many more there were."""
    dialogue = after(EHLO, MAIL, max_recipients=1)
    for n in range(MAX_REFUSED_TOLD + 100):
        dialogue.say(f"RCPT TO:<nobody+{n}@example.org>")
    assert [type(a) for a in dialogue.told] == [RecipientRefused] * MAX_REFUSED_TOLD
    dialogue.say("RSET")
    last = dialogue.told[-1]
    assert isinstance(last, MoreRefused) and last.count == 100


def test_recipients_beyond_the_limit_end_the_session_in_the_end() -> None:
    """RFC 5321 4.5.3.1.10 asks for 452; but not for ever."""
    dialogue = after(EHLO, MAIL, RCPT, max_recipients=1)
    for n in range(MAX_REFUSED + 2):
        line = dialogue.say(f"RCPT TO:<u{n}@dom.fr>")
    assert codes(line).endswith("421 4.7.0")
    assert dialogue.closed


def test_an_envelope_has_a_budget_of_octets() -> None:
    dialogue = after(EHLO, MAIL, max_recipients=10)
    local = "x" * 60 + "+" + "y" * 900
    got = [codes(dialogue.say(f"RCPT TO:<{local}{n}@dom.fr>")) for n in range(10)]
    assert got == ["250 2.1.5"] * 5 + ["452 4.5.3"] * 5


def test_a_size_that_is_too_large_is_told() -> None:
    dialogue = after(EHLO, max_size=1000)
    assert codes(dialogue.say(f"{MAIL} SIZE=1001")) == "552 5.3.4"
    (told,) = dialogue.told
    assert isinstance(told, SenderRefused) and told.reply is replies.TOO_LARGE


@pytest.mark.parametrize("digits", ["\u00b2", "\u0663", "1_0", "+1", "0x1"])
def test_digits_that_are_none(digits: str) -> None:
    dialogue = after(EHLO)
    assert codes(dialogue.say(f"{MAIL} SIZE={digits}")) in ("501 5.5.4", "500 5.5.2")
    assert codes(dialogue.say(f"BDAT {digits}")) == "501 5.5.4"


@pytest.mark.parametrize("kind", ["rfc822\x1b[1m", "a b", "<x>", "x\u0007", "("])
def test_the_type_of_an_orcpt_is_an_atom(kind: str) -> None:
    dialogue = after(EHLO, MAIL, peer=PROGRAM)
    assert codes(dialogue.say(f"RCPT TO:<bob@dom.fr> ORCPT={kind};x")) in ("501 5.5.4", "555 5.5.4")
