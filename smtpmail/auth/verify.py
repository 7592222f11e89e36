"""All checks of one message, side by side, within a time-out."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from smtpmail.auth import dmarc, exempt, iprev, results, spf
from smtpmail.auth.dkim import DkimResult, Verification
from smtpmail.auth.dmarc import DmarcResult, Identifier
from smtpmail.auth.dmarc_record import Tree
from smtpmail.auth.exempt import Exemptions
from smtpmail.auth.fields import MAX_HEADER, Field, MessageSplitter, split_header, unfolded
from smtpmail.auth.iprev import IprevResult
from smtpmail.auth.lookup import Lookup, a_labels
from smtpmail.auth.side_by_side import SideBySide
from smtpmail.auth.spf import SpfResult
from smtpmail.mail.mailbox_list import find_addresses

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Verdict:
    """What the checks found. None for a method that was not tried: without a client there is no SPF and no iprev."""

    sender: str
    """The envelope's, "" for a notification."""
    helo: str
    spf: SpfResult | None
    dkim: Sequence[DkimResult]
    dmarc: DmarcResult
    iprev: IprevResult | None
    exempted: str | None = None
    """The line of the exemptions that lets the message through."""

    @property
    def disposition(self) -> str:
        """What the author's domain asks for, exemptions taken into account: none, quarantine or reject."""
        return "none" if self.exempted else self.dmarc.disposition

    @property
    def reason(self) -> str:
        """Why, in plain words: what DMARC says, and with a fail what SPF and DKIM have to do with it."""
        reasons = [self.dmarc.reason]
        if self.dmarc.result == "fail":
            if self.spf and self.spf.result not in ("pass", "none"):
                reasons.append(f"SPF: {self.spf.reason}")
            reasons += [
                f"DKIM of {found.domain or 'no domain'}: {found.reason}"
                for found in self.dkim
                if found.result != "pass"
            ][:3]
        return "; ".join(reasons)

    def field(self, authserv_id: str) -> bytes:
        """The Authentication-Results field, with LF line ends."""
        remark = f"let through: {self.exempted} is exempted" if self.exempted else ""
        return results.build(
            authserv_id,
            sender=self.sender,
            helo=self.helo,
            spf=self.spf,
            dkim=self.dkim,
            dmarc=self.dmarc,
            iprev=self.iprev,
            remark=remark,
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Method, result and reason of each check, for people."""
        rows = []
        if self.spf:
            rows.append(("spf", self.spf.result, self.spf.reason))
            if self.spf.explanation:
                rows.append(("", "", f"{self.spf.domain} says: {self.spf.explanation}"))
        for found in self.dkim:
            where = f"signature of {found.domain} with the key {found.selector}" if found.domain else "signature"
            rows.append(("dkim", found.result, f"{where}{': ' if found.reason else ''}{found.reason}"))
        if not self.dkim:
            rows.append(("dkim", "none", "the message is not signed"))
        rows.append(("dmarc", self.dmarc.result, self.dmarc.reason))
        if self.iprev:
            rows.append(("iprev", self.iprev.result, self.iprev.reason))
        return rows


class MessageCheck:
    """One message: takes its content as it comes, then gives the verdict."""

    def __init__(self, client: Address | None, helo: str, sender: str, now: float) -> None:
        """`sender`: of the envelope, "" for a notification. `now`: seconds since 1970."""
        self._client = client
        self._helo = helo
        self._sender = sender
        self._now = now
        self._header: list[Field] = []
        self._authors: list[str] = []
        self._verification = Verification([], now)
        self._splitter = MessageSplitter(self._begin_body)

    def write(self, data: bytes) -> None:
        """Takes the next piece of the content (LF line ends)."""
        self._splitter.write(data)

    def _begin_body(self, header: bytes) -> Callable[[bytes], object]:
        self._header = split_header(header)
        self._authors = dmarc.author_domains(self._header)
        if not self._splitter.overlong:
            self._verification = Verification(self._header, self._now, self._authors)
        return self._verification.update

    @property
    def hides_results(self) -> bool:
        """Whether a header beyond all measure has Authentication-Results where nobody looks."""
        return self._splitter.hides_results

    def finish(self, lookup: Lookup, timeout: float, exemptions: Exemptions | None = None) -> Verdict:
        """The message is whole: asks all questions at once, and gives up after `timeout` seconds."""
        self._splitter.close()
        work = SideBySide(lookup, timeout)
        ask = work.lookup
        tree = Tree(ask)
        # First what a forger can't make slow: then his own name servers win him nothing by their silence.
        work.add(lambda: _prepare(tree, self._authors[: dmarc.MAX_AUTHOR_DOMAINS]))
        spf_job = iprev_job = None
        if (client := self._client) is not None:
            spf_job = work.add(lambda: spf.check(client, self._helo, self._sender, ask, now=self._now))
            iprev_job = work.add(lambda: iprev.check(client, ask))
        dkim_jobs = [work.add(partial(check, ask)) for check in self._verification.checks()]
        work.wait()
        late = f"DNS did not answer within {timeout:g} s"
        domain = a_labels(self._sender.rpartition("@")[2] or self._helo) or ""
        spf_result = (spf_job.result or SpfResult("temperror", domain, late)) if spf_job else None
        iprev_result = (iprev_job.result or IprevResult("temperror", str(client), late)) if iprev_job else None
        dkim = [
            job.result or DkimResult("temperror", *names, late)
            for job, names in zip(dkim_jobs, self._verification.names(), strict=True)
        ]
        if self._splitter.overlong:
            dkim = [DkimResult("permerror", reason=f"the header is larger than {MAX_HEADER // 1024} KiB")]
        identifiers = [Identifier("dkim", found.result, found.domain) for found in dkim]
        if spf_result:
            identifiers.insert(0, Identifier("spf", spf_result.result, domain))
        tree.ask = work.lookup_in_time
        judged = dmarc.evaluate(self._authors, identifiers, tree)
        if self._splitter.overlong and not self._authors:
            # Its author is hidden where nobody looks.
            judged = DmarcResult(
                "permerror", "", f"no From in the first {MAX_HEADER // 1024} KiB", "none", "quarantine"
            )
        exempted = exemptions.match(client, self._senders(), exempt.list_ids(self._header)) if exemptions else None
        return Verdict(self._sender, self._helo, spf_result, dkim, judged, iprev_result, exempted)

    def _senders(self) -> list[str]:
        """The addresses that a message says it is from."""
        authors = [unfolded(f.value) for f in self._header if f.name == b"from"]
        return [self._sender, *(address.text for value in authors for address in find_addresses(value))]


def _prepare(tree: Tree, authors: Sequence[str]) -> None:
    """Asks what will be asked of the authors' domains."""
    for author in authors:
        if tree.discover(author):
            tree.organizational_domain(author)
