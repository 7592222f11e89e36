"""The MIME structure of a message, exactly by the octets of its file (RFC 2045, RFC 2046, RFC 3501 6.4.5).

A file has LF line ends; on the wire each LF is CRLF. All offsets here are those of the file; `wire_size` converts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smtpmail.imap.header import Header, parse_type

MAX_DEPTH = 100
"""Parts that lie deeper are not looked into."""

MAX_PARTS = 10_000

TEXT_PLAIN = (b"text", b"plain", [(b"charset", b"us-ascii")])


@dataclass(slots=True)
class Part:
    """A message, or a part of one."""

    start: int
    """Where its header begins."""
    body: int
    """Where its body begins, behind the empty line."""
    end: int
    header: Header
    main_type: bytes
    subtype: bytes
    parameters: list[tuple[bytes, bytes]]
    children: list[Part] = field(default_factory=list)
    """Of a multipart."""
    message: Part | None = None
    """Of a message/rfc822: the message in it."""

    @property
    def is_multipart(self) -> bool:
        return bool(self.children)

    @property
    def is_text(self) -> bool:
        return self.main_type.lower() == b"text"

    def find(self, numbers: tuple[int, ...]) -> Part | None:
        """The part that the numbers of a section name, seen from a whole message (RFC 3501 6.4.5)."""
        part: Part | None = None
        container: Part | None = self
        for number in numbers:
            if container is None:
                return None
            if container.is_multipart:
                if number > len(container.children):
                    return None
                part = container.children[number - 1]
                container = part if part.is_multipart else part.message
            elif number == 1:
                part = container
                container = part.message
            else:
                return None
        return part


def wire_size(data: bytes, start: int, end: int) -> int:
    """Octets of a range of the file on the wire."""
    return end - start + data.count(b"\n", start, end)


def end_of_header(data: bytes, start: int, end: int) -> int:
    """Behind the empty line that ends a header; `end` if there is none."""
    if data[start : start + 1] == b"\n":
        return start + 1
    found = data.find(b"\n\n", start, end)
    return end if found < 0 else found + 2


def parse_message(data: bytes) -> Part:
    """The structure of a whole message."""
    return _Parser(data).part(0, len(data), 0)


class _Parser:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._count = 0

    def part(self, start: int, end: int, depth: int, *, in_digest: bool = False) -> Part:
        data = self._data
        self._count += 1
        body = end_of_header(data, start, end)
        header = Header(data[start:body])
        declared = header.get(b"content-type")
        default = (b"message", b"rfc822", []) if in_digest else TEXT_PLAIN
        main_type, subtype, parameters = (parse_type(declared) if declared else None) or default
        part = Part(start, body, end, header, main_type, subtype, parameters)
        if depth >= MAX_DEPTH or self._count >= MAX_PARTS:
            self._as_leaf(part)
            return part
        match main_type.lower(), subtype.lower():
            case b"multipart", kind:
                boundary = next((value for name, value in parameters if name.lower() == b"boundary"), b"").rstrip()
                if boundary:
                    for first, last in self._between(boundary, body, end):
                        part.children.append(self.part(first, last, depth + 1, in_digest=kind == b"digest"))
                        if self._count >= MAX_PARTS:
                            break
                self._as_leaf(part)
            case b"message", b"rfc822" | b"global":
                part.message = self.part(body, end, depth + 1)
        return part

    @staticmethod
    def _as_leaf(part: Part) -> None:
        """A multipart without parts, and what is too deep, is shown as plain text: there is no other way to say it."""
        if not part.children and part.main_type.lower() in (b"multipart", b"message"):
            part.main_type, part.subtype, part.parameters = TEXT_PLAIN

    def _between(self, boundary: bytes, start: int, end: int) -> list[tuple[int, int]]:
        """What lies between the lines that delimit parts; the line end before such a line belongs to it."""
        data = self._data
        delimiter = b"\n--" + boundary
        parts: list[tuple[int, int]] = []
        inside = -1
        position = start - 1
        while (found := data.find(delimiter, position, end)) >= 0:
            line_end = data.find(b"\n", found + 1, end)
            after = end if line_end < 0 else line_end + 1
            rest = data[found + len(delimiter) : after].rstrip(b" \t\r\n")
            if rest not in (b"", b"--"):
                # A longer boundary that begins like this one.
                position = found + 1
                continue
            if inside >= 0:
                parts.append((inside, max(inside, found)))
            inside = after
            if rest:
                return parts
            if len(parts) + self._count >= MAX_PARTS or line_end < 0:
                break
            position = line_end
        if inside >= 0:
            parts.append((inside, end))
        return parts
