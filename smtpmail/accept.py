"""The only door for a message: whoever brings it, here the server takes responsibility for it (RFC 5321 4.2.5, 6.1).

Into mailboxes for local recipients, into the queue for others, durable for all or for none. A mailbox that can't take
its copy when others can gets it later, from the queue. What is put before the content is known only when the content
is whole: so every copy gets its header at commit.
"""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from smtpmail.auth.inspector import Inspected, Inspector
from smtpmail.log import log
from smtpmail.mail import fields
from smtpmail.mail.address import Address
from smtpmail.mail.departure import Departure, ForwardingLoop, departures, stop_loops
from smtpmail.mail.envelope import Envelope, new_id
from smtpmail.mail.head import HeadReader, hops, message_id
from smtpmail.mail.queued import Item, item_of
from smtpmail.mail.submission import Origin, fix_up_head, runs_on
from smtpmail.mail.text import on_the_wire
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal, Reply
from smtpmail.spool.commit import withdraw
from smtpmail.spool.content import Content
from smtpmail.spool.mailbox import JUNK, Copy, MailboxBusy, MailboxDraft, Spool
from smtpmail.spool.queue import QueueDraft, QueueStore

MAX_HOPS = 50
"""A message with more Received fields than this loops (RFC 5321 6.3)."""

ROOM_SECONDS = 0.1
"""For so long the disk is taken to be as full as it was."""

SHORT_LOCK_PATIENCE = 1.0
"""Seconds that a message with several recipients waits for mailboxes that other programs have locked: what can't be
stored by then is stored later, and nobody has to wait for it."""

SHARED_LOCK_PATIENCE = 10.0
"""The same on a shared spool, where other hosts have them locked all the time."""


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
    queued: tuple[Item, ...]
    """What of it waits to leave: the message itself, and what is sent on."""


class Accept:
    """One for each process. `announce` is told of every message that was taken.

    `rewrite` makes the envelope sender of what is sent on from here. With `origin`, the domain of bare addresses, what
    programs of this host hand in is completed (RFC 6409 8); what comes from the network never is. `inspector` verifies
    what comes, and signs what leaves.
    """

    def __init__(
        self,
        spool: Spool,
        queue: QueueStore,
        hostname: str,
        announce: Callable[[Accepted], None],
        clock: Callable[[], float] = time.time,
        *,
        rewrite: Callable[[Address], Address] = lambda sender: sender,
        origin: str | None = None,
        min_free: int = 0,
        inspector: Inspector | None = None,
    ) -> None:
        self.spool = spool
        self.queue = queue
        self.hostname = hostname
        self.announce = announce
        self.clock = clock
        self.rewrite = rewrite
        self.origin = origin
        self.inspector = inspector
        self._room = 0
        self._room_until = 0.0
        self.min_free = min_free
        """Octets that must be free on disk for a message to be begun."""

    def check_room(self, size: int) -> None:
        """Raises Refusal when a message of `size` octets (0: not known) would not leave enough room."""
        needed = self.min_free + size
        now = time.monotonic()
        if now >= self._room_until:
            try:
                self._room = min(self.spool.free_octets(), self.queue.free_octets())
            except OSError:
                return  # what is wrong will be seen, and said, when the message is stored
            self._room_until = now + ROOM_SECONDS
        room = self._room
        if room < needed:
            log.warning("disk.full", free=room, needed=needed)
            raise Refusal(replies.NO_SPACE)

    def content(self, *, for_mailboxes: bool) -> Content:
        """Begins a content. What is large lies where it will be kept, but not on a file system that may hang."""
        if (self.spool if for_mailboxes else self.queue).shared:
            return self.queue.content() if not self.queue.shared else Content(tempfile.gettempdir())
        return self.spool.content() if for_mailboxes else self.queue.content()

    def begin(self, envelope: Envelope) -> Incoming:
        """A message whose content follows."""
        return Incoming(envelope, self)

    def take(self, envelope: Envelope, content: bytes) -> None:
        """A message of this server's own: returns when it is on disk. Raises OSError, Refusal."""
        incoming = self.begin(envelope)
        try:
            incoming.write(content)
            incoming.commit(on_the_wire(content))
        finally:
            incoming.close()


class Incoming:
    """One message on its way in."""

    def __init__(self, envelope: Envelope, accept: Accept) -> None:
        self._envelope = envelope
        self._accept = accept
        self._arrived = accept.clock()
        self._head = HeadReader()
        self._body = accept.content(for_mailboxes=bool(envelope.mailboxes))
        self._eightbit = False
        self._inspection = accept.inspector.inspection(envelope) if accept.inspector else None

    @property
    def head(self) -> bytes:
        """The header of the content, as far as it has come."""
        return self._head.head

    def write(self, data: bytes) -> None:
        """Takes the next piece of the content (LF line ends). Raises OSError, Refusal."""
        self._eightbit = self._eightbit or not data.isascii()
        if self._inspection is not None:
            self._inspection.write(data)
        if self._head.done:
            self._body.write(data)
            return
        body = self._head.feed(data)
        if self._head.done:
            self._check_hops()
        if body:
            self._body.write(body)

    def _check_hops(self) -> None:
        if hops(self._head.head) > MAX_HOPS:
            raise Refusal(replies.TOO_MANY_HOPS)

    def commit(self, size: int) -> None:
        """Makes the message durable, logs and announces it; `size` counts octets as received.

        Raises OSError, Refusal: then nothing of it is anywhere.
        """
        accept, envelope = self._accept, self._envelope
        if not self._head.done:
            self._check_hops()
        self._stop_loops()
        head = self._header()
        found = self._inspection.finish(head) if self._inspection is not None else Inspected(head)
        head = found.header
        added = fields.received(envelope, accept.hostname, self._arrived).encode() + found.results
        header = added + fields.separator(head) + head
        leaving = departures(envelope, accept.rewrite) if envelope.remote else []
        copies = self._copies(header, JUNK if found.junk else "")
        alone = len(copies) == 1 and not leaving
        short = SHARED_LOCK_PATIENCE if accept.spool.shared else SHORT_LOCK_PATIENCE
        local = accept.spool.store(self._body, copies, None if alone else short)
        late = {draft.user: draft.error for draft in local if draft.error is not None}
        if late and len(late) == len(local) and not envelope.remote:
            raise next(iter(late.values()))
        if late and not any(departure.forwarder is None for departure in leaving):
            leaving.append(Departure(new_id() if leaving else envelope.id, envelope.sender))
        header = found.signatures + header
        size_out = size + on_the_wire(header) - on_the_wire(self._head.head)
        drafts = [self._draft(departure, late, header, size_out, junk=found.junk) for departure in leaving]
        try:
            if drafts:
                accept.queue.store(self._body, drafts)
        except OSError:
            withdraw(local)
            raise
        items = tuple(draft.item for draft in drafts)
        self._tell(size, head, local, list(zip(leaving, items, strict=True)))
        accept.announce(Accepted(envelope, head, items))

    def _stop_loops(self) -> None:
        """Raises Refusal."""
        try:
            self._envelope.recipients = stop_loops(self._envelope.recipients, self._head.head)
        except ForwardingLoop as loop:
            log.warning("forward.looped", id=self._envelope.id, recipient=str(loop.address))
            raise Refusal(replies.FORWARDING_LOOP) from None

    def _header(self) -> bytes:
        """The message's own header, completed if a program of this host left something out. Raises Refusal."""
        accept, envelope = self._accept, self._envelope
        if accept.origin is None or envelope.peer is None or not envelope.peer.is_ours:
            return self._head.head
        if self._head.oversized and runs_on(self._head.head):
            # A Bcc may stand in what was not looked at.
            raise Refusal(replies.HEADER_TOO_LARGE)
        author = envelope.sender if not envelope.sender.is_null else Address("MAILER-DAEMON", accept.origin)
        origin = Origin(
            accept.origin, str(author), fields.date(int(self._arrived)), f"<{envelope.id}@{accept.hostname}>"
        )
        return fix_up_head(self._head.head, origin)

    def _copies(self, header: bytes, folder: str) -> list[Copy]:
        """One for each mailbox, whatever the number of recipients that lead there."""
        copies = []
        for user, recipients in self._envelope.mailboxes.items():
            sender = str(self._envelope.sender_for(user, recipients))
            delivery = fields.final_delivery(sender, [str(r.address) for r in recipients])
            copies.append(Copy(user, delivery.encode() + header, folder))
        return copies

    def _draft(self, departure: Departure, late: Iterable[str], header: bytes, size: int, *, junk: bool) -> QueueDraft:
        """A file for the queue. What is sent on tells where it has been. Raises OSError."""
        if departure.forwarder is not None:
            passed = f"Delivered-To: {departure.forwarder}\n".encode()
            header, size = passed + header, size + on_the_wire(passed)
        item = item_of(
            self._envelope,
            departure,
            late if departure.forwarder is None else (),
            size,
            eightbit=self._eightbit or not header.isascii(),
            utf8_header=not header.isascii(),
            now=self._arrived,
            junk=junk and departure.forwarder is None,
        )
        return self._accept.queue.prepare(self._body, item, header)

    def _tell(
        self, size: int, header: bytes, local: Sequence[MailboxDraft], leaving: Sequence[tuple[Departure, Item]]
    ) -> None:
        """The log."""
        with log.together():
            self._tell_all(size, header, local, leaving)

    def _tell_all(
        self, size: int, header: bytes, local: Sequence[MailboxDraft], leaving: Sequence[tuple[Departure, Item]]
    ) -> None:
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
            message_id=message_id(header),
        )
        for draft in local:
            if draft.error is None:
                folder = draft.subfolder or None
                log.info("message.stored", id=envelope.id, user=draft.user, number=draft.number, folder=folder)
            else:
                log.error("message.late", id=envelope.id, user=draft.user, error=str(draft.error))
        for departure, item in leaving:
            addresses = [r.address for r in item.recipients]
            if departure.forwarder is None:
                log.info("message.queued", id=departure.id, recipients=addresses)
            else:
                log.info(
                    "message.forwarded",
                    id=departure.id,
                    of=envelope.id,
                    forwarder=str(departure.forwarder),
                    sender=str(departure.sender),
                    recipients=addresses,
                )
        if not local and not leaving:
            log.info("message.dropped", id=envelope.id, recipients=[str(r.address) for r in envelope.recipients])

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
