"""smtp-sink, the test server that comes with Postfix, with each of its faults."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .lab import Host, Lab
from .program import Program
from .reports import concerns, recipients

ADDRESS = "192.0.2.81"
RECIPIENT = "bob@one.test"
COMMANDS = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."]

StartSink = Callable[..., "Sink"]


class Sink:
    """An smtp-sink as the MX of one.test."""

    def __init__(self, host: Host, *options: str) -> None:
        self._dumps = Path(tempfile.mkdtemp(prefix="sink-", dir=host.path("/run")))
        self._dumps.chmod(0o777)
        template = f"/run/{self._dumps.name}/message."
        self._process = host.daemon("smtp-sink", "-u", "nobody", "-d", template, *options, f"{ADDRESS}:25", "100",
                                    address=ADDRESS)  # fmt: skip

    @property
    def messages(self) -> list[bytes]:
        """What it has been sent, a transaction each with smtp-sink's own header; broken ones too."""
        return [path.read_bytes() for path in sorted(self._dumps.iterdir())]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def start_sink(lab: Lab) -> Iterator[StartSink]:
    """Starts an smtp-sink, in the place of the one before."""
    started: list[Sink] = []

    def start(*options: str) -> Sink:
        for sink in started:
            sink.stop()
        started.append(Sink(lab["sink"], *options))
        return started[-1]

    yield start
    for sink in started:
        sink.stop()


def arrived(sink: Sink, subject: str) -> list[bytes]:
    return [message for message in sink.messages if f"Subject: {subject}".encode() in message]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("option", "what"), [("-r", "4xx"), ("-q", "drop"), ("-Q", "421")], ids=["4xx", "drop", "421"])
def test_a_passing_fault(ours: Program, start_sink: StartSink, option: str, what: str, command: str) -> None:
    """Deferred while it lasts, delivered once when it is over."""
    words = f"{command},HELO" if command == "EHLO" else command
    start_sink(option, words)
    sent = ours.post(RECIPIENT)
    entry = ours.wait_for("delivery.deferred", id=sent.id, recipient=RECIPIENT)
    if what != "drop":
        assert ("421" if what == "421" else "450") in entry["reply"]
    assert entry["address"].strip("[]") == ADDRESS
    sink = start_sink()
    ours.wait_for("delivery.succeeded", id=sent.id, recipient=RECIPIENT)
    assert len(arrived(sink, sent.subject)) == 1


def test_a_greeting_says_nothing_final(ours: Program, start_sink: StartSink) -> None:
    """Refused at connect with 5xx: that is about us, or about now, not about a message."""
    start_sink("-f", "CONNECT", "-B", "550 5.7.1 not from you")
    sent = ours.post(RECIPIENT)
    entry = ours.wait_for("delivery.deferred", id=sent.id, recipient=RECIPIENT)
    assert entry["reply"].endswith("550 5.7.1 not from you")
    assert not ours.events("delivery.failed", id=sent.id)


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "."])
def test_a_lasting_refusal(ours: Program, start_sink: StartSink, command: str) -> None:
    start_sink("-f", command, "-B", "550 5.7.1 not from you")
    recipient = f"bob-{COMMANDS.index(command)}@one.test"
    sent = ours.post(recipient)
    entry = ours.wait_for("delivery.failed", id=sent.id, recipient=recipient)
    assert entry["reply"].endswith("550 5.7.1 not from you")
    notice = ours.wait_for_mail("alice", lambda message: concerns(message, recipient), f"a bounce of {recipient}")
    assert recipients(notice)[recipient].status.startswith("5.")
    assert not ours.events("delivery.deferred", id=sent.id)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-f", "EHLO"), id="EHLO refused"),
        pytest.param(("-e",), id="no ESMTP in the greeting"),
        pytest.param(("-P",), id="a Cisco PIX in between"),
        pytest.param(("-p",), id="no PIPELINING"),
        pytest.param(("-E",), id="no ENHANCEDSTATUSCODES"),
        pytest.param(("-N",), id="no DSN"),
        pytest.param(("-8",), id="no 8BITMIME"),
        pytest.param(("-8", "-E", "-N", "-p"), id="no extension at all"),
        # -p: smtp-sink itself gets out of step when it is told to wait at a command that is not the last of a group.
        *[pytest.param(("-p", "-W", f"{command}:1"), id=f"{command} answered late") for command in COMMANDS],
        pytest.param(("-H", "1", "-T", "2048"), id="reads late, small window"),
    ],
)
def test_an_odd_server_gets_its_mail(ours: Program, start_sink: StartSink, options: tuple[str, ...]) -> None:
    sink = start_sink(*options)
    sent = ours.post(RECIPIENT, body="line\n" * 2000)
    ours.wait_for("delivery.succeeded", id=sent.id, recipient=RECIPIENT)
    (message,) = arrived(sink, sent.subject)
    assert message.count(b"line\n") == 2000
    assert not ours.events("delivery.deferred", id=sent.id)


def test_an_abort_during_the_content(ours: Program, start_sink: StartSink) -> None:
    """550 comes right after the reply to DATA, and the server reads no more: no dead-lock, a bounce."""
    start_sink("-A", "0")
    recipient = "aborted@one.test"
    sent = ours.submit(b"Subject: aborted\r\n\r\n" + b"0123456789\r\n" * 400_000, recipient)
    ended = ours.wait_for("delivery.failed", "delivery.deferred", id=sent.id, recipient=recipient, timeout=40)
    assert ended["reply"]
