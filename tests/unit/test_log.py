"""The lines of the log: JSON, times, and nothing that a client could do to a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
import tty
from pathlib import Path

import pytest
from support.server import wait_until

EVIL = 'x\r\n{"event": "forged"}\x1b[2J\u202e\x9b'


def logged(log_format: str, level: str = "info") -> list[str]:
    code = (
        "import sys; from smtpmail import log\n"
        "log.configure(sys.argv[1], sys.argv[2])\n"
        "log.log.debug('d'); log.log.info('recipient.refused', sender=sys.argv[3], names=[sys.argv[3]])\n"
        "log.log.error('e')"
    )
    ran = subprocess.run([sys.executable, "-c", code, log_format, level, EVIL], check=True, capture_output=True)
    assert ran.stdout == b""
    return ran.stderr.decode().split("\n")[:-1]


def test_json() -> None:
    info, error = (json.loads(line) for line in logged("json"))
    assert list(info)[:3] == ["timestamp", "level", "event"]
    assert (info["level"], info["event"], info["sender"]) == ("info", "recipient.refused", EVIL)
    assert error["level"] == "error"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", info["timestamp"])


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_control_characters(log_format: str) -> None:
    lines = logged(log_format)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines), lines


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 1)])
def test_levels(level: str, count: int) -> None:
    assert len(logged("json", level)) == count


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_reader_that_stalls_never_stops_the_program(kind: str) -> None:
    """Nobody reads: the lines that found no room are counted, and said when somebody reads again."""
    ours, theirs = {"pipe": os.pipe, "socket": connected, "terminal": os.openpty}[kind]()
    if kind == "terminal":
        tty.setraw(theirs)
    code = (
        "import sys; from smtpmail import log\n"
        "log.configure('json', 'info')\n"
        "for n in range(3000): log.log.info('a.line', n=n, text='x' * 200)\n"
        "print('done', flush=True); sys.stdin.readline(); log.log.info('again')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as program:
        os.close(theirs)
        assert program.stdin is not None and program.stdout is not None
        # If a line waited, this would wait for ever.
        assert program.stdout.readline() == "done\n"
        stream = bytearray()
        reader = threading.Thread(target=read_all, args=(ours, stream))
        reader.start()
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        wait_until(lambda: not poll.poll(100))
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.wait(60) == 0
        reader.join(60)
    os.close(ours)
    lines = [json.loads(line) for line in stream.decode().splitlines()]
    written = [line["n"] for line in lines if line["event"] == "a.line"]
    assert written == list(range(len(written))), "none is torn, none comes twice"
    assert [line["event"] for line in lines[len(written) :]] == ["again", "log.lost"]
    assert lines[-1]["lines"] == 3000 - len(written) > 0
    assert lines[-1]["level"] == "warning"


def connected() -> tuple[int, int]:
    """A pair of sockets, as the journal gives one to a service."""
    return tuple(sock.detach() for sock in socket.socketpair())  # type: ignore[return-value]


def read_all(fd: int, stream: bytearray) -> None:
    with contextlib.suppress(OSError):  # a terminal whose other side is gone
        while data := os.read(fd, 65536):
            stream += data


def test_the_flags_of_the_shared_descriptor_are_left_alone() -> None:
    """Standard error is the shell's, too."""
    ours, theirs = os.pipe()
    subprocess.run(
        [sys.executable, "-c", "from smtpmail import log; log.configure('json', 'info'); log.log.info('x')"],
        stderr=theirs, check=True,
    )  # fmt: skip
    assert os.get_blocking(theirs)
    os.close(theirs)
    assert b'"x"' in os.read(ours, 65536)
    os.close(ours)


def test_a_slow_reader_loses_nothing() -> None:
    ours, theirs = os.pipe()
    code = (
        "from smtpmail import log\nlog.configure('json', 'info')\n"
        "for n in range(2000): log.log.info('a.line', n=n, text='x' * 200)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs) as program:
        os.close(theirs)
        stream = bytearray()
        while data := os.read(ours, 16384):
            stream += data
            time.sleep(0.002)
        assert program.wait(60) == 0
    os.close(ours)
    assert [json.loads(line)["n"] for line in stream.decode().splitlines()] == list(range(2000))


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    """Also when somebody else wrote to it before, through the same descriptor."""
    with (tmp_path / "log").open("wb") as file:
        file.write(b"before\n")
        file.flush()
        code = "from smtpmail import log; log.configure('json', 'info'); log.log.info('x')"
        subprocess.run([sys.executable, "-c", code], stderr=file, check=True)
    assert [line[:8] for line in (tmp_path / "log").read_text().splitlines()] == ["before", '{"timest']


def test_foreign_text_is_cut() -> None:
    code = (
        "from smtpmail import log; log.configure('json', 'info')\n"
        "log.log.info('x', reply='r' * 30000, names=['n' * 30000, 'm'], number=10**9)\n"
        "try: int('y' * 100000)\nexcept ValueError: log.log.exception('z')"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    first, second = (json.loads(line) for line in ran.stderr.splitlines())
    assert len(first["reply"]) < 1100 and first["reply"].endswith("...")
    assert [len(name) for name in first["names"]] == [1027, 1]
    assert first["number"] == 10**9
    assert len(second["exception"]) <= 32 * 1024


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("whose", ["ours", "another"])
def test_the_journal_is_told_priorities(log_format: str, whose: str) -> None:
    """Only where standard error is the journal: a program whose output was led elsewhere has the variable, too."""
    ours, theirs = connected()
    stream = os.fstat(theirs if whose == "ours" else ours)
    code = (
        "import sys; from smtpmail import log; log.configure(sys.argv[1], 'debug')\n"
        "for level in ('debug', 'info', 'warning', 'error'): getattr(log.log, level)('an.event')\n"
        "try: 1 / 0\nexcept ZeroDivisionError: log.log.exception('an.event')"
    )
    environment = {**os.environ, "JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"}
    subprocess.run([sys.executable, "-c", code, log_format], check=True, stderr=theirs, env=environment)
    os.close(theirs)
    data = bytearray()
    read_all(ours, data)
    os.close(ours)
    lines = [line for line in data.decode().splitlines() if "an.event" in line]
    found = [re.match(r"(?:<(\d)>)?(.*)", line) for line in lines]
    assert [match and match[1] for match in found] == (list("76433") if whose == "ours" else [None] * 5)
    if log_format == "json":
        assert all(match and json.loads(match[2])["event"] == "an.event" for match in found)


def test_a_wrong_setting_is_an_error_in_the_journal() -> None:
    ours, theirs = connected()
    stream = os.fstat(theirs)
    environment = {**os.environ, "JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"}
    command = [sys.executable, "-m", "smtpmail", "--port", "many"]
    assert subprocess.run(command, check=False, stderr=theirs, env=environment).returncode == 2
    os.close(theirs)
    data = bytearray()
    read_all(ours, data)
    os.close(ours)
    assert re.fullmatch(rb"<3>smtpmail: .*--port.*\n", bytes(data))


def test_a_library_that_others_installed_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise SystemExit('it was')\n")
    code = "import sys, smtpmail.log; assert 'rich' not in sys.modules"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, check=True, timeout=30)


def test_lines_together() -> None:
    """They keep their order, whatever their number and length; nothing is held back afterwards."""
    code = (
        "from smtpmail.log import configure, log\n"
        "configure('json', 'info')\n"
        "with log.together():\n"
        "    for n in range(100): log.info('a.line', n=n, text='x' * 500)\n"
        "log.info('a.line', n=100)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)
    assert [json.loads(line)["n"] for line in ran.stderr.splitlines()] == list(range(101))
