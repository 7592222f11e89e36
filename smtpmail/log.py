"""The log: one JSON object a line on standard error. Its events are an interface; docs/formats.md lists them all.

Where standard error is the journal of systemd, each line begins with its priority (`<3>`), which the journal takes off.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from smtpmail import systemd
from smtpmail.mail.text import harmless

# structlog takes rich for tracebacks wherever it is installed: 5 MiB of memory for what is never shown.
_hidden = "rich" not in sys.modules
if _hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]  # not to be had
import structlog  # noqa: E402

if _hidden:
    del sys.modules["rich"]

PATIENCE = 1.0
"""Seconds that a reader who takes nothing may hold up the mail; then the line is lost."""

STALL = 10.0
"""Seconds after that in which no line waits."""

TEXT_LIMIT = 1024
"""Characters of a text in the log: most of them were written by somebody else."""

EXCEPTION_LIMIT = 32 * 1024
"""Characters of a traceback: the deepest calls stand at its end."""

EVENT_WIDTH = 22
"""Columns of the name of an event on a terminal."""

Event = MutableMapping[str, Any]

Observer = Callable[[str, str, Mapping[str, Any]], None]
"""Takes level, event and fields; raises nothing."""

_encode = json.JSONEncoder(default=repr).encode


class _Held(threading.local):
    """Lines that a thread has not written yet, while it collects some."""

    lines: list[bytes] | None = None


_held = _Held()


class _StandardError:
    """Writes each line with one call, so that lines of threads and processes do not mix, and never waits for long.

    Whoever reads the log may stall: the mail goes on. O_NONBLOCK of standard error itself is not for us to set, since
    other programs share it; so a pipe is opened once more, and a socket is told with each line.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest = b""
        """Of a line that went out in part."""
        self._impatient_until = 0.0
        self._lost = 0
        self._socket: socket.socket | None = None
        self._fd = 2
        self._whole = False
        """Whether short lines go out whole."""
        with contextlib.suppress(OSError):
            kind = os.fstat(2).st_mode
            self._whole = not stat.S_ISCHR(kind)
            if stat.S_ISSOCK(kind):
                self._socket = socket.socket(fileno=os.dup(2))
            elif stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
                self._fd = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def msg(self, line: str) -> None:
        """Writes a line, now or with others of its thread."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        held = _held.lines
        if held is not None:
            if sum(map(len, held)) + len(data) > select.PIPE_BUF:
                lines, held[:] = held[:], []
                self._put(lines)
            held.append(data)
            return
        self._put([data])

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Lines of this thread go out with one call at the end: calls cost more than lines."""
        held = _held.lines = []
        try:
            yield
        finally:
            _held.lines = None
            self._put(held)

    def _put(self, lines: list[bytes]) -> None:
        """Writes lines, or counts them as lost."""
        data = b"".join(lines)
        if not data:
            return
        if self._whole and len(data) <= select.PIPE_BUF and not self._rest and not self._lost:
            # So short a line goes out whole or not at all (pipe(7)): no thread need wait for another.
            with contextlib.suppress(OSError):
                sent = self._socket.send(data, socket.MSG_DONTWAIT) if self._socket else os.write(self._fd, data)
                if sent == len(data):
                    return
                data = data[sent:]
        with self._lock:
            if not self._write(data):
                self._lost += len(lines)
                return
            lost, self._lost = self._lost, 0
        if lost:
            log.warning("log.lost", lines=lost)

    debug = info = warning = error = msg

    def _write(self, data: bytes) -> bool:
        """Whether the line was written; of one that went out in part, the rest goes before the next."""
        # A reader of the log that went away must not stop the mail either.
        with contextlib.suppress(OSError):
            self._send_rest()
            self._rest = data[self._send(data) :]
            with contextlib.suppress(OSError):
                self._send_rest()
            return True
        return False

    def _send_rest(self) -> None:
        while self._rest:
            self._rest = self._rest[self._send(self._rest) :]

    def _send(self, data: bytes) -> int:
        """How many octets went out. Raises OSError, BlockingIOError when the reader takes none."""
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                return self._socket.send(data, socket.MSG_DONTWAIT) if self._socket else os.write(self._fd, data)
            except BlockingIOError:
                now = time.monotonic()
                if now < self._impatient_until:
                    raise
                if now >= give_up:
                    self._impatient_until = now + STALL
                    raise
            wait = select.poll()
            wait.register(self._fd, select.POLLOUT)
            wait.poll((give_up - now) * 1000)
            time.sleep(0.005)  # a terminal says that there is room where there is too little

    def close(self) -> None:
        """Gives the descriptors back."""
        if self._socket is not None:
            self._socket.close()
        elif self._fd != 2:
            os.close(self._fd)


def _in_order(_: Any, name: str, event: Event) -> Event:
    """Time, level and event first. RFC 3339 with all six digits, so that lines sort as text."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    level = "error" if name == "exception" else name
    return {"timestamp": now[:-6] + "Z", "level": level, "event": event.pop("event"), **event}


def _with_traceback(logger: Any, name: str, event: Event) -> Event:
    return structlog.processors.format_exc_info(logger, name, event) if "exc_info" in event else event


def _bounded(event: Event) -> Event:
    """Foreign text cut to a sensible length."""
    return {key: _cut(value, key) for key, value in event.items()}


def _cut(value: Any, key: str = "") -> Any:
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if not isinstance(value, str):
        return value
    if key == "exception":
        return value[-EXCEPTION_LIMIT:]
    return value if len(value) <= TEXT_LIMIT else value[:TEXT_LIMIT] + "..."


def _as_json(_: Any, __: str, event: Event) -> str:
    line = _encode(event)
    # Looking at the length of one line costs less than looking at that of each text.
    return line if len(line) <= TEXT_LIMIT else _encode(_bounded(event))


def _printable(_: Any, __: str, event: Event) -> Event:
    """What somebody else wrote must not steer a terminal."""
    return {k: harmless(v) if isinstance(v, str) and k != "exception" else v for k, v in _bounded(event).items()}


def _with_priority(_: Any, name: str, line: str) -> str:
    return systemd.with_priority(name, line)


_sink: _StandardError | None = None


def configure(log_format: str, level: str) -> None:
    """Sets the format (`json` or `console`) and the least level that is written."""
    global _sink  # noqa: PLW0603
    last: list[Any] = [_in_order, _as_json]
    if log_format == "console":
        last = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _printable,
            structlog.dev.ConsoleRenderer(EVENT_WIDTH, colors=sys.stderr.isatty()),
        ]
    if systemd.is_journal(2):
        last.append(_with_priority)
    if _sink is not None:
        _sink.close()
    sink = _sink = _StandardError()
    structlog.configure(
        processors=[_with_traceback, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *args: sink,
    )
    log.use(structlog.get_logger())
    log.debugging = level == "debug"


class _Log:
    """The functions of the bound logger, bound once by `configure`.

    structlog's own proxy binds anew for each event: 17 us an event instead of 12, five events a message.
    """

    debugging = False
    """Whether `debug` writes anything: what it would say may cost something to put together."""

    def __init__(self) -> None:
        self.use(structlog.get_logger())

    def use(self, logger: Any) -> None:
        """Takes the functions of a configured logger."""
        bound = logger.bind()
        self.debug = bound.debug
        self.info = bound.info
        self.warning = bound.warning
        self.error = bound.error
        self.exception = bound.exception

    def together(self) -> AbstractContextManager[None]:
        """Within it, the lines of this thread are collected and go out with one call."""
        return _sink.together() if _sink is not None else contextlib.nullcontext()

    def watch(self, observer: Observer) -> None:
        """From here on `observer` is told of each event, whether it is written or not."""
        for name in ("debug", "info", "warning", "error", "exception"):
            setattr(self, name, _watched(getattr(self, name), name.replace("exception", "error"), observer))


def _watched(write: Callable[..., Any], level: str, observer: Observer) -> Callable[..., Any]:
    def both(event: str, **fields: Any) -> Any:
        observer(level, event, fields)
        return write(event, **fields)

    return both


log = _Log()
