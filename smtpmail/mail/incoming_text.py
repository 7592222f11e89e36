"""A message as a program hands it over on standard input: lines in, the message as it is submitted out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from smtpmail.mail.submission import HEADER_LIMIT, header_end


class HeaderTooLarge(ValueError):
    """A header of more than HEADER_LIMIT octets."""


def lines_of(lines: Iterable[bytes], *, ignore_dots: bool) -> Iterator[bytes]:
    """The lines of a message with LF line ends, up to a lone dot unless that is to be ignored.

    A line `From ...` at the start belongs to a mailbox file, not to the message. Long lines may come in pieces.
    """
    first = whole = True
    for line in lines:
        begins, whole = whole, line.endswith(b"\n")
        if begins and not ignore_dots and line in (b".\n", b".\r\n", b"."):
            return
        if first and line.startswith((b"From ", b">From ")):
            continue
        first = False
        yield line[:-2] + b"\n" if line.endswith(b"\r\n") else line


def rewrite_header(pieces: Iterable[bytes], rewrite: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """The message with its header replaced by what `rewrite` makes of it, an empty line behind it.

    Raises HeaderTooLarge.
    """
    data, end = bytearray(), 0
    rest = iter(pieces)
    for piece in rest:
        data += piece
        end, certain = header_end(data, end)
        if end > HEADER_LIMIT or len(data) > 2 * HEADER_LIMIT:
            raise HeaderTooLarge(f"the header has more than {HEADER_LIMIT} octets")
        if certain:
            break
    else:
        if data and not data.endswith(b"\n"):
            data += b"\n"
        end, _ = header_end(data, end)
    yield rewrite(bytes(data[:end]))
    body = bytes(data[end:])
    yield body if body.startswith(b"\n") else b"\n" + body
    yield from rest
