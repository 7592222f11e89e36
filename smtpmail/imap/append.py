"""A message that a client puts into a folder: APPEND (RFC 3501 6.3.11)."""

from __future__ import annotations

import os

from smtpmail.imap.commands import Append
from smtpmail.smtp.framing import LineEnds
from smtpmail.spool.files import write_all
from smtpmail.spool.reader.mailfolder import MailFolder, NewMessage
from smtpmail.spool.reader.states import RECENT


class Appending:
    """One message on its way; closes the folder with itself. Raises OSError."""

    def __init__(self, folder: MailFolder, command: Append, now: float) -> None:
        self._folder = folder
        self._date = now if command.date is None else max(command.date, 0)
        self._message = NewMessage(folder.new_file(), frozenset({*command.flags, RECENT}))
        self._line_ends = LineEnds()
        self._error: OSError | None = None

    def write(self, data: bytes) -> None:
        """The next piece. What goes wrong is told by `commit`: the client sends all of it anyway."""
        if self._error is None:
            try:
                write_all(self._message.file.fd, [self._line_ends.convert(data, last=False)])
            except OSError as error:
                self._error = error

    def commit(self) -> tuple[int, int]:
        """Puts the message into the folder; returns UIDVALIDITY and number when it is on disk. Raises OSError."""
        if self._error is not None:
            raise self._error
        file = self._message.file
        rest = self._line_ends.convert(b"", last=True)
        if rest:
            write_all(file.fd, [rest])
        nanoseconds = int(self._date * 1e9)
        os.utime(file.fd, ns=(nanoseconds, nanoseconds))
        validity = self._folder.know_validity()
        self._folder.add([self._message])
        return validity, self._message.number

    def close(self) -> None:
        """Gives everything back; a message that was not committed is gone."""
        self._message.file.close()
        self._folder.close()
