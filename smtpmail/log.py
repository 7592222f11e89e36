"""The log: one JSON object a line on standard error. Its events are an interface; docs/formats.md lists them all."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog

_encode = json.JSONEncoder(ensure_ascii=True, default=str).encode


class _StandardError:
    """Writes each line with one write(2): lines of threads and processes do not mix."""

    def msg(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        # A reader of the log that went away must not stop the mail.
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(2, data) :]

    debug = info = warning = error = msg


def _timestamp(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """RFC 3339, UTC, first in the line."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return {"timestamp": now[:-6] + "Z", "level": event.pop("level"), "event": event.pop("event"), **event}


def _as_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return _encode(event)


def configure(log_format: str, level: str) -> None:
    """Sets the format (`json` or `console`) and the least level that is written."""
    last: list[Any] = [_timestamp, _as_json]
    if log_format == "console":
        last = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _escape,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=22),
        ]
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *args: _StandardError(),
    )
    log.use(structlog.get_logger())


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What a client sent must not steer a terminal."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = _encode(value)[1:-1]
    return event


class _Log:
    """The functions of the bound logger: made once by `configure`, not again for each event."""

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


log = _Log()
