"""The only door for a message: whoever brings it, here the server takes responsibility for it (RFC 5321 4.2.5, 6.1).

Into mailboxes for local recipients, into the queue for others, durable for all or for none. A mailbox that can't take
its copy when others can gets it later, from the queue. What is put before the content is known only when the content
is whole: so every copy gets its header at commit.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from smtpmail.log import log
from smtpmail.mail import fields
from smtpmail.mail.envelope import Envelope
from smtpmail.mail.head import HeadReader, hops, message_id
from smtpmail.mail.queued import Item, item_of
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal, Reply
from smtpmail.spool.commit import commit, commit_each, withdraw
from smtpmail.spool.mailbox import Copy, MailboxBusy, MailboxDraft, Spool
from smtpmail.spool.queue import QueueStore

MAX_HOPS = 50
"""A message with more Received fields than this loops (RFC 5321 6.3)."""


def reply_to(error: OSError) -> Reply:
    """What a client is told when the disk does not take its message. It may try again: never a 5xx."""
    if isinstance(error, MailboxBusy):
        return replies.MAILBOX_BUSY
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return replies.NO_SPACE
    return replies.STORAGE_ERROR


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that is on disk."""

    envelope: Envelope
    header: bytes
    """Its own header, as it came."""
    queued: Item | None
    """What of it waits to leave."""


class Accept:
    """One for each process. `announce` is told of every message that was taken."""

    def __init__(
        self,
        spool: Spool,
        queue: QueueStore,
        hostname: str,
        announce: Callable[[Accepted], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.spool = spool
        self.queue = queue
        self.hostname = hostname
        self.announce = announce
        self.clock = clock

    def begin(self, envelope: Envelope) -> Incoming:
        """A message whose content follows."""
        return Incoming(envelope, self)

    def take(self, envelope: Envelope, content: bytes) -> None:
        """A message of this server's own: returns when it is on disk. Raises OSError, Refusal."""
        incoming = self.begin(envelope)
        try:
            incoming.write(content)
            incoming.commit(len(content) + content.count(b"\n"))
        finally:
            incoming.close()


class Incoming:
    """One message on its way in."""

    def __init__(self, envelope: Envelope, accept: Accept) -> None:
        self._envelope = envelope
        self._accept = accept
        self._arrived = accept.clock()
        self._head = HeadReader()
        self._body = accept.spool.content() if envelope.mailboxes else accept.queue.content()
        self._eightbit = False

    def write(self, data: bytes) -> None:
        """Takes the next piece of the content (LF line ends). Raises OSError, Refusal."""
        self._eightbit = self._eightbit or not data.isascii()
        if self._head.done:
            self._body.write(data)
            return
        body = self._head.feed(data)
        if hops(self._head.head) > MAX_HOPS:
            raise Refusal(replies.TOO_MANY_HOPS)
        if body:
            self._body.write(body)

    def commit(self, size: int) -> None:
        """Makes the message durable, logs and announces it; `size` counts octets as received.

        Raises OSError, Refusal: then nothing of it is anywhere.
        """
        accept, envelope = self._accept, self._envelope
        head = self._head.head
        added = fields.received(envelope, accept.hostname, self._arrived).encode() + fields.separator(head)
        local = accept.spool.prepare(self._body, self._copies(added + head))
        commit_each(local)
        late = {draft.user: draft.error for draft in local if draft.error is not None}
        if late and len(late) == len(local) and not envelope.remote:
            raise next(iter(late.values()))
        item = self._item(late, size, added) if late or envelope.remote else None
        if item is not None:
            try:
                commit([accept.queue.prepare(self._body, item, added + head)])
            except OSError:
                withdraw(local)
                raise
        self._tell(size, local, item)

    def _copies(self, header: bytes) -> list[Copy]:
        """One for each mailbox, whatever the number of recipients that lead there."""
        sender = str(self._envelope.sender)
        return [
            Copy(user, fields.final_delivery(sender, [str(r.address) for r in recipients]).encode() + header)
            for user, recipients in self._envelope.mailboxes.items()
        ]

    def _item(self, late: Iterable[str], size: int, added: bytes) -> Item:
        return item_of(
            self._envelope,
            late,
            size + len(added) + added.count(b"\n"),
            eightbit=self._eightbit or not added.isascii(),
            utf8_header=not (self._head.head.isascii() and added.isascii()),
            now=self._arrived,
        )

    def _tell(self, size: int, local: Sequence[MailboxDraft], item: Item | None) -> None:
        """The log, and whoever waits for new messages."""
        envelope = self._envelope
        peer = envelope.peer
        log.info(
            "message.received",
            id=envelope.id,
            sender=str(envelope.sender),
            recipients=[str(r.address) for r in envelope.recipients],
            size=size,
            client=peer.name if peer else None,
            listener=peer.listener if peer else None,
            helo=envelope.helo or None,
            tls=envelope.tls,
            message_id=message_id(self._head.head),
        )
        for draft in local:
            if draft.error is None:
                log.info("message.stored", id=envelope.id, user=draft.user, number=draft.number)
            else:
                log.error("message.late", id=envelope.id, user=draft.user, error=str(draft.error))
        if item is not None:
            log.info("message.queued", id=envelope.id, recipients=[r.address for r in item.recipients])
        self._accept.announce(Accepted(envelope, self._head.head, item))

    def close(self) -> None:
        """Frees what the message held; without a commit it is gone."""
        self._body.close()


def log_refused(envelope: Envelope, reply: Reply | None) -> None:
    """Tells of a message that was begun and not taken; `reply` is None when the client went away before one."""
    log.warning(
        "message.refused",
        id=envelope.id,
        sender=str(envelope.sender),
        recipients=[str(r.address) for r in envelope.recipients],
        client=envelope.peer.name if envelope.peer else None,
        reply=str(reply) if reply else None,
    )
