"""Where the server takes responsibility for a message: local recipients' copies go into their mailboxes.

The 250 that `commit` returns is given only when everything is on disk (RFC 5321 4.2.5, 6.1).
"""

from __future__ import annotations

import errno
import time

from smtpmail.content import Content
from smtpmail.envelope import Envelope
from smtpmail.log import log
from smtpmail.mailbox import Copy, MailboxBusy, Spool
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply


def reply_to(error: OSError) -> Reply:
    """What a client is told when the disk does not take its message. It may try again: never a 5xx."""
    if isinstance(error, MailboxBusy):
        return replies.MAILBOX_BUSY
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return replies.NO_SPACE
    return replies.STORAGE_ERROR


class Incoming:
    """One message on its way in."""

    def __init__(self, envelope: Envelope, spool: Spool, hostname: str) -> None:
        self._envelope = envelope
        self._spool = spool
        received = envelope.received(hostname, time.time()).encode()
        self._copies = [Copy(r.user, envelope.delivery_header(r).encode() + received) for r in envelope.local if r.user]
        self._content: Content = spool.content(self._copies[0])

    def write(self, data: bytes) -> None:
        """Takes the next piece of the content. Raises OSError."""
        self._content.write(data)

    def commit(self, size: int) -> Reply:
        """Makes the message durable and answers for it; `size` counts octets as received."""
        envelope = self._envelope
        try:
            stored = self._spool.deliver(self._content, self._copies)
        except OSError as error:
            return self.failed(error)
        log.info(
            "message.received",
            id=envelope.id,
            sender=str(envelope.sender),
            recipients=[str(r.address) for r in envelope.recipients],
            size=size,
            client=envelope.client.name,
            listener=envelope.client.listener,
            helo=envelope.helo,
            tls=envelope.tls,
        )
        for place in stored:
            log.info("message.stored", id=envelope.id, user=place.user, number=place.number)
        return replies.queued(envelope.id)

    def failed(self, error: OSError) -> Reply:
        """Logs that the message could not be stored; returns the reply for the client."""
        reply = reply_to(error)
        log.error("message.failed", id=self._envelope.id, error=str(error), reply=str(reply))
        return reply

    def close(self) -> None:
        """Frees what the message held; without a commit it is gone."""
        self._content.close()


class Intake:
    """Begins messages; one for the whole server."""

    def __init__(self, spool: Spool, hostname: str) -> None:
        self._spool = spool
        self._hostname = hostname

    def begin(self, envelope: Envelope) -> Incoming:
        """A message whose content follows. Raises OSError."""
        return Incoming(envelope, self._spool, self._hostname)
