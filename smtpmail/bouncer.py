"""Sends delivery status notifications: into the mailbox of a local sender, through the queue to any other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import TypeVar

from smtpmail.log import log
from smtpmail.mail import notification as dsn
from smtpmail.mail.address import Address, AddressSyntaxError, parse_address
from smtpmail.mail.envelope import Envelope, Recipient, new_id
from smtpmail.mail.notification import Fate, Kind, Original
from smtpmail.mail.queued import Item, QueuedRecipient
from smtpmail.mail.route import Local, Route
from smtpmail.spool.commit import Draft, commit
from smtpmail.spool.content import Content
from smtpmail.spool.mailbox import Copy, Spool
from smtpmail.spool.queue import QueueStore
from smtpmail.users.routing import Refused

D = TypeVar("D", bound=Draft)


class Bouncer:
    """`route` is that of the loopback listener: a notification may leave. `announce` tells of a new queued message."""

    def __init__(
        self,
        spool: Spool,
        store: QueueStore,
        route: Callable[[Address], Route | Refused],
        hostname: str,
        announce: Callable[[Item], None],
    ) -> None:
        self._spool = spool
        self._store = store
        self._route = route
        self._hostname = hostname
        self._announce = announce

    def send(
        self, kind: Kind, original: Original, fates: Sequence[Fate], *, requiretls: bool, until: float = 0.0
    ) -> None:
        """Tells the sender; returns when the notification is on disk. Raises OSError.

        Nobody is told of a bounce (RFC 5321 4.5.5), or when the sender's address can take no mail here.
        """
        if not original.sender or not fates:
            return
        try:
            address = parse_address(original.sender)
            route = self._route(address)
        except AddressSyntaxError:
            return
        id_ = new_id()
        if isinstance(route, Refused):
            if route.reply.code < 500:
                raise OSError(f"the sender {original.sender} can't be told now: {route.reply}")
            log.warning("bounce.dropped", id=id_, of=original.id, recipient=original.sender, reply=str(route.reply))
            return
        text = dsn.build(kind, original, fates, self._hostname, time.time(), until)
        if isinstance(route, Local):
            self._store_locally(text, address, route.user, id_)
        else:
            self._enqueue(text, original, id_, requiretls=requiretls)
        log.info(
            "bounce.queued",
            id=id_,
            of=original.id,
            kind=kind.value.lower(),
            recipient=original.sender,
            about=[fate.recipient for fate in fates],
        )

    def success(self, envelope: Envelope, recipients: Sequence[Recipient], message: bytes) -> None:
        """Tells of delivery into mailboxes where NOTIFY asked for it (RFC 3461 5.2.3). Raises OSError."""
        fates = [
            Fate(str(r.address), r.orcpt, "2.0.0", "delivered")
            for r in recipients
            if dsn.wanted(Kind.SUCCESS, r.notify)
        ]
        sender = str(envelope.sender)
        original = Original(envelope.id, sender, time.time(), envelope.envid, full=False, text=message)
        self.send(Kind.SUCCESS, original, fates, requiretls=envelope.requiretls)

    def _store_locally(self, text: bytes, address: Address, user: str, id_: str) -> None:
        header = f"Return-Path: <>\nDelivered-To: {address}\n{self._received(id_)}".encode()
        copy = Copy(user, header)
        (draft,) = _commit(self._spool.content(copy), text, lambda content: self._spool.prepare(content, [copy]))
        log.info("message.stored", id=id_, user=draft.user, number=draft.number)

    def _enqueue(self, text: bytes, original: Original, id_: str, *, requiretls: bool) -> None:
        header = self._received(id_).encode()
        item = Item(
            id_,
            time.time(),
            "",
            [QueuedRecipient(original.sender, ("NEVER",))],
            size=len(header) + len(text) + header.count(b"\n") + text.count(b"\n"),
            eightbit=not text.isascii(),
            smtputf8=not original.sender.isascii(),
            requiretls=requiretls,
            bounce_of=original.id,
        )
        _commit(self._store.content(), text, lambda content: [self._store.prepare(content, item, header)])
        log.info("message.queued", id=id_, recipients=[original.sender])
        self._announce(item)

    def _received(self, id_: str) -> str:
        return f"Received: by {self._hostname} id {id_};\n\t{formatdate(time.time(), localtime=True)}\n"


def _commit(content: Content, text: bytes, prepare: Callable[[Content], Sequence[D]]) -> Sequence[D]:
    """Makes a text durable where `prepare` puts it. Raises OSError."""
    drafts: Sequence[D] = ()
    try:
        content.write(text)
        drafts = prepare(content)
        commit(drafts)
    finally:
        for draft in drafts:
            draft.close()
        content.close()
    return drafts
