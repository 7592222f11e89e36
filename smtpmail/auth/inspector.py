"""What the door asks of each message: is it what it says it is, and is it to be signed as ours.

The checks themselves are pure; here their results become log events, replies, and header fields.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from smtpmail.auth import exempt
from smtpmail.auth.exempt import Exemptions
from smtpmail.auth.lookup import Lookup
from smtpmail.auth.results import without_forged
from smtpmail.auth.signing import CannotSign, Signer, Signing, sign_again
from smtpmail.auth.verify import MessageCheck, Verdict
from smtpmail.log import log
from smtpmail.mail.envelope import Envelope
from smtpmail.smtp.replies import HEADER_TOO_LARGE, Refusal, Reply
from smtpmail.users.files import FileUnusable, Signature, read_text

MAX_EXEMPTIONS = 1024 * 1024
"""Octets of the file of `--verify-exempt`."""

_MAX_REASON = 400
CANNOT_SIGN = Reply(451, "4.7.5", "The message can't be signed now, try again later")


@dataclass(frozen=True, slots=True)
class Inspected:
    """What the door puts with a message."""

    header: bytes
    """The message's own header, without what forgers wrote into it."""
    results: bytes = b""
    """Below the Received field."""
    signatures: bytes = b""
    """Above everything, of what leaves."""
    junk: bool = False
    """It goes to the folder Junk of each mailbox."""


class ExemptionsFile:
    """The file of `--verify-exempt`, read again when it changes. One that can't be read leaves what was known."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known = Exemptions()
        self._seen: Signature | str = ""

    def current(self) -> Exemptions:
        """What holds now; a change is told in the log."""
        if self._path is None:
            return self._known
        with self._lock:
            try:
                text, seen = read_text(self._path, MAX_EXEMPTIONS)
            except (OSError, FileUnusable) as error:
                why = error.strerror or "" if isinstance(error, OSError) else str(error)
                if why != self._seen:
                    self._seen = why
                    log.error("exemptions.unreadable", file=self._path, error=why)
                return self._known
            if seen != self._seen:
                self._seen = seen
                self._known, complaints = exempt.parse(text.splitlines())
                for complaint in complaints:
                    log.warning("exemptions.line_ignored", complaint=complaint)
            return self._known


class Inspector:
    """One for each process."""

    def __init__(
        self,
        authserv_id: str,
        signer: Signer | None,
        mode: str,
        timeout: float,
        lookup: Lookup,
        exemptions: ExemptionsFile,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`mode`: off, mark or enforce. `timeout`: seconds for all checks of a message."""
        self.authserv_id = authserv_id
        self.signer = signer
        self.mode = mode
        self.timeout = timeout
        self.lookup = lookup
        self.exemptions = exemptions
        self.clock = clock

    def inspection(self, envelope: Envelope) -> Incoming | Outgoing | None:
        """What looks at a message while it comes; None for one that nobody need look at."""
        peer = envelope.peer
        if peer is not None and peer.listener == "network":
            return Incoming(self, envelope) if self.mode != "off" else None
        if self.signer is not None and envelope.remote:
            if self.signer.is_outdated():
                self.read_keys()
            return Outgoing(self, self.signer, envelope)
        return None

    def sign_again(self, id_: str, message: Iterable[bytes]) -> bytes:
        """The signatures of a message of this host that leaves in another form than that in which it was accepted.

        b"" when it can't be signed and need not be. Raises CannotSign.
        """
        if self.signer is None:
            return b""
        try:
            return sign_again(self.signer, message, self.clock())
        except CannotSign as error:
            log.error("message.unsigned", id=id_, error=str(error), refused=self.signer.required)
            if self.signer.required:
                raise
            return b""

    def read_keys(self) -> None:
        """Reads the keys of `--dkim-keys` again; what is wrong with them is told in the log."""
        if self.signer is None:
            return
        keys, errors = self.signer.reload()
        for error in errors:
            log.error("dkim.key_unreadable", error=error)
        log.info("dkim.keys_read", keys=[f"{key.domain}/{key.selector}" for key in keys])


class Incoming:
    """A message from the network: verified."""

    def __init__(self, inspector: Inspector, envelope: Envelope) -> None:
        self._inspector = inspector
        self._envelope = envelope
        assert envelope.peer
        address = ipaddress.ip_address(envelope.peer.address.partition("%")[0])
        sender = "" if envelope.sender.is_null else str(envelope.sender)
        self._check = MessageCheck(address, envelope.helo, sender, inspector.clock())
        self.write = self._check.write

    def finish(self, header: bytes) -> Inspected:
        """The message is whole, `header` is its own. Raises Refusal."""
        inspector = self._inspector
        try:
            verdict = self._check.finish(inspector.lookup, inspector.timeout, inspector.exemptions.current())
        except Exception:
            # A mistake of ours is no reason to keep a message from its reader.
            log.exception("verification.error", id=self._envelope.id)
            return Inspected(without_forged(header, inspector.authserv_id))
        if self._check.hides_results:
            raise Refusal(HEADER_TOO_LARGE)
        disposition = verdict.disposition if inspector.mode == "enforce" else "none"
        self._tell(verdict, disposition)
        if disposition == "reject":
            raise Refusal(refusal(verdict))
        return Inspected(
            without_forged(header, inspector.authserv_id),
            verdict.field(inspector.authserv_id),
            junk=disposition == "quarantine",
        )

    def _tell(self, verdict: Verdict, disposition: str) -> None:
        peer = self._envelope.peer
        log.info(
            "message.verified",
            id=self._envelope.id,
            sender=verdict.sender,
            client=peer.name if peer else None,
            author=verdict.dmarc.domain,
            spf=verdict.spf.result if verdict.spf else None,
            dkim=[f"{d.result} {d.domain}".rstrip() for d in verdict.dkim],
            dmarc=verdict.dmarc.result,
            iprev=verdict.iprev.result if verdict.iprev else None,
            policy=verdict.dmarc.policy,
            disposition=disposition,
            reason=verdict.reason,
            exempted=verdict.exempted,
        )


class Outgoing:
    """A message of this host for others: signed when its author is ours."""

    def __init__(self, inspector: Inspector, signer: Signer, envelope: Envelope) -> None:
        self._signer = signer
        self._id = envelope.id
        self._signing = Signing(signer, own=envelope.peer is None, now=inspector.clock())
        self.write = self._signing.write

    def finish(self, header: bytes) -> Inspected:
        """The message is whole, `header` is its own as it leaves. Raises Refusal."""
        try:
            return Inspected(header, signatures=self._signing.finish(header))
        except CannotSign as error:
            log.error("message.unsigned", id=self._id, error=str(error), refused=self._signer.required)
            if self._signer.required:
                raise Refusal(CANNOT_SIGN) from None
            return Inspected(header)


def refusal(verdict: Verdict) -> Reply:
    """What the sender of a message that is refused is told: which check failed, and why."""
    return Reply(550, "5.7.1", f"Refused by the DMARC policy of {verdict.dmarc.domain}: {verdict.reason}"[:_MAX_REASON])
