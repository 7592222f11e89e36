"""Where a recipient's mail goes, or why it is refused. The rules alone; what is local comes in as arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from smtpmail.log import log
from smtpmail.mail.address import NULL_PATH, Address, AddressSyntaxError, normal_domain, parse_literal
from smtpmail.mail.route import Local, Remote, Route
from smtpmail.mail.srs import SRSError
from smtpmail.network import IPAddress
from smtpmail.smtp import replies
from smtpmail.smtp.replies import Refusal
from smtpmail.users.aliases import Aliases, AliasesUnreadable, Expander, Expansion
from smtpmail.users.forwarding import Forwarding
from smtpmail.users.forwards import ForwardWalk
from smtpmail.users.own import Own
from smtpmail.users.users import Users, UsersUnreadable, user_of


class LocalDomains:
    """Which domains are served here: those of the settings, and literals of this host's own addresses."""

    def __init__(self, domains: Iterable[str], is_own_address: Callable[[IPAddress], bool]) -> None:
        self._domains = frozenset(normal_domain(d) for d in domains)
        self._is_own_address = is_own_address

    def __call__(self, domain: str) -> bool:
        """Whether mail for this domain (empty: a bare name) is for this host. Raises AddressSyntaxError."""
        if not domain or domain in self._domains:
            return True
        if domain.startswith("["):
            return self._is_own_address(parse_literal(domain))
        return normal_domain(domain) in self._domains


class Router:
    """Decides for each recipient. One for each listener: the listener says whether mail may leave (`may_relay`).

    What an alias or a user's own `.forward` sends elsewhere may always leave. `own` reads what a user decides about
    their mailbox, None where users have no say.
    """

    def __init__(
        self,
        is_local: Callable[[str], bool],
        users: Users,
        *,
        may_relay: bool,
        aliases: Aliases | None = None,
        forwarding: Forwarding | None = None,
        own: Callable[[str], Own] | None = None,
    ) -> None:
        self._is_local = is_local
        self._users = users
        self._may_relay = may_relay
        self._expander = Expander(aliases, is_local, self._mailbox, self._is_known)
        self._forwarding = forwarding
        self._own = own

    def routes(self, address: Address, sender: Address = NULL_PATH) -> tuple[Route, ...]:
        """The ways of mail from `sender` for `address`. Raises Refusal."""
        try:
            local = self._is_local(address.domain)
        except AddressSyntaxError:
            raise Refusal(replies.BAD_RECIPIENT_SYNTAX) from None
        if not local:
            if not self._may_relay:
                raise Refusal(replies.RELAY_DENIED)
            return (Remote(address),)
        if back := self._way_back(address, sender):
            return back
        return self._ends(address, self._expand(address), sender)

    def expand(self, address: Address) -> Expansion:
        """Where the aliases lead from an address of this host. Raises AliasesUnreadable, UsersUnreadable."""
        return self._expander.expand(address)

    def _mailbox(self, local_part: str) -> str | None:
        user = user_of(local_part)
        return self._users.mailbox(user) if user is not None else None

    def _is_known(self, local_part: str) -> bool:
        user = user_of(local_part)
        return user is not None and self._users.knows(user)

    def _way_back(self, address: Address, sender: Address) -> tuple[Route, ...]:
        """Of a bounce to mail that was forwarded here; nothing for other addresses. Raises Refusal."""
        if self._forwarding is None:
            return ()
        try:
            original = self._forwarding.reverse(address.local)
        except SRSError as error:
            raise Refusal(replies.bad_return_address(str(error))) from None
        except OSError as error:
            log.error("forward.key_unreadable", error=str(error))
            raise Refusal(replies.USERS_UNREADABLE) from None
        if original is None:
            return ()
        if not sender.is_null:
            # It was made for bounces; as an address for anybody it would be a way through this host.
            raise Refusal(replies.bad_return_address("it takes bounces only"))
        return (Remote(original),)

    def _expand(self, address: Address) -> Expansion:
        try:
            found = self._expander.expand(address)
        except UsersUnreadable:
            raise Refusal(replies.USERS_UNREADABLE) from None
        except AliasesUnreadable:
            raise Refusal(replies.ALIASES_UNREADABLE) from None
        if found.problems:
            log.error("alias.broken", recipient=str(address), error=found.problems[0])
            raise Refusal(replies.ALIAS_BROKEN)
        if found.failures and (found.ends or found.dropped):
            log.warning("alias.target_refused", recipient=str(address), targets=[name for name, _ in found.failures])
        return found

    def _ends(self, address: Address, found: Expansion, sender: Address) -> tuple[Route, ...]:
        """The routes of an expansion. Raises Refusal."""
        routes: dict[Route, None] = {}
        for target, owner in found.remote.items():
            routes[Remote(target, owner, forwarded=True)] = None
        blocked = False
        for user, owner in found.mailboxes.items():
            own = self._own(user) if self._own else None
            if own is not None and own.blocks(sender):
                blocked = True
            elif own is None or self._own is None or user in found.final:
                routes[Local(user, owner)] = None
            else:
                walk = ForwardWalk(self._expander, self._own, sender, owner)
                walk.follow(user, own)
                routes |= dict.fromkeys(walk.routes)
        if routes:
            return tuple(routes)
        if blocked:
            raise Refusal(replies.BLOCKED_BY_RECIPIENT)
        if found.dropped:
            return ()
        text = next((text for _, text in found.failures if text), None)
        raise Refusal(replies.closed(text) if text else replies.NO_SUCH_USER)
