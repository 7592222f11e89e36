"""Imports run downwards only: the ground plan as a table, and nothing in the code against it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import smtpmail

SOURCES = Path(smtpmail.__file__).parent

FLOORS = [
    {"__main__"},
    {"cli"},
    {"admin"},
    {"server"},
    {"wiring"},
    {"inbound"},
    {"imap"},
    {"bouncer"},
    {"accept"},
    {"outbound"},
    {"auth"},
    {"users"},
    {"spool"},
    {"dns"},
    {"smtp"},
    {"settings"},
    {"log", "metrics", "network", "mounts"},
    {"systemd"},
    {"mail"},
    {""},
]
"""From the roof to the ground, as a message passes: a room imports only from floors below its own."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """The room of `smtpmail.room.module`; that of the package itself is ""."""
    return (module + "..").split(".")[1]


@cache
def imports() -> list[tuple[str, str, str]]:
    """(room, module imported, place) of all imports of the project's own modules, late ones too."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        relative = path.relative_to(SOURCES).with_suffix("")
        room = relative.parts[0] if relative.parts[0] != "__init__" else ""
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "smtpmail":
                # `from smtpmail import log` names a room, `from smtpmail.smtp import replies` a module of one.
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "smtpmail":
                    modules = [m if room_of(m) in FLOOR else "smtpmail" for m in modules]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names if alias.name.split(".")[0] == "smtpmail"]
            found += [(room, module, f"{path.relative_to(SOURCES)}:{node.lineno}") for module in modules]
    return found


def test_every_room_stands_in_the_plan() -> None:
    rooms = {p.stem for p in SOURCES.glob("*.py")} | {p.parent.name for p in SOURCES.glob("*/__init__.py")}
    assert rooms - {"__init__"} <= FLOOR.keys()


def test_imports_run_downwards() -> None:
    upwards = [
        f"{place}: {room} imports {module}"
        for room, module, place in imports()
        if room_of(module) != room and FLOOR[room_of(module)] <= FLOOR[room]
    ]
    assert len(imports()) > 100
    assert not upwards, "\n".join(upwards)


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCES)))
def test_modules_stay_small(path: Path) -> None:
    """One duty: larger ones need a reason, which stands in docs/architecture.md."""
    allowed = {
        "smtp/session.py": 760,
        "imap/session.py": 500,
        "outbound/client.py": 440,
        "outbound/runner.py": 520,
        "spool/journal.py": 420,
    }
    lines = len(path.read_text().splitlines())
    assert lines <= allowed.get(str(path.relative_to(SOURCES)), 400)
