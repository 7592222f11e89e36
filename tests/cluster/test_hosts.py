"""What hosts share and what each has alone: queues, locks, a mount that hangs, readers on another host."""

from __future__ import annotations

import contextlib
import imaplib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.faultserver import FaultServer
from support.server import program, wait_until

from tests.cluster.conftest import Start
from tests.cluster.node import CHECKOUT, SETTINGS, Book, Load, command
from tests.cluster.volume import MOUNT, Volume
from tests.network.lab import Host


@contextlib.contextmanager
def hanging(volume: Volume, host: Host) -> Iterator[None]:
    """The mount of a host answers nobody."""
    client = volume.client(host)
    client.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        client.send_signal(signal.SIGCONT)


def sink_options(sink: FaultServer) -> tuple[str, ...]:
    return "--smarthost", f"192.0.2.13:{sink.address[1]}", "--retry-schedule", "1s"


@contextlib.contextmanager
def sink_on(host: Host) -> Iterator[FaultServer]:
    """A server to which mail for the outside goes."""
    with FaultServer(listeners=[host.listener(host.addresses[0], 0)]) as sink:
        yield sink


def test_a_number_that_another_host_gave_is_not_given_again(whole: Volume, node: Start) -> None:
    """Also where its message is gone, and this host's kernel still shows what it wrote to `.lock` itself."""
    first, second = node("mx1"), node("mx2")
    for each in (first, second):
        each.start()
    assert first.say("bob@dom.fr")[0] == second.say("bob@dom.fr")[0] == 250
    for name in ("2", "2.status"):
        os.unlink(whole.hosts[1].path(f"{MOUNT}/bob/{name}"))
    assert first.say("bob@dom.fr")[0] == 250
    numbers = [name for name in os.listdir(whole.hosts[0].path(f"{MOUNT}/bob")) if name.isdigit()]
    assert sorted(numbers) == ["1", "3"]


# -- queues


def test_a_queue_is_one_hosts(whole: Volume, node: Start) -> None:
    """Both hosts have the same settings: the second one refuses, whether the first is running or not."""
    first, second = node("mx1", queue=f"{MOUNT}/.queue"), node("mx2", queue=f"{MOUNT}/.queue")
    first.start()
    for running in (True, False):
        server = second.launch()
        assert server.wait() == 2
        (line,) = server.other_output
        assert "mx1" in line and "each host must have a --queue of its own" in line
        if running:
            first.kill()
    checked = command(whole.hosts[1], "check", "--queue", f"{MOUNT}/.queue")
    assert checked.returncode != 0 and "the host mx1" in checked.stderr
    first.start()


def test_the_queue_of_a_host_that_died_is_adopted(whole: Volume, node: Start) -> None:
    """Each message arrives once; refused as long as its server lives, and also from the host that was cut off."""
    with sink_on(whole.hosts[2]) as sink:
        options = sink_options(sink)
        # Nobody answers there.
        nowhere = ("--smarthost", "192.0.2.99:25", "--connect-timeout", "60s")
        first = node("mx1", *options, *nowhere, queue=f"{MOUNT}/.queue.mx1")
        second = node("mx2", *options, queue=f"{MOUNT}/.queue.mx2")
        first.start()
        server = second.start()
        for number in range(8):
            content = f"Message-ID: <{number}@dom.fr>\r\nSubject: x\r\n\r\nx\r\n".encode()
            assert first.say("alice@example.net", content=content)[0] == 250
        refused = command(whole.hosts[1], "queue", "adopt", first.queue, "--queue", second.queue)
        assert refused.returncode == 2 and "another server works on the queue" in refused.stderr, refused
        assert "on mx1" in refused.stderr
        first.kill()
        adopted = command(whole.hosts[1], "queue", "adopt", first.queue, "--queue", second.queue)
        assert adopted.returncode == 0, adopted.stderr
        assert "8 messages of mx1 adopted" in adopted.stdout
        assert len([e for e in server.events_named("queue.changed") if e["change"] == "adopted"]) == 8
        wait_until(lambda: len(sink.deliveries) == 8, 60)
        # The host comes back: its queue is its own again, and empty.
        first.start()
        assert [n for n in os.listdir(whole.hosts[0].path(first.queue)) if not n.startswith(".")] == []
        again = command(whole.hosts[1], "queue", "adopt", first.queue, "--queue", second.queue)
        assert again.returncode == 2
        assert set(sink.deliveries.values()) == {1}


# -- locks


def test_the_lock_of_a_host_that_died_is_given_back(whole: Volume, node: Start) -> None:
    """While it holds the lock of a mailbox others wait, and get 451 in the end; when it is gone, they go on."""
    second = node("mx2")
    second.start()
    assert second.say("bob@dom.fr")[0] == 250
    hold = "import fcntl,sys,time; f=open(sys.argv[1],'r+'); fcntl.lockf(f,2); print(flush=True); time.sleep(600)"
    holder = whole.hosts[0].spawn(sys.executable, "-c", hold, f"{MOUNT}/bob/.lock", stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    started = time.monotonic()
    assert second.say("anna@dom.fr")[0] == 250
    assert time.monotonic() - started < 20, "another mailbox is not held up"
    book = Book()
    load = Load(second, book, 0)
    try:
        time.sleep(1)
        whole.kill_mount(whole.hosts[0])
        before = load.accepted
        wait_until(lambda: load.accepted > before + 20, 60)
    finally:
        load.stop()
        holder.kill()
    whole.mount(whole.hosts[0])


# -- a mount that hangs, or is not there


def test_a_mount_that_hangs_holds_nothing_else(whole: Volume, node: Start) -> None:
    """Mail for mailboxes gets 451 in time; mail to the outside leaves; the server stops; nothing comes twice."""
    with sink_on(whole.hosts[2]) as sink:
        first = node("mx1", *sink_options(sink))
        server = first.start()
        assert first.say("bob@dom.fr")[0] == 250
        with hanging(whole, whole.hosts[0]):
            code, text = first.say("bob@dom.fr", timeout=120)
            assert code == 451, text
            started = time.monotonic()
            assert first.say("bob@dom.fr", timeout=60)[0] == 451
            assert time.monotonic() - started < 8, "who comes next does not wait"
            assert first.say("alice@example.net", timeout=60)[0] == 250
            wait_until(lambda: len(sink.deliveries) == 1, 60)
            assert server.events_named("spool.hangs")
        server.wait_event("spool.answers", 60)
        wait_until(lambda: first.say("bob@dom.fr")[0] == 250, 60)
        with hanging(whole, whole.hosts[0]):
            first.say("bob@dom.fr", timeout=120)
            started = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - started < 45
    names = {n for n in os.listdir(whole.hosts[1].path(f"{MOUNT}/bob")) if n.isdigit()}
    assert len(names) == 2, names


def test_a_spool_that_is_not_mounted_takes_nothing(whole: Volume, node: Start) -> None:
    """Mail that is stored below the mount point would be hidden as soon as the volume is back."""
    host = whole.hosts[0]
    first = node("mx1")
    server = first.start()
    assert first.say("bob@dom.fr")[0] == 250
    whole.kill_mount(host)
    assert first.say("bob@dom.fr")[0] == 451
    assert first.say("carol@dom.fr")[0] == 451
    assert os.listdir(host.path(MOUNT)) == []
    late = node("mx1", queue="/run/another-queue").launch("--loopback", "127.0.0.1:2525")
    assert late.wait() == 2
    assert "is the shared file system mounted?" in late.other_output[0]
    whole.mount(host)
    assert first.say("bob@dom.fr")[0] == 250
    assert server.process.poll() is None


def test_without_a_quorum_nothing_is_taken(whole: Volume, node: Start) -> None:
    """One brick of three is not enough: 451, no number is given twice when the others are back."""
    first = node("mx1")
    first.start()
    assert first.say("bob@dom.fr")[0] == 250
    for host in whole.hosts[1:]:
        whole.kill_brick(host)
    code, text = first.say("bob@dom.fr", timeout=120)
    assert code == 451, text
    whole.restart_bricks()
    wait_until(lambda: first.say("bob@dom.fr")[0] == 250, 60)
    folder = whole.hosts[1].path(f"{MOUNT}/bob")
    whole.wait_healed()
    assert sorted(n for n in os.listdir(folder) if n.isdigit()) == ["1", "2"]


# -- readers


def test_imap_sees_what_another_host_delivers(whole: Volume, node: Start) -> None:
    """Nothing tells of it: the folder is looked at every second."""
    first, second = node("mx1"), node("mx2")
    first.start()
    second.start()
    environment = ["env", f"PYTHONPATH={CHECKOUT}"]
    imap = [*program(), "imap", *SETTINGS, "--queue", first.queue]
    assert second.say("root@dom.fr")[0] == 250
    with imaplib.IMAP4_stream(shlex.join([*whole.hosts[0].command(*environment), *imap])) as reader:
        assert reader.select() == ("OK", [b"1"])
        reader.send(b"x IDLE\r\n")
        assert reader.readline().startswith(b"+")
        seen = []
        for number in range(2, 5):
            time.sleep(1.5)
            started = time.monotonic()
            assert second.say("root@dom.fr")[0] == 250
            while reader.readline() != b"* %d EXISTS\r\n" % number:
                assert time.monotonic() - started < 60
            seen.append(time.monotonic() - started)
        reader.send(b"DONE\r\n")
        while not reader.readline().startswith(b"x OK"):
            pass
    assert min(seen) < 5, seen
    print("seen after", [round(seconds, 2) for seconds in seen])


def test_check_judges_the_volume(whole: Volume, node: Start) -> None:
    """The real command's answer is understood, and so is what is missing."""
    host = whole.hosts[0]
    good = command(host, "check", "--queue", "/run/q", "--no-network")
    assert good.returncode == 0, good.stderr
    assert "volume mail" not in good.stderr and "quorum" not in good.stderr, good.stderr
    whole.gluster("volume", "set", "mail", "cluster.quorum-type", "none")
    try:
        bad = command(host, "check", "--queue", "/run/q", "--no-network")
    finally:
        whole.gluster("volume", "set", "mail", "cluster.quorum-type", "auto")
    assert bad.returncode == 1 and "cluster.quorum-type none" in bad.stderr


@pytest.fixture(autouse=True)
def queues_of_their_own(whole: Volume) -> None:
    whole.hosts[0].run("rm", "-rf", "/run/another-queue")
