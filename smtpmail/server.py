"""The whole server: its processes, its queue, the signals it obeys; stops without losing anything.

Python runs one thread of a process at a time. So there is a process for each processor (`--processes`), all accepting
from the same listening sockets; the first one also runs the queue and sees to the others.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from smtpmail import __version__, systemd, wiring
from smtpmail.inbound.accounts import Rates
from smtpmail.inbound.admission import Admission, SharedCounts
from smtpmail.inbound.front import STOP_SECONDS, Front
from smtpmail.inbound.sockets import IMAP_KINDS, open_sockets, receives
from smtpmail.inbound.workers import STACK_SIZE
from smtpmail.log import log
from smtpmail.outbound.handover import Handover
from smtpmail.outbound.mailboxes import Mailboxes
from smtpmail.settings import privileges
from smtpmail.settings.config import Config
from smtpmail.settings.finding import Finding
from smtpmail.settings.values import ConfigError
from smtpmail.spool import durability, lock
from smtpmail.spool.heartbeat import Heartbeat, Pulses
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueError
from smtpmail.spool.record import FormatError
from smtpmail.spool.turns import Turns
from smtpmail.wiring import MailSystem

if TYPE_CHECKING:
    from smtpmail.inbound.doors import Doors

REPAIR_SECONDS = 3600.0
"""So often the scratch files of a shared spool are looked at, mailbox by mailbox."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""Those that `_next_signal` returns."""

START_SECONDS = 30
"""Patience with processes that begin to serve: one that hangs is the watchdog's business."""

SILENT_INTERVALS = 3
"""A process that proves nothing for so many intervals of the watchdog hangs."""


class Server:
    """Made of a Config that has been judged, with what was found doubtful; `run` serves until a signal ends it.

    `account` is whom it becomes when its ports are open.
    """

    def __init__(
        self, config: Config, warnings: Sequence[Finding] = (), account: privileges.Account | None = None
    ) -> None:
        self._config = config
        self._warnings = warnings
        self._account = account
        self._queue = wiring.queue_store(config)
        self._children: list[int] = []

    def run(self) -> bool:
        """Serves until SIGTERM or SIGINT; returns whether all went well.

        Raises ConfigError for want of a socket, or when the queue has another server.
        """
        config = self._config
        processes = config.processes
        os.umask(0o077)
        # A connection, a message, a mailbox: each needs descriptors; the usual soft limit of 1024 is for select(2).
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        # Before there are threads and children: in all of them, signals wait until they are asked for.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with privileges.acting_as(self._account):
                self._queue.claim()
        except QueueError as error:
            raise ConfigError(f"--queue: {error}") from None
        opened = open_sockets(config)
        sockets = [(kind, sock) for kind, sock in opened if kind not in IMAP_KINDS]
        door_sockets = [(kind, sock) for kind, sock in opened if kind in IMAP_KINDS]
        if self._account is not None:
            privileges.become(self._account)
        elif not os.geteuid():
            log.warning(
                "server.runs_as_root",
                hint="no account owns the spool, and --user names none: a fault in the server is a fault of root",
            )
        self._rates = Rates(processes, config.max_messages_per_account, config.max_recipients_per_account)
        self._failed_logins = wiring.failed_logins(config, processes)
        metrics = self._metrics = wiring.metrics(config, self._queue)
        if metrics:
            log.watch(metrics.counts.watch)
        threading.stack_size(STACK_SIZE)
        journals = self._recover()
        _repair(self._queue.repair)
        if not config.is_shared:
            _repair(Spool(config.spool).repair)
        if config.users is None:
            log.warning("users.any", hint="every valid name is a user; --users FILE names those who exist")
        for doubt in self._warnings:
            log.warning("setting.doubtful", setting=doubt.subject, text=doubt.text, hint=doubt.advice or None)
        counts = SharedCounts(processes, config.max_connections)
        # Mail readers stay for long: they take no connection away from the mail.
        reading = SharedCounts(processes, config.max_connections) if door_sockets else counts
        wake_socket = self._queue.listen()
        self._handover = Handover()
        self._watchdog = systemd.watchdog_interval()
        self._pulses = Pulses(processes)
        # What is there now stays: the collector need not look at it again and again, nor touch its pages.
        gc.collect()
        gc.freeze()
        # A child sees the end of this pipe when its parent is gone.
        lifeline, alive = os.pipe()
        # And its parent the end of this one when each child serves.
        self._serving, self._starting = os.pipe()
        # A shared spool has no journal, and perhaps no local folder.
        self._turns = Turns() if config.is_shared and processes > 1 else None
        processors = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(OSError):
            # A thread that wakes can do nothing before the one at work pauses, and need not push it aside.
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        for number in range(1, processes):
            pid = os.fork()
            if not pid:
                os.close(alive)
                wake_socket.close()
                self._rates.use_part(number)
                if self._failed_logins:
                    self._failed_logins.use_part(number)
                if metrics:
                    metrics.in_child(number)
                _settle(processors, number)
                admission = Admission(config, counts, number)
                door_admission = partial(Admission, config, reading, number)
                self._run_child(
                    number, number if journals else None, sockets, admission, door_sockets, door_admission, lifeline
                )
            self._children.append(pid)
        os.close(lifeline)
        os.close(self._starting)
        if self._children:
            _settle(processors, 0)
        journal = 0 if journals else None
        system = MailSystem(
            config, lambda item: self._runner.submit(item), journal, self._queue, self._failed_logins, self._turns  # noqa: PLW0108
        )  # fmt: skip
        self._runner = wiring.runner(config, system.queue, partial(receives, sockets), system.inspector.sign_again)
        front = self._front(system, sockets, Admission(config, counts, 0))
        doors = system.doors(door_sockets, partial(Admission, config, reading, 0))
        self._runner.start(wake_socket, system.bouncer, Mailboxes(system.spool))
        if self._children:
            taken = (self._runner.submit, self._runner.look_at)
            threading.Thread(target=self._handover.run, args=taken, name="queue handover", daemon=True).start()
        system.start()
        self._wait_for_children()
        log.info(
            "server.started",
            version=__version__,
            hostname=config.hostname,
            domains=list(config.domains),
            spool=os.path.abspath(config.spool),
            queue=os.path.abspath(config.queue),
            users=config.users and os.path.abspath(config.users),
            tls=config.tls_cert and os.path.abspath(config.tls_cert),
            account=os.geteuid(),
            loopback=[x.address for x in front.listeners if x.kind == "loopback"],
            network=[x.address for x in front.listeners if x.kind == "network"],
            submission=[x.address for x in front.listeners if x.kind == "submission"],
            imap=[x.address for x in doors.listeners] if doors else [],
            pid=os.getpid(),
            processes=processes,
        )
        system.read_users()
        system.inspector.read_keys()
        front.start()
        if doors:
            doors.start()
        if metrics:
            metrics.start()
        if config.is_shared:
            threading.Thread(target=_keep_in_repair, args=(system.spool,), name="repair", daemon=True).start()
        systemd.notify(f"READY=1\nSTATUS=Serving {', '.join(config.domains)}")
        healthy = self._obey(system, front, doors)
        self._stop(system, front, doors)
        return healthy

    # -- signals

    def _obey(self, system: MailSystem, front: Front, doors: Doors | None) -> bool:
        """Returns when it is time to stop: whether somebody asked for it."""
        heart = system.heartbeat()
        while True:
            number = _next_signal(self._watchdog)
            if number is None:
                self._prove(heart, 0)
                silent = self._pulses.silent(SILENT_INTERVALS * (self._watchdog or 0))
                if silent is None:
                    systemd.notify("WATCHDOG=1")
                else:
                    hint = "it hangs, or nothing can be committed to the spool: its disk hangs"
                    log.error("watchdog.withheld", process=silent, hint=hint)
            elif number == signal.SIGHUP:
                systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
                self._tell_children(signal.SIGHUP)
                whole = system.read_users()
                system.inspector.read_keys()
                whole = front.reload() and whole
                whole = (doors is None or doors.reload()) and whole
                if whole:
                    log.info("server.reloaded")
                systemd.notify("READY=1")
            elif number == signal.SIGCHLD:
                if self._reap():
                    # Half a server would go unnoticed: stop as a whole, and let the manager start it anew.
                    log.error("server.process_died", hint="the server stops; its manager should start it again")
                    return False
            else:
                log.info("server.stopping", signal=signal.Signals(number).name)
                return True

    def _prove(self, heart: Heartbeat | None, process: int) -> None:
        """For the watchdog: a delivery could be committed by this process."""
        if heart is None or heart.beats():
            self._pulses.note(process)

    def _recover(self) -> bool:
        """What a crash has taken is there again; whether each process has a journal now. Raises ConfigError."""
        config = self._config
        try:
            durability.recover(config.spool, config.queue, shared=config.is_shared)
            durability.remove_others(config.queue, config.processes if config.journal_size else 0)
        except (OSError, FormatError) as error:
            raise ConfigError(f"the journal in {config.queue} can't be replayed: {error}") from None
        return durability.prepare(config.spool, config.queue, config.processes, config.journal_size)

    def _stop(self, system: MailSystem, front: Front, doors: Doors | None) -> None:
        systemd.notify("STOPPING=1")
        deadline = time.monotonic() + STOP_SECONDS
        self._tell_children(signal.SIGTERM)
        lock.stop_waiting()
        if doors:
            doors.stop()
        cut = front.stop(self._pause)
        while self._children and time.monotonic() < deadline + 5:
            self._reap()
            self._pause()
        self._tell_children(signal.SIGKILL)
        self._runner.stop(max(1.0, deadline - time.monotonic()))
        if self._metrics:
            self._metrics.stop()
        system.stop()
        # A process that had to be killed has left something in its own. A shared queue has no journal, and may hang.
        if not self._queue.shared:
            with contextlib.suppress(OSError, FormatError):
                durability.recover(self._config.spool, self._config.queue, shared=self._config.is_shared)
        log.info("server.stopped", sessions_cut=cut)

    def _pause(self) -> None:
        """Waits a moment; a second signal ends everything at once: whatever was answered with 250 is on disk."""
        if _next_signal(0.05) in (signal.SIGTERM, signal.SIGINT):
            self._tell_children(signal.SIGKILL)
            log.info("server.stopped", hint="at once, by a second signal")
            os._exit(0)

    def _front(self, system: MailSystem, sockets: Sequence[tuple[str, socket.socket]], admission: Admission) -> Front:
        submitters = system.submitter if self._config.devices else None
        return Front(self._config, sockets, admission, system.accept, system.gates(self._rates), submitters)

    # -- the other processes

    def _tell_children(self, number: int) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait_for_children(self) -> None:
        """Returns when all of them serve, or have ended: who hears that the server has started may rely on it."""
        poll = select.poll()
        poll.register(self._serving, 0)
        poll.poll(1000 * START_SECONDS)
        os.close(self._serving)

    def _reap(self) -> bool:
        """Takes note of children that have ended; returns whether there were any."""
        before = len(self._children)
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.remove(pid)
        return len(self._children) < before

    def _run_child(
        self,
        process: int,
        journal: int | None,
        sockets: Sequence[tuple[str, socket.socket]],
        admission: Admission,
        door_sockets: Sequence[tuple[str, socket.socket]],
        door_admission: Callable[[], Admission],
        lifeline: int,
    ) -> None:
        """Serves clients only; never returns."""
        status = 1
        try:
            self._children = []
            system = MailSystem(
                self._config, self._handover.put, journal, failed_logins=self._failed_logins, turns=self._turns
            )
            front = self._front(system, sockets, admission)
            doors = system.doors(door_sockets, door_admission)
            system.read_users()
            system.inspector.read_keys()
            system.start()
            front.start()
            if doors:
                doors.start()
            threading.Thread(target=self._follow_parent, args=(lifeline,), daemon=True).start()
            os.close(self._starting)
            heart = system.heartbeat()
            while (number := _next_signal(self._watchdog)) in (None, signal.SIGHUP):
                if number is None:
                    self._prove(heart, process)
                    continue
                system.read_users()
                system.inspector.read_keys()
                front.reload()
                if doors:
                    doors.reload()
            lock.stop_waiting()
            if doors:
                doors.stop()
            # Ctrl-C and service managers signal every process, and the parent does once more: that is no second
            # request. In a hurry, the parent kills.
            front.stop(_wait_a_moment)
            system.stop()
            status = 0
        except BaseException:
            log.exception("server.process_failed")
        finally:
            os._exit(status)

    def _follow_parent(self, lifeline: int) -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)


def _repair(repair: Callable[[], int]) -> None:
    """Removes what a crash has left, and says so; a shared spool that can't be read is found out by its mail."""
    removed = repair()
    if removed:
        log.info("spool.repaired", removed=removed)


def _keep_in_repair(spool: Spool) -> None:
    """What hosts that died have left on a shared spool goes while others serve it. Nobody waits for that."""
    with contextlib.suppress(OSError):
        _repair(spool.repair)
    while True:
        time.sleep(REPAIR_SECONDS)
        with contextlib.suppress(OSError):
            _repair(spool.clear)


def _next_signal(timeout: float | None = None) -> int | None:
    """Waits for one of SIGNALS, None when the time is over.

    They are blocked and asked for, not handled: Python's handlers run in the main thread, which a signal that the
    kernel gives to another thread would not wake.
    """
    if timeout is None:
        return signal.sigwait(SIGNALS)
    taken = signal.sigtimedwait(SIGNALS, timeout)
    # Stopped and continued when the time is over, Python returns what no signal has filled in.
    return taken.si_signo if taken and taken.si_signo in SIGNALS else None


def _wait_a_moment() -> None:
    time.sleep(0.05)


def _settle(processors: Sequence[int], number: int) -> None:
    """Gives a process a processor of its own: its threads take turns anyway, and moving about costs them dearly."""
    # A sandbox may forbid it: then the kernel decides.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {processors[number % len(processors)]})
