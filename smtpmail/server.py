"""The whole server: its processes, its queue, the signals it obeys; stops without losing anything.

Python runs one thread of a process at a time. So there is a process for each processor (`--processes`), all accepting
from the same listening sockets; the first one also runs the queue and sees to the others.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property

from smtpmail import __version__, systemd
from smtpmail.bouncer import Bouncer
from smtpmail.inbound.admission import Admission, SharedCounts
from smtpmail.inbound.front import STOP_SECONDS, Front
from smtpmail.inbound.sockets import open_sockets
from smtpmail.inbound.workers import STACK_SIZE
from smtpmail.log import log
from smtpmail.mail.queued import Item
from smtpmail.network import IPAddress, is_own_address
from smtpmail.outbound.client import Credentials, Timeouts
from smtpmail.outbound.courier import Courier, Resolver
from smtpmail.outbound.runner import Runner
from smtpmail.outbound.target import Target
from smtpmail.settings.config import Config
from smtpmail.settings.finding import Finding
from smtpmail.spool.mailbox import Spool
from smtpmail.spool.queue import QueueStore
from smtpmail.users.routing import Router
from smtpmail.users.users import Users

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""Those that `_next_signal` returns."""


class Server:
    """Made of a Config that has been judged, with what was found doubtful; `run` serves until a signal ends it."""

    def __init__(self, config: Config, warnings: Sequence[Finding] = ()) -> None:
        self._config = config
        self._warnings = warnings
        self._store = QueueStore(config.queue)
        self._children: list[int] = []

    def run(self) -> bool:
        """Serves until SIGTERM or SIGINT; returns whether all went well. Raises ConfigError for want of a socket."""
        config = self._config
        processes = config.processes
        os.umask(0o077)
        # A connection, a message, a mailbox: each needs descriptors; the usual soft limit of 1024 is for select(2).
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        # Before there are threads and children: in all of them, signals wait until they are asked for.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        sockets = open_sockets(config)
        threading.stack_size(STACK_SIZE)
        removed = Spool(config.spool).repair() + self._store.repair()
        if removed:
            log.info("spool.repaired", removed=removed)
        if config.users is None:
            log.warning("users.any", hint="every valid name is a user; --users FILE names those who exist")
        for doubt in self._warnings:
            log.warning("setting.doubtful", setting=doubt.subject, text=doubt.text, hint=doubt.advice or None)
        counts = SharedCounts(processes, config.max_connections)
        wake_socket = self._store.listen()
        # What is there now stays: the collector need not look at it again and again, nor touch its pages.
        gc.collect()
        gc.freeze()
        # A child sees the end of this pipe when its parent is gone.
        lifeline, alive = os.pipe()
        processors = sorted(os.sched_getaffinity(0))
        for number in range(1, processes):
            pid = os.fork()
            if not pid:
                os.close(alive)
                wake_socket.close()
                _settle(processors, number)
                self._run_child(sockets, Admission(config, counts, number), lifeline)
            self._children.append(pid)
        os.close(lifeline)
        if self._children:
            _settle(processors, 0)
        front = Front(config, sockets, Admission(config, counts, 0), self._submit)
        self._runner = Runner(
            self._store,
            courier(config, front.receives),
            front.bouncer,
            config.retry_policy,
            max_workers=config.max_deliveries,
            max_per_destination=config.max_deliveries_per_destination,
        )
        self._runner.start(wake_socket)
        log.info(
            "server.started",
            version=__version__,
            hostname=config.hostname,
            domains=list(config.domains),
            spool=os.path.abspath(config.spool),
            loopback=[x.address for x in front.listeners if x.kind == "loopback"],
            network=[x.address for x in front.listeners if x.kind == "network"],
            pid=os.getpid(),
            processes=processes,
        )
        front.start()
        systemd.notify(f"READY=1\nSTATUS=Serving {', '.join(config.domains)}")
        healthy = self._obey(front)
        self._stop(front)
        return healthy

    # -- signals

    def _obey(self, front: Front) -> bool:
        """Returns when it is time to stop: whether somebody asked for it."""
        interval = systemd.watchdog_interval()
        while True:
            number = _next_signal(interval)
            if number is None:
                systemd.notify("WATCHDOG=1")
            elif number == signal.SIGHUP:
                systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
                self._tell_children(signal.SIGHUP)
                front.reload()
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

    def _stop(self, front: Front) -> None:
        systemd.notify("STOPPING=1")
        deadline = time.monotonic() + STOP_SECONDS
        self._tell_children(signal.SIGTERM)
        cut = front.stop(self._in_a_hurry)
        while self._children and time.monotonic() < deadline + 5:
            self._reap()
            self._in_a_hurry()
        self._tell_children(signal.SIGKILL)
        self._runner.stop(max(1.0, deadline - time.monotonic()))
        log.info("server.stopped", sessions_cut=cut)

    def _in_a_hurry(self) -> bool:
        """Waits a moment; a second signal ends everything at once: whatever was answered with 250 is on disk."""
        if _next_signal(0.05) in (signal.SIGTERM, signal.SIGINT):
            self._tell_children(signal.SIGKILL)
            log.info("server.stopped", hint="at once, by a second signal")
            os._exit(0)
        return False

    def _submit(self, item: Item) -> None:
        self._runner.submit(item)

    # -- the other processes

    def _tell_children(self, number: int) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> bool:
        """Takes note of children that have ended; returns whether there were any."""
        before = len(self._children)
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.remove(pid)
        return len(self._children) < before

    def _run_child(self, sockets: Sequence[tuple[str, socket.socket]], admission: Admission, lifeline: int) -> None:
        """Serves clients only; never returns."""
        status = 1
        try:
            self._children = []
            front = Front(self._config, sockets, admission, self._announce)
            front.start()
            threading.Thread(target=self._follow_parent, args=(lifeline,), daemon=True).start()
            while _next_signal() == signal.SIGHUP:
                front.reload()
            # Ctrl-C and service managers signal every process, and the parent does once more: that is no second
            # request. In a hurry, the parent kills.
            front.stop(_wait_a_moment)
            status = 0
        except BaseException:
            log.exception("server.process_failed")
        finally:
            os._exit(status)

    def _follow_parent(self, lifeline: int) -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _announce(self, item: Item) -> None:
        """Tells the process that runs the queue."""
        self._store.wake(item.id)


def _next_signal(timeout: float | None = None) -> int | None:
    """Waits for one of SIGNALS, None when the time is over.

    They are blocked and asked for, not handled: Python's handlers run in the main thread, which a signal that the
    kernel gives to another thread would not wake.
    """
    if timeout is None:
        return signal.sigwait(SIGNALS)
    taken = signal.sigtimedwait(SIGNALS, timeout)
    return taken.si_signo if taken else None


def _wait_a_moment() -> bool:
    time.sleep(0.05)
    return False


def _settle(processors: Sequence[int], number: int) -> None:
    """Gives a process a processor of its own: its threads take turns anyway, and moving about costs them dearly."""
    # A sandbox may forbid it: then the kernel decides.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {processors[number % len(processors)]})


def bouncer(config: Config, announce: Callable[[Item], None]) -> Bouncer:
    """Notifications as the settings describe them; `announce` is told of one that leaves through the queue."""
    users = Users(config.users, lambda count, complaints: None)
    router = Router(config.domains, users, may_relay=True, is_own_address=is_own_address)
    return Bouncer(Spool(config.spool), QueueStore(config.queue), router.route, config.hostname, announce)


class LateResolver:
    """The resolver, loaded with the first look-up: a server that only receives does without its memory."""

    def __init__(self, config: Config, receives: Callable[[IPAddress, int], bool]) -> None:
        self._config = config
        self._receives = receives

    @cached_property
    def _resolver(self) -> Resolver:
        from smtpmail.outbound.destinations import Resolver  # noqa: PLC0415

        return Resolver(self._config.resolver, self._config.hostname, self._receives)

    def targets(self, domain: str) -> list[Target]:
        """See Resolver."""
        return self._resolver.targets(domain)

    def addresses(self, host: str) -> tuple[list[str], bool]:
        """See Resolver."""
        return self._resolver.addresses(host)


def courier(config: Config, receives: Callable[[IPAddress, int], bool]) -> Courier:
    """The way out that the settings describe."""

    def credentials() -> Credentials | None:
        return Credentials(*config.read_smarthost_auth()) if config.smarthost_auth else None

    return Courier(
        LateResolver(config, receives),
        config.hostname,
        Timeouts(config.connect_timeout, config.reply_timeout),
        config.smarthost,
        credentials,
    )
