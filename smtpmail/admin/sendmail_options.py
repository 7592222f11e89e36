"""The command line of sendmail(8), as programs use it: pure.

Short options as getopt(3) reads them, in any place before `--`; what only the old sendmail knew is accepted and
ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from smtpmail.mail.xtext import encode_xtext

OPTIONS = {
    "-t": "Take the recipients from To, Cc and Bcc, besides those given; Bcc is removed.",
    "-i, -oi": "A line with a single dot does not end the message.",
    "-f ADDRESS, -r ADDRESS": "The envelope sender; <> is the null one. Default: who calls, at the host's mail domain.",
    "-F NAME": "The name in a From field that is added.",
    "-B 7BIT|8BITMIME": "How the body is encoded. It is looked at anyway.",
    "-N never|success,failure,delay": "When a notification is asked for (RFC 3461).",
    "-R full|hdrs": "What of the message a notification brings back.",
    "-V ENVID": "A name of the caller's own for the message, in notifications.",
    "-v": "Tell what the server said.",
    "-bm": "Send the message on standard input; the default.",
    "-bs": "Speak SMTP on standard input and output.",
    "-bp": "List the queue, as mailq does.",
    "-bv": "Ask whether the recipients would be accepted, and send nothing.",
    "-bi, -I": "Check the file of aliases, as newaliases does; it needs no database.",
    "-q[TIME], -qI ID": "Try what is in the queue now, or one message.",
    "-A -C -G -h -L -m -n -O -o -U -X -e -x": "Accepted and ignored.",
}
"""What each does: for the manual."""

_WITH_VALUE = frozenset("ABCFLNORVXbdefhopr")
_WITHOUT_VALUE = frozenset("GIimntUvx")
_OPTIONAL_VALUE = "q"

MODES = {"m": "send", "s": "smtp", "p": "queue", "v": "verify", "i": "aliases"}
ENVID_LIMIT = 100
"""Characters of an ENVID as it travels (RFC 3461 4.4)."""

NAMES = {"mailq": "queue", "newaliases": "aliases"}
"""What the program does under its other names."""


class OptionError(ValueError):
    """What is wrong with the command line, for people."""


@dataclass(slots=True)
class Options:
    """What a caller asked for."""

    mode: str = "send"
    """send, smtp, queue, verify, aliases, or flush."""
    recipients: list[str] = field(default_factory=list)
    from_header: bool = False
    ignore_dots: bool = False
    sender: str | None = None
    name: str | None = None
    notify: tuple[str, ...] = ()
    ret: str | None = None
    envid: str | None = None
    verbose: bool = False
    id: str | None = None
    """With mode flush: the one message."""


def parse(arguments: Sequence[str], program: str = "sendmail") -> Options:
    """Reads a command line without the program's name. Raises OptionError."""
    options = Options(NAMES.get(program, "send"))
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            options.recipients += waiting
            break
        if not word.startswith("-") or word == "-":
            options.recipients.append(word)
            continue
        for letter, value in _letters(word, waiting):
            _apply(options, letter, value)
    if options.mode in ("send", "verify") and not options.recipients and not options.from_header:
        raise OptionError("no recipient: name one, or take them from the message with -t")
    return options


def _letters(word: str, waiting: list[str]) -> Iterator[tuple[str, str]]:
    """The options in one word, each with its value; one that stands alone has its value in the next word."""
    rest = word[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        if letter in _WITH_VALUE:
            if not rest and not waiting:
                raise OptionError(f"-{letter} needs a value")
            yield letter, rest or waiting.pop(0)
            return
        if letter == _OPTIONAL_VALUE:
            if rest == "I" and waiting:
                rest += waiting.pop(0)
            yield letter, rest
            return
        if letter not in _WITHOUT_VALUE:
            raise OptionError(f"-{letter} is not known")
        yield letter, ""


def _apply(options: Options, letter: str, value: str) -> None:
    match letter:
        case "t":
            options.from_header = True
        case "i":
            options.ignore_dots = True
        case "o" if value == "i":
            options.ignore_dots = True
        case "f" | "r":
            options.sender = value
        case "F":
            options.name = value
        case "B" if value.upper() not in ("7BIT", "8BITMIME"):
            raise OptionError(f"-B {value}: 7BIT or 8BITMIME must follow")
        case "N":
            options.notify = _notify(value)
        case "R":
            options.ret = value.upper()
            if options.ret not in ("FULL", "HDRS"):
                raise OptionError(f"-R {value}: full or hdrs must follow")
        case "V":
            options.envid = _envid(value)
        case "v":
            options.verbose = True
        case "I":
            options.mode = "aliases"
        case "b":
            if value not in MODES:
                raise OptionError(f"-b{value} is not known; the server itself is `smtpmail`")
            options.mode = MODES[value]
        case "q":
            options.mode = "flush"
            options.id = value[1:] if value.startswith("I") else None


def _envid(value: str) -> str:
    if len(encode_xtext(value)) > ENVID_LIMIT:
        raise OptionError(f"-V: at most {ENVID_LIMIT} characters must follow")
    return value


def _notify(value: str) -> tuple[str, ...]:
    words = tuple(word.strip().upper() for word in value.split(","))
    if words != ("NEVER",) and (not {"SUCCESS", "FAILURE", "DELAY"}.issuperset(words) or len(set(words)) < len(words)):
        raise OptionError(f"-N {value}: never must follow, or some of success,failure,delay")
    return words
