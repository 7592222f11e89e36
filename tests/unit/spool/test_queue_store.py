"""The queue on disk: what a crash can leave of it, what people leave in it, and many at work in it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.outbound import MESSAGE, item, put

from smtpmail.mail.envelope import new_id
from smtpmail.mail.queued import (
    DEFERRED,
    DELIVERED,
    FAILED,
    Item,
    QueuedRecipient,
    decode_envelope,
    encode_envelope,
    replay,
)
from smtpmail.spool.queue import QueueError, QueueStore


@pytest.fixture
def store(tmp_path: Path) -> QueueStore:
    return QueueStore(str(tmp_path))


def content(store: QueueStore, message: Item) -> bytes:
    with store.open_content(message) as file:
        return file.read()


# -- round trip

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
recipients = st.builds(
    QueuedRecipient,
    text,
    st.lists(st.sampled_from(["SUCCESS", "FAILURE", "DELAY", "NEVER"]), unique=True).map(tuple),
    st.none() | text,
)
items = st.builds(
    Item,
    id=st.just("0abc"),
    arrived=st.floats(0, 1e10),
    sender=text,
    recipients=st.lists(recipients, min_size=1, max_size=5),
    size=st.integers(0, 2**40),
    body=st.sampled_from([None, "7BIT", "8BITMIME"]),
    eightbit=st.booleans(),
    smtputf8=st.booleans(),
    requiretls=st.booleans(),
    ret=st.sampled_from([None, "FULL", "HDRS"]),
    envid=st.none() | text,
    bounce_of=st.none() | text,
)


@given(items)
def test_an_envelope_comes_back_as_it_was(message: Item) -> None:
    line = encode_envelope(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n") and line.isascii()
    again = decode_envelope(line)
    again.content_offset = 0
    assert again == message


def test_a_message_comes_back_as_it_was(store: QueueStore) -> None:
    message = put(store, item("bob@one.test", "zoé@two.test", sender="rené@dom.fr", smtputf8=True))
    loaded = store.load(message.id)
    assert loaded == message
    assert content(store, loaded) == MESSAGE
    assert store.ids() == [message.id]
    assert [m.id for m in store.load_all()] == [message.id]


def test_one_plain_file_that_one_can_look_at(store: QueueStore) -> None:
    message = put(store, item())
    assert [n for n in os.listdir(store.path) if not n.startswith(".")] == [message.id]
    head, _, rest = (Path(store.path) / message.id).read_bytes().partition(b"\n")
    assert json.loads(head)["recipients"][0]["address"] == "bob@one.test"
    assert rest == MESSAGE


def test_oldest_first(store: QueueStore) -> None:
    ids = [put(store, item()).id for _ in range(20)]
    assert store.ids() == ids


# -- progress


def test_progress_is_kept(store: QueueStore) -> None:
    message = put(store, item("a@one.test", "b@one.test", "c@one.test"))
    store.record(message, [{"recipient": 1, "state": DELIVERED, "reply": "250 ok", "mx": "mx.one.test"}])
    store.record(
        message,
        [{"recipient": 0, "state": DEFERRED, "reply": "451 later", "mx": "m"}, {"attempts": 1, "next_attempt": 7.5}],
    )
    loaded = store.load(message.id)
    assert loaded == message, "the item in memory knows the same"
    assert loaded.pending == [0, 2]
    assert (loaded.attempts, loaded.next_attempt) == (1, 7.5)
    assert (loaded.recipients[1].reply, loaded.recipients[1].mx) == ("250 ok", "mx.one.test")


def test_a_hold_and_a_release(store: QueueStore) -> None:
    message = put(store, item())
    store.record(message, [{"hold": True}])
    assert store.load(message.id).hold
    store.record(message, [{"hold": False}])
    assert not store.load(message.id).hold


# -- what a crash can leave

states = st.sampled_from([DELIVERED, FAILED, DEFERRED])
entries = st.lists(
    st.one_of(
        st.builds(
            lambda n, s, r: {"recipient": n, "state": s, "reply": r, "mx": "mx"}, st.integers(0, 3), states, text
        ),
        st.builds(lambda a, n: {"attempts": a, "next_attempt": n}, st.integers(0, 99), st.floats(0, 1e10)),
        st.builds(lambda h: {"hold": h}, st.booleans()),
    ),
    max_size=8,
)


def fresh() -> Item:
    return item(*(f"{n}@one.test" for n in range(4)))


@given(entries)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_every_prefix_of_the_log(tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, object]]) -> None:
    """Cut anywhere, the log is good for every line that is whole: nobody is lost, nobody delivered to is pending."""
    lines = [json.dumps({"time": 1.0, **entry}).encode() + b"\n" for entry in written]
    log = b"".join(lines)
    for cut in range(len(log) + 1):
        whole = log[:cut].count(b"\n")
        expected = fresh()
        for entry in written[:whole]:
            expected.apply(entry)
        found = fresh()
        replay(found, log[:cut])
        assert [(r.state, r.reply) for r in found.recipients] == [(r.state, r.reply) for r in expected.recipients]
        assert (found.attempts, found.next_attempt, found.hold) == (
            expected.attempts,
            expected.next_attempt,
            expected.hold,
        )
        assert all(r.state in (DELIVERED, FAILED, DEFERRED) for r in found.recipients)


@pytest.mark.parametrize("tail", [b"", b"\0" * 50, b"\xff\xfe", b"{", b'{"recipient": 0, "state": "deli'])
def test_a_record_after_a_cut_line_counts(store: QueueStore, tail: bytes) -> None:
    """For every place where the line before can have been cut."""
    message = put(store, item("a@one.test", "b@one.test"))
    store.record(message, [{"recipient": 0, "state": DELIVERED}])
    log = Path(store.path) / f"{message.id}.log"
    whole = log.read_bytes()
    for cut in range(len(whole)):
        log.write_bytes(whole[:cut] + tail)
        loaded = store.load(message.id)
        store.record(loaded, [{"recipient": 1, "state": DELIVERED}])
        again = store.load(message.id)
        assert again.recipients[1].state == DELIVERED
        # Only the line end was missing: all of what it says is there.
        complete = cut == len(whole) - 1 and not tail
        assert again.recipients[0].state == (DELIVERED if complete else DEFERRED)


NONSENSE: list[bytes] = [
    b"", b"null", b"[]", b"7", b'"x"', b"{}", b"[" * 100_000, b"{" * 100_000, b'{"recipient": 0}',
    b'{"recipient": 0, "state": "done"}', b'{"recipient": -1, "state": "delivered"}',
    b'{"recipient": 1, "state": "delivered"}', b'{"recipient": "0", "state": "delivered"}',
    b'{"recipient": true, "state": "delivered"}', b'{"recipient": 0.5, "state": "delivered"}',
    b'{"recipient": [0], "state": "delivered"}', b'{"recipient": 0, "state": ["delivered"]}',
    b'{"recipient": 0, "state": "delivered", "attempts": "many"}', b'{"attempts": "x"}', b'{"attempts": null}',
    b'{"attempts": 1e999}', b'{"next_attempt": NaN}', b'{"next_attempt": Infinity}', b'{"next_attempt": "soon"}',
    b'{"hold": "yes"}', b'{"hold": 1}', b"\xff\xff", b'{"recipient": 0, "state": "delivered"', b"\x00" * 30,
]  # fmt: skip


@pytest.mark.parametrize("line", NONSENSE, ids=[repr(n[:50]) for n in NONSENSE])
def test_a_line_of_nonsense_changes_nothing(line: bytes) -> None:
    """Above all it makes no recipient disappear: every one is delivered to, refused, or waits."""
    found = item()
    before = (found.recipients[0].state, found.attempts, found.next_attempt, found.hold)
    replay(found, line + b"\n")
    assert (found.recipients[0].state, found.attempts, found.next_attempt, found.hold) == before
    replay(found, line + b"\n" + b'{"recipient": 0, "state": "delivered"}\n')
    assert found.recipients[0].state == DELIVERED, "and what follows still counts"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["recipient", "state", "reply", "mx", "attempts", "next_attempt", "hold", "delay_notified"])


@given(st.lists(st.dictionaries(keys, json_values, max_size=4) | json_values, max_size=5), st.binary(max_size=30))
def test_no_log_breaks_the_queue(written: list[object], tail: bytes) -> None:
    found = fresh()
    replay(found, b"".join(json.dumps(entry).encode() + b"\n" for entry in written) + tail)
    assert all(r.state in (DELIVERED, FAILED, DEFERRED) for r in found.recipients)
    assert isinstance(found.attempts, int) and isinstance(found.hold, bool)
    assert found.next_attempt >= 0 or found.next_attempt < 0, "a number"
    encode_envelope(found)


BROKEN: list[bytes] = [
    b"", b"\n", b"{}\n", b"null\n", b"[]\n", b"5\n", b"not json\n", b"\xff\xfe\n", b"[" * 200_000 + b"\n",
    b'{"id": "1"}\n', b'{"id": "1", "recipients": 5}\n', b'{"id": "1", "recipients": [5]}\n',
    b'{"id": "1", "arrived": 1, "sender": "a@b", "recipients": []}\n',
    b'{"id": "1", "arrived": 1, "sender": "a@b", "recipients": [{}]}\n',
    b'{"id": "1", "arrived": "x", "sender": "a@b", "recipients": [{"address": "a@b"}]}\n',
    b'{"id": "1", "arrived": 1, "sender": null, "recipients": [{"address": "a@b"}]}\n',
    b'{"id": "1", "arrived": 1, "sender": "a@b", "recipients": [{"address": 7}]}\n',
    b'{"id": "1", "arrived": 1, "sender": "a@b", "recipients": [{"address": "a@b", "notify": 3}]}\n',
    b'{"id": "1", "arrived": NaN, "sender": "a@b", "recipients": [{"address": "a@b"}]}\n',
    b'{"id": "2", "arrived": 1, "sender": "a@b", "recipients": [{"address": "a@b"}]}\n',
]  # fmt: skip


@pytest.mark.parametrize("junk", BROKEN, ids=[repr(b[:60]) for b in BROKEN])
def test_a_file_that_is_no_message_is_one_clear_error(store: QueueStore, junk: bytes) -> None:
    (Path(store.path) / "1").write_bytes(junk)
    with pytest.raises(QueueError) as caught:
        store.load("1")
    assert "\n" not in str(caught.value) and "1" in str(caught.value)
    other = put(store, item())
    assert [m.id for m in store.load_all()] == [other.id], "and does not stand in the way of the others"


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_octets_as_envelope(junk: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_envelope(junk)


def test_every_prefix_of_a_queue_file_is_refused_or_the_message() -> None:
    """A file gets its name when it is whole and synced. Even so: a cut envelope is never taken for another one."""
    line = encode_envelope(item("a@one.test", "b@one.test"))
    for cut in range(len(line) - 1):
        with pytest.raises(ValueError):
            decode_envelope(line[:cut])


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", ".wake", "x.log", "a b", "a\0b", "x" * 300, "é/", "-", "..%2f"]
)
def test_ids_that_are_no_ids(store: QueueStore, name: str) -> None:
    """No path is ever made of what somebody typed."""
    with pytest.raises(QueueError):
        store.load(name)


def test_foreign_files_are_left_alone(store: QueueStore) -> None:
    folder = Path(store.path)
    for name in ("README", "core", "x.tmp", "1~", "#1#"):
        (folder / name).write_text("hello")
    (folder / "subfolder").mkdir()
    message = put(store, item())
    assert [m.id for m in store.load_all()] == [message.id]
    store.repair()
    assert (folder / "README").exists() and (folder / "subfolder").is_dir()


@pytest.mark.parametrize("name", ["access.log", "mail.log", "0" * 18 + ".log", "x" * 19 + ".log", "0" * 19 + ".log.1"])
def test_logs_of_others_stay(store: QueueStore, name: str) -> None:
    """Whoever names /var/log as the queue loses nothing."""
    (Path(store.path) / name).write_text("hello")
    assert store.repair() == 0
    assert (Path(store.path) / name).read_text() == "hello"
    assert store.ids() == []


@pytest.mark.parametrize("suffix", ["", ".log"])
def test_a_link_is_not_followed(store: QueueStore, tmp_path: Path, suffix: str) -> None:
    """Neither by the server nor by what an administrator calls as root."""
    message = put(store, item())
    victim = tmp_path.parent / f"{tmp_path.name}.victim"
    victim.write_text("{}\n")
    path = Path(store.path) / f"{message.id}{suffix}"
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    with pytest.raises(QueueError, match="is a link"):
        store.load(message.id)
    if suffix:
        with pytest.raises(OSError, match="is a link"):
            store.record(message, [{"hold": True}])
    assert victim.read_text() == "{}\n"


@pytest.mark.parametrize("suffix", ["", ".log"])
def test_a_fifo_holds_nobody(store: QueueStore, suffix: str) -> None:
    message = put(store, item())
    path = Path(store.path) / f"{message.id}{suffix}"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(QueueError, match="is no regular file"):
        store.load(message.id)


# -- one server


CLAIM = """
import sys, time
from smtpmail.spool.queue import QueueStore
store = QueueStore(sys.argv[1])
store.claim()
print(flush=True)
time.sleep(60)
"""


def test_a_queue_has_one_server(store: QueueStore) -> None:
    """Another process is refused with the name of the first, until that ends, however it ends."""
    with subprocess.Popen([sys.executable, "-c", CLAIM, store.path], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(QueueError, match=f"another server .* process {first.pid} on "):
            store.claim()
        first.kill()
    store.claim()
    assert int((Path(store.path) / ".server").read_text().split()[0]) == os.getpid()
    assert store.ids() == [] and store.repair() == 0


@pytest.mark.parametrize("planted", ["link", "fifo", "folder"])
def test_a_claim_follows_nothing(store: QueueStore, tmp_path: Path, planted: str) -> None:
    path = Path(store.path) / ".server"
    if planted == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif planted == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(QueueError, match="can't be locked"):
        store.claim()
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_read(store: QueueStore) -> None:
    """Also as root, who may read everything."""
    folder, link = "1" * 19, "2" * 19
    (Path(store.path) / folder).mkdir()
    (Path(store.path) / link).symlink_to(link)
    for name in (folder, link):
        with pytest.raises(QueueError, match=f"{name} can't be read: "):
            store.load(name)


def test_a_log_without_its_message_goes_with_repair(store: QueueStore) -> None:
    message = put(store, item())
    store.record(message, [{"hold": True}])
    kept = put(store, item())
    store.record(kept, [{"hold": True}])
    (Path(store.path) / message.id).unlink()
    assert store.repair() == 1
    assert sorted(n for n in os.listdir(store.path) if not n.startswith(".")) == [kept.id, f"{kept.id}.log"]
    assert store.load(kept.id).hold


def test_a_crash_before_the_name_leaves_nothing(store: QueueStore) -> None:
    piece = store.content()
    piece.write(MESSAGE)
    draft = store.prepare(piece, item(), b"")
    assert store.ids() == []
    draft.close()
    piece.close()
    store.repair()
    assert [n for n in os.listdir(store.path) if n != ".new"] == []


def test_the_message_goes_before_its_log(store: QueueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way round, a crash in between would send again to those who have it."""
    message = put(store, item())
    store.record(message, [{"recipient": 0, "state": DELIVERED}])
    removed: list[str] = []
    unlink = os.unlink

    def noting(path: str, **more: Any) -> None:
        removed.append(os.path.basename(path))
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", noting)
    store.remove(message.id)
    assert removed == [message.id, f"{message.id}.log"]
    assert store.unflushed
    store.flush()
    assert not store.unflushed


def test_no_log_for_a_message_that_is_gone(store: QueueStore) -> None:
    message = put(store, item())
    store.remove(message.id)
    store.record(message, [{"recipient": 0, "state": DELIVERED}])
    assert [n for n in os.listdir(store.path) if not n.startswith(".")] == []


def test_a_disk_that_takes_only_a_part(store: QueueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is cut short is finished or an error, never taken for done."""
    message = put(store, item("a@one.test", "b@one.test"))
    write, writev = os.write, os.writev
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    monkeypatch.setattr(os, "writev", lambda fd, parts: writev(fd, [b"".join(parts)[:7]]))
    store.record(message, [{"recipient": 0, "state": DELIVERED}, {"recipient": 1, "state": FAILED}])
    monkeypatch.undo()
    assert [r.state for r in store.load(message.id).recipients] == [DELIVERED, FAILED]


def test_a_full_disk_is_an_error(store: QueueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    message = put(store, item())

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space"):
        store.record(message, [{"recipient": 0, "state": DELIVERED}])
    assert message.pending == [0], "what is not on disk has not happened"


# -- many at work


def test_many_threads(store: QueueStore) -> None:
    made: list[str] = []

    def work(number: int) -> None:
        for n in range(15):
            body = b"Subject: x\n\n%d %d\n" % (number, n)
            made.append(put(store, item(content=body), body).id)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.ids() == sorted(made) and len(made) == 180
    assert len({content(store, m) for m in store.load_all()}) == 180


def _append(path: str, id_: str, numbers: list[int]) -> None:
    store = QueueStore(path)
    message = store.load(id_)
    for n in numbers:
        store.record(message, [{"recipient": n, "state": DELIVERED, "reply": "x" * 500}])


def test_many_processes_write_one_log(store: QueueStore) -> None:
    """The server and `smtpmail queue hold` at the same moment: no line is lost or mixed up with another."""
    message = put(store, item(*(f"{n}@one.test" for n in range(30))))
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_append, args=(store.path, message.id, list(range(n, 30, 2)))) for n in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert store.load(message.id).pending == []


def test_ids_are_unique_and_in_order() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(i.isalnum() for i in ids)


# -- waking the server


def test_wake_reaches_the_listener(store: QueueStore) -> None:
    assert store.wake("abc") is False, "nobody listens yet"
    with store.listen() as sock:
        assert store.wake("abc") is True
        assert sock.recv(100) == b"abc"
    assert store.wake("abc") is False, "the socket is there, the server is not"
    with store.listen() as sock:
        assert store.wake("def") is True


def test_wake_without_a_queue(tmp_path: Path) -> None:
    assert QueueStore(str(tmp_path / "none")).wake("abc") is False


def test_a_folder_with_a_long_name(tmp_path: Path) -> None:
    """The name of a socket has room for 107 octets; a queue may lie deeper."""
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    store = QueueStore(str(folder))
    with store.listen() as sock:
        assert store.wake("abc") is True
        assert sock.recv(100) == b"abc"
