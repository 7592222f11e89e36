"""Where a recipient's mail goes: Local, Remote or Refused. The rules alone; what is local comes in as arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain, parse_literal
from smtpmail.mail.route import Local, Remote, Route
from smtpmail.network import IPAddress
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Reply
from smtpmail.users.users import Users, UsersUnreadable, user_of


@dataclass(frozen=True, slots=True)
class Refused:
    """Not taken, with the reply that says why."""

    reply: Reply


class Router:
    """Decides for each recipient. One for each listener: the listener says whether mail may leave (`may_relay`)."""

    def __init__(
        self,
        domains: Iterable[str],
        users: Users,
        *,
        may_relay: bool,
        is_own_address: Callable[[IPAddress], bool],
    ) -> None:
        self._domains = frozenset(normal_domain(d) for d in domains)
        self._users = users
        self._may_relay = may_relay
        self._is_own_address = is_own_address

    def route(self, address: Address) -> Route | Refused:
        """The way of mail for `address`."""
        try:
            local = self._is_local(address.domain)
        except AddressSyntaxError:
            return Refused(replies.BAD_RECIPIENT_SYNTAX)
        if not local:
            return Remote() if self._may_relay else Refused(replies.RELAY_DENIED)
        user = user_of(address.local)
        if user is None:
            return Refused(replies.NO_SUCH_USER)
        try:
            mailbox = self._users.mailbox(user)
        except UsersUnreadable:
            return Refused(replies.USERS_UNREADABLE)
        return Local(mailbox) if mailbox else Refused(replies.NO_SUCH_USER)

    def _is_local(self, domain: str) -> bool:
        if not domain:
            return True
        if domain in self._domains:
            return True
        if domain.startswith("["):
            return self._is_own_address(parse_literal(domain))
        return normal_domain(domain) in self._domains
