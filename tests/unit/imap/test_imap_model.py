"""Random commands of several sessions against a model of the folder: numbers, flags, and what each client believes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.imap_dialogue import ImapDialogue
from support.spool import deliver

from smtpmail.spool.mailbox import Spool

FLAGS = [b"\\Seen", b"\\Flagged", b"\\Deleted", b"$one", b"$two"]


class Client:
    """A session, and what an honest client would know of the mailbox from its responses alone."""

    def __init__(self, spool: Path) -> None:
        self.dialogue = ImapDialogue(spool)
        self.flags: list[set[bytes] | None] = []
        self.take(self.dialogue.ok("SELECT INBOX"))

    def take(self, lines: list[bytes]) -> None:
        for line in lines:
            if exists := re.fullmatch(rb"\* (\d+) EXISTS", line):
                count = int(exists[1])
                assert count >= len(self.flags), "EXISTS took messages away"
                self.flags += [None] * (count - len(self.flags))
            elif expunged := re.fullmatch(rb"\* (\d+) EXPUNGE", line):
                del self.flags[int(expunged[1]) - 1]
            elif fetched := re.match(rb"\* (\d+) FETCH .*FLAGS \(([^)]*)\)", line):
                number = int(fetched[1])
                assert number <= len(self.flags), "a message that the client was not told of"
                self.flags[number - 1] = set(fetched[2].split()) - {b"\\Recent"}

    def run(self, command: bytes) -> bytes:
        *untagged, tagged = self.dialogue.say(command)
        if re.match(rb"(FETCH|STORE|SEARCH)", command):
            assert not [line for line in untagged if line.endswith(b" EXPUNGE")], "numbers changed meanwhile"
        self.take(untagged)
        return tagged


which, mask, place = st.integers(0, 2), st.integers(0, 31), st.integers(0, 9)
nothing = st.just(0)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), nothing, nothing, nothing),
        st.tuples(st.just("append"), which, mask, nothing),
        st.tuples(st.sampled_from(["+", "-", "", "+.SILENT"]), which, mask, place),
        st.tuples(st.sampled_from(["expunge", "noop", "fetch", "copy", "move"]), which, nothing, place),
        st.tuples(st.just("unlink"), place, nothing, nothing),
    ),
    max_size=25,
)


def subset(mask: int) -> set[bytes]:
    return {flag for n, flag in enumerate(FLAGS) if mask >> n & 1}


@given(actions)
@settings(max_examples=25)
def test_sessions_agree_with_the_folder(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:  # type: ignore[type-arg]
    folder = tmp_path_factory.mktemp("model")
    spool = Spool(str(folder))
    model: dict[int, set[bytes]] = {}
    last = 0
    for _ in range(2):
        deliver(spool, "bob")
        last += 1
        model[last] = set()
    clients = [Client(folder) for _ in range(3)]
    clients[0].dialogue.ok("CREATE there")
    for what, a, b, c in steps:
        client = clients[a % 3]
        dialogue = client.dialogue
        numbers = list(dialogue.executor.selected.numbers) if dialogue.executor and dialogue.executor.selected else []
        match what:
            case "deliver":
                deliver(spool, "bob")
                last += 1
                model[last] = set()
            case "append":
                flags = subset(b)
                last += 1
                model[last] = flags
                assert dialogue.append("INBOX", b"x\r\n", f"({b' '.join(flags).decode()}) ").startswith(b"OK")
                # What it told of the changes was not looked at by `append`: ask for all.
                client.flags = [None] * len(dialogue.executor.selected.numbers)  # type: ignore[union-attr]
            case "+" | "-" | "" | "+.SILENT" if numbers:
                number = numbers[c % len(numbers)]
                flags = subset(b)
                sign, _, silent = what.partition(".")
                text = b" ".join(flags)
                item = f"{sign}FLAGS{'.SILENT' if silent else ''}".encode()
                tagged = client.run(b"STORE %d %s (%s)" % (c % len(numbers) + 1, item, text))
                if number in model:
                    old = model[number]
                    model[number] = old | flags if sign == "+" else old - flags if sign == "-" else flags
                    assert tagged.startswith(b"OK"), tagged
                    if silent:
                        place = c % len(numbers)
                        known = client.flags[place]
                        client.flags[place] = None if known is None else known | flags
                else:
                    assert tagged.startswith(b"NO [EXPUNGEISSUED]")
            case "expunge":
                assert client.run(b"EXPUNGE").startswith(b"OK")
                known = set(numbers)
                model = {n: f for n, f in model.items() if b"\\Deleted" not in f or n not in known}
            case "move" | "copy" if numbers:
                number = numbers[c % len(numbers)]
                tagged = client.run(b"%s %d there" % (what.upper().encode(), c % len(numbers) + 1))
                assert tagged.startswith(b"OK" if number in model else b"NO"), tagged
                if what == "move":
                    model.pop(number, None)
            case "fetch" if numbers:
                client.run(b"FETCH 1:* FLAGS")
            case "noop":
                client.run(b"NOOP")
            case "unlink" if model:
                number = sorted(model)[a % len(model)]
                del model[number]
                (folder / f"bob/{number}").unlink()
                (folder / f"bob/{number}.status").unlink()
    for client in clients:
        client.run(b"NOOP")
        client.run(b"NOOP")
        # What it was told without asking is right already, where it was told anything.
        for told, (_, wanted) in zip(client.flags, sorted(model.items()), strict=True):
            assert told is None or told == wanted
        if model:
            client.run(b"UID FETCH 1:* FLAGS")
        assert client.flags == [flags for _, flags in sorted(model.items())]
        assert client.dialogue.executor is not None
        client.dialogue.executor.close()
    for number, flags in model.items():
        assert set((folder / f"bob/{number}.status").read_bytes().split()) == flags
    names = {p.name for p in (folder / "bob").iterdir() if p.name[0].isdigit()}
    assert names == {name for n in model for name in (str(n), f"{n}.status")}
    assert deliver(spool, "bob") == [last + 1]
