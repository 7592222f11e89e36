"""Where the server takes responsibility for a message: into mailboxes for local recipients, into the queue for others.

The 250 that `commit` returns is given only when everything is on disk (RFC 5321 4.2.5, 6.1), for all or for none.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Sequence

from smtpmail.bouncer import Bouncer
from smtpmail.log import log
from smtpmail.mail.envelope import Envelope
from smtpmail.mail.notification import header_of
from smtpmail.mail.queued import Item, item_of
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply
from smtpmail.spool.commit import commit
from smtpmail.spool.mailbox import Copy, MailboxBusy, MailboxDraft, Spool
from smtpmail.spool.queue import QueueDraft, QueueStore

_MESSAGE_ID = re.compile(rb"^message-id:\s*(<[^<>\s]{1,250}>)", re.IGNORECASE | re.MULTILINE)


HEAD_SIZE = 64 * 1024
"""Octets of a header that are looked at: more are not worth the memory."""


def reply_to(error: OSError) -> Reply:
    """What a client is told when the disk does not take its message. It may try again: never a 5xx."""
    if isinstance(error, MailboxBusy):
        return replies.MAILBOX_BUSY
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return replies.NO_SPACE
    return replies.STORAGE_ERROR


class Intake:
    """Begins messages; one for the whole server. `announce` tells of a new queued message."""

    def __init__(
        self,
        spool: Spool,
        store: QueueStore,
        bouncer: Bouncer,
        hostname: str,
        announce: Callable[[Item], None],
    ) -> None:
        self.spool = spool
        self.store = store
        self.bouncer = bouncer
        self.hostname = hostname
        self.announce = announce

    def begin(self, envelope: Envelope) -> Incoming:
        """A message whose content follows. Raises OSError."""
        return Incoming(envelope, self)


class Incoming:
    """One message on its way in."""

    def __init__(self, envelope: Envelope, intake: Intake) -> None:
        self._envelope = envelope
        self._intake = intake
        self._arrived = time.time()
        self._received = envelope.received(intake.hostname, self._arrived).encode()
        self._copies = [
            Copy(r.user, envelope.delivery_header(r).encode() + self._received) for r in envelope.local if r.user
        ]
        self._content = intake.spool.content(self._copies[0]) if self._copies else intake.store.content()
        self._head = b""
        self._head_is_whole = False
        self._eightbit = not self._received.isascii()

    def write(self, data: bytes) -> None:
        """Takes the next piece of the content. Raises OSError."""
        if not self._head_is_whole:
            seen = self._head + data[:HEAD_SIZE]
            self._head = header_of(seen)[:HEAD_SIZE]
            self._head_is_whole = len(self._head) < len(seen)
        self._eightbit = self._eightbit or not data.isascii()
        self._content.write(data)

    def commit(self, size: int) -> Reply:
        """Makes the message durable and answers for it; `size` counts octets as received."""
        envelope = self._envelope
        intake = self._intake
        local: list[MailboxDraft] = []
        queued: list[QueueDraft] = []
        try:
            local = intake.spool.prepare(self._content, self._copies)
            if envelope.remote:
                queued = [intake.store.prepare(self._content, self._item(size), self._received)]
            commit([*queued, *local])
        except OSError as error:
            return self.failed(error)
        finally:
            for draft in (*local, *queued):
                draft.close()
        self._tell(size, local, queued)
        return replies.queued(envelope.id)

    def _item(self, size: int) -> Item:
        return item_of(
            self._envelope,
            size + len(self._received) + self._received.count(b"\n"),
            eightbit=self._eightbit,
            utf8_header=not (self._head.isascii() and self._received.isascii()),
            now=self._arrived,
        )

    def _tell(self, size: int, local: Sequence[MailboxDraft], queued: Sequence[QueueDraft]) -> None:
        """The log; the queue's runner; senders who asked to be told of a delivery."""
        envelope = self._envelope
        message_id = _MESSAGE_ID.search(self._head)
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
            message_id=message_id[1].decode("utf-8", "replace") if message_id else None,
        )
        for draft in local:
            log.info("message.stored", id=envelope.id, user=draft.user, number=draft.number)
        for waiting in queued:
            log.info("message.queued", id=envelope.id, recipients=[r.address for r in waiting.item.recipients])
            self._intake.announce(waiting.item)
        if any(r.notify for r in envelope.local):
            try:
                self._intake.bouncer.success(envelope, envelope.local, self._head)
            except OSError as error:
                log.error("bounce.failed", id=envelope.id, error=str(error))

    def failed(self, error: OSError) -> Reply:
        """Logs that the message could not be stored; returns the reply for the client."""
        reply = reply_to(error)
        log.error("message.failed", id=self._envelope.id, error=str(error), reply=str(reply))
        return reply

    def close(self) -> None:
        """Frees what the message held; without a commit it is gone."""
        self._content.close()
