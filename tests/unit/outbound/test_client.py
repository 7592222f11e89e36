"""The client and the courier against a scripted server: every answer, every silence, every end of the connection."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.faultserver import EXTENSIONS, FaultServer, Script, close, hang, late, reset, say
from support.outbound import MESSAGE, Hosts, courier, deliver, item, nobody, on_wire, target

from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED, QueuedRecipient
from smtpmail.outbound.channel import READ_SIZE
from smtpmail.outbound.client import Timeouts, dot_stuff
from smtpmail.outbound.content import IN_MEMORY
from smtpmail.outbound.kept import Kept
from smtpmail.outbound.mailhost import MailHost
from smtpmail.outbound.outcome import Finality

PLAIN = tuple(e for e in EXTENSIONS if e not in ("PIPELINING", "CHUNKING"))
PIPELINING = (*PLAIN, "PIPELINING")
CHUNKING = (*PLAIN, "CHUNKING")
WAYS = pytest.mark.parametrize(
    "extensions", [EXTENSIONS, PIPELINING, CHUNKING, PLAIN, ()], ids=["all", "pipelining", "chunking", "plain", "none"]
)
"""The ways a message can take over the wire."""

THREE = ("a@one.test", "b@one.test", "c@one.test")
BIG = MESSAGE + b"x" * 70 + b"\n.\n" + b"".join(b".%d line\n" % n for n in range(20_000))
assert len(BIG) > IN_MEMORY


def violations(server: FaultServer) -> list[str]:
    """What the client may not do. The octets of a chunk follow BDAT at once, also without PIPELINING (RFC 3030 2)."""
    return [v for v in server.violations if v != "did not wait for the reply to BDAT, without PIPELINING"]


# -- a message that is taken


@WAYS
@pytest.mark.parametrize("content", [MESSAGE, BIG, b"Subject: x\n\nno end of line", b"a: b\n\n\n\n.\n"])
def test_arrives_octet_for_octet(extensions: tuple[str, ...], content: bytes) -> None:
    with FaultServer(extensions=extensions) as server:
        outcomes = deliver(target(server), message=item(*THREE, content=content), content=content)
    assert [o.state for o in outcomes.values()] == [DELIVERED] * 3
    (message,) = server.accepted
    expected = content if content.endswith(b"\n") else content + b"\n"
    assert message.content == on_wire(expected)
    assert (message.sender, message.recipients) == ("alice@dom.fr", list(THREE))
    assert violations(server) == []


@pytest.mark.parametrize(
    "reply", [
        "250 2.0.0 taken", "250", "250 ", "200 odd but a yes", "250-a\r\n250 b", "250-a\r\n251 b",
        b"250 lf\n", b"250 crcrlf\r\r\n", b"250-cr\r250 alone\r", b"250 no end", b"250-and no end\r\n",
    ],
)  # fmt: skip
def test_what_counts_as_taken(reply: str | bytes) -> None:
    """Whatever the form: sent again, it would arrive twice."""
    with FaultServer({".": say(reply)}) as server:
        (outcome,) = deliver(target(server)).values()
    assert outcome.state == DELIVERED
    assert outcome.reply.startswith("2")


def test_one_connection_for_many_messages() -> None:
    with FaultServer() as server:
        session = Kept("one.test")
        by = courier(Hosts({"one.test": [target(server)]}))
        for _ in range(5):
            assert deliver(session=session, by=by)[0].state == DELIVERED
        session.close()
    assert len(server.sessions) == 1
    assert len(server.accepted) == 5
    assert server.sessions[0].verbs.count("QUIT") == 1
    assert violations(server) == []


def test_helo_where_ehlo_is_not_known() -> None:
    with FaultServer({"EHLO": say("502 5.5.1 what?")}) as server:
        assert deliver(target(server))[0].state == DELIVERED
    assert server.sessions[0].verbs[:3] == ["EHLO", "HELO", "MAIL"]
    assert violations(server) == [], "no parameters, no pipelining"


@pytest.mark.parametrize("greeting", ["220-welcome\r\n220-to\r\n220 this", "220"])
def test_greetings(greeting: str) -> None:
    with FaultServer({"connect": say(greeting)}) as server:
        assert deliver(target(server))[0].state == DELIVERED


def test_parameters_only_where_offered() -> None:
    recipient = QueuedRecipient("b@one.test", ("SUCCESS", "DELAY"), "rfc822;B+2Bx@one.test")
    message = item(recipient, ret="HDRS", envid="abc+2B")
    with FaultServer() as server:
        deliver(target(server), message=message)
    with FaultServer(extensions=("PIPELINING",)) as simple:
        deliver(target(simple), message=message)
    (taken,) = server.accepted
    assert taken.mail_parameters == {"SIZE": str(message.size), "RET": "HDRS", "ENVID": "abc+2B"}
    assert taken.recipient_parameters["b@one.test"] == {"NOTIFY": "SUCCESS,DELAY", "ORCPT": "rfc822;B+2Bx@one.test"}
    (taken,) = simple.accepted
    assert taken.mail_parameters == {}
    assert violations(server) == violations(simple) == []


# -- recipients that are refused


@WAYS
@pytest.mark.parametrize("content", [MESSAGE, BIG], ids=["small", "big"])
def test_one_refused_recipient_does_not_hold_back_the_others(extensions: tuple[str, ...], content: bytes) -> None:
    script: Script = {
        "RCPT a@one.test": say("550 5.1.1 nobody of that name"),
        "RCPT c@one.test": say("452 4.2.2 full"),
    }
    with FaultServer(script, extensions=extensions) as server:
        outcomes = deliver(target(server), message=item(*THREE, content=content), content=content)
    assert [(o.state, o.status) for o in outcomes.values()] == [
        (FAILED, "5.1.1"),
        (DELIVERED, "2.0.0"),
        (DEFERRED, "4.2.2"),
    ]
    assert outcomes[0].reply == "550 5.1.1 nobody of that name"
    assert [m.recipients for m in server.accepted] == [["b@one.test"]]
    assert violations(server) == []


@WAYS
@pytest.mark.parametrize("content", [MESSAGE, BIG], ids=["small", "big"])
@pytest.mark.parametrize(
    ("point", "reply"), [("RCPT", "550 5.7.1 no"), ("MAIL", "550 5.7.1 no"), ("MAIL", "451 4.7.1 no")]
)
def test_all_refused_and_the_connection_still_serves(
    extensions: tuple[str, ...], content: bytes, point: str, reply: str
) -> None:
    """Nothing is out of step afterwards: the next message goes over the same connection."""
    times = 3 if point == "RCPT" else 1
    with FaultServer({point: [say(reply)] * times}, extensions=extensions) as server:
        session = Kept("one.test")
        by = courier(Hosts({"one.test": [target(server)]}))
        message = item(*THREE, content=content)
        outcomes = deliver(session=session, by=by, message=message, content=content)
        assert {o.reply for o in outcomes.values()} == {reply}
        assert {o.state for o in outcomes.values()} == {FAILED if reply[0] == "5" else DEFERRED}
        assert not any(o.finality is Finality.UNREACHABLE for o in outcomes.values())
        assert server.messages == []
        again = deliver(session=session, by=by)
        assert again[0].state == DELIVERED
        session.close()
    assert violations(server) == []
    assert len(server.sessions) == 1


@pytest.mark.parametrize("extensions", [PIPELINING, PLAIN], ids=["pipelining", "plain"])
def test_a_server_that_asks_for_data_without_recipients(extensions: tuple[str, ...]) -> None:
    """RFC 2920 3.1: a 354 that nobody wants is answered with an empty message, and nothing is delivered."""

    with scripted(
        b"220 hi\r\n",
        {b"EHLO": b"250-x\r\n250 PIPELINING\r\n", b"MAIL": b"250 ok\r\n", b"RCPT": b"550 no\r\n",
         b"DATA": b"354 go\r\n", b".": b"554 no valid recipients\r\n", b"RSET": b"250 ok\r\n", b"QUIT": b"221 bye\r\n"},
    ) as (port, lines):  # fmt: skip
        (outcome,) = deliver(at(port)).values()
    assert (outcome.state, outcome.reply) == (FAILED, "550 no")
    assert b"Subject: test" not in lines


# -- faults at each point

POINTS = ["connect", "EHLO", "MAIL", "RCPT", "DATA", "."]


@pytest.mark.parametrize("point", POINTS)
@WAYS
def test_421_at_each_point(extensions: tuple[str, ...], point: str) -> None:
    with FaultServer({point: close("421 4.3.2 not now")}, extensions=extensions) as server:
        outcomes = deliver(target(server), message=item(*THREE))
        # No doubt is left about the message: another host may have it at once.
        with FaultServer() as other:
            second = deliver(target(server), target(other, "other.test"))
    for outcome in outcomes.values():
        assert outcome.state == DEFERRED
        assert "421 4.3.2 not now" in outcome.reply
        assert outcome.status == "4.3.2"
        assert (outcome.finality is Finality.UNREACHABLE) is (point in ("connect", "EHLO"))
    assert second[0].state == DELIVERED
    assert server.accepted == []


@pytest.mark.parametrize("how", [close(), reset(), close(b"25"), close(b"450-half\r\n"), close(b"250 half")],
                         ids=["close", "reset", "part of a code", "part of a reply", "part of a line"])  # fmt: skip
@pytest.mark.parametrize("point", [*POINTS, "content"])
@WAYS
def test_closing_at_each_point(extensions: tuple[str, ...], point: str, how: object) -> None:
    with FaultServer({point: how}, extensions=extensions) as server:  # type: ignore[dict-item]
        (outcome,) = deliver(target(server)).values()
    assert outcome.state == DEFERRED
    assert outcome.status.startswith("4.")
    assert "fault.test" in outcome.reply and any(word in outcome.reply for word in ("closed", "reset", "nonsense"))
    assert (outcome.finality is Finality.UNREACHABLE) is (point in ("connect", "EHLO"))
    assert server.accepted == []


@pytest.mark.parametrize("point", [*POINTS, "content"])
@WAYS
def test_silence_at_each_point(extensions: tuple[str, ...], point: str) -> None:
    with FaultServer({point: hang()}, extensions=extensions) as server:
        began = time.monotonic()
        by = courier(Hosts({"one.test": [target(server)]}), timeouts=Timeouts(1, 0.2))
        (outcome,) = deliver(by=by).values()
        assert time.monotonic() - began < 20
    assert outcome.state == DEFERRED
    assert "silent for too long" in outcome.reply


def test_a_reply_that_drips_is_not_waited_for_for_ever() -> None:
    """The patience is for the reply, not for each octet of it."""
    with FaultServer({"MAIL": say("250-" + "x" * 200 + "\r\n250 ok", pace=0.05)}) as server:
        began = time.monotonic()
        by = courier(Hosts({"one.test": [target(server)]}), timeouts=Timeouts(1, 0.3))
        (outcome,) = deliver(by=by).values()
        assert time.monotonic() - began < 20
    assert outcome.state == DEFERRED and "too long" in outcome.reply


def test_a_server_that_does_not_answer_quit_holds_nobody_for_long() -> None:
    with FaultServer({"QUIT": hang()}) as server:
        session = Kept("one.test")
        by = courier(Hosts({"one.test": [target(server)]}), timeouts=Timeouts(1, 60))
        assert deliver(session=session, by=by)[0].state == DELIVERED
        began = time.monotonic()
        session.close()
        assert time.monotonic() - began < 30


def test_a_slow_server_is_waited_for() -> None:
    with FaultServer({"EHLO": late(0.3), "RCPT": late(0.3), ".": late(0.3)}) as server:
        assert deliver(target(server))[0].state == DELIVERED


NONSENSE = [
    b"\r\n", b"what?\r\n", b"250_ok\r\n", b"150 hm\r\n", b"777 ok\r\n", b"354 go on\r\n", b"334 dXNlcg==\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x01\x02\x00" * 2000, b"250 " + b"x" * 9000 + b"\r\n",
    b"250-x\r\n" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("point", ["connect", "EHLO", "MAIL", "RCPT", "."])
@pytest.mark.parametrize("said", NONSENSE, ids=[repr(n[:12]) for n in NONSENSE])
def test_nonsense_is_a_temporary_failure(point: str, said: bytes) -> None:
    """Never taken for a yes; a server that says "354" to a whole message has not taken it."""
    with FaultServer({point: say(said), "HELO": say(said)}) as server:
        (outcome,) = deliver(target(server)).values()
    assert outcome.state == DEFERRED
    assert outcome.status[0] == "4", "it stands in notifications"
    assert outcome.reply.isprintable()
    if point == ".":
        assert outcome.finality is Finality.UNCERTAIN


@pytest.mark.parametrize("reply", ["250 ok", "334 more", "200 fine", "251 hm"])
def test_nonsense_in_answer_to_data(reply: str) -> None:
    with FaultServer({"DATA": say(reply)}, extensions=PLAIN) as server:
        (outcome,) = deliver(target(server)).values()
    assert (outcome.state, outcome.status[0]) == (DEFERRED, "4")
    assert server.accepted == []


@given(st.binary(max_size=200), st.sampled_from(["connect", "EHLO", "MAIL", "RCPT", "."]))
@settings(max_examples=60)
def test_any_octets_never_break_the_client(said: bytes, point: str) -> None:
    with FaultServer({point: close(said)}) as server:
        (outcome,) = deliver(target(server)).values()
    if outcome.state == DELIVERED:
        assert b"2" in said
    assert outcome.status[0] in "245"


@pytest.mark.parametrize(
    ("greeting", "state", "status"),
    [("554 5.7.1 go away", DEFERRED, "4.7.1"), ("554 no", DEFERRED, "4.0.0"), ("450 4.7.0 later", DEFERRED, "4.7.0"),
     ("250 hm", DEFERRED, "4.5.0"), ("421 4.7.0 busy", DEFERRED, "4.7.0")],
)  # fmt: skip
def test_greetings_that_refuse(greeting: str, state: str, status: str) -> None:
    """They say nothing final about a message: "554 too many connections" passes."""
    with FaultServer({"connect": close(greeting)}) as server:
        (outcome,) = deliver(target(server)).values()
    assert (outcome.state, outcome.status) == (state, status)
    assert outcome.finality is Finality.UNREACHABLE, "true for all mail that goes there"


# -- what was said before the connection was lost still holds


@WAYS
def test_a_refusal_holds_although_the_connection_is_lost_then(extensions: tuple[str, ...]) -> None:
    """A server that refuses the sender and hangs up has refused: its mail is not tried again for five days."""
    with FaultServer({"MAIL": close("550 5.7.1 your address is on a list")}, extensions=extensions) as server:
        outcomes = deliver(target(server), message=item(*THREE))
    assert {(o.state, o.status) for o in outcomes.values()} == {(FAILED, "5.7.1")}


@WAYS
def test_a_refused_recipient_stays_refused_when_the_next_one_ends_the_session(extensions: tuple[str, ...]) -> None:
    script: Script = {"RCPT a@one.test": say("550 5.1.1 no"), "RCPT b@one.test": close()}
    with FaultServer(script, extensions=extensions) as server:
        outcomes = deliver(target(server), message=item(*THREE))
    assert [o.state for o in outcomes.values()] == [FAILED, DEFERRED, DEFERRED]


# -- a kept connection


def test_a_kept_connection_that_the_server_has_closed_costs_no_delay() -> None:
    with FaultServer({"MAIL": [None, close()]}) as server:
        session = Kept("one.test")
        by = courier(Hosts({"one.test": [target(server)]}))
        assert [deliver(session=session, by=by)[0].state for _ in range(2)] == [DELIVERED, DELIVERED]
        session.close()
    assert len(server.sessions) == 2
    assert len(server.accepted) == 2


def test_a_whole_message_without_an_answer_is_not_sent_again_at_once() -> None:
    """The server may have it: another host now would perhaps make two of it."""
    with FaultServer({".": [None, close()]}) as server, FaultServer() as other:
        session = Kept("one.test")
        by = courier(Hosts({"one.test": [target(server), target(other)]}))
        assert deliver(session=session, by=by)[0].state == DELIVERED
        (outcome,) = deliver(session=session, by=by).values()
    assert outcome.state == DEFERRED and outcome.finality is Finality.UNCERTAIN
    assert other.messages == [] and len(server.messages) == 2


class Breaks(Exception):
    """A fault of our own in the middle of a message."""


def test_after_a_fault_of_ours_the_connection_is_not_used_again() -> None:
    class Broken:
        def __init__(self) -> None:
            self.reads = 0

        def tell(self) -> int:
            return 0

        def seek(self, offset: int) -> None:
            pass

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads > 2:
                raise Breaks
            return b"Subject: x\n\n" + b"half a mess\n" * (size // 12)

    with FaultServer(extensions=PLAIN) as server:
        session = Kept("one.test")
        by = courier(Hosts({"one.test": [target(server)]}))
        message = item()
        with pytest.raises(Breaks):
            by.deliver(session, message, [0], Broken())  # type: ignore[arg-type]
        assert deliver(session=session, by=by)[0].state == DELIVERED
        session.close()
    (message_there,) = server.accepted
    assert message_there.content == on_wire(MESSAGE)


# -- what a server cannot take


@pytest.mark.parametrize(
    ("missing", "content", "more", "status"),
    [
        ("8BITMIME", "Content-Type: multipart/signed; boundary=b\n\n--b\n\né\n--b--\n".encode(), {}, "5.6.3"),
        ("SMTPUTF8", MESSAGE, {"smtputf8": True}, "5.6.7"),
        ("SMTPUTF8", MESSAGE, {"sender": "zoé@dom.fr"}, "5.6.7"),
        ("REQUIRETLS", MESSAGE, {"requiretls": True}, "5.7.30"),
    ],
)
def test_rather_bounced_than_damaged(missing: str, content: bytes, more: dict[str, object], status: str) -> None:
    offered = tuple(e for e in EXTENSIONS if e != missing)
    with FaultServer(extensions=offered) as server:
        message = item(content=content, **more)  # type: ignore[arg-type]
        (outcome,) = deliver(target(server), message=message, content=content).values()
        assert (outcome.state, outcome.status) == (FAILED, status)
        assert server.messages == [] and "MAIL" not in server.sessions[0].verbs
        if missing != "REQUIRETLS":
            # Another host of the domain may be able to.
            with FaultServer() as able:
                outcomes = deliver(target(server), target(able), message=message, content=content)
            assert outcomes[0].state == DELIVERED
            assert violations(able) == []


@pytest.mark.parametrize(("able_first"), [True, False])
def test_a_host_that_cannot_take_it_says_nothing_about_one_that_is_down(able_first: bool) -> None:
    """Unable and unreachable together: tried again, the other one may come back."""
    with FaultServer(extensions=("PIPELINING",)) as server:
        targets = [target(server), nobody()] if able_first else [nobody(), target(server)]
        (outcome,) = deliver(*targets, message=item(smtputf8=True)).values()
    assert outcome.state == DEFERRED


@pytest.mark.parametrize(("limit", "fits"), [(10, False), (len(on_wire(MESSAGE)), True), (0, True)])
def test_size_limit(limit: int, fits: bool) -> None:
    with FaultServer(extensions=(f"SIZE {limit}", "PIPELINING")) as server:
        (outcome,) = deliver(target(server)).values()
    assert (outcome.state, outcome.status) == ((DELIVERED, "2.0.0") if fits else (FAILED, "5.3.4"))


def test_eightbit_and_smtputf8_are_announced() -> None:
    content = "Subject: é\n\nzoé\n".encode()
    message = item("zoé@one.test", content=content, sender="rené@dom.fr", smtputf8=True)
    with FaultServer() as server:
        assert deliver(target(server), message=message, content=content)[0].state == DELIVERED
    (taken,) = server.accepted
    assert taken.mail_parameters["BODY"] == "8BITMIME" and "SMTPUTF8" in taken.mail_parameters
    assert (taken.sender, taken.recipients) == ("rené@dom.fr", ["zoé@one.test"])
    assert violations(server) == []


def test_an_idn_domain_needs_no_smtputf8() -> None:
    with FaultServer(extensions=("PIPELINING",)) as server:
        by = courier(Hosts({"xn--on-cja.test": [target(server)]}))
        session = Kept("xn--on-cja.test")
        assert deliver(message=item("bob@oné.test"), by=by, session=session)[0].state == DELIVERED
        session.close()
    assert server.accepted[0].recipients == ["bob@xn--on-cja.test"]


# -- hosts in order


def test_all_hosts_are_tried_before_it_is_put_off() -> None:
    with FaultServer({"connect": close("421 busy")}) as busy, FaultServer({"RCPT": say("451 4.2.1 hm")}) as grey:
        with FaultServer() as good:
            outcomes = deliver(nobody(), target(busy), target(grey), target(good, "good.test"))
        assert (outcomes[0].state, outcomes[0].mx) == (DELIVERED, "good.test")
        outcomes = deliver(target(grey, "grey.test"), nobody(), target(busy))
        assert outcomes[0].reply == "451 4.2.1 hm", "an answer says more than a closed door"
        assert outcomes[0].finality is not Finality.UNREACHABLE
        outcomes = deliver(nobody(), target(busy, "busy.test"))
        assert outcomes[0].state == DEFERRED and outcomes[0].finality is Finality.UNREACHABLE


def test_a_refusal_for_good_is_not_asked_of_the_next_host() -> None:
    with FaultServer({"RCPT a@one.test": say("550 no")}) as first, FaultServer() as second:
        outcomes = deliver(target(first), target(second), message=item(*THREE))
    assert [o.state for o in outcomes.values()] == [FAILED, DELIVERED, DELIVERED]
    assert second.sessions == []


def test_only_the_recipients_that_are_left_go_to_the_next_host() -> None:
    with FaultServer({"RCPT b@one.test": say("450 later")}) as first, FaultServer() as second:
        outcomes = deliver(target(first), target(second), message=item(*THREE))
    assert {o.state for o in outcomes.values()} == {DELIVERED}
    assert first.accepted[0].recipients == ["a@one.test", "c@one.test"]
    assert second.accepted[0].recipients == ["b@one.test"]


def test_a_host_that_is_this_very_server() -> None:
    with FaultServer({"connect": say("220 mail.dom.fr ESMTP smtpmail")}) as server:
        (outcome,) = deliver(target(server)).values()
    assert (outcome.state, outcome.status) == (FAILED, "5.4.6")


def test_no_connection() -> None:
    (outcome,) = deliver(nobody()).values()
    assert (outcome.state, outcome.status) == (DEFERRED, "4.4.1")
    assert "nobody.test" in outcome.reply and "127.0.0.1" in outcome.reply and "refused" in outcome.reply.lower()


# -- the form of content


def reference(content: bytes) -> bytes:
    """RFC 5321 4.5.2, line by line."""
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"


lines_of_dots = st.lists(st.sampled_from([b".", b"..", b"\n", b"\n.", b"a", b"\n\n", b".\n"]), min_size=1).map(b"".join)


@given(lines_of_dots, st.lists(st.integers(0, 60)))
def test_dot_stuffing_wherever_the_pieces_end(content: bytes, cuts: list[int]) -> None:
    edges = sorted(min(c, len(content)) for c in cuts)
    pieces = [content[a:b] for a, b in zip([0, *edges], [*edges, len(content)], strict=True)]
    assert b"".join(dot_stuff(pieces)) == reference(content)


@given(st.binary(min_size=1, max_size=400), st.lists(st.integers(0, 400)))
def test_never_a_bare_cr_or_lf(content: bytes, cuts: list[int]) -> None:
    edges = sorted(min(c, len(content)) for c in cuts)
    pieces = [content[a:b] for a, b in zip([0, *edges], [*edges, len(content)], strict=True)]
    wire = b"".join(dot_stuff(pieces)).replace(b"\r\n", b"")
    assert b"\r" not in wire and b"\n" not in wire


@WAYS
@pytest.mark.parametrize("shift", [-2, -1, 0, 1])
def test_dots_at_the_edges_of_what_is_read_at_once(extensions: tuple[str, ...], shift: int) -> None:
    filler = (b"x" * 63 + b"\n") * (READ_SIZE // 64) + b"x" * (64 + shift - 12)
    rest = (b"y" * 63 + b"\n") * (READ_SIZE // 64)
    content = b"Subject: x\n\n" + filler + b"\n.\n" + rest + b"..\n" + rest
    with FaultServer(extensions=extensions) as server:
        assert deliver(target(server), message=item(content=content), content=content)[0].state == DELIVERED
    assert server.accepted[0].content == on_wire(content)
    assert violations(server) == []


# -- a server of few words


class scripted:
    """Serves one connection with canned replies: what the strict server would never say."""

    def __init__(self, greeting: bytes, replies: dict[bytes, bytes]) -> None:
        self._greeting, self._replies = greeting, replies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.lines: list[bytes] = []

    def __enter__(self) -> tuple[int, list[bytes]]:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self._listener.getsockname()[1], self.lines

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as file:
            connection.sendall(self._greeting)
            for line in file:
                self.lines.append(line.strip())
                reply = self._replies.get(line.strip().split(b" ")[0])
                if reply:
                    connection.sendall(reply)


def at(port: int) -> MailHost:
    return MailHost("few.test", "127.0.0.1", port)
