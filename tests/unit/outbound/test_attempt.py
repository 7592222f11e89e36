"""One attempt: which hosts are asked, in what order, how often; and servers that are out of step."""

from __future__ import annotations

import errno
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from support.faultserver import EXTENSIONS, FaultServer, close, hang, late, say
from support.outbound import MESSAGE, SHORT, Hosts, courier, deliver, item, nobody, on_wire, target

from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED
from smtpmail.outbound.client import Timeouts
from smtpmail.outbound.courier import MOST_ADDRESSES, MOST_SESSIONS, Courier
from smtpmail.outbound.kept import Kept
from smtpmail.outbound.mailhost import MailHost
from smtpmail.outbound.outcome import Finality, Outcome

# -- replies and the commands that they belong to


@contextmanager
def raw(
    answer: Callable[[bytes], bytes | None], greeting: bytes = b"220 hi\r\n"
) -> Iterator[tuple[MailHost, list[bytes]]]:
    """A server that reads lines, whatever they are, and says what `answer` says; None hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    lines: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            connection.sendall(b"220 hi\r\n")
            for line in file:
                lines.append(line.strip())
                reply = answer(line.strip())
                if reply is None:
                    return
                connection.sendall(reply)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield MailHost("raw.test", "127.0.0.1", listener.getsockname()[1]), lines
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


EHLO = b"250-raw.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 8BITMIME\r\n"


class Dialogue:
    """A correct server, but for the replies that a test gives it by verb."""

    def __init__(self, **replies: bytes) -> None:
        self.replies = replies
        self.content = False
        self.taken = 0

    def __call__(self, line: bytes) -> bytes | None:
        if self.content:
            if line != b".":
                return b""
            self.content = False
            return self._said("dot", b"250 taken\r\n")
        verb = line.split(b" ")[0].decode()
        reply = self._said(verb, {"EHLO": EHLO, "DATA": b"354 go\r\n", "QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n"))
        self.content = verb == "DATA" and b"354" in reply
        return reply

    def _said(self, verb: str, regular: bytes) -> bytes:
        reply = self.replies.get(verb, regular)
        self.taken += verb == "dot" and reply.startswith(b"2")
        return reply


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("second", [b"250 again\r\n", b"550 no\r\n", b"451 no\r\n"])
def test_one_reply_too_many_is_never_taken_for_another(verb: str, second: bytes) -> None:
    """Neither a message that is counted as delivered though it was refused, nor the bounce of one that was not."""
    dialogue = Dialogue()
    first = b"354 go\r\n" if verb == "DATA" else b"250 ok\r\n"
    dialogue.replies = {verb: first + second}
    with raw(dialogue) as (host, lines):
        outcomes = deliver(host, message=item("a@one.test", "b@one.test"))
    delivered = [o for o in outcomes.values() if o.state == DELIVERED]
    assert bool(delivered) == bool(dialogue.taken) or not delivered
    assert all(o.state != FAILED for o in outcomes.values())
    assert not any(line.startswith(b"BDAT") for line in lines)


def test_a_late_second_reply_ends_the_connection_before_the_next_message() -> None:
    dialogue = Dialogue(dot=b"250 taken\r\n550 no\r\n")
    with raw(dialogue) as (host, lines):
        kept = Kept("one.test")
        by = courier(Hosts({"one.test": [host]}))
        assert deliver(session=kept, by=by)[0].state == DELIVERED
        dialogue.replies = {}
        assert deliver(session=kept, by=by)[0].state == DELIVERED
        kept.close()
    assert lines.count(b"EHLO mail.dom.fr") == 2, "on a new connection"


@pytest.mark.parametrize("pipelining", [True, False])
def test_no_octet_of_a_message_is_read_as_a_command(pipelining: bool) -> None:
    """A server that refuses DATA or every recipient, and then takes whatever comes for commands."""
    content = b"Subject: x\n\nMAIL FROM:<evil@x.test>\nRCPT TO:<victim@x.test>\nDATA\n"
    for refusing in ("RCPT", "MAIL", "DATA"):
        extra = {} if pipelining else {"EHLO": b"250-raw.test\r\n250 CHUNKING\r\n"}
        with raw(Dialogue(**{refusing: b"554 no\r\n"}, **extra)) as (host, lines):
            (outcome,) = deliver(host, content=content).values()
        assert outcome.state == FAILED
        assert not any(b"evil" in line or b"Subject" in line for line in lines)


def test_a_354_after_nobody_was_taken_ends_the_connection() -> None:
    with raw(Dialogue(RCPT=b"550 no\r\n")) as (host, lines):
        (outcome,) = deliver(host).values()
    assert (outcome.state, outcome.reply) == (FAILED, "550 no")
    assert b"." not in lines and b"Subject: test" not in lines


def test_a_reply_that_is_missing_leaves_no_verdict() -> None:
    """MAIL is not answered: the refusal of the first recipient is not one of the sender."""
    replies = iter([b"550 no a\r\n", b"250 ok\r\n", b"250 ok\r\n"])
    with raw(lambda line: EHLO if line[:4] == b"EHLO" else b"" if line[:4] == b"MAIL" else next(replies, b"")) as (
        host,
        _,
    ):
        outcomes = deliver(host, message=item("a@one.test", "b@one.test", "c@one.test"))
    assert {o.state for o in outcomes.values()} == {DEFERRED}


# -- content


LARGE = MESSAGE + (b"x" * 70 + b"\n") * 60_000


@pytest.mark.parametrize("reply", ["552 5.3.4 too large", "451 4.3.0 disk full"])
def test_a_refusal_in_the_middle_of_the_content_is_heard(reply: str) -> None:
    with FaultServer({"content": close(reply)}) as server:
        (outcome,) = deliver(target(server), message=item(content=LARGE), content=LARGE).values()
    assert outcome.reply == reply
    assert outcome.state == (FAILED if reply[0] == "5" else DEFERRED)


def test_a_refused_recipient_of_a_large_message_is_refused() -> None:
    """550 and gone: before, the content was on its way already, and the refusal was lost."""
    with FaultServer({"RCPT": close("550 5.1.1 who?")}) as server:
        (outcome,) = deliver(target(server), message=item(content=LARGE), content=LARGE).values()
    assert (outcome.state, outcome.reply) == (FAILED, "550 5.1.1 who?")


def test_doubt_begins_with_the_last_octet() -> None:
    """What was not whole can go to another host at once; what was whole cannot."""
    for point, sure in (("content", True), (".", False)):
        with FaultServer({point: close()}) as server, FaultServer() as other:
            content = LARGE if point == "content" else MESSAGE
            outcomes = deliver(target(server), target(other), message=item(content=content), content=content)
        assert (outcomes[0].state == DELIVERED) is sure
        assert (len(other.messages) == 1) is sure
        assert sure or outcomes[0].finality is Finality.UNCERTAIN


# -- too many recipients (RFC 5321 4.5.3.1.10)


class Counting(FaultServer):
    """Takes a number of recipients in a transaction."""

    def __init__(self, most: int, reply: str, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self._most = most
        self._reply = say(reply)
        self._count = 0

    def fault(self, *points: str):  # type: ignore[no-untyped-def]
        if points[0].startswith("MAIL"):
            self._count = 0
        if points[0].startswith("RCPT"):
            self._count += 1
            if self._count > self._most:
                return self._reply
        return super().fault(*points)


@pytest.mark.parametrize(
    "reply", ["452 4.5.3 too many recipients", "552 5.5.3 Too many recipients", "452 Too many RCPTs"]
)
@pytest.mark.parametrize("extensions", [EXTENSIONS, ()], ids=["pipelining", "plain"])
def test_the_rest_follows_in_the_next_transaction(reply: str, extensions: Sequence[str]) -> None:
    names = [f"r{n}@one.test" for n in range(60)]
    with Counting(5, reply, extensions=extensions) as server:
        outcomes = deliver(target(server), message=item(*names))
    assert {o.state for o in outcomes.values()} == {DELIVERED}
    assert sorted(r for m in server.accepted for r in m.recipients) == sorted(names)
    assert len(server.sessions) == 1 and len(server.accepted) == 12
    assert server.sessions[0].transcript.count(f"S: {reply}") <= 60, "the room is remembered"


def test_limits_that_a_server_tells(extensions: Sequence[str] = (*EXTENSIONS, "LIMITS RCPTMAX=7 MAILMAX=9")) -> None:
    """RFC 9422."""
    with Counting(7, "452 4.5.3 too many", extensions=extensions) as server:
        outcomes = deliver(target(server), message=item(*(f"r{n}@one.test" for n in range(20))))
    assert {o.state for o in outcomes.values()} == {DELIVERED}
    assert [len(m.recipients) for m in server.accepted] == [7, 7, 6]
    assert not any("452" in line for line in server.sessions[0].transcript)


def test_a_full_mailbox_does_not_wait_in_a_loop() -> None:
    with FaultServer({"RCPT b@one.test": say("452 4.2.2 full"), "RCPT c@one.test": say("552 5.2.2 full")}) as server:
        outcomes = deliver(target(server), message=item("a@one.test", "b@one.test", "c@one.test"))
    assert [o.state for o in outcomes.values()] == [DELIVERED, DEFERRED, FAILED]
    assert len(server.accepted) == 1


def test_no_room_for_even_one_is_later() -> None:
    with FaultServer({"RCPT": say("552 5.5.3 too many recipients")}) as server:
        assert deliver(target(server), message=item("a@one.test", "b@one.test"))[0].state == DEFERRED


# -- limits


def servers(stack: ExitStack, number: int, script: dict[str, object]) -> list[FaultServer]:
    return [stack.enter_context(FaultServer(script)) for _ in range(number)]  # type: ignore[arg-type]


def test_five_addresses_an_attempt() -> None:
    with ExitStack() as stack:
        busy = servers(stack, 12, {"connect": close("421 busy")})
        (outcome,) = deliver(*(target(s, f"mx{n}.test") for n, s in enumerate(busy))).values()
        assert sum(len(s.sessions) for s in busy) == 4, "of one family; a fifth may be of the other"
    assert outcome.finality is Finality.UNREACHABLE and "421 busy" in outcome.reply
    assert MOST_ADDRESSES == 5


def test_two_sessions_an_attempt() -> None:
    """A content is not sent to each of many hosts that all say the same to it."""
    with ExitStack() as stack:
        grey = servers(stack, 6, {".": say("451 4.7.1 later")})
        assert deliver(*(target(s, f"mx{n}.test") for n, s in enumerate(grey)))[0].state == DEFERRED
        assert sum(len(s.messages) for s in grey) == MOST_SESSIONS


def test_addresses_without_a_route_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without IPv6 reaches the last of four dual-stack hosts in its first attempt."""
    connect = socket.create_connection

    def without_ipv6(address: tuple[str, int], *args: object, **more: object) -> socket.socket:
        if ":" in address[0]:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return connect(address, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("socket.create_connection", without_ipv6)
    with FaultServer() as server:
        hosts = []
        for n in range(4):
            hosts += [MailHost(f"mx{n}.one.test", f"2001:db8::{n}", 25), nobody(f"mx{n}.one.test")]
        hosts[-1] = target(server)
        hosts[1:7:2] = [MailHost(f"mx{n}.one.test", f"127.0.0.{n + 2}", 1) for n in range(3)]
        assert deliver(*hosts)[0].state == DELIVERED


def test_one_address_of_many_names_is_tried_once() -> None:
    with FaultServer({"connect": hang()}) as silent:
        began = time.monotonic()
        by = courier(
            Hosts({"one.test": [target(silent, f"mx{n}.one.test") for n in range(60)]}), timeouts=Timeouts(1, 0.5)
        )
        assert deliver(by=by)[0].state == DEFERRED
        assert time.monotonic() - began < 10
    assert len(silent.sessions) == 1


def test_an_attempt_has_an_end() -> None:
    with ExitStack() as stack:
        silent = servers(stack, 4, {"connect": hang()})
        by = courier(Hosts({"one.test": [target(s) for s in silent]}), timeouts=Timeouts(1, 1))
        assert deliver(by=by)[0].state == DEFERRED
        assert sum(len(s.sessions) for s in silent) <= 2, "no further host after the patience with one"


def test_a_server_that_takes_its_time_for_each_recipient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred replies that each come just in time would hold a worker for hours."""
    monkeypatch.setattr("smtpmail.outbound.client.EACH_RECIPIENT_SECONDS", 0.0)
    with FaultServer({"RCPT": late(0.3)}) as server:
        by = courier(Hosts({"one.test": [target(server)]}), timeouts=Timeouts(1, 0.5))
        began = time.monotonic()
        assert deliver(by=by, message=item(*(f"r{n}@one.test" for n in range(60))))[0].state == DEFERRED
        assert time.monotonic() - began < 10


def test_a_server_that_takes_a_content_by_the_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpmail.outbound.client.SLOWEST", 1 << 40)
    monkeypatch.setattr("smtpmail.outbound.client.CONTENT_PATIENCES", 0)
    with FaultServer() as server:
        by = courier(Hosts({"one.test": [target(server)]}), timeouts=Timeouts(1, 30))
        (outcome,) = deliver(by=by, message=item(content=LARGE), content=LARGE).values()
    assert outcome.state == DEFERRED and "too slowly" in outcome.reply and server.messages == []


def test_in_a_hurry_patience_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpmail.outbound.courier.HURRIED_GREETING", 0.2)
    with FaultServer({"connect": late(1)}) as slow:
        by = courier(Hosts({"one.test": [target(slow)]}), timeouts=SHORT)
        for hurried, state in ((True, DEFERRED), (False, DELIVERED)):
            kept = Kept("one.test")
            found = by.deliver(kept, item(), [0], io.BytesIO(MESSAGE), hurried=hurried)
            kept.close()
            assert found[0].state == state


def test_what_was_said_is_told_when_it_was_said() -> None:
    """Not when the last host has answered: a restart before that would send a second copy."""
    heard: list[dict[int, Outcome]] = []
    with FaultServer({"RCPT b@one.test": say("450 later")}) as first, FaultServer({"MAIL": late(1)}) as slow:
        by = courier(Hosts({"one.test": [target(first), target(slow)]}))
        thread = threading.Thread(
            target=lambda: by.deliver(
                Kept("one.test"),
                item("a@one.test", "b@one.test"),
                [0, 1],
                io.BytesIO(MESSAGE),
                lambda o: heard.append(dict(o)),
            )
        )
        thread.start()
        slow.wait_until(lambda s: any("MAIL" in session.verbs for session in s.sessions))
        assert [list(o) for o in heard] == [[0]]
        thread.join()
    assert [list(o) for o in heard] == [[0], [1]]


# -- words at connect and EHLO


@pytest.mark.parametrize("greeting", ["554 5.7.1 too many connections", "521 5.3.2 no mail here", "450 4.7.0 wait"])
def test_a_greeting_is_never_final(greeting: str) -> None:
    with FaultServer({"connect": close(greeting)}) as busy, FaultServer() as good:
        assert deliver(target(busy))[0].state == DEFERRED
        assert deliver(target(busy), target(good))[0].state == DELIVERED


@pytest.mark.parametrize("reply", ["451 4.3.0 not now", "421 4.3.2 bye"])
def test_helo_only_after_a_5xx_to_ehlo(reply: str) -> None:
    """HELO has no 8BITMIME: what passes would become a bounce."""
    with FaultServer({"EHLO": say(reply)}) as server:
        (outcome,) = deliver(target(server)).values()
    assert outcome.finality is Finality.UNREACHABLE
    assert "HELO" not in server.sessions[0].verbs


def test_a_5xx_to_helo_is_not_final() -> None:
    with FaultServer({"EHLO": say("550 go away"), "HELO": say("550 go away")}) as server:
        assert deliver(target(server))[0].state == DEFERRED


# -- IPv4 and IPv6


@contextmanager
def both_families(script6: dict[str, object], script4: dict[str, object]) -> Iterator[tuple[FaultServer, FaultServer]]:
    try:
        six = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with (
        FaultServer(script6, listeners=[six]) as over6,  # type: ignore[arg-type]
        FaultServer(script4) as over4,  # type: ignore[arg-type]
    ):
        yield over6, over4


PTR = [
    "550-5.7.1 [2001:db8::1] Our system has detected that this message does not meet\r\n"
    "550 5.7.1 IPv6 sending guidelines regarding PTR records and authentication.",
    "550 5.7.25 no reverse DNS",
    "554 5.7.26 unauthenticated",
    "550 5.7.1 Client host rejected: cannot find your reverse hostname",
    "450 4.7.25 no PTR",
    "550 5.7.1 Client host rejected: cannot find your hostname, [2001:db8::1]",
    "550 Cannot resolve your IP address",
    "550 5.7.1 SPF fail: not authorized to send from [2001:db8::1]",
    "550 5.7.606 Access denied, banned sending IP [2001:db8::1]",
    "550 rDNS required",
]


@pytest.mark.parametrize("reply", PTR)
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "."])
def test_a_refusal_of_the_address_is_tried_over_the_other_family(reply: str, point: str) -> None:
    with both_families({point: say(reply)}, {}) as (six, four):
        hosts = [target(six, "mx.one.test"), target(six, "mx2.one.test"), target(four, "mx.one.test")]
        by = courier(Hosts({"one.test": hosts}))
        assert deliver(by=by)[0].state == DELIVERED
        assert len(four.accepted) == 1
        before = len(six.sessions)
        assert deliver(by=by)[0].state == DELIVERED
        assert len(six.sessions) == before, "it is remembered"


def test_a_refusal_of_the_address_is_final_when_there_is_no_other_family() -> None:
    with FaultServer({"RCPT": say("550 5.7.25 no PTR")}) as server:
        assert deliver(target(server))[0].state == FAILED


def test_other_refusals_are_not_about_the_address() -> None:
    with both_families({"RCPT": say("550 5.7.1 spam")}, {}) as (six, four):
        assert deliver(target(six), target(four))[0].state == FAILED
        assert four.sessions == []


def test_where_connections_come_from() -> None:
    with FaultServer() as server:
        by = Courier(Hosts({"one.test": [target(server)]}), "mail.dom.fr", SHORT, sources={4: "127.0.0.9"})
        assert deliver(by=by)[0].state == DELIVERED
    assert server.sessions[0].peer == "127.0.0.9"
    by = Courier(Hosts({"one.test": [nobody()]}), "mail.dom.fr", SHORT, sources={4: "192.0.2.77"})
    (outcome,) = deliver(by=by).values()
    assert outcome.state == DEFERRED and "from 192.0.2.77" in outcome.reply


# -- 8-bit content


def test_8bit_content_is_converted_for_a_server_without_8bitmime() -> None:
    content = "Subject: grüße\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\nMüßiggang\n".encode()
    with FaultServer(extensions=("PIPELINING", "SIZE 1000000")) as server:
        assert deliver(target(server), message=item(content=content), content=content)[0].state == DELIVERED
    (message,) = server.accepted
    assert message.content.isascii() and b"M=C3=BC=C3=9Figgang\r\n" in message.content
    assert message.mail_parameters["SIZE"] == str(len(message.content))
    assert server.violations == []


def test_8bit_content_stays_where_it_can() -> None:
    content = "Subject: x\n\nMüßiggang\n".encode()
    with FaultServer() as server:
        deliver(target(server), message=item(content=content), content=content)
    assert server.accepted[0].content == on_wire(content)


@pytest.mark.parametrize("size", [1, 3000], ids=["small", "large"])
def test_long_lines_are_encoded(size: int) -> None:
    content = b"Subject: x\n\n" + b"Z" * 1200 * size + b"\nend\n"
    with FaultServer() as server:
        assert deliver(target(server), message=item(content=content), content=content)[0].state == DELIVERED
    (message,) = server.accepted
    assert max(map(len, message.content.split(b"\r\n"))) <= 998
    assert message.content.replace(b"=\r\n", b"").count(b"Z") == 1200 * size
    assert message.mail_parameters["SIZE"] == str(len(message.content))


def test_long_lines_under_a_signature_leave_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from smtpmail.outbound import content as module

    warned: list[str] = []
    monkeypatch.setattr(module.log, "warning", lambda event, **fields: warned.append(event))
    content = b"DKIM-Signature: v=1\nSubject: x\n\n" + b"y" * 1200 + b"\n"
    with FaultServer() as server:
        assert deliver(target(server), message=item(content=content), content=content)[0].state == DELIVERED
    assert server.accepted[0].content == on_wire(content) and warned == ["delivery.long_lines"]
