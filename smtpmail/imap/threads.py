"""THREAD (RFC 5256 3, 4): which message answers which."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from smtpmail.imap.sorting import Sortable, base_subject, sent, subject

MAX_REFERENCES = 200
"""Message-ids in one References field that are read."""

_ID = re.compile(rb"<([^<>\s]{1,500})>")


@dataclass(slots=True, eq=False)
class Node:
    """A message, or one that others refer to and that is not here."""

    position: int | None = None
    date: float = 0.0
    subject: str = ""
    is_reply: bool = False
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)

    def adopt(self, child: Node) -> None:
        """Makes a node a child of this one."""
        if child.parent is not None:
            child.parent.children.remove(child)
        child.parent = self
        self.children.append(child)

    def is_below(self, other: Node) -> bool:
        """Whether `other` is this node, or one above it."""
        if not other.children:
            return self is other  # nearly always: no need to climb a long thread
        node: Node | None = self
        while node is not None:
            if node is other:
                return True
            node = node.parent
        return False


def thread_messages(messages: Sequence[Sortable], algorithm: str, shown: Callable[[int], int]) -> bytes:
    """The threads as they are written; `shown` is the number of a position."""
    nodes, ids = _read(messages)
    roots = _by_subject(nodes) if algorithm == "ORDEREDSUBJECT" else _by_references(nodes, ids)
    return b"".join(b"(" + b"".join(_write(root, shown)) + b")" for root in roots)


def _read(messages: Sequence[Sortable]) -> tuple[list[Node], list[list[bytes]]]:
    """A node for each message; and its own id, then those it refers to, from the oldest on."""
    nodes, ids = [], []
    for message in messages:
        try:
            base, is_reply = base_subject(subject(message))
            nodes.append(Node(message.position, sent(message), base, is_reply))
            header = message.file().header()
            own = _ID.search(header.get(b"message-id") or b"")
            references = _ID.findall(header.get(b"references") or b"")[-MAX_REFERENCES:]
            if not references:
                references = _ID.findall(header.get(b"in-reply-to") or b"")[:1]
            ids.append([own[1] if own else b"", *references])
        except OSError:
            del nodes[len(ids) :]  # removed meanwhile
        finally:
            message.close()
    return nodes, ids


def _by_subject(nodes: list[Node]) -> list[Node]:
    """ORDEREDSUBJECT: all of one subject, each below the first."""
    first: dict[str, Node] = {}
    for node in sorted(nodes, key=_age):
        root = first.setdefault(node.subject, node)
        if root is not node:
            root.adopt(node)
    return sorted(first.values(), key=_age)


def _by_references(nodes: list[Node], ids: list[list[bytes]]) -> list[Node]:
    """REFERENCES, step by step as RFC 5256 has it."""
    table: dict[bytes, Node] = {}
    for node, (own, *references) in zip(nodes, ids, strict=True):
        entry = table.get(own) if own else None
        if entry is not None and entry.position is None:
            _take_place(node, entry)
        if own and (entry is None or entry.position is None):
            table[own] = node
        above: Node | None = None
        for reference in references:
            referred = table.setdefault(reference, Node())
            if above is not None and referred.parent is None and not above.is_below(referred):
                above.adopt(referred)
            above = referred
        if above is not None and above is not node and not above.is_below(node):
            above.adopt(node)
    everything = {id(node): node for node in [*nodes, *table.values()]}
    roots = [node for node in everything.values() if node.parent is None]
    roots = [kept for root in roots for kept in _pruned(root)]
    for root in roots:
        _date(root)
    return _gathered(sorted(roots, key=_age))


def _take_place(node: Node, placeholder: Node) -> None:
    """A message that others referred to before it was seen."""
    if placeholder.parent is not None:
        parent = placeholder.parent
        parent.children.remove(placeholder)
        parent.children.append(node)
        node.parent = parent
        placeholder.parent = None
    for child in placeholder.children:
        child.parent = node
    node.children, placeholder.children = placeholder.children, []


def _pruned(root: Node) -> list[Node]:
    """A tree without the nodes of messages that are not here; several, when such a one was its root."""
    kept: list[Node] = []
    # From the leaves up, without recursion: a thread may be long.
    order = [root]
    for node in order:
        order += node.children
    for node in reversed(order):
        children: list[Node] = []
        for child in node.children:
            if child.position is None:
                children += child.children
            else:
                children.append(child)
        node.children = children
        for child in children:
            child.parent = node
    if root.position is not None:
        kept = [root]
    elif len(root.children) == 1:
        kept = root.children
        kept[0].parent = None
    elif root.children:
        kept = [root]  # several answers to one that is not here stay together
    return kept


def _date(root: Node) -> None:
    """Sorts all below a root by date; a root without a message has the date and subject of its first child."""
    order = [root]
    for node in order:
        order += node.children
    for node in reversed(order):
        node.children.sort(key=_age)
        if node.position is None and node.children:
            first = node.children[0]
            node.date, node.subject, node.is_reply = first.date, first.subject, first.is_reply


def _gathered(roots: list[Node]) -> list[Node]:
    """Threads of one subject become one (RFC 5256 REFERENCES step 5)."""
    by_subject: dict[str, Node] = {}
    for root in roots:
        if root.subject:
            other = by_subject.get(root.subject)
            if (
                other is None
                or (root.position is None and other.position is not None)
                or (other.is_reply and not root.is_reply and other.position is not None)
            ):
                by_subject[root.subject] = root
    merged: dict[Node, Node] = {}
    for root in roots:
        main = by_subject.get(root.subject)
        if main is None or main is root:
            merged[root] = root
        elif main.position is None:
            for child in [root] if root.position is not None else list(root.children):
                main.adopt(child)
        elif root.is_reply and not main.is_reply and root.position is not None:
            main.adopt(root)
        else:
            together = Node(None, min(main.date, root.date), main.subject, main.is_reply)
            merged[main] = together
            by_subject[root.subject] = together
            for node in (main, root):
                for child in [node] if node.position is not None else list(node.children):
                    together.adopt(child)
    threads = [node for node in merged.values() if node.parent is None]
    for root in threads:
        _date(root)
    return sorted(threads, key=_age)


def _age(node: Node) -> tuple[float, int]:
    return node.date, -1 if node.position is None else node.position


def _write(root: Node, shown: Callable[[int], int]) -> Iterator[bytes]:
    """What stands between the parentheses of a thread."""
    # Pairs of what is to be written; a chain of only children needs no parentheses.
    todo: list[Node | bytes] = [root]
    fresh = True
    while todo:
        item = todo.pop()
        if isinstance(item, bytes):
            fresh = item == b"("
            yield item
            continue
        if item.position is not None:
            yield (b"" if fresh else b" ") + b"%d" % shown(item.position)
            fresh = False
        if len(item.children) == 1 and item.position is not None:
            todo.append(item.children[0])
        elif item.children:
            if item.position is not None:
                yield b" "
            for child in reversed(item.children):
                todo += [b")", child, b"("]
