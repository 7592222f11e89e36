"""FETCH: what is told of each message (RFC 3501 6.4.5, 7.4.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smtpmail.imap.content import MessageFile, to_wire
from smtpmail.imap.decode import UnknownEncoding, decode_part
from smtpmail.imap.fetch_items import Item, Section
from smtpmail.imap.responses import Refused, internal_date, listed, no
from smtpmail.imap.selected import Selected
from smtpmail.imap.structure import body_structure, envelope


class Torn(Exception):
    """A response that has begun cannot be ended: the connection has to be closed."""


class Fetcher:
    """Writes the FETCH responses of some messages; `utf8` as in responses.string."""

    def __init__(self, selected: Selected, items: Sequence[Item], *, utf8: bool) -> None:
        self._selected = selected
        self._items = items
        self._utf8 = utf8
        self._needs_file = any(isinstance(item, Section) or item in _FROM_FILE for item in items)
        self.missing = False
        """Whether a message was removed before it could be read."""

    def fetch(self, positions: Sequence[int]) -> Iterator[bytes]:
        """The responses, in pieces. Raises Refused, OSError."""
        for position in positions:
            if not self._needs_file:
                try:
                    items = [self._plain(position, item) for item in self._items]
                except FileNotFoundError:
                    self.missing = True
                    continue
                yield b"* %d FETCH %s\r\n" % (position + 1, listed(items))
                continue
            try:
                message = MessageFile(*self._selected.folder.open_message(self._selected.numbers[position]))
            except OSError:
                # Removed by somebody, or a link or the like that was put in its place.
                self.missing = True
                continue
            try:
                yield from self._from_file(position, message)
            except OSError as error:
                raise Torn(f"the message cannot be read: {error.strerror}") from error
            finally:
                message.close()

    def _plain(self, position: int, item: Item) -> bytes:
        """An item for which the message need not be opened. Raises FileNotFoundError."""
        selected = self._selected
        match item:
            case "UID":
                return b"UID %d" % selected.numbers[position]
            case "FLAGS":
                return b"FLAGS " + listed(sorted(selected.flags(position)))
            case "MODSEQ":
                return b"MODSEQ (%d)" % selected.modseq(position)
            case "INTERNALDATE":
                place = selected.place(position)
                if place is None:
                    raise FileNotFoundError
                return b"INTERNALDATE " + internal_date(selected.index.dates[place] / 1e9)
            case "RFC822.SIZE":
                return b"RFC822.SIZE %d" % selected.wire_octets(position)
        raise AssertionError(item)

    def _from_file(self, position: int, message: MessageFile) -> Iterator[bytes]:
        # Looked up before anything is sent: once a response has begun, it must be ended.
        if self._selected.place(position) is None:
            self.missing = True
            return
        size = self._selected.wire_octets(position, message) if self._needs_size else 0
        binary = {i: self._binary(message, i) for i in self._items if isinstance(i, Section) and i.binary}
        yield b"* %d FETCH (" % (position + 1)
        for n, item in enumerate(self._items):
            if n:
                yield b" "
            if isinstance(item, Section):
                yield from self._section(message, item, size, binary.get(item))
            elif item == "ENVELOPE":
                yield b"ENVELOPE " + envelope(message.header(), utf8=self._utf8)
            elif item in ("BODY", "BODYSTRUCTURE"):
                extended = item == "BODYSTRUCTURE"
                structure = body_structure(message.data(), message.structure(), extended=extended, utf8=self._utf8)
                yield item.encode() + b" " + structure
            else:
                yield self._plain(position, item)
        yield b")\r\n"

    @property
    def _needs_size(self) -> bool:
        return any(item == "RFC822.SIZE" or (isinstance(item, Section) and not item.parts) for item in self._items)

    def _section(self, message: MessageFile, section: Section, size: int, binary: bytes | None) -> Iterator[bytes]:
        label = section.label
        if section.partial is not None:
            label += b"<%d>" % section.partial[0]
        if binary is not None:
            yield label + b" " + binary
            return
        found = message.section(section, size)
        if found is None:
            yield label + b" NIL"
            return
        octets, pieces = found
        yield label + b" {%d}\r\n" % octets
        for piece in pieces:
            yield piece[:octets]
            octets -= min(len(piece), octets)
        if octets:
            # Somebody changes the file while it is read: the client waits for what will not come.
            raise Torn(f"message changed while it was read: {octets} octets are missing")

    def _binary(self, message: MessageFile, section: Section) -> bytes:
        """BINARY[...] (RFC 3516): decoded, as a literal8 if it has a NUL."""
        part = message.structure().find(section.parts) if section.parts else message.structure()
        if part is None:
            return b"0" if section.size_only else b"NIL"
        try:
            if section.parts and not part.children and part.message is None:
                data = decode_part(message.data(), part)
                data = data if b"\0" in data or not part.is_text else to_wire(data.replace(b"\r\n", b"\n"))
            else:
                start = part.body if section.parts else part.start
                data = to_wire(message.data()[start : part.end])
        except UnknownEncoding:
            raise Refused(no("The part has an unknown transfer encoding", b"UNKNOWN-CTE")) from None
        if section.size_only:
            return b"%d" % len(data)
        if section.partial is not None:
            data = data[section.partial[0] : section.partial[0] + section.partial[1]]
        return b"%s{%d}\r\n%s" % (b"~" if b"\0" in data else b"", len(data), data)


_FROM_FILE = frozenset({"ENVELOPE", "BODY", "BODYSTRUCTURE"})
