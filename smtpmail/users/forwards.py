"""Where mail of a user goes on, as their own `.forward` says: elsewhere, through aliases, from user to user."""

from __future__ import annotations

from collections.abc import Callable

from smtpmail.log import log
from smtpmail.mail.address import Address
from smtpmail.mail.route import Local, Remote, Route
from smtpmail.users.alias_syntax import Target
from smtpmail.users.aliases import MAX_DEPTH, MAX_TARGETS, AliasesUnreadable, Expander, Expansion
from smtpmail.users.own import Own
from smtpmail.users.users import UsersUnreadable


class ForwardWalk:
    """Follows the forwards of one message from `sender`; `owner` is the envelope sender of a list that led here.

    A line that leads to nobody, or of which that cannot be told now, costs nobody their mail: a copy stays with the
    user whose line it is; so it is when the lines of all who were led to are too many. A circle of users ends in the
    mailbox where it closes.
    """

    def __init__(self, expander: Expander, own: Callable[[str], Own], sender: Address, owner: Address | None) -> None:
        self._expander = expander
        self._own = own
        self._sender = sender
        self._owner = owner
        self._seen: set[str] = set()
        self._lines = 0
        self.routes: list[Route] = []

    def follow(self, user: str, own: Own, path: tuple[str, ...] = ()) -> None:
        """Adds the routes of mail for `user`; `path` are the users who forwarded it to them."""
        self._seen.add(user)
        forward = own.forward
        if forward is None or len(path) >= MAX_DEPTH:
            self._keep(user)
            return
        if forward.complaints:
            log.warning("forward.broken", user=user, complaints=list(forward.complaints))
        kept = bool(forward.complaints) or not forward.targets
        for target in forward.targets:
            self._lines += 1
            if self._lines > MAX_TARGETS:
                kept = True
                break
            found = self._expand(target)
            leads_on = found is not None and self._add(user, found, (*path, user))
            kept = kept or not leads_on
        if kept:
            self._keep(user)

    def _expand(self, target: Target) -> Expansion | None:
        """Where a line leads; None when that cannot be told now."""
        try:
            found = self._expander.expand(target.address, final=target.final)
        except (UsersUnreadable, AliasesUnreadable):
            return None
        if found.problems:
            log.error("alias.broken", recipient=str(target.address), error=found.problems[0])
            return None
        return found

    def _add(self, keeper: str, found: Expansion, path: tuple[str, ...]) -> bool:
        """Adds the ends of a line; whether anybody takes its mail."""
        for address, owner in found.remote.items():
            self.routes.append(Remote(address, owner or self._owner, forwarded=True, keeper=keeper))
        taken = bool(found.remote)
        for user in found.mailboxes:
            if user in found.final or user in path:
                self._keep(user)
            elif user not in self._seen:
                own = self._own(user)
                if own.blocks(self._sender):
                    continue
                self.follow(user, own, path)
            taken = True
        return taken

    def _keep(self, user: str) -> None:
        self.routes.append(Local(user, self._owner))
