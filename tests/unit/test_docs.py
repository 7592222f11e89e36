"""The manual says what the program does: events, settings, replies, extensions, keys on disk."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import smtpmail
from smtpmail.admin import sendmail_options
from smtpmail.mail.envelope import Peer
from smtpmail.mail.queued import Item, QueuedRecipient, encode_envelope
from smtpmail.metrics.families import FAMILIES
from smtpmail.settings import config
from smtpmail.smtp import replies
from smtpmail.smtp.session import Limits, Session

SOURCES = Path(smtpmail.__file__).parent
BAR = r"\|"
DOCS = SOURCES.parent / "docs"
PAGES = sorted([*DOCS.parent.glob("*.md"), *DOCS.glob("*.md")])
LOG_METHODS = {"debug", "info", "warning", "error", "exception"}

Event = tuple[str, str]
"""Name and level."""


def page(name: str) -> str:
    return (DOCS / name).read_text()


@cache
def logged_events() -> dict[Event, set[str]]:
    """Each event of the source, with the names of its fields."""
    events: dict[Event, set[str]] = {}
    for path in SOURCES.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for call in calls_of_log(function):
                    assert isinstance(call.func, ast.Attribute)
                    name = call.args[0]
                    assert isinstance(name, ast.Constant) and isinstance(name.value, str), (
                        f"{path}:{call.lineno}: the event must be a literal"
                    )
                    level = call.func.attr
                    fields = events.setdefault((name.value, level.replace("exception", "error")), set())
                    fields.update({"exception"} if level == "exception" else ())
                    for keyword in call.keywords:
                        fields.update([keyword.arg] if keyword.arg else keys_of(function, keyword.value))
    return events


def calls_of_log(function: ast.FunctionDef) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=method)) if method in LOG_METHODS:
                yield node


def keys_of(function: ast.FunctionDef, variable: ast.expr) -> Iterator[str]:
    """The keys of the dictionary that a local variable holds."""
    assert isinstance(variable, ast.Name)
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys)) if name == variable.id:
                yield from (str(key.value) for key in keys if isinstance(key, ast.Constant))


@cache
def documented_events() -> dict[Event, set[str]]:
    """Each row of the tables of events, with all words in code that stand among its fields."""
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (\w+) \|(.*?)\| .* \|$", page("formats.md"), re.MULTILINE)
    return {(name, level): set(re.findall(r"`(\w+)`", fields)) for name, level, fields in rows}


def test_every_event_is_documented() -> None:
    logged, documented = logged_events(), documented_events()
    assert len(logged) > 30
    assert logged.keys() == documented.keys()


@pytest.mark.parametrize("event", sorted(logged_events()), ids=lambda event: event[0])
def test_every_field_is_documented(event: Event) -> None:
    assert logged_events()[event] <= documented_events()[event]


def settings_table() -> str:
    """The table of docs/operating.md."""
    lines = ["| option | what it says | default |", "| --- | --- | --- |"]
    for setting in config.settings().values():
        option = ", ".join(f"`{name}`" for name in setting.names)
        metavar = f" {setting.metavar}" if setting.metavar else ""
        value = " " + r"\|".join(setting.choices) if setting.choices else metavar
        help_, _, default = setting.help.partition("Default: ")
        lines.append(
            f"| {option}{value} | {help_.strip()} | {default.strip().removesuffix('.') or default_of(setting)} |"
        )
    return "\n".join(lines)


def default_of(setting: config.Setting) -> str:
    """For settings whose help leaves the default to be shown."""
    name = next(name for name, other in config.settings().items() if other is setting)
    default = config.default(name)
    if setting.read is bool or default in (None, ()):
        return ""
    if setting.key in ("max-size", "journal-size"):
        return f"{default // 1024**2}M"
    return f"{default:g}" if isinstance(default, float) else "" if isinstance(default, tuple) else str(default)


def test_every_setting_is_documented() -> None:
    match = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", page("operating.md"), re.DOTALL)
    assert match
    assert match[1] == settings_table(), f"docs/operating.md, between <!-- settings -->:\n{settings_table()}"


def sample_names() -> set[str]:
    """All names of samples, as queries use them."""
    names = set()
    for family in FAMILIES:
        ends = ("_bucket", "_count", "_sum") if family.buckets else ("_total",) if family.kind == "counter" else ("",)
        names |= {family.name + end for end in ends}
    return names


def test_every_metric_is_documented() -> None:
    match = re.search(r"<!-- metrics -->\n(.*?)\n<!-- /metrics -->", page("operating.md"), re.DOTALL)
    assert match
    for family in FAMILIES:
        name = family.name + ("_total" if family.kind == "counter" else "")
        labels = ", ".join(f"`{label}`: {', '.join(values)}" for label, values in family.labels)
        assert f"| `{name}` | {family.kind} | {labels} | {family.help} |" in match[1]
    assert len(match[1].splitlines()) == len(FAMILIES) + 2


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    panels = json.loads((DOCS / "grafana.json").read_text())["panels"]
    asked = {name for panel in panels for t in panel["targets"] for name in re.findall(r"smtpmail_\w+", t["expr"])}
    assert len(asked) > 8
    assert asked <= sample_names()


def test_every_option_of_sendmail_is_documented() -> None:
    rows = [f"| `{names.replace('|', BAR)}` | {text} |" for names, text in sendmail_options.OPTIONS.items()]
    table = "\n".join(["| option | what it says |", "| --- | --- |", *rows])
    match = re.search(r"<!-- sendmail -->\n(.*?)\n?<!-- /sendmail -->", page("programs.md"), re.DOTALL)
    assert match
    assert match[1] == table, f"docs/programs.md, between <!-- sendmail -->:\n{table}"


def test_every_reply_is_documented() -> None:
    text = page("protocol.md")
    every = [reply for reply in vars(replies).values() if isinstance(reply, replies.Reply)]
    assert len(every) > 30
    missing = [str(r) for r in every if f"| {r.code} | {r.enhanced} | `{r.text}` |" not in text]
    assert not missing


@pytest.mark.parametrize("tls", [None, "TLSv1.3"])
def test_every_extension_and_verb_is_documented(tls: str | None) -> None:
    text = page("protocol.md")
    session = Session("mail.dom.fr", Peer("127.0.0.1", 1, "loopback"), Limits(1, 1), offer_tls=True)
    if tls:
        session.tls_started(tls)
    keywords = [line.split()[0] for line in session.extensions()]
    verbs = replies.HELP.text.removeprefix("Commands: ").split()
    assert [word for word in keywords + verbs if f"`{word}" not in text] == []


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("source", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(source: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", source.read_text()):
        if not target.startswith(("http:", "https:")):
            name, _, anchor = target.partition("#")
            path = source.parent / name if name else source
            if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
                broken.append(target)
    assert broken == []


def test_every_key_of_a_queue_file_is_documented() -> None:
    text = page("formats.md")
    envelope = json.loads(encode_envelope(Item("id", 0.0, "", [QueuedRecipient("a@b.example")])))
    keys = {*envelope, *envelope["recipients"][0]}
    assert [key for key in keys if f"`{key}`" not in text] == []
