"""The command line of sendmail(8), and the message on its standard input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.admin.sendmail_options import OPTIONS, OptionError, Options, parse
from smtpmail.mail.incoming_text import HeaderTooLarge, lines_of, rewrite_header
from smtpmail.mail.submission import HEADER_LIMIT


@pytest.mark.parametrize(
    ("line", "options"),
    [
        # As programs of Debian call it
        ("-FCronDaemon -i -B8BITMIME -oem root", Options(recipients=["root"], ignore_dots=True, name="CronDaemon")),
        ("-i bob", Options(recipients=["bob"], ignore_dots=True)),
        ("-oi -t", Options(from_header=True, ignore_dots=True)),
        ("-t", Options(from_header=True)),
        ("-t -i", Options(from_header=True, ignore_dots=True)),
        ("-ti", Options(from_header=True, ignore_dots=True)),
        ("-f a@b -i bob carol@x.y", Options(recipients=["bob", "carol@x.y"], ignore_dots=True, sender="a@b")),
        ("-oem -oi -f a@b -N failure,delay -R hdrs -- bob",
         Options(recipients=["bob"], ignore_dots=True, sender="a@b", notify=("FAILURE", "DELAY"), ret="HDRS")),
        ("-i -m -v -f a@b -t", Options(from_header=True, ignore_dots=True, verbose=True, sender="a@b")),
        ("-f a@b bob", Options(recipients=["bob"], sender="a@b")),
        ("-fa@b bob", Options(recipients=["bob"], sender="a@b")),
        ("-ra@b -V id7 bob", Options(recipients=["bob"], sender="a@b", envid="id7")),
        ("-N never bob", Options(recipients=["bob"], notify=("NEVER",))),
        ("-bm bob", Options(recipients=["bob"])),
        ("-bs", Options("smtp")),
        ("-bp", Options("queue")),
        ("-bi", Options("aliases")),
        ("-I", Options("aliases")),
        ("-bv bob", Options("verify", recipients=["bob"])),
        ("-q", Options("flush")),
        ("-q30m", Options("flush")),
        ("-qIabc", Options("flush", id="abc")),
        ("-qI abc", Options("flush", id="abc")),
        # accepted and ignored
        ("-Am -Ac -Cfile -G -h 5 -L tag -n -U -x -o7 -odb -O Opt=x -X log -em bob", Options(recipients=["bob"])),
        # options behind recipients, recipients that look like options
        ("bob -f a@b", Options(recipients=["bob"], sender="a@b")),
        ("-- -bob", Options(recipients=["-bob"])),
    ],
)  # fmt: skip
def test_command_lines(line: str, options: Options) -> None:
    assert parse(line.split()) == options


@pytest.mark.parametrize(("program", "mode"), [("mailq", "queue"), ("newaliases", "aliases")])
def test_other_names(program: str, mode: str) -> None:
    assert parse([], program).mode == mode


def test_an_empty_sender_is_the_null_one() -> None:
    assert parse(["-f", "", "bob"]).sender == ""


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "no recipient"),
        ("-i", "no recipient"),
        ("-bv", "no recipient"),
        ("-f", "-f needs a value"),
        ("-z bob", "-z is not known"),
        ("--long bob", "-- is not known"),
        ("-bd", "-bd is not known; the server itself is `smtpmail`"),
        ("-N sometimes bob", "-N sometimes"),
        ("-N never,failure bob", "-N never,failure"),
        ("-R some bob", "-R some"),
        ("-B 9BIT bob", "-B 9BIT"),
        ("-V " + "=" * 34 + " bob", "-V: at most 100 characters"),
    ],
)
def test_complaints(line: str, complaint: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(line.split())
    assert complaint in str(caught.value)


@given(st.lists(st.text(min_size=1, max_size=5).map(lambda t: f"-{t}") | st.text(max_size=5)))
def test_any_command_line(words: list[str]) -> None:
    try:
        parse(words)
    except OptionError:
        return


def test_every_option_is_in_the_manual() -> None:
    words = [word for names in OPTIONS for word in names.replace(",", " ").split()]
    letters = {word[1] for word in words if word[0] == "-"}
    for letter in "ABCFGhILmnNOoqRtUVvXxbefir":
        assert letter in letters, letter


# -- the message


def pieces(text: bytes) -> list[bytes]:
    return text.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("text", "ignore", "message"),
    [
        (b"A: 1\n\nx\n.\ny\n", False, b"A: 1\n\nx\n"),
        (b"A: 1\n\nx\n.\ny\n", True, b"A: 1\n\nx\n.\ny\n"),
        (b"A: 1\r\n\r\nx\r\n.\r\ny", False, b"A: 1\n\nx\n"),
        (b"A: 1\n\n..\n.x\n", False, b"A: 1\n\n..\n.x\n"),
        (b"From bob Mon Nov 1\nA: 1\n\nFrom x\n", False, b"A: 1\n\nFrom x\n"),
        (b">From bob\n>From carol\nA: 1\n", False, b"A: 1\n"),
        (b"", False, b""),
    ],
)
def test_lines(text: bytes, ignore: bool, message: bytes) -> None:
    assert b"".join(lines_of(pieces(text), ignore_dots=ignore)) == message


def test_a_piece_of_a_long_line_is_no_dot() -> None:
    assert b"".join(lines_of([b"x" * 10, b".\n", b".\n", b"y\n"], ignore_dots=False)) == b"x" * 10 + b".\n"


@pytest.mark.parametrize(
    ("text", "header", "rest"),
    [
        (b"A: 1\nB: 2\n\nbody\n", b"A: 1\nB: 2\n", b"\nbody\n"),
        (b"A: 1\nbody\n", b"A: 1\n", b"\nbody\n"),
        (b"\nbody", b"", b"\nbody"),
        (b"body", b"", b"\nbody\n"),
        (b"A: 1", b"A: 1\n", b"\n"),
        (b"A: 1\n", b"A: 1\n", b"\n"),
        (b"", b"", b"\n"),
        (b" indented\n", b"", b"\n indented\n"),
    ],
)
def test_header_apart(text: bytes, header: bytes, rest: bytes) -> None:
    seen = []

    def rewrite(given: bytes) -> bytes:
        seen.append(given)
        return b"X: 1\n"

    assert b"".join(rewrite_header(pieces(text), rewrite)) == b"X: 1\n" + rest
    assert seen == [header]


@pytest.mark.parametrize("line", [b"A: " + b"x" * 1000 + b"\n", b"A: " + b"x" * 65533])
def test_a_header_without_end(line: bytes) -> None:
    with pytest.raises(HeaderTooLarge):
        list(rewrite_header([line] * (3 * HEADER_LIMIT // len(line)), lambda header: header))
