"""Where a recipient's mail goes, or why it is refused. The rules alone; what is local comes in as arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from smtpmail.mail.address import Address, AddressSyntaxError, normal_domain, parse_literal
from smtpmail.mail.route import Local, Remote, Route
from smtpmail.network import IPAddress
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal
from smtpmail.users.users import Users, UsersUnreadable, user_of


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

    def routes(self, address: Address) -> tuple[Route, ...]:
        """The ways of mail for `address`. Raises Refusal."""
        try:
            local = self._is_local(address.domain)
        except AddressSyntaxError:
            raise Refusal(replies.BAD_RECIPIENT_SYNTAX) from None
        if not local:
            if not self._may_relay:
                raise Refusal(replies.RELAY_DENIED)
            return (Remote(address),)
        user = user_of(address.local)
        try:
            mailbox = self._users.mailbox(user) if user is not None else None
        except UsersUnreadable:
            raise Refusal(replies.USERS_UNREADABLE) from None
        if mailbox is None:
            raise Refusal(replies.NO_SUCH_USER)
        return (Local(mailbox),)

    def _is_local(self, domain: str) -> bool:
        if not domain:
            return True
        if domain in self._domains:
            return True
        if domain.startswith("["):
            return self._is_own_address(parse_literal(domain))
        return normal_domain(domain) in self._domains
