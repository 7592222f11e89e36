"""The queue's runner: what is due, what is written down, who is told."""

from __future__ import annotations

import email
import threading
import time
from pathlib import Path

import pytest
from support.faultserver import EXTENSIONS, Fault, FaultServer, Script, Then, close, hang, late, say
from support.outbound import MESSAGE, SHORT, Hosts, TurnedClock, item, put, queue, target

from smtpmail.mail.queued import DEFERRED, DELIVERED, FAILED, QueuedRecipient
from smtpmail.mail.retry import RetryPolicy
from smtpmail.outbound.mailhost import MailHost


def to(server: FaultServer, *domains: str) -> dict[str, list[MailHost]]:
    return {domain: [target(server)] for domain in domains}


def test_delivered_at_once_and_gone(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        q.submit(item())
        q.wait_empty()
        assert [n.name for n in Path(q.store.path).iterdir() if not n.name.startswith(".")] == []
    assert len(server.accepted) == 1


def test_recipients_of_one_destination_share_a_transaction(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test", "two.test"))) as q:
        q.submit(item("a@one.test", "b@ONE.test", "c@two.test"))
        q.wait_empty()
    assert sorted(m.recipients for m in server.accepted) == [["a@one.test", "b@ONE.test"], ["c@two.test"]]


def test_many_recipients_in_portions(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        q.submit(item(*(f"{n}@one.test" for n in range(250))))
        q.wait_empty()
    assert sorted(len(m.recipients) for m in server.accepted) == [50, 100, 100]
    assert len({r for m in server.accepted for r in m.recipients}) == 250


def test_tried_again_only_for_those_left(tmp_path: Path) -> None:
    with (
        FaultServer({"RCPT b@one.test": [say("450 4.2.0 later")]}) as server,
        queue(tmp_path, Hosts(to(server, "one.test", "two.test"))) as q,
    ):
        message = q.submit(item("a@one.test", "b@one.test", "c@two.test"))
        q.wait_for(lambda: q.store.load(message.id).attempts == 1)
        loaded = q.store.load(message.id)
        assert [r.state for r in loaded.recipients] == [DELIVERED, DEFERRED, DELIVERED]
        assert loaded.recipients[1].reply == "450 4.2.0 later"
        q.wait_empty()
    assert sorted(server.deliveries.values()) == [1, 1, 1]


def test_failures_reach_a_local_sender(tmp_path: Path) -> None:
    script = {"RCPT a@one.test": say("550 5.1.1 no such user"), "RCPT b@one.test": say("552 5.2.2 full")}
    with FaultServer(script) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        message = q.submit(item("a@one.test", "b@one.test", "c@one.test", sender="Alice+x@dom.fr", envid="E1"))
        q.wait_empty()
        (report,) = q.mailbox("alice")
    head, _, _ = report.partition(b"\n\n")
    assert head.startswith(b"Return-Path: <>\nDelivered-To: Alice+x@dom.fr\nReceived: by mail.dom.fr id ")
    read = email.message_from_bytes(report)
    blocks = read.get_payload(1).get_payload()  # type: ignore[union-attr]
    assert [b["Final-Recipient"] for b in blocks[1:]] == ["rfc822; a@one.test", "rfc822; b@one.test"]  # type: ignore[union-attr,index]
    assert message.id in report.decode()
    assert [m.recipients for m in server.accepted] == [["c@one.test"]]


def test_failures_reach_another_sender_through_the_queue(tmp_path: Path) -> None:
    with (
        FaultServer({"RCPT a@one.test": say("550 5.1.1 no")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test", "far.test"))) as q,
    ):
        q.submit(item("a@one.test", sender="carol@far.test"))
        q.wait_for(lambda: server.accepted)
        q.wait_empty()
    (bounce,) = server.accepted
    assert (bounce.sender, bounce.recipients) == ("", ["carol@far.test"])
    assert bounce.content.startswith(b"Received: by mail.dom.fr id ")
    assert server.violations == []


@pytest.mark.parametrize("reply", ["550 5.1.1 no", "550"])
def test_never_a_bounce_of_a_bounce(tmp_path: Path, reply: str) -> None:
    with (
        FaultServer({"RCPT": say(reply)}) as server,
        queue(tmp_path, Hosts(to(server, "one.test", "far.test"))) as q,
    ):
        q.submit(item("a@one.test", sender="carol@far.test"))
        q.wait_for(lambda: len(server.sessions) >= 1)
        q.wait_empty()
        q.submit(item("b@one.test", sender=""))
        q.wait_empty()
        time.sleep(0.2)
        assert q.store.ids() == []
        assert [p.name for p in q.spool_path.iterdir() if not p.name.startswith(".")] == []
    assert server.accepted == []


@pytest.mark.parametrize(
    ("notify", "reply", "dsn_offered", "told"),
    [
        ((), "250 ok", False, None),
        (("SUCCESS",), "250 ok", False, "relayed"),
        (("SUCCESS",), "250 ok", True, None),
        (("NEVER",), "250 ok", False, None),
        ((), "550 no", True, "failed"),
        (("FAILURE",), "550 no", True, "failed"),
        (("NEVER",), "550 no", True, None),
        (("SUCCESS",), "550 no", True, None),
        (("DELAY",), "550 no", True, None),
    ],
)
def test_notify_is_obeyed(
    tmp_path: Path, notify: tuple[str, ...], reply: str, dsn_offered: bool, told: str | None
) -> None:
    extensions = EXTENSIONS if dsn_offered else tuple(e for e in EXTENSIONS if e != "DSN")
    with (
        FaultServer({"RCPT": say(reply)}, extensions=extensions) as server,
        queue(tmp_path, Hosts(to(server, "one.test"))) as q,
    ):
        q.submit(item(QueuedRecipient("bob@one.test", notify)))
        q.wait_empty()
        reports = q.mailbox("alice")
    assert [f"Action: {told}\n".encode() in r for r in reports] == ([True] if told else [])


@pytest.mark.parametrize(
    ("ret", "size", "requiretls", "whole"),
    [(None, 0, False, True), ("FULL", 0, False, True), ("HDRS", 0, False, False), ("FULL", 60_000, False, False)],
)
def test_ret_is_obeyed(tmp_path: Path, ret: str | None, size: int, requiretls: bool, whole: bool) -> None:
    content = MESSAGE + b"The very body\n" + b"x" * 70 + b"\n" + b"y" * 60 * (size // 60) + b"\n"
    with FaultServer({"RCPT": say("550 no")}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        q.submit(item(ret=ret, content=content), content)
        q.wait_empty()
        (report,) = q.mailbox("alice")
    assert (b"The very body" in report) is whole
    assert b"Subject: test" in report


def test_a_delay_is_told_once(tmp_path: Path) -> None:
    policy = RetryPolicy(schedule=(0.1,), lifetime=60, delay_notice=0.2)
    with (
        FaultServer({"RCPT": [say("450 4.2.0 later")] * 8}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), policy) as q,
    ):
        q.submit(item())
        q.wait_empty()
        (report,) = q.mailbox("alice")
    assert b"Action: delayed" in report and b"Will-Retry-Until: " in report and b"450 4.2.0 later" in report
    assert len(server.accepted) == 1


def test_given_up_when_the_lifetime_ends(tmp_path: Path) -> None:
    policy = RetryPolicy(schedule=(0.2,), lifetime=0.7, delay_notice=99)
    with (
        FaultServer({"RCPT": say("450 4.2.0 later")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), policy) as q,
    ):
        began = time.time()
        q.submit(item())
        q.wait_empty()
        assert time.time() - began > 0.6
        (report,) = q.mailbox("alice")
    assert b"Status: 5.4.7" in report and b"450 4.2.0 later" in report and b"given up" in report


def test_a_sender_who_cannot_be_told_now_is_told_later(tmp_path: Path) -> None:
    """The list of users could not be read for a moment: that is no reason to lose the report."""
    from smtpmail.mail.route import Local
    from smtpmail.smtp import replies
    from smtpmail.smtp.replies import Refusal

    answers = [Refusal(replies.USERS_UNREADABLE)]

    def routes(address: object) -> tuple[Local, ...]:
        if answers:
            raise answers.pop()
        return (Local("alice"),)

    with FaultServer({"RCPT": say("550 no")}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        q.router.routes = routes  # type: ignore[method-assign, assignment]
        q.submit(item())
        q.wait_empty()
        assert len(q.mailbox("alice")) == 1


def test_a_dead_destination_delays_no_other(tmp_path: Path) -> None:
    """Nine of ten destinations do not notice the tenth, which never answers."""
    domains = [f"d{n}.test" for n in range(9)]
    with FaultServer() as server, FaultServer({"connect": hang()}) as dead:
        hosts = Hosts(to(server, *domains) | {"dead.test": [target(dead)]})
        with queue(tmp_path, hosts, max_workers=15, max_per_destination=5) as q:
            began = time.monotonic()
            for n in range(30):
                q.submit(item(f"{n}@dead.test"))
                q.submit(item(*(f"{n}@{domain}" for domain in domains)))
            server.wait_until(lambda s: len(s.accepted) == 270, 20)
            assert time.monotonic() - began < 30
            assert dead.peak_sessions <= 5


def test_limits_in_all_and_for_a_destination(tmp_path: Path) -> None:
    domains = [f"d{n}.test" for n in range(6)]
    with (
        FaultServer({".": late(0.05)}) as server,
        queue(tmp_path, Hosts(to(server, *domains)), max_workers=4, max_per_destination=2) as q,
    ):
        for n in range(10):
            q.submit(item(*(f"{n}@{domain}" for domain in domains)))
        q.wait_empty(20)
    assert len(server.accepted) == 60
    assert server.peak_sessions <= 5, "one may still be saying good-bye"


def test_a_busy_destination_leaves_room(tmp_path: Path) -> None:
    """With no thread left, one that has much to send lets another one have its turn."""
    with FaultServer({".": late(0.05)}) as slow, FaultServer() as server:
        hosts = Hosts({"slow.test": [target(slow)], "one.test": [target(server)]})
        with queue(tmp_path, hosts, max_workers=2, max_per_destination=2) as q:
            for n in range(60):
                q.submit(item(f"{n}@slow.test"))
            q.submit(item("bob@one.test"))
            server.wait_until(lambda s: s.accepted, 5)
            assert len(slow.accepted) < 30
            q.wait_empty(20)
    assert len(slow.accepted) == 60


def test_one_bad_message_does_not_hold_back_the_others(tmp_path: Path) -> None:
    """A server that hangs up on one recipient says nothing about the rest of the mail for it."""
    with FaultServer({"RCPT poison@one.test": close()}) as server:
        policy = RetryPolicy(schedule=(60,), lifetime=600, delay_notice=600)
        with queue(tmp_path, Hosts(to(server, "one.test")), policy, max_per_destination=1) as q:
            for n in range(10):
                q.submit(item("poison@one.test" if n == 0 else f"{n}@one.test"))
            server.wait_until(lambda s: len(s.accepted) == 9, 10)
            q.wait_for(lambda: len(q.store.ids()) == 1)


def test_those_in_line_for_a_dead_host_are_put_off_together(tmp_path: Path) -> None:
    policy = RetryPolicy(schedule=(60,), lifetime=600, delay_notice=600)
    with (
        FaultServer({"connect": [hang()]}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), policy, max_per_destination=1) as q,
    ):
        ids = [q.submit(item(f"{n}@one.test")).id for n in range(20)]
        q.wait_for(lambda: all(q.store.load(i).attempts == 1 for i in ids))
    assert len(server.sessions) == 1


def test_hold_release_retry_remove(tmp_path: Path) -> None:
    policy = RetryPolicy(schedule=(60,), lifetime=600, delay_notice=600)
    with (
        FaultServer({"RCPT a@one.test": [say("450 x")] * 2, "RCPT b@one.test": say("450 x")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), policy) as q,
    ):
        message = q.submit(item("a@one.test"))
        gone = q.submit(item("b@one.test"))
        q.wait_for(lambda: q.store.load(message.id).attempts == 1 == q.store.load(gone.id).attempts)
        q.store.record(q.store.load(message.id), [{"next_attempt": 0.0}])
        q.store.wake(message.id)
        q.wait_for(lambda: q.store.load(message.id).attempts == 2)
        q.store.record(q.store.load(message.id), [{"hold": True, "next_attempt": 0.0}])
        q.store.wake(message.id)
        q.store.remove(gone.id)
        q.store.wake(gone.id)
        time.sleep(0.3)
        assert server.accepted == [] and q.store.ids() == [message.id]
        q.store.record(q.store.load(message.id), [{"hold": False, "next_attempt": 0.0}])
        q.store.wake(message.id)
        q.wait_empty()
    assert len(server.accepted) == 1


def test_a_hold_during_an_attempt_counts_after_it(tmp_path: Path) -> None:
    with (
        FaultServer({"RCPT": [say("450 x")], "MAIL": [late(0.4)]}) as server,
        queue(tmp_path, Hosts(to(server, "one.test"))) as q,
    ):
        message = q.submit(item())
        time.sleep(0.1)
        q.store.record(q.store.load(message.id), [{"hold": True}])
        q.store.wake(message.id)
        q.wait_for(lambda: q.store.load(message.id).attempts == 1)
        time.sleep(0.8)
        assert q.store.load(message.id).attempts == 1 and server.accepted == []


def test_named_before_it_is_submitted_it_is_still_sent_once(tmp_path: Path) -> None:
    """`smtpmail queue retry --all` sees a message on disk before its session has told the runner of it."""
    with FaultServer({".": late(0.2)}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        message = put(q.store, item())
        q.runner.look_at(message.id)
        q.runner.submit(message)
        q.runner.look_at(message.id)
        q.wait_empty()
        time.sleep(0.2)
    assert len(server.messages) == 1


def test_a_mailbox_that_could_not_take_it(tmp_path: Path) -> None:
    """Tried again until it can: one copy for all recipients that lead there, and nothing leaves for them."""
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        (q.spool_path / "bob").write_text("in the way")
        recipients = [QueuedRecipient(f"bob+{n}@dom.fr", user="bob") for n in range(150)]
        q.submit(item(*recipients, QueuedRecipient("a@one.test")))
        q.wait_for(lambda: server.accepted)
        q.wait_for(lambda: all(i.attempts for i in q.store.load_all()))
        (waiting,) = q.store.load_all()
        assert "bob" in waiting.recipients[0].reply
        (q.spool_path / "bob").unlink()
        q.wait_empty()
        (stored,) = q.mailbox("bob")
    assert stored.startswith(b"Return-Path: <alice@dom.fr>\nDelivered-To: bob+0@dom.fr\nDelivered-To: bob+1@dom.fr\n")
    assert stored.endswith(b"Delivered-To: bob+149@dom.fr\n" + MESSAGE)
    assert [r for m in server.accepted for r in m.recipients] == ["a@one.test"]


def test_what_is_on_disk_is_taken_up_at_start(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test")), start=False) as q:
        new = put(q.store, item("a@one.test"))
        overdue = put(q.store, item("b@one.test", "c@one.test"))
        q.store.record(overdue, [{"recipient": 0, "state": DELIVERED}, {"attempts": 3, "next_attempt": 5.0}])
        done = put(q.store, item("d@one.test"))
        q.store.record(done, [{"recipient": 0, "state": DELIVERED}])
        later = put(q.store, item("e@one.test"))
        q.store.record(later, [{"attempts": 1, "next_attempt": time.time() + 600}])
        held = put(q.store, item("f@one.test"))
        q.store.record(held, [{"hold": True}])
        (Path(q.store.path) / "junk").write_text("no message")
        (Path(q.store.path) / ("0" * 19)).write_text("a broken one")
        q.start()
        q.wait_for(lambda: set(q.store.ids()) == {later.id, held.id, "0" * 19})
    assert sorted(r for m in server.accepted for r in m.recipients) == ["a@one.test", "c@one.test"]
    assert new.id not in q.store.ids()


def test_time_goes_on_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that can't be read for a moment stops neither the clock nor the ear of the queue."""
    with FaultServer({"RCPT": [say("450 x")]}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        load = q.store.load
        failures = [OSError(5, "Input/output error"), RuntimeError("what?"), RecursionError()]

        def broken(id_: str):  # type: ignore[no-untyped-def]
            if failures:
                raise failures.pop()
            return load(id_)

        message = q.submit(item())
        q.wait_for(lambda: load(message.id).attempts == 1)
        monkeypatch.setattr(q.store, "load", broken)
        q.wait_for(lambda: not failures)
        q.wait_empty()
        q.store.wake("nothing")
        q.store.wake(put(q.store, item("x@one.test")).id)
        q.wait_empty()
    assert len(server.accepted) == 2


def test_a_progress_that_cannot_be_written_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer({"RCPT": [say("450 x")]}) as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        record = q.store.record
        failures: list[Exception] = [OSError(28, "No space left on device")]

        def full(*arguments: object) -> None:
            if failures:
                raise failures.pop()
            record(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(q.store, "record", full)
        q.submit(item())
        q.wait_empty()
    assert len(server.accepted) == 1


def test_no_more_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is accepted all the same, and leaves when there are threads again."""
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test"))) as q:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if "_work" in thread.name:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        q.runner.submit(put(q.store, item()))
        time.sleep(0.3)
        assert q.store.ids()
        monkeypatch.undo()
        q.wait_empty()
        server.wait_until(lambda s: s.accepted)


def test_delivered_is_on_disk_before_the_sender_is_told_of_others(tmp_path: Path) -> None:
    """A crash while the report is written sends nothing a second time."""
    with (
        FaultServer({"RCPT b@one.test": say("550 no")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test"))) as q,
    ):
        seen: list[list[str]] = []
        send = q.bouncer.send

        def look(kind, about, recipients, text, **more):  # type: ignore[no-untyped-def]
            seen.append([r.state for r in q.store.load(about.id).recipients])
            send(kind, about, recipients, text, **more)

        q.bouncer.send = look  # type: ignore[method-assign, assignment]
        q.submit(item("a@one.test", "b@one.test"))
        q.wait_empty()
    assert seen == [[DELIVERED, FAILED]]
    assert len(server.accepted) == 1


def test_stop_waits_for_what_is_being_sent(tmp_path: Path) -> None:
    with (
        FaultServer({".": late(0.5)}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), max_per_destination=1) as q,
    ):
        for n in range(5):
            q.submit(item(f"{n}@one.test"))
        server.wait_until(lambda s: s.messages)
        q.runner.stop(5)
        left = q.store.ids()
    assert 1 <= len(server.accepted) <= 2
    assert len(left) == 5 - len(server.accepted), "what was taken is gone, the rest is there"


# -- a disk that takes nothing


LATER = RetryPolicy(schedule=(60, 600, 3600), lifetime=5 * 86400, delay_notice=86400)


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_nobody_gets_a_copy_a_minute_because_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said is kept in memory, attempts back off, and the disk gets it in the end. Two destinations at once."""
    clock = TurnedClock()
    script: Script = {"RCPT b@one.test": [say("450 4.2.0 later")] * 3, "RCPT c@two.test": [say("450 4.2.0 later")] * 3}
    with (
        FaultServer(script) as server,
        queue(tmp_path, Hosts(to(server, "one.test", "two.test")), LATER, clock=clock) as q,
    ):
        record = q.store.record
        monkeypatch.setattr(q.store, "record", full)
        message = q.submit(item("a@one.test", "b@one.test", "c@two.test", "d@two.test"))

        def asked() -> int:
            return sum(line.startswith("C: RCPT TO:<b@") for s in server.sessions for line in s.transcript)

        for attempt, wait in ((1, 63), (2, 630)):
            q.wait_for(lambda attempt=attempt: q.runner._due_at and asked() == attempt)  # type: ignore[misc]
            time.sleep(0.1)
            assert asked() == attempt, "not before its time"
            clock.turn(wait + 1)
        q.wait_for(lambda: q.runner._due_at and asked() == 3)
        monkeypatch.setattr(q.store, "record", record)
        clock.turn(3 * 3600)
        q.wait_empty()
    assert sorted(server.deliveries.values()) == [1, 1, 1, 1]
    assert message.id not in q.store.ids()


def test_a_message_that_cannot_be_removed_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = TurnedClock()
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test")), LATER, clock=clock) as q:
        remove = q.store.remove
        monkeypatch.setattr(q.store, "remove", full)
        monkeypatch.setattr(q.store, "record", full)
        q.submit(item())
        for _ in range(3):
            q.wait_for(lambda: q.runner._due_at)
            clock.turn(7200)
            time.sleep(0.05)
        monkeypatch.setattr(q.store, "remove", remove)
        clock.turn(7200)
        q.wait_empty()
    assert len(server.messages) == 1


def test_a_bounce_that_cannot_be_stored_is_tried_again_without_asking_anybody(tmp_path: Path) -> None:
    clock = TurnedClock()
    with (
        FaultServer({"RCPT a@one.test": say("550 5.1.1 no")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), LATER, clock=clock) as q,
    ):
        send = q.bouncer.send
        q.bouncer.send = full  # type: ignore[method-assign, assignment]
        message = q.submit(item("a@one.test", "b@one.test"))
        for attempts in (1, 2, 3):
            q.wait_for(lambda attempts=attempts: q.store.load(message.id).attempts == attempts and q.runner._due_at)  # type: ignore[misc]
            clock.turn(3970)
        assert [r.state for r in q.store.load(message.id).recipients] == [FAILED, DELIVERED]
        q.bouncer.send = send  # type: ignore[method-assign]
        clock.turn(7200)
        q.wait_empty()
        (report,) = q.mailbox("alice")
    assert b"550 5.1.1 no" in report and b"Status: 5.1.1" in report
    assert len(server.sessions) == 1


# -- a stop, and what comes after it


def test_what_was_said_is_on_disk_while_the_last_host_is_silent(tmp_path: Path) -> None:
    with (
        FaultServer({"RCPT b@one.test": say("450 later")}) as first,
        FaultServer({"MAIL": hang()}) as silent,
        queue(tmp_path, Hosts({"one.test": [target(first), target(silent)]})) as q,
    ):
        message = q.submit(item("a@one.test", "b@one.test"))
        silent.wait_until(lambda s: any("MAIL" in session.verbs for session in s.sessions))
        assert [r.state for r in q.store.load(message.id).recipients] == [DELIVERED, DEFERRED]
        began = time.monotonic()
        q.runner.stop(30)
        assert time.monotonic() - began < 10, "nothing is being sent: there is nothing to wait for"


def test_who_is_told_later_is_told_after_a_restart(tmp_path: Path) -> None:
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test")), start=False) as q:
        message = put(q.store, item("a@one.test"))
        q.store.record(message, [{"recipient": 0, "state": FAILED, "status": "5.1.1", "reply": "550 no", "tell": True}])
        q.start()
        q.wait_empty()
        (report,) = q.mailbox("alice")
    assert b"Status: 5.1.1" in report and server.sessions == []


def test_notifications_to_one_address_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever forges a sender does not flood them through this host; senders here are told of everything."""
    monkeypatch.setattr("smtpmail.mail.notice_limit.BURST", 2)
    with (
        FaultServer({"RCPT b@one.test": say("550 no")}) as server,
        queue(tmp_path, Hosts(to(server, "one.test", "far.test"))) as q,
    ):
        for _ in range(5):
            q.submit(item("b@one.test", sender="carol@far.test"))
            q.submit(item("b@one.test"))
        q.wait_empty()
        assert len(q.mailbox("alice")) == 5
    assert [m.recipients for m in server.accepted] == [["carol@far.test"]] * 2


# -- whose turn it is


def test_notifications_leave_workers_for_other_mail(tmp_path: Path) -> None:
    """100 mails from senders whose MX is silent stopped everything."""
    with FaultServer() as server, FaultServer({"connect": hang()}) as silent:
        hosts = Hosts(to(server, "one.test") | {f"s{n}.test": [target(silent)] for n in range(20)})
        with queue(tmp_path, hosts, max_workers=4) as q:
            for n in range(20):
                q.submit(item(f"x@s{n}.test", sender="", bounce_of="x"))
            silent.wait_until(lambda s: s.sessions)
            q.submit(item())
            server.wait_until(lambda s: s.accepted, 5)
            assert silent.peak_sessions <= 2


def test_destinations_that_fail_yield_to_those_that_work(tmp_path: Path) -> None:
    clock = TurnedClock()
    with FaultServer() as server, FaultServer({"connect": hang()}) as silent:
        hosts = Hosts(to(server, "one.test") | {f"s{n}.test": [target(silent)] for n in range(12)})
        with queue(tmp_path, hosts, LATER, clock=clock, max_workers=4) as q:
            dead = [q.submit(item(f"x@s{n}.test")) for n in range(12)]
            q.wait_for(lambda: all(q.store.load(m.id).attempts == 1 for m in dead), 40)
            clock.turn(70)
            seen = len(silent.sessions)
            silent.wait_until(lambda s: len(s.sessions) > seen)
            began = time.monotonic()
            q.submit(item())
            server.wait_until(lambda s: s.accepted, 5)
            assert time.monotonic() - began < SHORT.reply, "it did not have to wait for one of them"


def test_the_first_mail_for_many_dead_destinations_leaves_workers_for_one_that_works(tmp_path: Path) -> None:
    """Nothing is known of them yet: half of the threads for those that fail are not enough."""
    with FaultServer() as server, FaultServer({"connect": hang()}) as silent:
        hosts = Hosts(to(server, "one.test") | {f"s{n}.test": [target(silent)] for n in range(60)})
        with queue(tmp_path, hosts, LATER, max_workers=4) as q:
            q.submit(item())
            server.wait_until(lambda s: s.accepted)
            q.wait_empty()
            for n in range(60):
                q.submit(item(f"x@s{n}.test"))
            silent.wait_until(lambda s: s.peak_sessions == 3)
            q.submit(item())
            server.wait_until(lambda s: len(s.accepted) == 2, 10)
            assert len(silent.sessions) < 20


def test_a_destination_of_which_nothing_is_known_has_its_turn(tmp_path: Path) -> None:
    """However much there is for those that work."""
    with FaultServer({".": late(0.05)}) as server, FaultServer() as other:
        busy = [f"d{n}.test" for n in range(4)]
        hosts = Hosts(to(server, *busy) | to(other, "new.test"))
        with queue(tmp_path, hosts, max_workers=2) as q:
            for n in range(20):
                q.submit(item(*(f"{n}@{domain}" for domain in busy)))
            server.wait_until(lambda s: len(s.accepted) > 8)
            q.submit(item("bob@new.test"))
            other.wait_until(lambda s: s.accepted)
            assert len(server.accepted) < 60
            q.wait_empty(20)


def test_a_destination_whose_hosts_end_every_session_is_left_alone(tmp_path: Path) -> None:
    with FaultServer({"RCPT": Fault(b"421 4.3.2 busy\r\n", Then.CLOSE, delay=0.3)}) as server:
        with queue(tmp_path, Hosts(to(server, "one.test")), LATER, max_per_destination=1) as q:
            messages = [q.submit(item(f"{n}@one.test")) for n in range(30)]
            q.wait_for(lambda: all(q.store.load(m.id).attempts == 1 for m in messages))
        assert len(server.sessions) <= 4


# -- time


def test_a_message_of_which_nobody_told_is_found(tmp_path: Path) -> None:
    clock = TurnedClock()
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test")), clock=clock) as q:
        put(q.store, item())
        time.sleep(0.1)
        assert server.sessions == []
        clock.turn(61)
        q.wait_empty()


@pytest.mark.parametrize("ahead", [86400 * 365, 1e12])
def test_a_wait_from_when_the_clock_was_wrong(tmp_path: Path, ahead: float) -> None:
    clock = TurnedClock()
    with FaultServer() as server, queue(tmp_path, Hosts(to(server, "one.test")), LATER, start=False, clock=clock) as q:
        message = put(q.store, item())
        q.store.record(message, [{"attempts": 3, "next_attempt": time.time() + ahead}])
        q.start()
        time.sleep(0.1)
        assert server.sessions == []
        clock.turn(4000)
        q.wait_empty()


def test_the_wall_clock_does_not_move_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = TurnedClock()
    with (
        FaultServer({"RCPT": [say("450 later")]}) as server,
        queue(tmp_path, Hosts(to(server, "one.test")), LATER, clock=clock) as q,
    ):
        message = q.submit(item())
        q.wait_for(lambda: q.store.load(message.id).attempts == 1 and q.runner._due_at)
        now = clock.now
        monkeypatch.setattr(clock, "now", lambda: now() - 86400 * 365)
        clock.turn(70)
        server.wait_until(lambda s: s.accepted or len(s.sessions) == 1)
        clock.turn(7200)
        q.wait_empty()
